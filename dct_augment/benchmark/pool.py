"""Benchmark trials in processes side by side, one thread each: what a CPU is good for.

A trial on a CPU takes one thread, so neither the machine's cores nor the number of processes change its result.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from dct_augment.benchmark.arms import ArmDraw, ArmFolders
from dct_augment.benchmark.draws import Draws
from dct_augment.benchmark.trials import TrialPlan, TrialRunner
from dct_augment.config import BenchmarkConfig, DownstreamConfig
from dct_augment.errors import DctAugmentError
from dct_augment.processes import ProcessPool
from dct_augment.records import Trial


@dataclass(frozen=True)
class TrialInputs:
    """All that a `TrialRunner` is made of, as another process takes it."""

    draws: Draws
    arm_folders: ArmFolders
    downstream: DownstreamConfig
    accepted: frozenset[str] = frozenset()
    ranks: Mapping[ArmDraw, Mapping[str, int]] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict, repr=False)
    pixels: Path | None = None

    def make(self, device: str = "cpu") -> TrialRunner:
        """Make the runner of this process."""
        return TrialRunner(
            self.draws,
            self.arm_folders,
            self.downstream,
            device,
            self.accepted,
            self.ranks,
            self.contents,
            self.pixels,
        )


def parallel_trials(settings: BenchmarkConfig, device: str) -> int:
    """How many trials run side by side, if memory holds them: on a CPU `processes`, or one per core; elsewhere one."""
    return (settings.processes or os.cpu_count() or 1) if device == "cpu" else 1


def run(
    inputs: TrialInputs, plans: Sequence[TrialPlan], *, device: str = "cpu", processes: int = 1
) -> Generator[tuple[TrialPlan, Trial], None, None]:
    """Run trials, yielding each as soon as it is done; on a CPU, `processes` of them side by side.

    Where trials run side by side, one that fails stops no other: its error is raised after the last.

    Raises:
        LeakError: a validation or test image is among the training images.
        DctAugmentError: a process died.
    """
    processes = min(processes, len(plans)) if device == "cpu" else 1
    if processes <= 1:
        runner = inputs.make(device)
        for plan in plans:
            yield plan, runner.trial(plan)
        return
    with TrialPool(inputs, processes) as trial_pool:
        yield from trial_pool.trials(plans)


class TrialPool:
    """Processes that run trials on a CPU, one thread each, for any thread of this one."""

    def __init__(self, inputs: TrialInputs, count: int) -> None:
        self._count = count
        self._processes = ProcessPool(count, _prepare, (inputs,))

    def trial(self, plan: TrialPlan) -> Trial:
        """Run one trial; blocks.

        Raises:
            DctAugmentError: a process died.
        """
        ((_, trial),) = self.trials([plan])
        return trial

    def trials(self, plans: Sequence[TrialPlan]) -> Iterator[tuple[TrialPlan, Trial]]:
        """Run trials, yielding each with its plan as soon as it is done.

        Raises:
            DctAugmentError: a process died.
            Exception: the first error of a trial, after all others are done.
        """
        running = {self._processes.submit(_trial, plan): plan for plan in plans}
        first_error: Exception | None = None
        for future in as_completed(tuple(running)):
            plan = running.pop(future)  # so that what is taken is not kept
            try:
                trial = future.result()
            except Exception as error:
                first_error = first_error or error
            else:
                yield plan, trial
        if isinstance(first_error, BrokenProcessPool):
            raise DctAugmentError(
                f"one of {self._count} benchmark processes died, perhaps out of memory; finished trials are kept. "
                "Go on with fewer: --set benchmark.processes=1"
            ) from first_error
        if first_error is not None:
            raise first_error

    def __enter__(self) -> "TrialPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._processes.close(at_once=kind is not None)


_runner: TrialRunner | None = None  # of this process, if it is one of a pool


def _prepare(inputs: TrialInputs) -> None:
    global _runner
    _runner = inputs.make()


def _trial(plan: TrialPlan) -> Trial:
    return cast(TrialRunner, _runner).trial(plan)
