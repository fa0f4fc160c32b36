"""Walking through the denoising trajectory: many samples, each at its own place, in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dct_augment.diffusion.stable_diffusion import StableDiffusion


@dataclass
class Trajectory:
    """Samples that are denoised together: latents (B, C, h, w) at step `index` of their own scheduler."""

    scheduler: Any
    latents: torch.Tensor
    conditioning: torch.Tensor
    index: int = 0

    def __post_init__(self) -> None:
        self.latents = self.latents * self.scheduler.init_noise_sigma

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def timestep(self) -> torch.Tensor:
        """The scheduler's current timestep, a scalar."""
        return self.scheduler.timesteps[self.index]


def _predict(
    backend: StableDiffusion, batch: Sequence[Trajectory], unconditional: torch.Tensor, scale: float
) -> tuple[torch.Tensor, ...]:
    inputs = torch.cat([walk.scheduler.scale_model_input(walk.latents, walk.timestep) for walk in batch])
    timesteps = torch.cat([walk.timestep.expand(len(walk)) for walk in batch])
    conditioning = torch.cat([walk.conditioning for walk in batch])
    output = backend.predict(inputs, timesteps, conditioning, unconditional, scale)
    return output.split([len(walk) for walk in batch])


@torch.no_grad()
def advance(
    backend: StableDiffusion,
    batch: Sequence[Trajectory],
    stops: Sequence[int],
    unconditional: torch.Tensor,
    scale: float,
) -> list[int]:
    """Denoise every trajectory up to its own stop index; return the U-Net evaluations of each."""
    spent = [max(stop - walk.index, 0) * len(walk) * (1 if scale == 1.0 else 2)
             for walk, stop in zip(batch, stops, strict=True)]  # fmt: skip
    while active := [walk for walk, stop in zip(batch, stops, strict=True) if walk.index < stop]:
        for walk, output in zip(active, _predict(backend, active, unconditional, scale), strict=True):
            walk.latents = walk.scheduler.step(output, walk.timestep, walk.latents).prev_sample
            walk.index += 1
    return spent


def scheduler_step(
    backend: StableDiffusion, batch: Sequence[Trajectory], unconditional: torch.Tensor, scale: float
) -> torch.Tensor:
    """One scheduler step of every trajectory, differentiable in the conditioning; (sum B, C, h, w)."""
    steps = [
        walk.scheduler.step(output, walk.timestep, walk.latents).prev_sample
        for walk, output in zip(batch, _predict(backend, batch, unconditional, scale), strict=True)
    ]
    return torch.cat(steps)


def look_ahead_step(
    backend: StableDiffusion, batch: Sequence[Trajectory], unconditional: torch.Tensor, scale: float
) -> torch.Tensor:
    """The clean latents each trajectory predicts from where it is, differentiable; (sum B, C, h, w)."""
    clean = [
        backend.clean(output, walk.latents, walk.timestep.expand(len(walk)))
        for walk, output in zip(batch, _predict(backend, batch, unconditional, scale), strict=True)
    ]
    return torch.cat(clean)


@torch.no_grad()
def sample(
    backend: StableDiffusion,
    seeds: Sequence[int],
    conditioning: torch.Tensor,
    unconditional: torch.Tensor,
    *,
    steps: int,
    scale: float,
    scheduler: str | None = None,
) -> torch.Tensor:
    """Draw images (B, 3, H, W) in [-1, 1] from seeds and conditioning (B, L, d), without gradient."""
    walk = Trajectory(backend.scheduler(steps, scheduler), backend.latents(seeds), conditioning)
    advance(backend, [walk], [steps], unconditional, scale)
    return backend.decode(walk.latents).clamp(-1, 1)
