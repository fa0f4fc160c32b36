"""Ends a program that Ctrl-C or SIGTERM stops with one line and the exit code of the signal, from its first moment on.

What a program needs is imported after `run` has begun: an import is stopped like all else.
"""

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_PATIENCE = 10.0  # seconds for a program that is aborted to end by itself

_by = 0  # the signal that has stopped this program
_code = 0  # what it ends with, if that is not told by the signal
_held = 0  # how many bodies of `held` are at work
_is_said = False
_is_ending = False
_first = dict[Callable[[], None], None]()


def run(program: Callable[[], None]) -> None:
    """Call a program; where a signal stops it, say so in one line and exit with 128 and the signal's number.

    Whatever was raised then is not shown: libraries make errors of their own of a stop.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and `&` mean it
            signal.signal(number, _stop)
    try:
        program()
    except BaseException:
        if not _by:
            raise
    if _by:
        _end()


def _end() -> None:
    """Leave a program that has been stopped; a second signal ends it without waiting for what it has begun.

    Not by `sys.exit`: an interpreter that ends with libraries half imported, and threads at work, may crash.
    """
    global _is_ending
    _is_ending = True
    say("stopped")
    for function in _first:
        function()
    atexit._run_exitfuncs()  # servers end, semaphores are removed
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_code or 128 + _by)


def abort(line: str) -> None:
    """Stop this program from another thread than the main one, with a line and exit code 1, unless it is stopped."""
    global _code
    if _by:
        return
    say(line)
    _code = 1
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    for function in _first:  # a server that forks may import for long, and does not look whether it is still wanted
        with suppress(Exception):
            function()
    os._exit(_code)  # what ends otherwise may wait for what is no more


def say(line: str) -> None:
    """Tell that the program is stopped; what is told first is the only line."""
    global _is_said
    if not _is_said:
        _is_said = True
        print(line, file=sys.stderr, flush=True)


def first(function: Callable[[], None]) -> None:
    """Let a stopped program call a function, once, before what `atexit` has."""
    _first[function] = None


@contextmanager
def held() -> Iterator[None]:
    """Let the body, of the main thread, end before a stop is answered: no process is left half begun."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if not _held:
        raise_if_stopped()


def raise_if_stopped() -> None:
    """Stop again where a library that catches everything has swallowed it.

    Raises:
        KeyboardInterrupt: Ctrl-C has stopped this program.
        SystemExit: another signal has.
    """
    if _by == signal.SIGINT:
        raise KeyboardInterrupt
    if _by:
        raise SystemExit(128 + _by)


def _stop(number: int, frame: object) -> None:
    global _by
    if _is_ending:
        os._exit(128 + number)
    _by = number
    if not _held:
        raise_if_stopped()
