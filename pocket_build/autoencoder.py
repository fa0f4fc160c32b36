"""Trains the Pocket AutoencoderKL: 64x64x3 pixels to 8x8x8 latents."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from pocket_build.loop import fit
from pocket_build.world import World

STEPS, BATCH, LEARNING_RATE, SEED = 5000, 24, 1.5e-3, 11
KL_WEIGHT = 1e-4


def create() -> AutoencoderKL:
    """The untrained autoencoder."""
    torch.manual_seed(SEED)
    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
    )


def train(world: World, work: Path, *, steps: int = STEPS, device: str = "cpu") -> AutoencoderKL:
    """Train on reconstruction (absolute + squared error) with a light KL, then set the latent scale."""
    model = create()

    def loss(generator: torch.Generator) -> torch.Tensor:
        indices = torch.randint(len(world.images), (BATCH,), generator=generator)
        images = world.batch(indices).to(device)
        with torch.autocast(model.device.type, torch.bfloat16):
            posterior = model.encode(images).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=generator).to(device)
            decoded = model.decode(mean + noise * torch.exp(0.5 * logvar)).sample.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return functional.mse_loss(decoded, images) + 0.2 * functional.l1_loss(decoded, images) + KL_WEIGHT * kl

    fit(
        "autoencoder",
        model,
        loss,
        steps=steps,
        learning_rate=LEARNING_RATE,
        work=work,
        seed=SEED,
        ema_decay=0.998,
        device=device,
    )
    scale = 1 / encode(model, world, torch.arange(0, len(world.images), 16)).std().item()
    model.register_to_config(scaling_factor=scale)
    return model


@torch.no_grad()
def encode(model: AutoencoderKL, world: World, indices: torch.Tensor | None = None) -> torch.Tensor:
    """Latent means of the pictures at `indices` (all by default), (N, 8, 8, 8), unscaled."""
    chosen = torch.arange(len(world.images)) if indices is None else indices
    batches = (world.batch(chunk).to(model.device) for chunk in chosen.split(128))
    return torch.cat([model.encode(batch).latent_dist.mean.cpu() for batch in batches])
