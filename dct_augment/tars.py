"""Finds the members of a WebDataset tar, so that they can be read where they lie."""

import bz2
import gzip
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""What file names of tars end in, compressed or not. zstd is not read, but a message says what to do."""

_END = bytes(1024)  # two empty blocks
_MEMBER_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_METADATA = re.compile(r"__[^/]*__($|/)")  # members that the library webdataset skips
_OPEN_COMPRESSED: Mapping[bytes, type[gzip.GzipFile] | type[bz2.BZ2File] | type[lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""What opens a compressed file, by its first bytes."""

_ZSTD = b"\x28\xb5\x2f\xfd"
_MAGIC_OFFSET = 257  # of `ustar` in a tar that is not compressed

UNREADABLE_TAR = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError)
"""What reading a damaged tar raises."""


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
    """One sample of a tar: its key, and its members by what follows the first dot of their file name, in lower case."""

    key: str
    members: Mapping[str, Span]

    def image(self, endings: Collection[str]) -> Span | None:
        """Find the member with one of these endings (`png`, `jpg` ...); None if there is none."""
        return next((span for ending, span in self.members.items() if ending in endings), None)


def index(tar: Path) -> list[TarSample]:
    """List the samples of a tar, in the order of their first members, as the library webdataset groups them.

    Raises:
        OSError: the file cannot be opened.
        tarfile.TarError: it is no tar without compression, its data end early, or a member is in it twice.
    """
    samples: dict[str, dict[str, Span]] = {}
    with tarfile.open(tar, "r:") as archive:  # compressed bytes have no place in the file
        for member in archive:
            name = _MEMBER_NAME.fullmatch(member.name)
            if name is None or not member.isfile() or _METADATA.match(member.name):
                continue
            key, ending = name.groups()
            members = samples.setdefault(key, {})
            if ending.lower() in members:
                raise tarfile.ReadError(f"{member.name!r} is in it twice")
            members[ending.lower()] = Span(member.offset_data, member.size)
    return [TarSample(key, members) for key, members in samples.items()]


def is_compressed(tar: Path) -> bool:
    """Tell by its first bytes, not by its name, whether a tar is compressed.

    Raises:
        OSError: the file cannot be opened.
        tarfile.TarError: it is compressed by zstd, which is not supported.
    """
    with tar.open("rb") as stream:
        head = stream.read(_MAGIC_OFFSET + 5)
    if head[_MAGIC_OFFSET:] == b"ustar":
        return False
    if head.startswith(_ZSTD):
        raise tarfile.ReadError("it is compressed by zstd; unpack it with `unzstd`, or compress it by gzip")
    return any(head.startswith(magic) for magic in _OPEN_COMPRESSED)


def unpack(tar: Path, target: Path) -> None:
    """Write a compressed tar without its compression; memory does not grow with its size.

    Raises:
        OSError, EOFError, zlib.error, lzma.LZMAError: its data are damaged or end early, or the disk is full.
    """
    with tar.open("rb") as stream:
        head = stream.read(8)
    opener = next(opener for magic, opener in _OPEN_COMPRESSED.items() if head.startswith(magic))
    with opener(tar) as source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)


def is_complete(tar: Path) -> bool:
    """Check that a tar ends as tars do, with two empty blocks; `index` takes one that lacks whole members."""
    if tar.stat().st_size < len(_END):
        return False
    with tar.open("rb") as stream:
        stream.seek(-len(_END), os.SEEK_END)
        return stream.read() == _END
