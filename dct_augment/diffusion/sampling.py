"""Walking through the denoising trajectory: many samples, each at its own place, in one batch."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning


@dataclass
class Trajectory:
    """Samples that are denoised together: latents (B, C, h, w) at step `index` of their own scheduler.

    `generators`, one per sample, feed the schedulers that add noise at every step (LCM, Euler ancestral).
    """

    scheduler: Any
    latents: torch.Tensor
    conditioning: Conditioning
    index: int = 0
    generators: list[torch.Generator] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.latents = self.latents * self.scheduler.init_noise_sigma
        noisy = "generator" in inspect.signature(self.scheduler.step).parameters
        self._options = {"generator": self.generators} if noisy and self.generators else {}

    @classmethod
    def begin(
        cls, backend: Backend, seeds: Sequence[int], conditioning: Conditioning, *, steps: int, scheduler: str | None
    ) -> "Trajectory":
        """Start from the noise of these seeds, as `pipe(generator=[...])` does."""
        generators = backend.generators(seeds)
        noise = backend.noise(generators)
        return cls(backend.scheduler(steps, scheduler), noise, conditioning, generators=generators)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def length(self) -> int:
        """Model evaluations from noise to image; some schedulers take more than the steps asked for."""
        return len(self.scheduler.timesteps)

    @property
    def timestep(self) -> torch.Tensor:
        """The scheduler's current timestep, a scalar."""
        return self.scheduler.timesteps[self.index]

    @property
    def inputs(self) -> torch.Tensor:
        """The latents as the model takes them: signal and noise with squared weights that add up to 1."""
        return self.scheduler.scale_model_input(self.latents, self.timestep)

    def step(self, output: torch.Tensor) -> torch.Tensor:
        """The latents after the scheduler's next step; the trajectory itself stays where it is."""
        return self.scheduler.step(output, self.timestep, self.latents, **self._options).prev_sample

    def clean(self, output: torch.Tensor) -> torch.Tensor:
        """The clean latents that a model output implies from here; DDIM (arXiv 2010.02502), equation 12."""
        kind = self.scheduler.config.prediction_type
        if kind == "sample":
            return output
        inputs, (alpha, sigma) = self.inputs, self.levels
        return alpha * inputs - sigma * output if kind == "v_prediction" else (inputs - sigma * output) / alpha

    @property
    def levels(self) -> tuple[float, float]:
        """The weights of signal and noise in `inputs`; their squares add up to 1."""
        signal = self._signal()
        return signal**0.5, (1 - signal) ** 0.5

    def _signal(self) -> float:
        """The share of signal in the inputs, alpha-bar in (0, 1)."""
        alphas = self.scheduler.alphas_cumprod.double().cpu().numpy()
        timestep = float(self.timestep)
        if timestep.is_integer():
            return float(alphas[int(timestep)])
        # Between two training steps: schedulers interpolate the noise level.
        level = np.interp(timestep, np.arange(len(alphas)), ((1 - alphas) / alphas) ** 0.5)
        return float(1 / (1 + level**2))


@dataclass
class NoisedLatents(Trajectory):
    """Clean latents (B, C, h, w) with known `noise` at the level of step `index`; it is not stepped on."""

    noise: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)

    def __post_init__(self) -> None:
        self._options = {}

    @property
    def inputs(self) -> torch.Tensor:
        """The noisy latents as the model takes them."""
        alpha, sigma = self.levels
        return alpha * self.latents + sigma * self.noise


def _predict(
    backend: Backend,
    batch: Sequence[Trajectory],
    unconditional: Conditioning,
    scale: float,
    checkpointed: bool = False,
) -> tuple[torch.Tensor, ...]:
    inputs = torch.cat([trajectory.inputs for trajectory in batch])
    timesteps = torch.cat([trajectory.timestep.expand(len(trajectory)) for trajectory in batch])
    conditioning = Conditioning.cat(trajectory.conditioning for trajectory in batch)
    output = backend.predict(inputs, timesteps, conditioning, unconditional, scale, checkpointed=checkpointed)
    return output.split([len(trajectory) for trajectory in batch])


def follow(
    backend: Backend,
    batch: Sequence[Trajectory],
    stops: Sequence[int],
    unconditional: Conditioning,
    scale: float,
    *,
    checkpointed: bool = False,
) -> torch.Tensor:
    """Denoise every trajectory up to its own stop index, differentiably; the latents (sum B, C, h, w).

    Gradients reach the conditioning of every step. `checkpointed` keeps no activations of the denoiser, which is
    run again in the backward pass.
    """
    while active := [trajectory for trajectory, stop in zip(batch, stops, strict=True) if trajectory.index < stop]:
        for trajectory, output in zip(
            active, _predict(backend, active, unconditional, scale, checkpointed), strict=True
        ):
            trajectory.latents = trajectory.step(output)
            trajectory.index += 1
    return torch.cat([trajectory.latents for trajectory in batch])


@torch.no_grad()
def advance(
    backend: Backend,
    batch: Sequence[Trajectory],
    stops: Sequence[int],
    unconditional: Conditioning,
    scale: float,
) -> list[int]:
    """Denoise every trajectory up to its own stop index; return the denoiser evaluations of each."""
    spent = [max(stop - trajectory.index, 0) * len(trajectory) * backend.evaluations(scale)
             for trajectory, stop in zip(batch, stops, strict=True)]  # fmt: skip
    if batch:
        follow(backend, batch, stops, unconditional, scale)
    return spent


def clean_step(
    backend: Backend, batch: Sequence[Trajectory], unconditional: Conditioning, scale: float
) -> torch.Tensor:
    """The clean latents each trajectory predicts from where it is, differentiable; (sum B, C, h, w)."""
    outputs = _predict(backend, batch, unconditional, scale)
    return torch.cat([trajectory.clean(output) for trajectory, output in zip(batch, outputs, strict=True)])


def renoise(backend: Backend, trajectory: Trajectory, clean: torch.Tensor, index: int, times: int = 1) -> NoisedLatents:
    """Clean latents (B, C, h, w) at the noise level of step `index`, `times` copies of each side by side.

    The noise is what the generators of the trajectory draw next.
    """
    noise = backend.noise([one for one in trajectory.generators for _ in range(times)])
    conditioning = trajectory.conditioning[torch.arange(len(trajectory)).repeat_interleave(times)]
    return NoisedLatents(
        trajectory.scheduler, clean.detach().repeat_interleave(times, 0), conditioning, index, noise=noise
    )


@torch.no_grad()
def sample(
    backend: Backend,
    seeds: Sequence[int],
    conditioning: Conditioning,
    unconditional: Conditioning,
    *,
    steps: int,
    scale: float,
    scheduler: str | None = None,
) -> torch.Tensor:
    """Draw images (B, 3, H, W) in [-1, 1] from seeds and B rows of conditioning, without gradient."""
    trajectory = Trajectory.begin(backend, seeds, conditioning, steps=steps, scheduler=scheduler)
    advance(backend, [trajectory], [trajectory.length], unconditional, scale)
    return backend.decode(trajectory.latents).clamp(-1, 1)
