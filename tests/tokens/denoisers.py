"""Denoisers that are counted, spoiled, or short of memory, while a test runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dct_augment.diffusion import Backend
from dct_augment.diffusion.memory import BatchSizes


@contextmanager
def counted(backend: Backend) -> Iterator[list[int]]:
    """Count denoiser evaluations as they happen: one for a forward pass, two for a backward pass, of each image."""
    evaluations = [0]

    def begin(module: Any, args: Any) -> None:  # a checkpointed pass that is run again stops before its end
        evaluations[0] += len(args[0])

    def add_backward(gradient: torch.Tensor) -> None:
        evaluations[0] += 2 * len(gradient)

    def end(module: Any, args: Any, output: Any) -> None:
        if output.sample.requires_grad:
            output.sample.register_hook(add_backward)

    handles = (backend.denoiser.register_forward_pre_hook(begin), backend.denoiser.register_forward_hook(end))
    try:
        yield evaluations
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def spoiled(backend: Backend, rows: slice, update: int, value: float) -> Iterator[None]:
    """Multiply some rows of what the denoiser predicts by `value`, in the training batch of this number alone."""
    updates = [0]

    def spoil(module: Any, args: Any, output: Any) -> Any:
        if output.sample.requires_grad:
            updates[0] += 1
            if updates[0] == update:
                weights = torch.ones(len(output.sample), 1, 1, 1, dtype=output.sample.dtype)
                weights[rows] = value
                output.sample = output.sample * weights
        return output

    handle = backend.denoiser.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def little_memory(backend: Backend, largest_batch: int) -> Iterator[list[int]]:
    """Let memory run out above a batch size; the batch sizes that the denoiser was asked for."""
    batch_sizes: list[int] = []

    def refuse(module: Any, args: Any) -> None:
        batch_sizes.append(len(args[0]))
        if len(args[0]) > largest_batch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = backend.denoiser.register_forward_pre_hook(refuse)
    try:
        yield batch_sizes
    finally:
        handle.remove()
        backend.batch_sizes = BatchSizes()  # others share this model, with all its memory
