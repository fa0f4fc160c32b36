"""Runs programs in processes of their own that can be killed.

Importing torch and diffusers takes seconds. One server imports them (conftest starts it), and every program is a
fork of it: a process of its own, with its own folder, output and exit code.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import resource
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKSERVER = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Program:
    """A program that runs in a folder: `dct_augment`, or any other module."""

    process: BaseProcess
    output: Path

    @classmethod
    def start(
        cls,
        folder: Path,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        file_limit: int | None = None,
        shares_server: bool = False,
        log: Path | None = None,
    ) -> "Program":
        """Start it; what it prints goes to `log`, else to a file beside the folder.

        With `file_limit`, it can write no file of more bytes. With `shares_server`, a server that it wants for
        processes of its own is the one of tests, which has imported torch.
        """
        output = log or folder.parent / f"{folder.name}.log"
        inputs = (folder, module, arguments, output, dict(environment or {}), file_limit, shares_server)
        process = _FORKSERVER.Process(target=_run, args=inputs)
        process.start()
        return cls(process, output)

    def until(self, appears: Callable[[], bool]) -> None:
        """Wait until something has appeared, or the program has ended."""
        while self.process.is_alive() and not appears():
            time.sleep(0.005)

    def end(self, number: int | None = None) -> tuple[int | None, str]:
        """Send a signal, if any, and wait; the exit code and what was printed."""
        if number is not None and self.process.is_alive():
            os.kill(self.process.pid or 0, number)
        self.process.join()
        return self.process.exitcode, self.output.read_text()


def _run(
    folder: Path,
    module: str,
    arguments: Sequence[str],
    output: Path,
    environment: Mapping[str, str],
    file_limit: int | None,
    shares_server: bool,
) -> None:
    os.setsid()  # a session of its own, whose processes can be listed
    vars(resource_tracker._resource_tracker)["_fd"] = None  # one of its own, which tells its log what a kill left
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # as `python -m` does
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, also where tests run in the background
    with output.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if shares_server:
        # Its address is known here; asked for, another one would be started.
        vars(multiprocessing.forkserver._forkserver)["ensure_running"] = lambda: None
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)  # on a busy machine, two threads waiting for each other are ten times slower than one
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
