"""Gradient methods: how an image is reached whose classifier loss tells the class token where to go.

Each method takes what every class of a batch has drawn and returns latents that are differentiable in their
conditioning. Costs are in U-Net evaluations of one image, forward 1 and backward 2, for N steps under
classifier-free guidance (2 evaluations a step without gradient; the first step with gradient takes 4, as the empty
branch has none; a later one takes 6, as its latents carry the gradient too). Peak activations are in U-Net passes
that wait for their backward pass at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from dct_augment.config import GradientMethodConfig
from dct_augment.diffusion import Backend, Conditioning, Trajectory, advance, clean_step, follow, renoise


@dataclass(frozen=True)
class Guidance:
    """The unconditional encoding, one row, and the guidance scale of one run."""

    unconditional: Conditioning
    scale: float

    def step_cost(self, backend: Backend) -> int:
        """U-Net evaluations of one differentiable step: forward and backward, plus the empty branch."""
        return 2 + backend.evaluations(self.scale)


@dataclass
class ClassBatch:
    """What one class brings to an update: B samples at pure noise, and a place in [0, 1) of the trajectory.

    `finished` are clean latents (B, C, h, w) of the same prompts from an earlier update, if there are any; a method
    that makes such latents leaves them there.
    """

    trajectory: Trajectory
    place: float = 0.0
    finished: torch.Tensor | None = None

    @property
    def stop(self) -> int:
        """The step at the drawn place."""
        return min(int(self.place * self.trajectory.length), self.trajectory.length - 1)


@dataclass(frozen=True)
class DenoisedBatch:
    """Latents (sum of B x r, C, h, w), the r copies of a sample side by side, and the evaluations of each class."""

    latents: torch.Tensor
    costs: list[int]


Method = Callable[[Backend, Sequence[ClassBatch], Guidance], DenoisedBatch]


def last_step(backend: Backend, draws: Sequence[ClassBatch], guidance: Guidance) -> DenoisedBatch:
    """The paper's method (section 3.2): denoise to the end, keep the gradient of the last step only.

    Costs 2 (N - 1) + 4; peak 1.
    """
    return last_k(backend, draws, guidance, steps=1)


def last_k(
    backend: Backend, draws: Sequence[ClassBatch], guidance: Guidance, *, steps: int, checkpointed: bool = False
) -> DenoisedBatch:
    """The gradient of the last K steps (DRaFT-K, arXiv 2309.17400).

    Costs 2 (N - K) + 4 + 6 (K - 1); peak 2 K - 1. Checkpointed, each pass with gradient is run once more, and
    only one of them is kept at a time.
    """
    trajectories = [draw.trajectory for draw in draws]
    starts = [max(trajectory.length - steps, 0) for trajectory in trajectories]
    costs = advance(backend, trajectories, starts, guidance.unconditional, guidance.scale)
    first, later = guidance.step_cost(backend), 3 * backend.evaluations(guidance.scale)
    if checkpointed:
        first, later = first + 1, later + backend.evaluations(guidance.scale)
    stops = [trajectory.length for trajectory in trajectories]
    latents = follow(backend, trajectories, stops, guidance.unconditional, guidance.scale, checkpointed=checkpointed)
    spent = [
        len(trajectory) * (first + later * (trajectory.length - start - 1))
        for trajectory, start in zip(trajectories, starts, strict=True)
    ]
    return DenoisedBatch(latents, [before + more for before, more in zip(costs, spent, strict=True)])


def full(backend: Backend, draws: Sequence[ClassBatch], guidance: Guidance) -> DenoisedBatch:
    """The gradient of the whole trajectory, every U-Net pass checkpointed (AlignProp, arXiv 2310.03739).

    Costs 5 + 8 (N - 1): each pass is run again when its gradient is taken; peak 1, and N latents.
    """
    return last_k(backend, draws, guidance, steps=max(draw.trajectory.length for draw in draws), checkpointed=True)


def lv(backend: Backend, draws: Sequence[ClassBatch], guidance: Guidance, *, times: int) -> DenoisedBatch:
    """Finish, add new noise to the last noise level r times, take each one's last step (DRaFT-LV, arXiv 2309.17400).

    The loss is averaged over the r copies, so the variance of the gradient falls. Costs 2 N + 4 r; peak r.
    """
    trajectories = [draw.trajectory for draw in draws]
    costs = advance(
        backend,
        trajectories,
        [trajectory.length for trajectory in trajectories],
        guidance.unconditional,
        guidance.scale,
    )
    noisy = [
        renoise(backend, trajectory, trajectory.latents, trajectory.length - 1, times) for trajectory in trajectories
    ]
    latents = clean_step(backend, noisy, guidance.unconditional, guidance.scale)
    spent = [guidance.step_cost(backend) * len(trajectory) for trajectory in noisy]
    return DenoisedBatch(latents, [before + more for before, more in zip(costs, spent, strict=True)])


def look_ahead(backend: Backend, draws: Sequence[ClassBatch], guidance: Guidance) -> DenoisedBatch:
    """Stop at the drawn place of the trajectory and take the gradient of the clean image predicted there.

    Costs 2 s + 4 for a stop after s steps; peak 1.
    """
    trajectories = [draw.trajectory for draw in draws]
    costs = advance(backend, trajectories, [draw.stop for draw in draws], guidance.unconditional, guidance.scale)
    latents = clean_step(backend, trajectories, guidance.unconditional, guidance.scale)
    spent = [guidance.step_cost(backend) * len(trajectory) for trajectory in trajectories]
    return DenoisedBatch(latents, [before + more for before, more in zip(costs, spent, strict=True)])


def direct_align(
    backend: Backend, draws: Sequence[ClassBatch], guidance: Guidance, *, share: float = 1.0
) -> DenoisedBatch:
    """Add known noise to a finished image at the drawn place, and recover it in one step (SRPO, arXiv 2509.06942).

    The model recovers `share` in (0, 1] of the noise, and the known noise is used for the rest:
    x = (noisy - sigma (share epsilon_model + (1 - share) epsilon)) / alpha. Costs 2 N for the first of the updates
    that one finished image serves, and 4 for every one; peak 1.
    """
    new = [draw.trajectory for draw in draws if draw.finished is None]
    spent = iter(
        advance(backend, new, [trajectory.length for trajectory in new], guidance.unconditional, guidance.scale)
    )
    costs = [next(spent) if draw.finished is None else 0 for draw in draws]
    for draw in draws:
        if draw.finished is None:
            draw.finished = draw.trajectory.latents
    noisy = [renoise(backend, draw.trajectory, draw.finished, draw.stop) for draw in draws if draw.finished is not None]
    latents = clean_step(backend, noisy, guidance.unconditional, guidance.scale)
    known = torch.cat([draw.finished for draw in draws if draw.finished is not None])
    costs = [
        cost + guidance.step_cost(backend) * len(trajectory) for cost, trajectory in zip(costs, noisy, strict=True)
    ]
    return DenoisedBatch(share * latents + (1 - share) * known, costs)


def method(settings: GradientMethodConfig) -> Method:
    """Return the gradient method that the settings name, with its own settings."""
    if settings.name == "last_k":
        return partial(last_k, steps=settings.steps)
    if settings.name == "lv":
        return partial(lv, times=settings.copies)
    if settings.name == "direct_align":
        return partial(direct_align, share=settings.predicted_noise_share)
    return {"last_step": last_step, "full": full, "look_ahead": look_ahead}[settings.name]
