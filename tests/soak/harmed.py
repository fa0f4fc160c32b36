"""Runs `dct_augment`, and harms it at one of its writes: `python -m tests.soak.harmed HOW NUMBER FOLDER WORDS...`.

HOW is `kill` (the process dies there), `full` (from there on the disk takes nothing more) or `count` (nothing
happens; the number of writes is printed). Writes are what Python opens, renames, makes, removes or syncs in FOLDER.
"""

import errno
import os
import runpy
import signal
import sys
from typing import Any

_OPENED_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NEED_ROOM = ("open", "os.mkdir", "os.fsync")
_REMOVE = ("os.rename", "os.remove", "os.rmdir")


class Harm:
    """Counts the writes of this process, and does harm at one of them."""

    def __init__(self, how: str, number: int, folder: str) -> None:
        self.how, self.number, self.folder = how, number, folder
        self.count = 0
        self._sync, self._process = os.fsync, os.getpid()

    def install(self) -> None:
        """See every write from now on."""
        sys.addaudithook(self._hook)
        os.fsync = self._fsync  # it raises no audit event

    def _fsync(self, fd: Any) -> None:
        descriptor = fd if isinstance(fd, int) else fd.fileno()
        self._writes("os.fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        self._sync(fd)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _OPENED_FOR_WRITING):
            return
        if event in _NEED_ROOM or event in _REMOVE:
            self._writes(event, arguments[0])

    def _writes(self, event: str, path: Any) -> None:
        if isinstance(path, int) or os.getpid() != self._process:
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        self.count += 1
        if self.how == "kill" and self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "full" and self.count >= self.number and event in _NEED_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))


def main() -> None:
    """Do what the module says."""
    how, number, folder, *words = sys.argv[1:]
    harm = Harm(how, int(number), folder)
    harm.install()
    sys.argv = ["dct_augment", *words]
    try:
        runpy.run_module("dct_augment", run_name="__main__", alter_sys=True)
    finally:
        if how == "count":
            print(f"writes: {harm.count}")


if __name__ == "__main__":
    main()
