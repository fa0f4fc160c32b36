"""Trains the Pocket AutoencoderTiny: the decoder of the autoencoder again, small enough to take gradients through.

python -m pocket_build.tiny_decoder      # for the shipped autoencoder, into the package
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.nn import functional

from dct_augment import pocket
from pocket_build import autoencoder, export, world
from pocket_build.loop import fit

STEPS, BATCH, LEARNING_RATE, SEED = 3000, 16, 3e-3, 17
CHANNELS = 24
NOISE = 0.5  # largest deviation added to latents: predicted clean latents are not clean


def create() -> AutoencoderTiny:
    """The untrained model; its encoder is not used."""
    torch.manual_seed(SEED)
    return AutoencoderTiny(
        latent_channels=8,
        encoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        decoder_block_out_channels=(CHANNELS,) * 4,
        num_decoder_blocks=(1, 1, 1, 1),
    )


def train(
    vae: AutoencoderKL, latents: torch.Tensor, work: Path, *, steps: int = STEPS, device: str = "cpu"
) -> AutoencoderTiny:
    """Learn to decode what the autoencoder decodes from scaled latents (N, 8, 8, 8), and noisy ones."""
    model = create()
    vae = vae.to(device).float().eval().requires_grad_(False)

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = latents[torch.randint(len(latents), (BATCH,), generator=generator)]
        noise = torch.randn(chosen.shape, generator=generator)
        noisy = (chosen + NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator) ** 2 * noise).to(device)
        with torch.no_grad():
            target = vae.decode(noisy / vae.config.scaling_factor).sample.clamp(-1, 1)
        decoded = model.decode(noisy).sample
        return functional.mse_loss(decoded, target) + 0.2 * functional.l1_loss(decoded, target)

    fit(
        "tiny-decoder",
        model,
        loss,
        steps=steps,
        learning_rate=LEARNING_RATE,
        work=work,
        seed=SEED,
        ema_decay=0.998,
        weight_decay=0.0,
        device=device,
    )
    return model


def main() -> None:
    """Train it for the shipped autoencoder."""
    parser = argparse.ArgumentParser(prog="python -m pocket_build.tiny_decoder")
    parser.add_argument("--out", type=Path, default=pocket.path().parent)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(options.out / pocket.TEXT_TO_IMAGE, subfolder="vae")
    latents = autoencoder.encode(vae.eval(), world.render(options.work)) * vae.config.scaling_factor
    export.tiny_decoder(options.out / pocket.TINY_DECODER, train(vae, latents, options.work))


if __name__ == "__main__":
    main()
