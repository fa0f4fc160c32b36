"""The rehearsal of full size at its smallest: rows are measured once, and one over its limit fails the command."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def rehearse(folder: Path, *options: str) -> tuple[int | None, str]:
    """Rehearse a look at the tiny ImageNet; the exit code, and what is printed."""
    arguments = ("--size", "tiny", "--rows", "imagenet/data", "--out", "out", *options)
    return Program.start(folder, "benchmarks.rehearse", *arguments, environment={"PYTHONPATH": str(ROOT)}).end()


def records(folder: Path) -> dict[str, Any]:
    path = folder / "out" / "tiny" / "rows.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["rows"])


def test_rows_are_measured_after_those_they_need_and_not_twice(tmp_path: Path) -> None:
    code, printed = rehearse(tmp_path)
    assert code == 0, printed
    measured = records(tmp_path)
    assert list(measured) == ["imagenet/pictures", "imagenet/data"]
    look = measured["imagenet/data"]
    assert look["cpu_seconds"] > 0
    assert 1e6 < look["peak_bytes"] < look["most_bytes"] == 1e9
    assert "every image can be read" in (tmp_path / "out/tiny/logs/imagenet-data.log").read_text(encoding="utf-8")
    table = (tmp_path / "out/tiny/table.md").read_text(encoding="utf-8")
    assert table.strip() in printed
    assert [line.split(" | ")[-1] for line in table.splitlines()[4:6]] == ["ok |", "ok |"]
    assert rehearse(tmp_path) == (0, "\n" + table)


def test_a_row_over_its_limit_is_killed_and_fails_the_command(tmp_path: Path) -> None:
    code, printed = rehearse(tmp_path, "--most-gb", "0.02")
    assert (code, "**killed: more than 0.02 GB**" in printed) == (1, True), printed
    assert "not within the limits: imagenet/data" in printed
    assert not list((tmp_path / "out/tiny/runs").rglob("overview.json"))


WATCHED = """
import sys
from pathlib import Path
from benchmarks.rehearse import limits

def run(code, most):
    log = Path("log")
    return limits.run((sys.executable, "-c", code), most_bytes=most, folder=Path(), log=log, environment={})

left = "time.sleep(0.1); b = bytearray(60_000_000); time.sleep(0.4); sum(range(10**6))"
leaving = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; {left}'])"
for kinds in ((limits._GroupOfVersion1, limits._GroupOfVersion2), ()):
    limits._Group.kinds = kinds
    for most in (None, 40_000_000):
        found = run(leaving, most)
        print(found.enforced_by, found.code, found.peak_bytes // 10**7, found.cpu_seconds > 0.05, found.is_over)
"""
"""Runs a program that leaves another one behind; prints what it took, with cgroups and without."""


def test_processes_that_are_left_behind_are_counted_and_killed_too(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "watched.py").write_text(WATCHED, encoding="utf-8")
    code, printed = Program.start(folder, "watched", environment={"PYTHONPATH": str(ROOT)}).end()
    assert code == 0, printed
    (kind, *free), limited, looked, killed = [line.split() for line in printed.splitlines()]
    assert kind in ("cgroup", "looking")  # who may make no cgroup has the other way alone
    assert limited[0] == kind
    assert (looked[0], killed[0]) == ("looking", "looking")
    for found in (free, looked[1:]):  # who looks a few times a second misses some of the 60 MB on a busy machine
        assert found in (["0", "6", "True", "False"], ["0", "5", "True", "False"])
    assert (limited[1], limited[-1]) == (killed[1], killed[-1]) == ("0", "True")
