"""What training and generation take of a GPU's memory at full size, counted without one: by shapes alone.

    python -m benchmarks.memory_needs --models sd15 sdxl

Tensors are counted until nothing holds them any more, with the operations that a CPU would run; what kernels take for
themselves is not in it. Weights are random, but have none here: models of any size are counted in seconds.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import timm
import torch
from torch.nn import functional

from benchmarks.gpu import models
from dct_augment.diffusion import Backend, Sampler, shapes
from dct_augment.diffusion.memory import Memory, weight_bytes
from dct_augment.diffusion.peak_memory import peak_bytes
from dct_augment.prompts import PLACEHOLDER

GUIDE, TINY_GUIDE = "resnet50.a1_in1k", "test_resnet.r160_in1k"
_SIDE = 224
_CARD = 8e9


@dataclass(frozen=True)
class Loaded:
    """A text-to-image model and a guide, of shapes alone."""

    sampler: Sampler
    guide: torch.nn.Module

    @property
    def backend(self) -> Backend:
        """The text-to-image model."""
        return self.sampler.backend

    @property
    def weights(self) -> int:
        """Bytes of all weights, and of a judge of the guide's size."""
        return weight_bytes(self.backend.models) + 2 * sum(4 * weight.numel() for weight in self.guide.parameters())

    def recognise(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the guide, for images of any size."""
        return self.guide(functional.interpolate(images, (_SIDE, _SIDE), mode="bilinear", antialias=True))

    def update(self, count: int) -> None:
        """One update with so many images at once: decoded one by one, while their denoising waits for its backward."""
        backend = self.backend
        token = torch.zeros(1, 1, backend.width).requires_grad_()
        latents = torch.zeros(count, *backend.latent_shape, dtype=backend.dtype)
        conditioning = backend.encode([PLACEHOLDER] * count, token.expand(count, -1, -1))
        denoised = self.sampler.predict(latents, torch.zeros(count, dtype=torch.long), conditioning)
        gradients = []
        for row in range(count):
            one = denoised.detach()[row : row + 1].requires_grad_()
            logits = self.recognise(backend.decode(one, for_gradient=True))
            gradients.append(torch.autograd.grad(logits.sum(), one)[0])
            del logits
        torch.autograd.grad(denoised, token, torch.cat(gradients))

    def paper_update(self) -> None:
        """One update of the paper's loop: one image, from the word to the loss in one graph."""
        backend = self.backend
        token = torch.zeros(1, 1, backend.width).requires_grad_()
        latents = torch.zeros(1, *backend.latent_shape, dtype=backend.dtype)
        conditioning = backend.encode([PLACEHOLDER], token)
        denoised = self.sampler.predict(latents, torch.zeros(1, dtype=torch.long), conditioning)
        torch.autograd.grad(self.recognise(backend.decode(denoised)).sum(), token)

    @torch.no_grad()
    def generate(self, count: int) -> None:
        """One step of so many images at once."""
        backend = self.backend
        latents = torch.zeros(count, *backend.latent_shape, dtype=backend.dtype)
        self.sampler.predict(latents, torch.zeros(count, dtype=torch.long), backend.encode([""] * count))

    @torch.no_grad()
    def decode(self, count: int) -> None:
        """Decode so many images at once, and show them to the guide."""
        backend = self.backend
        latents = torch.zeros(count, *backend.latent_shape, dtype=backend.dtype)
        self.recognise(backend.decode_at_once(latents))


@contextmanager
def loaded(shape: models.Shape, guide_name: str, memory: Memory, dtype: torch.dtype) -> Iterator[Loaded]:
    """Build a model and a guide of shapes alone."""
    pipe = models.build(shape, [], "meta", dtype)
    with torch.device("meta"):
        guide = timm.create_model(guide_name).eval().requires_grad_(False)
    with shapes.of_pipeline(pipe, memory=memory) as backend:
        shapes.leave_meta(guide)
        yield Loaded(Sampler(backend, steps=2, guidance_scale=7.0), guide)


def rows(shape: models.Shape, guide_name: str, dtype: torch.dtype) -> Iterator[tuple[str, int, int, int]]:
    """Yield what was counted: its name, images at once, bytes of the weights, and bytes beyond them."""
    with loaded(shape, guide_name, "fast", dtype) as model:
        yield "the paper's loop", 1, model.weights, peak_bytes(model.paper_update)
    for memory in ("fast", "balanced", "low"):
        with loaded(shape, guide_name, memory, dtype) as model:
            most = model.backend.batch_sizes
            for count in sorted({1, most.at_most("update", 2), most.at_most("update", 4)}):
                yield f"{memory}: update", count, model.weights, peak_bytes(lambda count=count: model.update(count))
            parts: Sequence[tuple[str, int, Callable[[int], None]]] = (
                ("generate", most.at_most("generate", 96), model.generate),
                ("decode", most.at_most("decode", 96), model.decode),
            )
            for name, count, work in parts:
                yield f"{memory}: {name}", count, model.weights, peak_bytes(lambda work=work, count=count: work(count))


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sd15"], choices=[*models.SHAPES])
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--tiny", action="store_true", help="models of the same kinds that take no time, for a test")
    options = parser.parse_args()
    shapes_of, guide_name = (models.TINY_SHAPES, TINY_GUIDE) if options.tiny else (models.SHAPES, GUIDE)
    for name in options.models:
        print(f"\n{name}, {options.dtype}\n")
        print("| work | images at once | GB beyond the weights | of the paper's loop | GB in all | 8 GB |")
        print("|---|---|---|---|---|---|")
        paper = 0
        for work, count, weights, extra in rows(shapes_of[name], guide_name, getattr(torch, options.dtype)):
            paper = paper or extra
            total = weights + extra
            fits = "fits" if total <= _CARD else "no"
            print(
                f"| {work} | {count} | {extra / 1e9:.2f} | {extra / paper:.2f} | {total / 1e9:.2f} | {fits} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
