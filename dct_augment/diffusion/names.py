"""Resolves the names of text-to-image models: a folder, or an id on the Hub."""

from pathlib import Path

from dct_augment import pocket


def local_folder(path: str) -> Path | None:
    """Resolve a text-to-image model to the folder that it lies in; None if `path` is an id on the Hub.

    `pocket` is the shipped model. What is a folder, or is not written like an id, `OWNER/NAME`, is a folder, which need
    not exist.
    """
    if path == "pocket":
        return pocket.path()
    folder = Path(path).expanduser()
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    return folder if looks_local or folder.is_dir() else None
