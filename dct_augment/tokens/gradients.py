"""Gradient methods: how an image is reached whose classifier loss tells the class token where to go.

Each method takes what every class brings to an update and returns latents that are differentiable in their
conditioning. It also states its own cost: denoiser evaluations of one image, forward 1 and backward 2. Below, N is the
number of steps and e the evaluations of a step without gradient: 2 under classifier-free guidance, else 1. Peak
activations are counted in denoiser passes that wait for their backward pass at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from dct_augment.config import (
    DirectAlignConfig,
    FullConfig,
    GradientMethodConfig,
    LastKConfig,
    LookAheadConfig,
    LvConfig,
)
from dct_augment.diffusion import Sampler, Trajectory


@dataclass
class ClassBatch:
    """What one class brings to an update: B images at pure noise, and a position in [0, 1) of the trajectory.

    `finished` are clean latents (B, C, h, w) of the same prompts from an earlier update, if there are any; a method
    that makes such latents leaves them there.
    """

    trajectory: Trajectory
    position: float = 0.0
    finished: torch.Tensor | None = None

    @property
    def stop(self) -> int:
        """The step at the position."""
        return min(int(self.position * self.trajectory.length), self.trajectory.length - 1)


@dataclass(frozen=True)
class DenoisedBatch:
    """Latents (sum of B x copies, C, h, w), the copies of an image side by side; the evaluations of each class."""

    latents: torch.Tensor
    evaluations: list[int]


class GradientMethod(Protocol):
    """One way to reach differentiable latents, and its cost."""

    def __call__(self, sampler: Sampler, batches: Sequence[ClassBatch]) -> DenoisedBatch:
        """Denoise what every class brings; gradients reach the conditioning."""
        ...

    def evaluations_per_image(self, steps: int, per_step: int) -> float:
        """Evaluations of one gradient of one image for N steps of e evaluations, the backward pass included."""
        ...

    @property
    def waiting_passes(self) -> int:
        """Denoiser passes of one image that wait for their backward pass at once."""
        ...


def _first_step_evaluations(per_step: int) -> int:
    """A step with gradient whose latents have none: e forward, 2 backward. The empty branch has no gradient."""
    return per_step + 2


def _later_step_evaluations(per_step: int) -> int:
    """A step with gradient whose latents carry one too: e forward, 2 e backward, through both branches."""
    return 3 * per_step


@dataclass(frozen=True)
class LastSteps:
    """Takes the gradient of the last K steps: the paper's method (K = 1, section 3.2), DRaFT-K (arXiv 2309.17400).

    Without K, the gradient of all steps (AlignProp, arXiv 2310.03739). Costs e (N - K) + (e + 2) + 3 e (K - 1); peak
    2 K - 1. Checkpointed, each pass with gradient is run once more, and only one of them is kept at a time.
    """

    count: int | None = None
    checkpointed: bool = False

    def __call__(self, sampler: Sampler, batches: Sequence[ClassBatch]) -> DenoisedBatch:
        """See `GradientMethod`."""
        trajectories = [batch.trajectory for batch in batches]
        ends = [trajectory.length for trajectory in trajectories]
        evaluations = sampler.advance(trajectories, [end - self._count(end) for end in ends])
        latents = sampler.follow(trajectories, ends, checkpointed=self.checkpointed)
        for number, trajectory in enumerate(trajectories):
            per_image = self._gradient_evaluations(self._count(trajectory.length), sampler.evaluations_per_step)
            evaluations[number] += per_image * len(trajectory)
        return DenoisedBatch(latents, evaluations)

    def evaluations_per_image(self, steps: int, per_step: int) -> float:
        """See `GradientMethod`."""
        count = self._count(steps)
        return (steps - count) * per_step + self._gradient_evaluations(count, per_step)

    @property
    def waiting_passes(self) -> int:
        """See `GradientMethod`."""
        return 1 if self.checkpointed or self.count is None else 2 * self.count - 1

    def _count(self, steps: int) -> int:
        """How many of N steps carry the gradient."""
        return steps if self.count is None else min(self.count, steps)

    def _gradient_evaluations(self, count: int, per_step: int) -> int:
        """Evaluations of K steps with gradient."""
        evaluations = _first_step_evaluations(per_step) + _later_step_evaluations(per_step) * (count - 1)
        if self.checkpointed:  # the empty branch of the first step has no gradient, and is not run again
            evaluations += 1 + per_step * (count - 1)
        return evaluations


@dataclass(frozen=True)
class LowVariance:
    """Finishes, adds new noise of the last level to r copies, takes each one's last step (DRaFT-LV, arXiv 2309.17400).

    The loss is averaged over the copies, so the variance of the gradient falls. Costs e N + (e + 2) r; peak r.
    """

    copies: int

    def __call__(self, sampler: Sampler, batches: Sequence[ClassBatch]) -> DenoisedBatch:
        """See `GradientMethod`."""
        trajectories = [batch.trajectory for batch in batches]
        evaluations = sampler.advance(trajectories)
        noisy = [
            sampler.renoise(trajectory, trajectory.latents, trajectory.length - 1, self.copies)
            for trajectory in trajectories
        ]
        return _clean_step(sampler, noisy, evaluations)

    def evaluations_per_image(self, steps: int, per_step: int) -> float:
        """See `GradientMethod`."""
        return steps * per_step + self.copies * _first_step_evaluations(per_step)

    @property
    def waiting_passes(self) -> int:
        """See `GradientMethod`."""
        return self.copies


@dataclass(frozen=True)
class LookAhead:
    """Stops at the position of the batch and takes the gradient of the clean image that is predicted there.

    Costs e s + (e + 2) for a stop after s steps; peak 1. `mean_position` in [0, 1] is where it stops on average.
    """

    mean_position: float

    def __call__(self, sampler: Sampler, batches: Sequence[ClassBatch]) -> DenoisedBatch:
        """See `GradientMethod`."""
        trajectories = [batch.trajectory for batch in batches]
        evaluations = sampler.advance(trajectories, [batch.stop for batch in batches])
        return _clean_step(sampler, trajectories, evaluations)

    def evaluations_per_image(self, steps: int, per_step: int) -> float:
        """See `GradientMethod`."""
        return steps * per_step * self.mean_position + _first_step_evaluations(per_step)

    @property
    def waiting_passes(self) -> int:
        """See `GradientMethod`."""
        return 1


@dataclass(frozen=True)
class DirectAlign:
    """Adds known noise to a finished image at the position, and recovers it in one step (SRPO, arXiv 2509.06942).

    The model recovers `share` in (0, 1] of the noise, and the known noise is used for the rest:
    x = (noisy - sigma (share epsilon_model + (1 - share) epsilon)) / alpha. Costs e N for the first of the
    `updates_per_image` that one finished image serves, and e + 2 for every one; peak 1.
    """

    share: float = 1.0
    updates_per_image: int = 1

    def __call__(self, sampler: Sampler, batches: Sequence[ClassBatch]) -> DenoisedBatch:
        """See `GradientMethod`."""
        evaluations, finished = self._finish(sampler, batches)
        noisy = [
            sampler.renoise(batch.trajectory, latents, batch.stop)
            for batch, latents in zip(batches, finished, strict=True)
        ]
        recovered = _clean_step(sampler, noisy, evaluations)
        latents = self.share * recovered.latents + (1 - self.share) * torch.cat(finished)
        return DenoisedBatch(latents, recovered.evaluations)

    def evaluations_per_image(self, steps: int, per_step: int) -> float:
        """See `GradientMethod`."""
        return steps * per_step / self.updates_per_image + _first_step_evaluations(per_step)

    @property
    def waiting_passes(self) -> int:
        """See `GradientMethod`."""
        return 1

    @staticmethod
    def _finish(sampler: Sampler, batches: Sequence[ClassBatch]) -> tuple[list[int], list[torch.Tensor]]:
        """Denoise to the end where no finished latents are left; the evaluations and the latents of each class."""
        unfinished = [batch for batch in batches if batch.finished is None]
        new_evaluations = iter(sampler.advance([batch.trajectory for batch in unfinished]))
        evaluations, finished = [], []
        for batch in batches:
            evaluations.append(next(new_evaluations) if batch.finished is None else 0)
            if batch.finished is None:
                batch.finished = batch.trajectory.latents
            finished.append(batch.finished)
        return evaluations, finished


def _clean_step(sampler: Sampler, trajectories: Sequence[Trajectory], evaluations: Sequence[int]) -> DenoisedBatch:
    """Predict the clean latents where each trajectory is; add what that takes to the evaluations so far."""
    latents = sampler.clean_step(trajectories)
    per_image = _first_step_evaluations(sampler.evaluations_per_step)
    totals = [
        before + per_image * len(trajectory) for before, trajectory in zip(evaluations, trajectories, strict=True)
    ]
    return DenoisedBatch(latents, totals)


def gradient_method(config: GradientMethodConfig) -> GradientMethod:
    """Build the gradient method that the configuration names, with its own settings."""
    if isinstance(config, LastKConfig):
        return LastSteps(config.steps)
    if isinstance(config, FullConfig):
        return LastSteps(checkpointed=True)
    if isinstance(config, LvConfig):
        return LowVariance(config.copies)
    if isinstance(config, LookAheadConfig):
        return LookAhead(mean_position=sum(map(sum, config.positions)) / 2 / len(config.positions))
    if isinstance(config, DirectAlignConfig):
        return DirectAlign(config.predicted_noise_share, config.updates_per_image)
    return LastSteps(1)
