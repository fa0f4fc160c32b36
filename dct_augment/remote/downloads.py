"""Folders that are only read: pulled once from a store, whole, and found again by what they hold."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.errors import StoreError
from dct_augment.remote.urls import asking, listing, open_store, version_of
from dct_augment.wording import size

SIDE_BY_SIDE = 8
"""Downloads at a time."""


def folder_of(url: str, wanted: Callable[[str], bool] = lambda path: True) -> Path:
    """Give a folder of this machine with what is below a URL; it is pulled if that has changed, or was never here.

    Its name is the last part of the URL, and it lies in a folder that is named by names, versions and sizes of all
    objects. So two machines, and two URLs with the same content, have the same.

    Args:
        url: of a folder.
        wanted: tells by the path of an object whether it is pulled.

    Raises:
        StoreError: the store cannot be read, there is nothing, or the disk is too small.
    """
    objects = {path: info for path, info in listing(url).items() if wanted(path)}
    if not objects:
        raise StoreError(f"{url}: nothing is there that could be read; correct the URL, or upload it")
    held = sorted([path, version_of(info), info["size"]] for path, info in objects.items())
    name = hashlib.sha256(json.dumps(held).encode()).hexdigest()[:16]
    folder = files.cache_folder() / "data" / name / url.rpartition("/")[2]
    if folder.is_dir():
        return folder
    with files.lock(folder.parent, wait=True):
        if not folder.is_dir():
            _refuse_full_disk(url, folder.parent, sum(info["size"] for info in objects.values()))
            with files.atomic_folder(folder) as partial_folder, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                list(pool.map(partial(_into, url, partial_folder), objects, objects.values()))
    return folder


def bring(url: str, path: str, info: Mapping[str, Any], target: Path) -> None:
    """Write an object of a store into a file; `info` is what the store says of it.

    Raises:
        StoreError: it cannot be read, or changed meanwhile.
    """
    system, root = open_store(url)
    with asking(f"{url}/{path}"):
        system.get_file(f"{root}/{path}", str(target))
    if target.stat().st_size != info["size"]:
        raise StoreError(f"{url}/{path}: it changed while it was read; run the same command again")


def read(url: str) -> bytes:
    """Read an object.

    Raises:
        StoreError: it cannot be read.
    """
    system, path = open_store(url)
    with asking(url):
        return bytes(system.cat_file(path))


def read_range(url: str, offset: int, size: int) -> bytes:
    """Read some bytes of an object.

    Raises:
        StoreError: they cannot be read, or are fewer.
    """
    system, path = open_store(url)
    with asking(url):
        data = bytes(system.cat_file(path, start=offset, end=offset + size))
    if len(data) != size:
        raise StoreError(f"{url}: it ends before byte {offset + size:,}; it is not what its index says")
    return data


def _into(url: str, folder: Path, path: str, info: Mapping[str, Any]) -> None:
    """Bring an object into a folder, with the time that the store has of it: by it, pictures are known again."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    bring(url, path, info, target)
    changed = next((info[key] for key in ("LastModified", "mtime", "updated") if key in info), None)
    if isinstance(changed, datetime):
        os.utime(target, (changed.timestamp(), changed.timestamp()))


def _refuse_full_disk(url: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{url}: its {size(needed)} are pulled into {str(folder)!r}, and {size(free)} are free "
            "there. Free some, or set DCT_AUGMENT_CACHE to a folder on a larger disk"
        )
