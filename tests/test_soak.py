"""The short form of `make soak`: a run that is harmed a few times ends with the bytes of one that is not."""

from pathlib import Path

import pytest

from tests.soak.__main__ import HARMS, soak

pytestmark = pytest.mark.slow


def test_harms_lose_nothing(tmp_path: Path) -> None:
    cycles = iter([("two", "stop", "kill", "child", "full", "server", "damage")])
    done = soak(tmp_path.resolve(), 2, lambda draw: next(cycles, None))
    assert done.turns == dict.fromkeys(HARMS, 1)
