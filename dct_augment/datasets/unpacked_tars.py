"""Keeps unpacked copies of compressed tars in the user's cache, so that their images can be read in any order."""

import hashlib
import os
from pathlib import Path

from dct_augment import files, tars
from dct_augment.errors import DatasetError
from dct_augment.wording import reason_of


def unpacked(tar: Path) -> Path:
    """Give a tar without compression: itself, or its copy in the cache, which is made once.

    Raises:
        DatasetError: it is damaged, or there is no room.
    """
    try:
        if not tars.is_compressed(tar):
            return tar
        copy = _copy(tar)
        if not copy.is_file():
            with files.atomic(copy) as partial_tar:
                tars.unpack(tar, partial_tar)
    except tars.UNREADABLE_TAR as error:
        raise DatasetError(f"it cannot be unpacked: {reason_of(error)}") from error
    return copy


def folder() -> Path:
    """Give the folder of unpacked tars: in `XDG_CACHE_HOME`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dct-augment" / "tars"


def _copy(tar: Path) -> Path:
    """Give the place of a tar's copy. A tar that was changed has another one."""
    status = tar.stat()
    identity = f"{tar.resolve()} {status.st_size} {status.st_mtime_ns}"
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return folder() / f"{digest}-{tar.name.partition('.')[0]}.tar"
