"""Gradient methods: how an image is reached whose classifier loss tells the class token where to go.

Each method takes a batch of trajectories at pure noise and returns latents (sum B, C, h, w) that are
differentiable in their conditioning, with the U-Net evaluations that each trajectory cost (forward 1,
backward 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dct_augment.diffusion import StableDiffusion, Trajectory, advance, look_ahead_step, scheduler_step


@dataclass(frozen=True)
class Guidance:
    """The unconditional encoding (1, L, d) and the guidance scale of one run."""

    unconditional: torch.Tensor
    scale: float

    @property
    def step_cost(self) -> int:
        """U-Net evaluations of one differentiable step: forward and backward, plus the empty branch."""
        return 3 + (self.scale != 1.0)


Gradient = tuple[torch.Tensor, list[int]]
Method = Callable[[StableDiffusion, Sequence[Trajectory], Guidance, Sequence[float]], Gradient]


def last_step(
    backend: StableDiffusion, batch: Sequence[Trajectory], guidance: Guidance, places: Sequence[float]
) -> Gradient:
    """The paper's method (section 3.2): denoise to the end, keep the gradient of the last step only.

    Costs 2 (N - 1) + 4 evaluations an image for N guided steps; `places` is not used.
    """
    stops = [len(walk.scheduler.timesteps) - 1 for walk in batch]
    cost = advance(backend, batch, stops, guidance.unconditional, guidance.scale)
    latents = scheduler_step(backend, batch, guidance.unconditional, guidance.scale)
    return latents, [spent + guidance.step_cost * len(walk) for spent, walk in zip(cost, batch, strict=True)]


def look_ahead(
    backend: StableDiffusion, batch: Sequence[Trajectory], guidance: Guidance, places: Sequence[float]
) -> Gradient:
    """Stop at a drawn place of the trajectory and take the gradient of the clean image predicted there.

    Costs 2 s + 4 evaluations an image for a stop after s guided steps: `places` in [0, 1), one per
    trajectory, say where.
    """
    stops = [
        min(int(place * len(walk.scheduler.timesteps)), len(walk.scheduler.timesteps) - 1)
        for walk, place in zip(batch, places, strict=True)
    ]
    cost = advance(backend, batch, stops, guidance.unconditional, guidance.scale)
    latents = look_ahead_step(backend, batch, guidance.unconditional, guidance.scale)
    return latents, [spent + guidance.step_cost * len(walk) for spent, walk in zip(cost, batch, strict=True)]


METHODS: dict[str, Method] = {"last_step": last_step, "look_ahead": look_ahead}
