"""Calls the command line in this process, as a shell would: what it prints, and its exit code."""

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from dct_augment.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command printed, with single spaces and without the boxes of its options' errors, and its exit code."""

    code: object
    said: str


class CommandLine:
    """`dct-augment` in this process; an exception that leaves it is one that a user would see as a traceback."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("NO_COLOR", "1")
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["dct-augment", *arguments])
        code: object = 0
        with _own_signals():
            try:
                main()
            except SystemExit as ended:
                code = ended.code
        printed = self._capsys.readouterr()
        return Outcome(code, " ".join(re.sub(r"[│╭╮╰╯─]", " ", printed.out + printed.err).split()))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Give signals back to pytest afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
