"""From noise to images: many trajectories, each at its own step, in one batch, all under one guidance.

Shapes: B images, latents (B, C, h, w), images (B, 3, H, W) in [-1, 1].
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dct_augment.config import SamplingConfig, steps_of_strength
from dct_augment.diffusion import guidance, noise_levels
from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.skipping import skip_steps

_MOST_NEGATIVES = 256  # encoded negative prompts that are kept: at most 200 MB of SDXL's


@dataclass
class Trajectory:
    """Latents (B, C, h, w) that are denoised together, at step `index` of their own scheduler.

    They are given as standard normal noise, or `at_level`, as the scheduler has them at this step.

    `generators`, one per image, feed the schedulers that add noise at every step (LCM, Euler ancestral).
    """

    scheduler: Any
    latents: torch.Tensor
    conditioning: Conditioning
    index: int = 0
    generators: list[torch.Generator] = field(default_factory=list, repr=False)
    at_level: bool = False

    def __post_init__(self) -> None:
        if not self.at_level:
            self.latents = self.latents * noise_levels.initial_scale(self.scheduler)
        noisy = "generator" in inspect.signature(self.scheduler.step).parameters
        self._options = {"generator": self.generators} if noisy and self.generators else {}

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
        """The latents as the model takes them: signal and noise, weighted by `levels`."""
        return noise_levels.model_input(self.scheduler, self.latents, self.timestep)

    def step(self, output: torch.Tensor) -> torch.Tensor:
        """The latents after the scheduler's next step; the trajectory itself stays where it is."""
        return self.scheduler.step(output, self.timestep, self.latents, **self._options).prev_sample

    def clean(self, output: torch.Tensor) -> torch.Tensor:
        """The clean latents that a model output implies from here."""
        kind = noise_levels.prediction_type(self.scheduler)
        return noise_levels.clean(kind, self.inputs, output, *self.levels)

    @property
    def levels(self) -> tuple[float, float]:
        """The weights of signal and noise in `inputs`."""
        return noise_levels.at_step(self.scheduler, self.index)


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


