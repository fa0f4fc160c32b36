"""Does units of a run in processes side by side: what a CPU is good for, where the models are small.

A process has one thread, and so has this one while it does units: the number of cores changes speed, never a result.
"""

import os
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from dct_augment.config import Config
from dct_augment.diffusion.memory import free_bytes
from dct_augment.errors import DctAugmentError
from dct_augment.processes import ProcessPool, context, one_thread
from dct_augment.records import Progress, ProgressCallback, StageName, WorkUnit
from dct_augment.remote.store import NoStore, Store

if TYPE_CHECKING:
    from dct_augment.pipeline.stages import Stage

_SMALL_MODEL = "pocket"
_BYTES_OF_A_PROCESS = 2 * 10**9
_LITTLE_WORK = 200
"""Updates and images that are done sooner here than a process is there to do them."""

Event = tuple[WorkUnit | None, "Progress | Future[None]"]
"""What a process says of a unit: its progress, and that it has ended. A remark is of no unit."""


def processes_for(config: Config, device: str, sizes: Sequence[int]) -> int:
    """Say how many processes do units of these sizes side by side: on a CPU, for a small model and enough work."""
    if not _is_by_processes(config, device):
        return 1
    if config.runner.processes:
        return min(config.runner.processes, len(sizes))
    if sum(sizes) < _LITTLE_WORK:
        return 1
    most = min(len(os.sched_getaffinity(0)), int(free_bytes("cpu") / _BYTES_OF_A_PROCESS))
    return max(1, min(most, len(sizes)))


def threads_of_units(config: Config, device: str) -> AbstractContextManager[None]:
    """Use one thread while units are done or measured, where processes may do them side by side."""
    return one_thread() if _is_by_processes(config, device) else nullcontext()


def _is_by_processes(config: Config, device: str) -> bool:
    return device == "cpu" and bool(config.runner.processes or config.model.path == _SMALL_MODEL)


class UnitPool:
    """Processes that do units of one run, for any thread of this one.

    Args:
        config: of the run, which is locked and recorded.
        count: of processes.
        remark: gets their remarks.
        lease: the number under which this process holds a run that is on a store.
    """

    def __init__(self, config: Config, count: int, remark: ProgressCallback, lease: int = 0) -> None:
        self.count, self._remark = count, remark
        self._messages = context().SimpleQueue()
        self._processes = ProcessPool(count, _prepare, (config, os.getcwd(), self._messages, lease))
        self._listeners: dict[WorkUnit, queue.SimpleQueue[Event]] = {}
        threading.Thread(target=self._pass_on, daemon=True).start()

    def do(self, units: Sequence[WorkUnit]) -> Generator[tuple[WorkUnit, Progress | None], None, None]:
        """Do units; yield the progress of each, and None when it is done.

        Raises:
            DctAugmentError: a process died.
            Exception: the first error of a unit, after all others are done.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        for unit in units:
            self._listeners[unit] = events
            self._processes.submit(_do, unit).add_done_callback(partial(self._ended, unit))
        left, first_error = len(units), None
        while left:
            unit_or_none, event = events.get()
            if unit_or_none is None:
                assert isinstance(event, Progress)
                self._remark(event)
            elif isinstance(event, Progress):
                yield unit_or_none, event
            else:
                left -= 1
                error = event.exception()
                first_error = first_error or error
                if error is None:
                    yield unit_or_none, None
        if isinstance(first_error, BrokenProcessPool):
            raise DctAugmentError(
                f"one of {self.count} processes died, perhaps out of memory; what is finished is kept. Go on with "
                "fewer: --set runner.processes=1"
            ) from first_error
        if first_error is not None:
            raise first_error

    def _ended(self, unit: WorkUnit, future: "Future[None]") -> None:
        if not future.cancelled():
            self._listeners.pop(unit).put((unit, future))

    def _pass_on(self) -> None:
        """Give what the processes say to whoever waits for it, until there is nothing more."""
        while (message := self._next_message()) is not None:
            unit, progress = message
            listener = self._listeners.get(unit) if unit else next(iter(tuple(self._listeners.values())), None)
            if listener is not None:
                listener.put((unit, progress))

    def _next_message(self) -> Any:
        try:
            return self._messages.get()
        except Exception:  # of a process that was killed while it wrote
            return None

    def close(self, *, at_once: bool) -> None:
        """End the processes."""
        self._processes.close(at_once=at_once)
        if not at_once:  # a process that was killed may hold the lock of the queue for ever
            self._messages.put(None)


class UnitPools:
    """The pool of a run: its processes keep their models from one stage to the next, within `kept`."""

    def __init__(self, config: Config, remark: ProgressCallback, store: Store | NoStore) -> None:
        self._config, self._remark, self._store = config, remark, store
        self._open: UnitPool | None = None
        self._is_kept = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Let processes that `of` begins go on until the end, or until `close`."""
        self._is_kept = True
        try:
            yield
        except BaseException:
            self.close(at_once=True)
            raise
        finally:
            self._is_kept = False
            self.close()

    @contextmanager
    def of(self, count: int) -> Iterator[UnitPool]:
        """Give a pool of at least so many processes; one is begun if there is none."""
        if self._open is not None and self._open.count < count:
            self.close()
        self._open = self._open or UnitPool(self._config, count, self._remark, self._store.lease)
        try:
            yield self._open
        except BaseException:
            self.close(at_once=True)
            raise
        if not self._is_kept:
            self.close()

    def close(self, *, at_once: bool = False) -> None:
        """End the processes, if there are any: what comes needs the memory."""
        if self._open is not None:
            self._open.close(at_once=at_once)
            self._open = None


class _Worker:
    """The run of this process, which is one of a pool."""

    def __init__(self, config: Config, messages: Any, lease: int) -> None:
        from dct_augment.pipeline.run import Run

        self._messages = messages
        self._run = Run(config, self._tell)
        self._run.store.work_for(lease)
        self._stages: dict[StageName, Stage] = {}

    def do(self, unit: WorkUnit) -> None:
        from dct_augment.pipeline.stages import STAGES

        if unit.stage not in self._stages:
            self._stages[unit.stage] = STAGES[unit.stage](self._run)
        self._stages[unit.stage].do(unit, lambda progress: self._messages.put((unit, progress)))

    def _tell(self, progress: Progress) -> None:
        if not progress.total:
            self._messages.put((None, progress))


_inputs: tuple[Config, Any, int] | None = None
_worker: _Worker | None = None


def _prepare(config: Config, folder: str, messages: Any, lease: int) -> None:
    global _inputs
    os.chdir(folder)
    _inputs = config, messages, lease


def _do(unit: WorkUnit) -> None:
    global _worker
    if _worker is None:  # here, where an error is that of a unit
        assert _inputs is not None
        _worker = _Worker(*_inputs)
    _worker.do(unit)
