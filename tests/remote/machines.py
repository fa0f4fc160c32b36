"""Machines that share a store and nothing else: each has a cache of its own, and so a folder of its own for a run."""

from pathlib import Path

import pytest

from dct_augment.remote import urls
from dct_augment.remote.store import Store


class Machines:
    """Makes stores as machines see them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch

    @staticmethod
    def publish(url: str) -> None:
        """Publish what the mirror of a URL holds on this machine."""
        Store(url).publish()

    def be(self, name: str) -> None:
        """Let this process be on a machine."""
        self._monkeypatch.setenv("DCT_AUGMENT_CACHE", str(self._folder / name))

    def store(self, name: str, url: str, seconds: float = 60) -> Store:
        """Open a URL on a machine."""
        self.be(name)
        return Store(url, ("own",), seconds)


def stored(url: str) -> dict[str, bytes]:
    """The objects below a URL that are part of a run, by path."""
    system, root = urls.open_store(url)
    names = [path for path in urls.listing(url) if not path.startswith(".")]
    return {path: system.cat_file(f"{root}/{path}") for path in names}


def here(store: Store) -> dict[str, bytes]:
    """The files of a mirror that are not hidden, by path."""
    files = (path for path in store.folder.rglob("*") if path.is_file())
    paths = {path.relative_to(store.folder).as_posix(): path.read_bytes() for path in files}
    return {path: content for path, content in paths.items() if not path.startswith(".")}


def write(store: Store, **contents: str) -> None:
    """Write files into a mirror, one after the other; `__` stands for a slash, `_` for a dot."""
    from dct_augment import files

    for name, content in contents.items():
        files.write_text(store.folder / name.replace("__", "/").replace("_", "."), content)
