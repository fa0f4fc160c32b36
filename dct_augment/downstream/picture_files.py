"""Finds the pictures that a user names: files, folders, patterns and tars, one after the other."""

import glob
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dct_augment import tars
from dct_augment.datasets.image_files import LeftOut, is_picture_name, paths_below
from dct_augment.errors import DatasetError, InputError, UnreadableImageError
from dct_augment.wording import counted, listed, reason_of


@dataclass(frozen=True)
class PictureFile:
    """A picture and the name that its row has: a file, the bytes of one in a tar, or why it cannot be had."""

    name: str
    stored: Path | bytes | UnreadableImageError


class PictureFiles:
    """The pictures in files, folders (with all below them), patterns such as `photos/*.jpg`, and tars.

    They are listed anew at each iteration; only the paths that match a pattern are kept.

    Raises:
        InputError: a path is not there, or no file fits a pattern.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.left_out = LeftOut()
        self._paths: list[Path] = []
        for argument in arguments:
            self._paths += _expanded(argument)

    def __iter__(self) -> Iterator[PictureFile]:
        self.left_out = LeftOut()
        for path in self._paths:
            if path.is_dir():
                yield from (PictureFile(str(path / name), path / name) for name in self._below(path))
            elif _is_tar(path):
                yield from _members(path)
            else:
                yield PictureFile(str(path), path)

    def count(self) -> int | None:
        """Count the pictures; None if some are in tars, which would have to be read for it."""
        if any(_is_tar(path) for path in self._paths if not path.is_dir()):
            return None
        return sum(1 for _ in self)

    def refuse_none(self) -> None:
        """Raise InputError if there is no picture at all."""
        if next(iter(self), None) is None:
            names = listed([repr(str(path)) for path in self._paths], 5)
            others = self.left_out.endings.total()
            there = f"only {counted(others, 'file')} without an ending of pictures" if others else "there is no file"
            raise InputError(f"no picture in {names}: {there}. Give picture files, folders of them, or a tar")

    def _below(self, folder: Path) -> Iterator[str]:
        try:
            yield from paths_below(folder, left_out=self.left_out)
        except OSError as error:
            raise DatasetError(
                f"{str(error.filename or folder)!r} cannot be read: {error.strerror or error}"
            ) from error


def _expanded(argument: str) -> list[Path]:
    """List the paths that an argument means.

    Raises:
        InputError: there is none.
    """
    path = Path(argument).expanduser()
    if os.path.lexists(path):
        return [path]
    if not glob.has_magic(argument):
        raise InputError(f"{argument!r} does not exist; give picture files, folders, patterns, or a tar")
    matches = (Path(match) for match in sorted(glob.glob(str(path), recursive=True)))
    paths = [match for match in matches if match.is_dir() or _is_tar(match) or is_picture_name(match.name)]
    if "**" in path.parts:  # what is in a folder matches by itself
        paths = [match for match in paths if not match.is_dir()]
    if not paths:
        raise InputError(f"no picture fits the pattern {argument!r}; give picture files, folders, or a tar")
    return paths


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(tars.TAR_ENDINGS)


def _members(tar: Path) -> Iterator[PictureFile]:
    """Yield the pictures of a tar, compressed or not, in one pass; what is damaged becomes one row."""
    try:
        tars.is_compressed(tar)  # zstd has a message of its own
        with tarfile.open(tar, "r|*") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all that it has passed
                name = PurePosixPath(member.name)
                hidden = any(part.startswith((".", "__")) for part in name.parts if part not in (".", ".."))
                if member.isfile() and not hidden and is_picture_name(name.name):
                    stream = archive.extractfile(member)
                    yield PictureFile(f"{tar}/{name}", stream.read() if stream else b"")
    except tars.UNREADABLE_TAR as error:
        reason = reason_of(error) or type(error).__name__
        yield PictureFile(str(tar), UnreadableImageError(f"the tar cannot be read further: {reason}"))