def guided(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Combine two model outputs (B, C, h, w): u + scale (c - u), classifier-free guidance (arXiv 2207.12598)."""
    return unconditional + scale * (conditional - unconditional)


def evaluations_per_step(guidance_scale: float, *, guidance_embedded: bool) -> int:
    """Count the denoiser evaluations of one step of one image without gradient: 2 under classifier-free guidance.

    One is enough at scale 1, and for a model that takes the scale as an input (LCM).
    """
    return 1 if guidance_scale == 1.0 or guidance_embedded else 2


class Sampler:
    """Generates images with one model, one number of steps, and one guidance scale.

    Guidance leads away from the negative prompt, or from that which a conditioning brings (`with_negatives`).

    Raises:
        ModelError: the model cannot be guided so.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        steps: int,
        guidance_scale: float,
        scheduler_name: str | None = None,
        negative_prompt: str = "",
    ) -> None:
        self.backend = backend
        self.steps = steps
        self.guidance_scale = guidance_scale
        self.scheduler_name = scheduler_name
        self._negatives: dict[str, Conditioning] = {}
        self.unconditional = self.negative(negative_prompt)

    @classmethod
    def from_config(cls, backend: Backend, config: SamplingConfig, *, negative_prompt: str) -> "Sampler":
        """Build the sampler that a configuration describes."""
        return cls(
            backend,
            steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            scheduler_name=config.scheduler,
            negative_prompt=negative_prompt,
        )

    @torch.no_grad()
    def negative(self, prompt: str, vector: torch.Tensor | None = None) -> Conditioning:
        """Encode a negative prompt; one row. One without a token, (n, D), is encoded once.

        Raises:
            ModelError: the model has no branch for one.
        """
        if vector is not None:
            guidance.check(self.backend.denoiser.config, self.guidance_scale, prompt)
            return self.backend.encode([prompt], vector[None])
        if prompt not in self._negatives:
            if len(self._negatives) == _MOST_NEGATIVES:
                self._negatives.pop(next(iter(self._negatives)))
            guidance.check(self.backend.denoiser.config, self.guidance_scale, prompt)
            self._negatives[prompt] = self.backend.unconditional(prompt)
        return self._negatives[prompt]

    def with_negatives(self, conditioning: Conditioning, prompts: Sequence[str]) -> Conditioning:
        """Return B encoded prompts, each with the negative prompt that guidance leads it away from.

        Raises:
            ModelError: the model has no branch for one.
        """
        return replace(conditioning, negative=Conditioning.cat(map(self.negative, prompts)))

    @property
    def evaluations_per_step(self) -> int:
        """Denoiser evaluations of one step of one image without gradient."""
        return evaluations_per_step(self.guidance_scale, guidance_embedded=self.backend.guidance_embedded)

    def begin(self, seeds: Sequence[int], conditioning: Conditioning, steps: int | None = None) -> Trajectory:
        """Start from the noise of these seeds, as `pipe(generator=[...])` does; B seeds, B rows of conditioning."""
        generators = self.backend.generators(seeds)
        noise = self.backend.noise(generators)
        scheduler = self.backend.scheduler(self.steps if steps is None else steps, self.scheduler_name)
        return Trajectory(scheduler, noise, conditioning, generators=generators)

    def begin_at(
        self, clean: torch.Tensor, seeds: Sequence[int], conditioning: Conditioning, strength: float
    ) -> Trajectory:
        """Start from clean latents (B, C, h, w) with the noise of these seeds on them: SDEdit (arXiv 2108.01073).

        The last `strength` of the steps are left, one at least, as in `StableDiffusionImg2ImgPipeline`.
        """
        generators = self.backend.generators(seeds)
        scheduler = self.backend.scheduler(self.steps, self.scheduler_name)
        index = skip_steps(scheduler, self.steps - steps_of_strength(strength, self.steps))
        # The scheduler rounds its levels to the type of the latents.
        exact = torch.promote_types(clean.dtype, torch.float32)
        noise = self.backend.noise(generators).to(exact)
        noisy = noise_levels.put_at(scheduler, clean.to(noise), noise, index)
        return Trajectory(
            scheduler, noisy.to(self.backend.latent_dtype), conditioning, index, generators=generators, at_level=True
        )

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, *, checkpointed: bool = False
    ) -> torch.Tensor:
        """Compute the guided model output for latents (B, C, h, w) at timesteps (B,).

        The unconditional branch does not depend on the class token, so it carries a gradient only where the latents
        do. `checkpointed` keeps no activations of the denoiser, which is run again in the backward pass.
        """
        denoise, scale = self.backend.denoise, self.guidance_scale
        run = partial(checkpoint, denoise, use_reentrant=False) if checkpointed else denoise
        empty = conditioning.negative or self.unconditional.expand(len(latents))
        conditioning = replace(conditioning, negative=None)
        if self.evaluations_per_step == 1:
            return run(latents, timesteps, conditioning, scale)
        if not torch.is_grad_enabled():
            branches = Conditioning.cat([empty, conditioning])
            outputs = denoise(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), branches, scale)
            unconditional, conditional = outputs.chunk(2)
        else:
            with torch.set_grad_enabled(latents.requires_grad):
                unconditional = run(latents, timesteps, empty, scale)
            conditional = run(latents, timesteps, conditioning, scale)
        return guided(conditional, unconditional, scale)

    def _outputs(self, trajectories: Sequence[Trajectory], checkpointed: bool = False) -> tuple[torch.Tensor, ...]:
        """Compute the guided model output of each trajectory where it is, all in one batch."""
        inputs = torch.cat([trajectory.inputs for trajectory in trajectories])
        timesteps = torch.cat([trajectory.timestep.expand(len(trajectory)) for trajectory in trajectories])
        conditioning = Conditioning.cat(trajectory.conditioning for trajectory in trajectories)
        output = self.predict(inputs, timesteps, conditioning, checkpointed=checkpointed)
        return output.split([len(trajectory) for trajectory in trajectories])

    def follow(
        self, trajectories: Sequence[Trajectory], stops: Sequence[int], *, checkpointed: bool = False
    ) -> torch.Tensor:
        """Denoise every trajectory up to its own stop index, differentiably; the latents (sum B, C, h, w).

        Gradients reach the conditioning of every step. `checkpointed` is as in `predict`.
        """
        pairs = list(zip(trajectories, stops, strict=True))
        while active := [trajectory for trajectory, stop in pairs if trajectory.index < stop]:
            outputs = self._outputs(active, checkpointed)
            for trajectory, output in zip(active, outputs, strict=True):
                trajectory.latents = trajectory.step(output)
                trajectory.index += 1
        return torch.cat([trajectory.latents for trajectory in trajectories])

    @torch.no_grad()
    def advance(self, trajectories: Sequence[Trajectory], stops: Sequence[int] | None = None) -> list[int]:
        """Denoise every trajectory up to its own stop index, or to the end; the denoiser evaluations of each."""
        if stops is None:
            stops = [trajectory.length for trajectory in trajectories]
        evaluations = []
        for trajectory, stop in zip(trajectories, stops, strict=True):
            steps = max(stop - trajectory.index, 0)
            evaluations.append(steps * len(trajectory) * self.evaluations_per_step)
        if trajectories:
            self.follow(trajectories, stops)
        return evaluations

    def clean_step(self, trajectories: Sequence[Trajectory]) -> torch.Tensor:
        """Predict the clean latents from where each trajectory is, differentiably; (sum B, C, h, w)."""
        outputs = self._outputs(trajectories)
        pairs = zip(trajectories, outputs, strict=True)
        return torch.cat([trajectory.clean(output) for trajectory, output in pairs])

    def renoise(self, trajectory: Trajectory, clean: torch.Tensor, index: int, copies: int = 1) -> NoisedLatents:
        """Put clean latents (B, C, h, w) at the noise level of step `index`, the copies of each side by side.

        The noise is what the generators of the trajectory give next.
        """
        repeated = [generator for generator in trajectory.generators for _ in range(copies)]
        noise = self.backend.noise(repeated)
        rows = torch.arange(len(trajectory)).repeat_interleave(copies)
        latents = clean.detach().repeat_interleave(copies, 0)
        return NoisedLatents(trajectory.scheduler, latents, trajectory.conditioning[rows], index, noise=noise)

    @torch.no_grad()
    def generate(self, seeds: Sequence[int], conditioning: Conditioning) -> torch.Tensor:
        """Generate images (B, 3, H, W) in [-1, 1] from B seeds and B rows of conditioning, without gradient."""
        trajectory = self.begin(seeds, conditioning)
        self.advance([trajectory])
        return self.images(trajectory)

    def images(self, trajectory: Trajectory) -> torch.Tensor:
        """Decode a finished trajectory to images (B, 3, H, W) in [-1, 1]."""
        return self.backend.decode(trajectory.latents).clamp(-1, 1)
