"""Measures how much memory one image takes in each kind of work, and so how many fit at once."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dct_augment.devices import is_out_of_memory
from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.memory import BatchSizes, Purpose, free_bytes
from dct_augment.diffusion.peak_memory import peak_bytes
from dct_augment.diffusion.sampling import Sampler
from dct_augment.prompts import PLACEHOLDER

Recognise = Callable[[torch.Tensor], torch.Tensor]
"""Logits (B, K) of a guide for images (B, 3, H, W)."""

Peak = Callable[[Callable[[], object]], int]
"""Does some work, and tells the most bytes that it took beyond those there before."""

_SPARE = 0.9
"""The share of what is free that batches are made for: kernels and the allocator need some, too."""


@dataclass(frozen=True)
class ImageMemory:
    """Bytes that one image takes beyond the weights of the models, by purpose; a purpose may be missing."""

    of: Mapping[Purpose, int]

    def at_once(self, purpose: Purpose, free: int) -> int:
        """How many images fit into so many bytes, 1 or more.

        Images whose denoising waits for its backward pass are still there while one of them is decoded.
        """
        if purpose in ("update", "inversion"):
            free -= self.of.get("decode_gradient", 0)
        return max(int(free // max(self.of.get(purpose, 0), 1)), 1)

    def peak(self, images: Mapping[Purpose, int]) -> int:
        """The most bytes beyond the weights, with so many images at once for each purpose."""
        needed = {purpose: count * self.of.get(purpose, 0) for purpose, count in images.items()}
        with_gradient = needed.pop("update", 0) + needed.pop("decode_gradient", 0)
        return max(with_gradient, *needed.values(), 0)


def measure(
    sampler: Sampler,
    recognise: Recognise | None = None,
    *,
    passes: int = 1,
    autocast: torch.dtype | None = None,
    peak: Peak = peak_bytes,
) -> ImageMemory:
    """Measure what one image takes in each kind of work; inside `shapes_only`, nothing is computed.

    Args:
        sampler: of the model.
        recognise: the guide; without, decoding with gradient ends at the pixels.
        passes: passes of the denoiser that wait for their backward pass at once.
        autocast: precision of updates, if not that of the weights.
        peak: how bytes are counted.
    """
    backend = sampler.backend
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    if autocast is not None:
        around = partial(torch.autocast, torch.device(backend.device).type, autocast)
    denoised = peak(partial(_denoise, sampler, around))
    of: dict[Purpose, int] = {"update": denoised * passes, "inversion": denoised}
    of["generate"], of["decode"] = peak(partial(_generate, sampler)), peak(partial(_decode, backend))
    of["decode_gradient"] = peak(partial(_decode_with_gradient, backend, recognise, around))
    return ImageMemory(of)


def fit_batches(
    sampler: Sampler,
    recognise: Recognise | None = None,
    *,
    passes: int = 1,
    autocast: torch.dtype | None = None,
    peak: Peak | None = None,
) -> None:
    """Limit the batches of a model on a GPU to what is free there now: each kind of work is done once, with one image.

    On a CPU, and where memory does not hold one image, nothing is limited; batches are halved when memory runs out.
    What was measured once is not measured again. See `measure`.
    """
    backend = sampler.backend
    sizes, device = backend.batch_sizes, backend.device
    if peak is None and device.startswith("cuda"):
        peak = partial(_peak_on_gpu, device)
    if peak is None or (recognise is not None) in sizes.fitted:
        return
    sizes.fitted |= {False, recognise is not None}
    try:
        memory = measure(sampler, recognise, passes=passes, autocast=autocast, peak=peak)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return
    finally:
        torch.cuda.empty_cache()  # does nothing without a GPU
    limit(sizes, memory, free_bytes(device))


def _peak_on_gpu(device: str, work: Callable[[], object]) -> int:
    """Do some work, and return the most bytes that a GPU held for it beyond those before."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


def limit(sizes: BatchSizes, memory: ImageMemory, free: int) -> None:
    """Let batches be no larger than fits into `free` bytes beyond the weights."""
    for purpose in memory.of:
        sizes.limit(purpose, memory.at_once(purpose, int(_SPARE * free)))


def _noise(backend: Backend) -> torch.Tensor:
    """Latents (1, C, h, w)."""
    return torch.zeros(1, *backend.latent_shape, device=backend.device, dtype=backend.latent_dtype)


def _timesteps(backend: Backend) -> torch.Tensor:
    return torch.zeros(1, device=backend.device, dtype=torch.long)


def _denoise(sampler: Sampler, around: Callable[[], AbstractContextManager[Any]]) -> None:
    """Denoise an image with the gradient of its class token, from the words to the denoiser's output."""
    backend = sampler.backend
    with torch.enable_grad(), around():
        token = torch.zeros(1, 1, backend.width, device=backend.device).requires_grad_()
        conditioning = backend.encode([PLACEHOLDER], token)
        output = sampler.predict(_noise(backend), _timesteps(backend), conditioning)
    torch.autograd.grad(output.float().sum(), token)


@torch.no_grad()
def _generate(sampler: Sampler) -> None:
    """Denoise an image by one step."""
    backend = sampler.backend
    sampler.predict(_noise(backend), _timesteps(backend), backend.encode([""]))


@torch.no_grad()
def _decode(backend: Backend) -> None:
    backend.decode_at_once(_noise(backend))


def _decode_with_gradient(
    backend: Backend, recognise: Recognise | None, around: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Decode an image and show it to the guide, with the gradient of both by the latents."""
    latents = _noise(backend).requires_grad_()
    with torch.enable_grad():
        with around():
            images = backend.decode(latents, for_gradient=True)
        answer = images if recognise is None else recognise(images)
    torch.autograd.grad(answer.float().sum(), latents)
