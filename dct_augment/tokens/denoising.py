"""The denoising loss on real photos: what trains a diffusion model, its LoRA, and a token with textual inversion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from dct_augment import prompts
from dct_augment.diffusion import Backend, Conditioning, Sampler, ShrinkingBatches
from dct_augment.images import square
from dct_augment.tokens.vector import Gathered, ImageOf, TokenVector, by_class, images_of


@dataclass(frozen=True)
class NoisedBatch:
    """What is trained on in one step: B clean latents and noises (B, C, h, w), steps (B,) of noise, and prompts."""

    latents: torch.Tensor
    noise: torch.Tensor
    steps: torch.Tensor
    prompts: Sequence[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, rows: Sequence[int]) -> "NoisedBatch":
        """Take some of the rows."""
        chosen = list(rows)
        lines = [self.prompts[row] for row in chosen]
        return NoisedBatch(self.latents[chosen], self.noise[chosen], self.steps[chosen], lines)


@dataclass(frozen=True)
class PhotoLatents:
    """Mean and deviation (N, C, h, w) of the latents of N photos."""

    mean: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def encode(cls, backend: Backend, images: Sequence[Image.Image]) -> "PhotoLatents":
        """Encode photos, cut to squares of the model's size."""
        encoded = [backend.encode_images(square(image, backend.image_size)) for image in images]
        return cls(torch.cat([mean for mean, _ in encoded]), torch.cat([deviation for _, deviation in encoded]))

    def noised(
        self,
        generator: torch.Generator,
        count: int,
        training_steps: int,
        templates: Sequence[str],
        names: str | Sequence[str],
        token: str | None = prompts.PLACEHOLDER,
    ) -> NoisedBatch:
        """Choose `count` photos, with noise, its steps and prompts, by a generator.

        Args:
            generator: of the training.
            count: photos, B; one may be chosen twice.
            training_steps: of the training schedule.
            templates: of prompts.
            names: the class of all photos, or of each of them.
            token: what stands for the class token; None: prompts are plain.
        """
        rows = torch.randint(len(self.mean), (count,), generator=generator)
        steps = torch.randint(training_steps, (count,), generator=generator)
        noise = torch.randn(count, *self.mean.shape[1:], generator=generator).to(self.mean)
        jitter = torch.randn(count, *self.mean.shape[1:], generator=generator).to(self.mean)
        numbers = torch.randint(len(templates), (count,), generator=generator).tolist()
        latents = self.mean[rows] + self.deviation[rows] * jitter
        # Without a context: it would say of the photos what they do not show.
        of_rows = [names if isinstance(names, str) else names[row] for row in rows.tolist()]
        pairs = zip(numbers, of_rows, strict=True)
        lines = [prompts.build(templates[number], name, token=token) for number, name in pairs]
        return NoisedBatch(latents, noise, steps.to(self.mean.device), lines)


def denoising_losses(
    sampler: Sampler, batches: Sequence[NoisedBatch], vectors: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Mean squared error of what the denoiser predicts for each class with its vector (n, D), if it has one; (K,).

    Equation 2 of textual inversion (arXiv 2208.01618). Costs 3 denoiser evaluations an image with its backward pass.
    """
    backend = sampler.backend
    latents = torch.cat([batch.latents for batch in batches])
    noise = torch.cat([batch.noise for batch in batches])
    steps = torch.cat([batch.steps for batch in batches])
    inputs, timesteps, target = backend.noised(latents, noise, steps)
    pairs = zip(batches, vectors, strict=True)
    conditioning = Conditioning.cat(_encode_distinct(backend, batch.prompts, vector) for batch, vector in pairs)
    output = backend.denoise(inputs, timesteps, conditioning, sampler.guidance_scale)
    exact = torch.promote_types(output.dtype, torch.float32)
    errors = (output.to(exact) - target.to(exact)).square().flatten(1).mean(1)
    by_class = errors.split([len(batch.prompts) for batch in batches])
    return torch.stack([class_errors.mean() for class_errors in by_class])


def denoising_gradients(
    sampler: Sampler,
    wanted: Sequence[tuple[NoisedBatch, TokenVector]],
    at_once: ShrinkingBatches,
    *,
    scale: float = 1.0,
) -> list[Gathered]:
    """Compute the denoising loss of each token on the photos of its class, and its gradient, `scale` times too long.

    As many photos are done at once as memory holds, whatever classes they are of.
    """
    gathered = [Gathered() for _ in wanted]

    def of_some(images: Sequence[ImageOf]) -> list[tuple[int, torch.Tensor, list[torch.Tensor]]]:
        places, rows = zip(*by_class(images), strict=True)
        batches = [wanted[place][0].part(own) for place, own in zip(places, rows, strict=True)]
        tokens = [wanted[place][1] for place in places]
        shares = [len(batch) / len(wanted[place][0]) for place, batch in zip(places, batches, strict=True)]
        losses = denoising_losses(sampler, batches, [token.value for token in tokens])
        losses = losses * torch.tensor(shares, device=losses.device)
        gradients = iter(torch.autograd.grad(losses.sum() * scale, [part for token in tokens for part in token.parts]))
        return [
            (place, loss, [next(gradients) for _ in token.parts])
            for place, token, loss in zip(places, tokens, losses, strict=True)
        ]

    for _, results in at_once.run(images_of([len(batch) for batch, _ in wanted]), of_some):
        for place, loss, gradients in results:
            gathered[place].add(loss, gradients)
    return gathered


def _encode_distinct(backend: Backend, lines: Sequence[str], vector: torch.Tensor | None) -> Conditioning:
    """Encode prompts, with a vector (n, D) as their token if there is one; equal ones once."""
    distinct = sorted(set(lines))
    encoded = backend.encode(distinct, None if vector is None else vector.expand(len(distinct), -1, -1))
    return encoded[torch.tensor([distinct.index(line) for line in lines])]
