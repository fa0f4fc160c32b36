"""The denoising loss on real photos: what a diffusion model is trained by, and a token with textual inversion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from dct_augment import prompts
from dct_augment.diffusion import Backend, Conditioning, Sampler
from dct_augment.images import square

PLACEHOLDER = "<dct-training>"
"""How prompts call the token in training; its vectors are put in where it stands."""


@dataclass(frozen=True)
class NoisedBatch:
    """What one class trains on in one step: B clean latents and noises (B, C, h, w), timesteps (B,), and prompts."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    prompts: Sequence[str]


@dataclass(frozen=True)
class PhotoLatents:
    """Mean and deviation (N, C, h, w) of the latents of the N photos of a class."""

    mean: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def encode(cls, backend: Backend, images: Sequence[Image.Image]) -> "PhotoLatents":
        """Encode photos, cut to squares of the model's size."""
        encoded = [backend.encode_images(square(image, backend.image_size)) for image in images]
        return cls(torch.cat([mean for mean, _ in encoded]), torch.cat([deviation for _, deviation in encoded]))

    def noised(
        self, generator: torch.Generator, count: int, training_steps: int, templates: Sequence[str], name: str
    ) -> NoisedBatch:
        """Choose `count` photos, with noise, timesteps and prompts of the class `name`, by a generator."""
        rows = torch.randint(len(self.mean), (count,), generator=generator)
        timesteps = torch.randint(training_steps, (count,), generator=generator)
        noise = torch.randn(count, *self.mean.shape[1:], generator=generator).to(self.mean)
        jitter = torch.randn(count, *self.mean.shape[1:], generator=generator).to(self.mean)
        numbers = torch.randint(len(templates), (count,), generator=generator).tolist()
        latents = self.mean[rows] + self.deviation[rows] * jitter
        # Without a context: it would say of the photos what they do not show.
        lines = [prompts.build(templates[number], name, token=PLACEHOLDER) for number in numbers]
        return NoisedBatch(latents, noise, timesteps.to(self.mean.device), lines)


def denoising_losses(sampler: Sampler, batches: Sequence[NoisedBatch], vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared error of what the denoiser predicts for each class with its vector (n, D); (K,).

    Equation 2 of textual inversion (arXiv 2208.01618). Costs 3 U-Net evaluations an image with its backward pass.
    """
    backend = sampler.backend
    latents = torch.cat([batch.latents for batch in batches])
    noise = torch.cat([batch.noise for batch in batches])
    timesteps = torch.cat([batch.timesteps for batch in batches])
    inputs, target = backend.noised(latents, noise, timesteps)
    pairs = zip(batches, vectors, strict=True)
    conditioning = Conditioning.cat(_encode_distinct(backend, batch.prompts, vector) for batch, vector in pairs)
    output = backend.denoise(inputs, timesteps, conditioning, sampler.guidance_scale)
    exact = torch.promote_types(output.dtype, torch.float32)
    errors = (output.to(exact) - target.to(exact)).square().flatten(1).mean(1)
    by_class = errors.split([len(batch.prompts) for batch in batches])
    return torch.stack([class_errors.mean() for class_errors in by_class])


def _encode_distinct(backend: Backend, lines: Sequence[str], vector: torch.Tensor) -> Conditioning:
    """Encode prompts with a vector (n, D) as their token; equal ones once."""
    distinct = sorted(set(lines))
    encoded = backend.encode(distinct, vector.expand(len(distinct), -1, -1))
    return encoded[torch.tensor([distinct.index(line) for line in lines])]
