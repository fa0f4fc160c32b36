"""What is remembered of files that have not changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dct_augment.generation import checked
from dct_augment.generation.checked import CheckedFiles


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files count as settled at once, and as large."""
    monkeypatch.setattr(checked, "_SETTLED", -1.0)
    monkeypatch.setattr(checked, "_LARGE", 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(b"1234")
    return path


class Check:
    """Reads a file, and counts how often."""

    def __init__(self, file: Path) -> None:
        self.file, self.calls = file, 0

    def __call__(self) -> str:
        self.calls += 1
        return self.file.read_bytes().decode()


@pytest.mark.usefixtures("settled")
def test_a_file_that_has_not_changed_is_read_once_also_by_later_commands(file: Path, tmp_path: Path) -> None:
    check, memory = Check(file), CheckedFiles(tmp_path / "memory.json")
    assert [memory.find(file, check) for _ in range(2)] == ["1234", "1234"]
    memory.save()
    assert CheckedFiles(tmp_path / "memory.json").find(file, check) == "1234"
    assert check.calls == 1


def test_what_is_known_of_small_files_is_no_file_of_its_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "_SETTLED", -1.0)
    memory = CheckedFiles(tmp_path / "memory.json")
    memory.find(file, Check(file))
    memory.save()
    assert not (tmp_path / "memory.json").exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_file_of_the_same_size_that_changed_is_read_again(file: Path, tmp_path: Path, keeps_time: bool) -> None:
    check, memory = Check(file), CheckedFiles(tmp_path / "memory.json")
    memory.find(file, check)
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"4321")
    if keeps_time:
        os.utime(file, ns=times)
    else:
        os.utime(file, ns=(times[0], times[1] + 10**9))
    assert memory.find(file, check) == "4321"


def test_a_file_that_was_written_a_moment_ago_may_change_unseen_and_is_not_remembered(
    file: Path, tmp_path: Path
) -> None:
    check, memory = Check(file), CheckedFiles(tmp_path / "memory.json")
    for _ in range(2):
        memory.find(file, check)
    memory.save()
    assert check.calls == 2
    assert not (tmp_path / "memory.json").exists()


@pytest.mark.usefixtures("settled")
def test_what_is_not_intact_or_not_there_is_not_remembered(file: Path, tmp_path: Path) -> None:
    memory = CheckedFiles(tmp_path / "memory.json")
    answers: list[Any] = [None, "whole"]
    check: Callable[[], Any] = lambda: answers.pop(0)  # noqa: E731
    assert [memory.find(file, check) for _ in range(3)] == [None, "whole", "whole"]
    assert memory.find(tmp_path / "gone.tar", check) is None


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", ["{", "[]", '{"a.tar": 3}', '{"a.tar": []}', '{"a.tar": [[4, 1, 1], "other"]}'])
def test_a_damaged_memory_is_no_memory(file: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.json").write_text(text)
    assert CheckedFiles(tmp_path / "memory.json").find(file, Check(file)) == "1234"
