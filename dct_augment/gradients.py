"""Gradient methods: how an image is reached whose classifier loss tells the class token where to go.

Each method takes a batch of trajectories at pure noise and returns latents (sum B, C, h, w) that are
differentiable in their conditioning, with the U-Net evaluations that each trajectory cost (forward 1,
backward 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dct_augment.diffusion import Backend, Conditioning, Trajectory, advance, look_ahead_step, scheduler_step


@dataclass(frozen=True)
class Guidance:
    """The unconditional encoding, one row, and the guidance scale of one run."""

    unconditional: Conditioning
    scale: float

    def step_cost(self, backend: Backend) -> int:
        """U-Net evaluations of one differentiable step: forward and backward, plus the empty branch."""
        return 2 + backend.evaluations(self.scale)


Gradient = tuple[torch.Tensor, list[int]]
Method = Callable[[Backend, Sequence[Trajectory], Guidance, Sequence[float]], Gradient]


def last_step(backend: Backend, batch: Sequence[Trajectory], guidance: Guidance, places: Sequence[float]) -> Gradient:
    """The paper's method (section 3.2): denoise to the end, keep the gradient of the last step only.

    Costs 2 (N - 1) + 4 evaluations an image for N guided steps; `places` is not used.
    """
    stops = [walk.length - 1 for walk in batch]
    cost = advance(backend, batch, stops, guidance.unconditional, guidance.scale)
    latents = scheduler_step(backend, batch, guidance.unconditional, guidance.scale)
    return latents, [spent + guidance.step_cost(backend) * len(walk) for spent, walk in zip(cost, batch, strict=True)]


def look_ahead(backend: Backend, batch: Sequence[Trajectory], guidance: Guidance, places: Sequence[float]) -> Gradient:
    """Stop at a drawn place of the trajectory and take the gradient of the clean image predicted there.

    Costs 2 s + 4 evaluations an image for a stop after s guided steps: `places` in [0, 1), one per
    trajectory, say where.
    """
    stops = [min(int(place * walk.length), walk.length - 1) for walk, place in zip(batch, places, strict=True)]
    cost = advance(backend, batch, stops, guidance.unconditional, guidance.scale)
    latents = look_ahead_step(backend, batch, guidance.unconditional, guidance.scale)
    return latents, [spent + guidance.step_cost(backend) * len(walk) for spent, walk in zip(cost, batch, strict=True)]


METHODS: dict[str, Method] = {"last_step": last_step, "look_ahead": look_ahead}
