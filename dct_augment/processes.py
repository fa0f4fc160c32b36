"""Processes of this machine that work side by side on a CPU, one thread each, and end with the one that began them."""

import atexit
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from typing import Any

from dct_augment import stopping

PRELOADED = [
    "dct_augment.pipeline.run",
    "dct_augment.classifiers.timm_models",
    "dct_augment.diffusion.stable_diffusion",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
]
"""What the server that forks them has imported, so that each begins at once."""


def context() -> ForkServerContext:
    """How processes begin: forked by a server, which has imported torch but not used it, so no lock is inherited."""
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(PRELOADED)
    atexit.unregister(_kill_server)
    atexit.register(_kill_server)  # it may be importing, and would go on after the end
    with without_interrupts():
        forkserver.ensure_running()
    return forked


def begin_server() -> None:
    """Begin the server that forks processes; it imports while this process goes on."""
    context()


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Begin processes in the body that never get Ctrl-C, also not while they import; this one gets it afterwards."""
    stopping.first(_kill_children)
    is_main = threading.current_thread() is threading.main_thread()
    with stopping.held() if is_main else nullcontext():
        resource_tracker.ensure_running()  # to begin it later would end the blocking
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_children() -> None:
    """End what this process has begun, and the server that forks: a child that starts would miss what goes now."""
    for child in multiprocessing.active_children():
        child.kill()
    _kill_server()


def _kill_server() -> None:
    """End the server that forks processes, if this process has begun it."""
    server = vars(forkserver._forkserver)["_forkserver_pid"]
    if server is not None:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread of a CPU: its sums, and so all results, then do not depend on the machine's cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ProcessPool:
    """Processes that call functions for any thread of this one, until they are closed.

    Args:
        count: of processes.
        prepare: called once in each, with `arguments`.
    """

    def __init__(self, count: int, prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._earlier_children = set(multiprocessing.active_children())
        with without_interrupts():
            self._pool = ProcessPoolExecutor(count, context(), _begin, (prepare, arguments))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Let a process call a function; where one has died, the error is that of what is returned."""
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def close(self, *, at_once: bool) -> None:
        """End the processes; at once, if something went wrong: the exit of Python would wait for them."""
        if not at_once:
            self._pool.shutdown()
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - self._earlier_children:
            child.terminate()


def begin() -> None:
    """Set this process up as one of others': one thread, no answer to Ctrl-C, and an end with its parent."""
    import torch

    belong_to_parent()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def belong_to_parent() -> None:
    """Let this process end with its parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _begin(prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    begin()
    prepare(*arguments)


def _exit_with_parent() -> None:
    """End this process when its parent has ended, however that came about."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
