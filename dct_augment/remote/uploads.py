"""Puts a finished folder on a store: its files, and last of all the one that says that it is whole."""

import json
from collections.abc import Iterable
from pathlib import Path

from dct_augment.remote.urls import asking, listing, open_store

UNFINISHED = ".uploading"
"""The object that is below a URL while a folder is put there: it lists what a killed process may leave."""


def upload_folder(folder: Path, url: str, last: str) -> None:
    """Upload all files of a folder; what else is below the URL goes.

    Args:
        folder: with all files, `last` among them.
        url: where they are put.
        last: the file that says that the folder is whole: it is removed first, and uploaded when all others are there.

    Raises:
        StoreError: the store cannot be written.
    """
    system, root = open_store(url)
    before = listing(url)
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with asking(url):
        system.pipe_file(f"{root}/{UNFINISHED}", json.dumps(sorted({*before, *paths})).encode())
    _remove(url, [last] if last in before else [])
    for path in [*(path for path in paths if path != last), last]:
        with asking(f"{url}/{path}"):
            system.put_file(str(folder / path), f"{root}/{path}")
    _remove(url, [*(path for path in before if path not in paths and path != UNFINISHED), UNFINISHED])


def unfinished_files(url: str) -> set[str]:
    """List what an upload that was killed may have left below a URL.

    Raises:
        StoreError: the store cannot be read.
    """
    system, root = open_store(url)
    with asking(url):
        written = system.cat_file(f"{root}/{UNFINISHED}")
    try:
        return {UNFINISHED, *map(str, json.loads(written))}
    except (ValueError, TypeError):
        return {UNFINISHED}


def _remove(url: str, paths: Iterable[str]) -> None:
    system, root = open_store(url)
    for path in paths:
        with asking(f"{url}/{path}"):
            system.rm_file(f"{root}/{path}")
