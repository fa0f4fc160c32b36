"""Runs a command and all its processes within a limit of memory; says what they took of the processor and of memory.

The limit is that of a memory cgroup where this process may make one. Elsewhere memory is looked at a few times a
second, and the processes are killed once they have more. Linux only.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_LOOK_EVERY = 0.05
_SHARE_OF_LOOKING = 0.05
"""The most time, of all, that looking at memory may take."""
_PATIENCE = 10.0
"""Seconds that processes have to end after the one that began them."""
_PR_SET_CHILD_SUBREAPER = 36
_FOUND_NOTHING = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        cpu_seconds: of all its processes, user and system.
        wall_seconds: from its begin to the end of the last process.
        peak_bytes: the most memory that all its processes had at a time: what they allocated, and what they share,
            once. Pages of files that can be read again are not in it.
        enforced_by: `cgroup` or `looking`.
        is_over: it was killed because it needed more memory than the limit.
    """

    code: int
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    enforced_by: str
    is_over: bool


def run(
    command: Sequence[str], *, most_bytes: int | None, folder: Path, log: Path, environment: Mapping[str, str]
) -> Measured:
    """Run a command to its end, and all processes that it leaves.

    Args:
        command: the program and its arguments.
        most_bytes: the most memory that all its processes may have together; any if None.
        folder: where it runs.
        log: gets what it prints.
        environment: its own variables, beside those of this process.
    """
    _adopt_orphans()
    began, cpu_before = time.monotonic(), _cpu_of_children()
    with _Group.made(most_bytes) as group, log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=group.enter,
        )
        watch = _Watch(group, most_bytes)
        try:
            process.returncode = watch.until_end(process.pid)
        finally:  # also where this process is stopped
            _end_all()
    return Measured(
        process.returncode,
        _cpu_of_children() - cpu_before,
        time.monotonic() - began,
        watch.peak,
        group.kind,
        watch.is_over or group.has_killed,
    )


@dataclass
class _Watch:
    """Looks at the memory of a command's processes."""

    group: "_Group"
    most_bytes: int | None
    peak: int = field(default=0, init=False)
    is_over: bool = field(default=False, init=False)

    def until_end(self, process: int) -> int:
        """Look until the first process and those that it left have ended; return the exit code of the first."""
        code, left_since = None, 0.0
        while code is None or (_descendants() and time.monotonic() - left_since < _PATIENCE):
            began = time.monotonic()
            self._look()
            if (ended := _reaped(process)) is not None:
                code, left_since = ended, began
            time.sleep(max(_LOOK_EVERY, (time.monotonic() - began) / _SHARE_OF_LOOKING))
        return code

    def _look(self) -> None:
        memory = self.group.memory()
        self.peak = max(self.peak, memory)
        if self.most_bytes is not None and memory > self.most_bytes:
            self.is_over = True
            _kill(_descendants())


class _Group:
    """What counts the memory of a command: here without a cgroup, by the processes themselves."""

    kind = "looking"
    kinds: "tuple[type[_CGroup], ...]" = ()
    has_killed = False

    @classmethod
    @contextmanager
    def made(cls, most_bytes: int | None) -> "Iterator[_Group]":
        """Make a memory cgroup if this process may, of either version; it goes in the end."""
        for kind in cls.kinds:
            folder = kind.folder()
            if folder is None:
                continue
            group = kind(folder)
            try:
                folder.mkdir()
                group.limit(most_bytes)
            except OSError:
                with contextlib.suppress(OSError):
                    folder.rmdir()
                continue
            try:
                yield group
            finally:
                group.has_killed = group.count_killed() > 0
                folder.rmdir()
            return
        yield cls()

    def enter(self) -> None:
        """Count the memory of the process that calls this, and of those that it begins."""

    def memory(self) -> int:
        """Say how many bytes the processes have now."""
        return sum(map(_memory_of, _descendants()))


class _CGroup(_Group, ABC):
    kind = "cgroup"
    most, events, parts = "", "", ("",)
    """The files and fields of the kernel: of the limit, of what was killed, and of memory that is no file's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @abstractmethod
    def folder(cls) -> Path | None:
        """Name a folder that would be a cgroup of this process; None where there is no such kind of cgroup."""

    def limit(self, most_bytes: int | None) -> None:
        """Set the limit."""
        path = self._folder / self.most
        path.read_text()  # writing would make a file where there is none
        if most_bytes is not None:
            path.write_text(str(most_bytes))

    def enter(self) -> None:
        (self._folder / "cgroup.procs").write_text("0")

    def memory(self) -> int:
        fields = dict(line.split() for line in (self._folder / "memory.stat").read_text().splitlines())
        return sum(int(fields[part]) for part in self.parts)

    def count_killed(self) -> int:
        """Say how many processes the kernel has killed for want of memory."""
        fields = dict(line.split() for line in (self._folder / self.events).read_text().splitlines())
        return int(fields["oom_kill"])


class _GroupOfVersion1(_CGroup):
    most, events, parts = "memory.limit_in_bytes", "memory.oom_control", ("total_rss", "total_shmem")

    @classmethod
    def folder(cls) -> Path | None:
        own = next((path for kinds, path in _own_groups() if "memory" in kinds.split(",")), None)
        root = Path("/sys/fs/cgroup/memory")
        return None if own is None else root / own.lstrip("/") / f"dct-rehearse-{os.getpid()}"


class _GroupOfVersion2(_CGroup):
    most, events, parts = "memory.max", "memory.events", ("anon", "shmem")

    @classmethod
    def folder(cls) -> Path | None:
        own = next((path for kinds, path in _own_groups() if not kinds), None)
        # Beside the group of this process: one that holds processes may not divide its memory.
        return None if own is None else Path("/sys/fs/cgroup", own.lstrip("/")).parent / f"dct-rehearse-{os.getpid()}"


_Group.kinds = (_GroupOfVersion1, _GroupOfVersion2)


def _own_groups() -> Iterator[tuple[str, str]]:
    """Yield the kinds and the path of each cgroup that this process is in."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        yield kinds, path


def _adopt_orphans() -> None:
    """Become the parent of processes whose own has ended: what they took is known only to a parent."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reaped(process: int) -> int | None:
    """Take note of all children that have ended; return the exit code of one of them if it has."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == process:
                code = os.waitstatus_to_exitcode(ended[1])
    return code


def _end_all() -> None:
    """Kill all other processes, if there are any."""
    while processes := _descendants():
        _kill(processes)
        _reaped(0)
        time.sleep(0.01)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _descendants() -> list[int]:
    """List all processes under this one, those that have ended too until their end is noted."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(*_FOUND_NOTHING):
                # The name in brackets may have blanks.
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found = list(children.get(os.getpid(), ()))
    for process in found:
        found += children.get(process, ())
    return found


def _memory_of(process: int) -> int:
    """Say how many bytes of memory a process has, and its share of those that it has with others; no file's."""
    memory = 0
    with contextlib.suppress(*_FOUND_NOTHING):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("Pss_Anon", "Pss_Shmem"):
                memory += 1024 * int(value.split()[0])
    return memory


def _kill(processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
