"""Remembers what was found in files, so that those which have not changed since are not read again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dct_augment import files

_SETTLED = 2.0
"""Seconds after which a further change of a file shows in its times: they are coarse, on some disks whole seconds."""


_LARGE = 100 * 2**20
"""Bytes of files; fewer are read again by each command, before it is worth a file that says what they are."""


class CheckedFiles:
    """What checks of files found, by size and times of each file.

    A change that leaves size, time of change and time of status as they were is not seen; `dct-augment verify` reads
    every byte.

    Args:
        path: JSON file of what earlier commands found; damaged or missing, nothing is known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] | None = None
        self._is_saved = True

    def find(self, file: Path, check: Callable[[], Any]) -> Any:
        """Return what a check of a file finds, as JSON values; the check is called if the file is not known as it is.

        None is not remembered: it stands for a file that is not there, or not intact.
        """
        stamp = _stamp(file)
        if stamp is None:
            return None
        known = self._known.get(file.name)
        if known is not None and known[0] == stamp:
            return known[1]
        found = check()
        if found is not None and stamp == _stamp(file) and time.time_ns() - max(stamp[1:]) > _SETTLED * 1e9:
            self._known[file.name] = [stamp, found]
            self._is_saved = False
        return found

    def save(self) -> None:
        """Write what is known of large files, or of many, for later commands; call it under the run's lock."""
        if not self._is_saved and sum(stamp[0] for stamp, _ in self._known.values()) >= _LARGE:
            files.write_json(self._path, self._known)
            self._is_saved = True

    @property
    def _known(self) -> dict[str, Any]:
        if self._found is None:
            stored = files.read_json(self._path)
            self._found = {name: entry for name, entry in stored.items() if _is_entry(entry)}
        return self._found


def _is_entry(value: Any) -> bool:
    """Tell whether a value is a stamp, and what was found."""
    is_pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], list)
    return is_pair and len(value[0]) == 3 and all(isinstance(number, int) for number in value[0])


def checked_file(folder: Path, split: str) -> Path:
    """Give the file in which a shard folder keeps what is known of one of its splits."""
    return folder / f".checked-{split}.json"


def _stamp(file: Path) -> list[int] | None:
    """Give size, time of change and time of status of a file; None if it is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
