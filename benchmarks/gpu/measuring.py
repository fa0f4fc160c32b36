"""Seconds and memory of work on a device: sides of a comparison take turns, each warmed up and waited for.

On a CPU the profiler counts the memory, and its own time is in the seconds: that is for tests of this program.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.token_training import peak_memory
from dct_augment.devices import is_out_of_memory
from dct_augment.errors import DctAugmentError

Work = Callable[[], Any]
_MOST_OUTSIDE = 2**30


class NotFiniteError(DctAugmentError):
    """Something that was measured is not finite, so its time means nothing."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its work, a shorter form of it to warm up, and what is set up around both, unmeasured.

    `count` is how many images the work is for: seconds are those of one.
    """

    work: Work
    count: int = 1
    warm_up: Work | None = None
    around: Callable[[], AbstractContextManager[Any]] = ExitStack


@dataclass
class Measured:
    """What was measured of a side: the seconds of an image in each round, and bytes beyond what was there before."""

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    failed: str = ""

    @property
    def row(self) -> dict[str, Any]:
        """Return the figures of a table; the fastest and slowest round say how far the median can be trusted."""
        if self.failed:
            return {"note": self.failed}
        middle, low, high = statistics.median(self.seconds), min(self.seconds), max(self.seconds)
        times = {"seconds": middle, "fastest": low, "slowest": high}
        shown = {key: float(f"{value:.4g}") for key, value in times.items()}
        return {**shown, "rounds": len(self.seconds), "peak_bytes": self.peak}

    def times_as_fast_as(self, other: "Measured") -> float | None:
        """Return the median of the ratios of each round, in which both had their turn."""
        ratios = [theirs / own for own, theirs in zip(self.seconds, other.seconds, strict=False)]
        return float(f"{statistics.median(ratios):.4g}") if ratios else None


@dataclass(frozen=True)
class Clock:
    """Measures sides in turns, `rounds` at most; after `seconds`, no other round begins. There is always one.

    A single round is a test of this program, and not warmed up.
    """

    device: str
    rounds: int
    seconds: float

    def compare(self, sides: Mapping[str, Side]) -> dict[str, Measured]:
        """Measure all sides; one that runs out of memory says so, and the others go on."""
        measured = {name: Measured() for name in sides}
        began = time.perf_counter()
        for name, side in sides.items():
            if self.rounds > 1:
                self._run(side, side.warm_up or side.work, measured[name])
        for number in range(self.rounds):
            if number and time.perf_counter() - began > self.seconds:
                break
            for name, side in sides.items():
                if not measured[name].failed:
                    self._run(side, side.work, measured[name], timed=True)
        return measured

    def _run(self, side: Side, work: Work, measured: Measured, *, timed: bool = False) -> None:
        """Run some work once; what it took is noted if it is `timed`."""
        with side.around():
            try:
                seconds, peak = self.run(work)
            except (RuntimeError, MemoryError, DctAugmentError) as error:
                if not (is_out_of_memory(error) or (error.__cause__ and is_out_of_memory(error.__cause__))):
                    raise
                measured.failed = "out of memory"
            if timed and not measured.failed:
                measured.seconds.append(seconds / side.count)
                measured.peak = max(measured.peak or 0, peak)
        if measured.failed:  # the error is gone, and with it the tensors that its traceback kept
            release(self.device)

    def run(self, work: Work) -> tuple[float, int]:
        """Run some work to its end: its seconds, and the most bytes that it took beyond those there before."""
        if not self.device.startswith("cuda"):
            began = time.perf_counter()
            peak = round(1e6 * peak_memory(work))
            return time.perf_counter() - began, peak
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before, began = torch.cuda.memory_allocated(self.device), time.perf_counter()
        work()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - began, torch.cuda.max_memory_allocated(self.device) - before


def release(device: str) -> None:
    """Give memory back that nothing holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


@contextmanager
def capped(device: str, limit: int) -> Iterator[int | None]:
    """Let this process take no more of a GPU than a card of `limit` bytes has; yields what tensors may take of it.

    What the GPU holds beside tensors, the kernels of CUDA for the most part, is taken off; other programs may count
    too, so at most 1 GiB. A CPU cannot be capped: None.
    """
    if not device.startswith("cuda"):
        yield None
        return
    release(device)
    free, total = torch.cuda.mem_get_info(device)
    outside = min(max(total - free - torch.cuda.memory_reserved(device), 0), _MOST_OUTSIDE)
    allowed = min(limit - outside, total)
    torch.cuda.set_per_process_memory_fraction(allowed / total, device)
    try:
        yield allowed
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
