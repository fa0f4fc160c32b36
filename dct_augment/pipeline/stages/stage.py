"""What a stage is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dct_augment.pipeline.context import RunContext
from dct_augment.records import Progress, ProgressCallback, StageName, WorkUnit, ignore_progress


class Stage(ABC):
    """One stage of one run."""

    name: StageName

    def __init__(self, context: RunContext) -> None:
        self._context, self._config = context, context.config

    @abstractmethod
    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan what is missing, and return it. Call it under the run's lock.

        Raises:
            StaleRunError: there is work made with other settings.
        """

    @abstractmethod
    def do(self, unit: WorkUnit, on_progress: ProgressCallback = ignore_progress) -> None:
        """Do one unit, in any process that sees the run's folder; `on_progress` gets at most `unit.size`."""

    @abstractmethod
    def publish(self) -> None:
        """Write the index of all that is done."""

    @property
    def max_parallel(self) -> int:
        """How many units this process may do at a time."""
        return 1

    @contextmanager
    def worker_pool(self) -> Iterator[None]:
        """Be ready for `max_parallel` units at a time, from as many threads."""
        yield

    def do_all(self, units: Sequence[WorkUnit], on_progress: ProgressCallback = ignore_progress) -> None:
        """Do units here, one after the other."""
        done, total = 0, sum(unit.size for unit in units)
        for unit in units:
            self.do(unit, _as_part(on_progress, done, total))
            done += unit.size


def _as_part(on_progress: ProgressCallback, before: int, total: int) -> ProgressCallback:
    """Make a callback for the progress of one unit, which begins after `before` of the `total` of all units."""

    def pass_on(progress: Progress) -> None:
        on_progress(Progress(progress.stage, before + progress.done, total, progress.note))

    return pass_on
