"""Opens many pictures, in processes side by side where there are enough of them."""

import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.context import BaseContext
from typing import TypeVar

from dct_augment.errors import DatasetError
from dct_augment.processes import belong_to_parent, without_interrupts
from dct_augment.records import Example

CHUNK = 64
"""Pictures that a process takes at a time."""

_ENOUGH = 1_000  # fewer pictures are read before other processes have started
_AHEAD = 4  # chunks per process that wait or are at work

Result = TypeVar("Result")


def map_chunks(
    function: Callable[[Sequence[Example]], Result],
    chunks: Iterable[Sequence[Example]],
    count: int,
    processes: int | None = None,
    context: BaseContext | None = None,
) -> Iterator[Result]:
    """Call a function with each chunk of examples, and yield the results in order.

    The examples of a few chunks are in memory at a time.

    Args:
        function: importable by its name, as other processes must find it.
        chunks: up to `CHUNK` examples each; those that another process cannot take are opened in this one.
        count: how many examples there are in all.
        processes: one per core if None; with 1, all is done in this one.
        context: how they begin; anew if None, for functions that need no torch.

    Raises:
        DatasetError: a process died.
    """
    processes = min(processes or os.cpu_count() or 1, -(-count // CHUNK))
    chunks = iter(chunks)
    first = list(islice(chunks, 1))
    chunks = chain(first, chunks)
    if processes <= 1 or count < _ENOUGH or not _can_travel(first):
        yield from map(function, chunks)
        return
    # Not the fork server of the benchmark, if nothing else is said: it is to have imported torch.
    context = context or multiprocessing.get_context("spawn")
    with without_interrupts():
        pool = ProcessPoolExecutor(processes, context, belong_to_parent)
    try:
        yield from _in_order(pool, function, chunks, processes * _AHEAD)
    except BrokenProcessPool as error:
        raise DatasetError(
            "a process that reads pictures died, perhaps out of memory over a large one: lower dataset.max_pixels"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor,
    function: Callable[[Sequence[Example]], Result],
    chunks: Iterator[Sequence[Example]],
    ahead: int,
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for chunk in chunks:
        with without_interrupts():
            waiting.append(pool.submit(function, chunk))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _can_travel(chunks: Sequence[Sequence[Example]]) -> bool:
    """Check that examples can be sent to another process: a user's own may hold anything."""
    try:
        pickle.dumps(chunks)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
