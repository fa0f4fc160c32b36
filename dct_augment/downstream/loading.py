"""Brings training pictures to the training loop: read by itself, or ahead of it by other processes."""

import multiprocessing
import os
import shutil
from collections.abc import Generator
from contextlib import suppress
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from dct_augment import processes
from dct_augment.config import DownstreamConfig
from dct_augment.downstream.mixing import Mixture
from dct_augment.downstream.transforms import model_input
from dct_augment.errors import DctAugmentError

_MOST_READERS = 8
_BATCHES_OF_A_READER = 3
"""Batches in shared memory for each process that reads: two that wait, and one at work."""
_SHARED_MEMORY = "/dev/shm"


def batches(data: Mixture, settings: DownstreamConfig, device: str, seed: int) -> Generator[Any, None, None]:
    """Yield the batches of a training, images and labels, in order.

    Where `downstream.workers` is 0, or unset on a CPU whose memory holds the pictures, augmentations draw from torch's
    generator one after the other. Else item k depends on (seed, k) alone, so the number of processes changes nothing.

    Raises:
        DctAugmentError: a picture cannot be read, or a process died.
    """
    on_gpu = device.startswith("cuda")
    drawn_in_turn = settings.workers == 0 or (settings.workers is None and not on_gpu and _is_in_memory(data))
    if drawn_in_turn:
        yield from DataLoader(cast(Dataset[Any], data), batch_size=settings.batch_size, pin_memory=on_gpu)
        return
    count = readers(settings, device)
    loader: DataLoader[Any] = DataLoader(
        ItemsOfOneSeed(data, seed),
        batch_size=settings.batch_size,
        collate_fn=_collate,
        num_workers=count,
        multiprocessing_context=processes.context() if count else None,
        worker_init_fn=_begin if count else None,
        generator=torch.Generator(),  # not torch's own, which mixup and dropout draw from
        pin_memory=on_gpu,
    )
    try:
        for batch in loader:
            if isinstance(batch, DctAugmentError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DctAugmentError(
            f"one of {count} processes that read training pictures died, perhaps out of memory. Go on with fewer: "
            "--set downstream.workers=1"
        ) from error


def readers(settings: DownstreamConfig, device: str) -> int:
    """Say how many processes read pictures for one training; 0 if it reads them itself.

    On a CPU, where trials run side by side, one at most. They put batches into shared memory, which may be small in a
    container.
    """
    if multiprocessing.current_process().daemon:  # such a process may have no others
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = min(_MOST_READERS if device.startswith("cuda") else 1, cores - 1)
    wanted = chosen if settings.workers is None else settings.workers
    with suppress(OSError):
        height, width = model_input(settings).size
        of_a_reader = _BATCHES_OF_A_READER * settings.batch_size * 3 * height * width * 4
        wanted = min(wanted, shutil.disk_usage(_SHARED_MEMORY).free // of_a_reader)
    return wanted


class ItemsOfOneSeed(Dataset[Any]):
    """The items of a data set, each with random numbers of its own: item k depends on (seed, k) alone.

    An error on purpose is an item, too: raised in another process, its message would hold a traceback.
    """

    def __init__(self, data: Mixture, seed: int) -> None:
        self._data, self._seed = data, seed

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        (state,) = np.random.SeedSequence([self._seed, index]).generate_state(1, np.uint64)
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(int(state))
            try:
                return self._data[index]
            except DctAugmentError as error:
                return error


def _collate(items: list[Any]) -> Any:
    """Make a batch of items, or of an error the error."""
    return next((item for item in items if isinstance(item, DctAugmentError)), None) or default_collate(items)


def _is_in_memory(data: Mixture) -> bool:
    return bool(getattr(data, "in_memory", True))


def _begin(number: int) -> None:
    processes.begin()
