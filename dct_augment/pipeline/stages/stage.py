"""What a stage is."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.unit_pool import UnitPool, processes_for
from dct_augment.records import Progress, ProgressCallback, StageName, WorkUnit, ignore_progress


class Stage(ABC):
    """One stage of one run.

    `by_processes` says that its units may be done side by side on a CPU, each by a process with a run of its own;
    `reads_images` that they read images which are not of the unit itself.
    """

    name: StageName
    by_processes: ClassVar[bool] = False
    reads_images: ClassVar[bool] = False

    def __init__(self, context: RunContext) -> None:
        self._context, self._config = context, context.config
        self._unit_pool: UnitPool | None = None

    @abstractmethod
    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan what is missing, and return it. Call it under the run's lock.

        Raises:
            StaleRunError: there is work made with other settings.
        """

    def do(self, unit: WorkUnit, on_progress: ProgressCallback = ignore_progress) -> None:
        """Do one unit, in any process that sees the run's folder; `on_progress` gets at most `unit.size`.

        What it made is on the store then, if the run is on one. Within `worker_pool` several threads may, each with a
        unit.
        """
        if self._unit_pool is None:
            self.pull_images()
            self._do(unit, on_progress)
            self._context.store.publish()
            return
        for _, progress in self._unit_pool.do([unit]):
            if progress is not None:
                on_progress(progress)

    def pull_images(self) -> None:
        """Have the images here that units read."""
        if self.reads_images:
            self._context.pull_images()

    @abstractmethod
    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Do one unit in this process."""

    @abstractmethod
    def publish(self) -> None:
        """Write the index of all that is done."""

    def side_by_side(self, units: Sequence[WorkUnit]) -> int:
        """How many of these units this machine does at a time."""
        if not self.by_processes or self._context.is_inner:
            return 1
        return processes_for(self._config, self._context.device, [unit.size for unit in units])

    @contextmanager
    def worker_pool(self, count: int) -> Iterator[None]:
        """Be ready to do so many units at a time, from as many threads."""
        with self._context.unit_pools.of(count) as self._unit_pool:
            try:
                yield
            finally:
                self._unit_pool = None

    def do_all(self, units: Sequence[WorkUnit], on_progress: ProgressCallback = ignore_progress) -> None:
        """Do units on this machine, as many at a time as suits it."""
        count, total, done = self.side_by_side(units), sum(unit.size for unit in units), Counter[int]()

        def follow(unit: WorkUnit, progress: Progress) -> None:
            done[unit.number] = progress.done
            on_progress(Progress(progress.stage, done.total(), total, progress.note))

        if count == 1:
            for unit in units:
                self.do(unit, lambda progress, unit=unit: follow(unit, progress))  # type: ignore[misc]
                done[unit.number] = unit.size
            return
        with self.worker_pool(count):
            assert self._unit_pool is not None
            for unit, event in self._unit_pool.do(units):
                follow(unit, event or Progress(self.name, unit.size, unit.size, unit.title))
