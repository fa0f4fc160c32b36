"""Finds the members of a WebDataset tar, so that they can be read where they lie."""

import os
import re
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_END = bytes(1024)  # two empty blocks
_MEMBER_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")


@dataclass(frozen=True)
class Span:
    """The bytes of one member: where they begin in the tar, and how many they are."""

    offset: int
    size: int

    def read(self, stream: BinaryIO) -> bytes:
        """Read the bytes from the open tar."""
        stream.seek(self.offset)
        return stream.read(self.size)


@dataclass(frozen=True)
class TarSample:
    """One sample of a tar: its key, and its members by what follows the first dot of their file name."""

    key: str
    members: Mapping[str, Span]

    def image(self, endings: Collection[str]) -> Span | None:
        """Find the member with one of these endings (`png`, `jpg` ...), in any case; None if there is none."""
        return next((span for ending, span in self.members.items() if ending.lower() in endings), None)


def index(tar: Path) -> list[TarSample]:
    """List the samples of a tar, in the order of their first members.

    Raises:
        OSError: the file cannot be opened.
        tarfile.TarError: it is no tar without compression, or its data end early.
    """
    samples: dict[str, dict[str, Span]] = {}
    with tarfile.open(tar, "r:") as archive:  # compressed bytes have no place in the file
        for member in archive:
            name = _MEMBER_NAME.fullmatch(member.name)
            if name is not None and member.isfile():
                key, ending = name.groups()
                samples.setdefault(key, {})[ending] = Span(member.offset_data, member.size)
    return [TarSample(key, members) for key, members in samples.items()]


def is_complete(tar: Path) -> bool:
    """Check that a tar ends as tars do, with two empty blocks; `index` takes one that lacks whole members."""
    if tar.stat().st_size < len(_END):
        return False
    with tar.open("rb") as stream:
        stream.seek(-len(_END), os.SEEK_END)
        return stream.read() == _END
