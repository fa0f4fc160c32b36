"""A run on a store: a folder of this machine that mirrors it, so that all other code works on files.

`pull` brings what other machines have made, `publish` uploads what this one has made: each file whole, in the order in
which the files were written. So at any moment the store holds what a folder of this machine could hold after a kill:
what says that work is done comes last, and readers compare it with the hashes in it, as they do on a disk. What is
known of the objects is in `.store/objects.json`: by it, only what has changed is moved, and an object that was deleted
on the store goes here, too.

Processes of one machine share the folder: one at a time pulls or publishes.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.errors import BusyRunError, StoreError
from dct_augment.remote.downloads import SIDE_BY_SIDE, bring
from dct_augment.remote.lease import Lease, last_holder
from dct_augment.remote.urls import asking, listing, mirror, open_store, url_of, version_of

STATE = ".store"
"""The folder of a mirror that says what it mirrors."""

URL_FILE, OBJECTS_FILE = "url", "objects.json"

_IMAGES = ".tar"
"""The ending of files with images, which are large: they are pulled when somebody reads images."""

_threads: defaultdict[Path, threading.RLock] = defaultdict(threading.RLock)

Stamp = tuple[int, int]
"""Size and time of change of a file, in nanoseconds."""

_last_read: "dict[Path, tuple[Stamp | None, Mapping[str, _Object]]]" = {}


@dataclass(frozen=True)
class _Object:
    """An object as it was last seen: its version and size; and the stamp of its file, None if that is not here."""

    version: str
    size: int
    stamp: Stamp | None


class Store:
    """What a run, or any other user, has on a store; `folder` mirrors it.

    Args:
        url: of the run.
        of_this_machine: paths in the folder that are never published; hidden files are not, either.
        seconds: after which a machine that gives no sign of life no longer holds the run.
    """

    def __init__(self, url: str, of_this_machine: Collection[str] = (), seconds: float = 60) -> None:
        self.url, self.folder = url, mirror(url)
        self._of_this_machine, self._seconds = tuple(of_this_machine), seconds
        self._lease: Lease | None = None
        self._flow: int | None = None
        self._system, self._root = open_store(url)

    @property
    def lease(self) -> int:
        """The number under which this process holds the run; 0 if it does not."""
        return self._lease.number if self._lease else 0

    def work_for(self, lease: int) -> None:
        """Publish for the flow that holds the run under this number, and no longer than it does; 0 for none."""
        self._flow = lease or None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for this process; re-entrant. What others have made is here when the body begins.

        Raises:
            BusyRunError: another process holds it.
            StoreError: the store cannot be asked.
        """
        if self._lease is not None:
            yield
            return
        lease = Lease(self.url, self._seconds)
        with lease.held():
            self._lease = lease
            try:
                self.pull()
                yield
                self.publish()
            finally:
                self._lease = None

    @contextmanager
    def exclusive(self, folder: Path) -> Iterator[None]:
        """Keep other machines out of a folder of the run, and wait until it is free; what is made is published."""
        if not folder.is_relative_to(self.folder):  # of this machine alone
            yield
            return
        with Lease(f"{self.url}/{folder.relative_to(self.folder).as_posix()}", self._seconds).held(wait=True):
            self.pull()
            yield
            self.publish()

    def pull(self, *, images: bool = False) -> list[Path]:
        """Bring what is new on the store; tars only with `images`. Return the tars that were brought.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._one_at_a_time():
            known, now = self._known(), listing(self.url)
            for path in [path for path in known if path not in now]:
                self._forget(path, known)
            wanted = {}
            for path, info in now.items():
                if self._is_published(path) and self._is_missing(path, info, known, images=images):
                    wanted[path] = info
            with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                for path, stamp in zip(wanted, pool.map(self._download, wanted, wanted.values()), strict=True):
                    known[path] = _Object(version_of(wanted[path]), wanted[path]["size"], stamp)
            self._remember(known)
        return [self.folder / path for path in wanted if path.endswith(_IMAGES)]

    def publish(self) -> None:
        """Upload what has changed here, in the order in which it was written; the holder of the run deletes, too.

        Raises:
            StoreError: the store cannot be written.
            BusyRunError: this process, or the flow that it works for, no longer holds the run.
        """
        with self._one_at_a_time():
            known, here = self._known(), dict(self._files())
            changed = [path for path, stamp in here.items() if path not in known or known[path].stamp != stamp]
            gone = [path for path, it in known.items() if self._lease and it.stamp and path not in here]
            if not changed and not gone:
                return
            self._check_lease()
            try:
                for path in sorted(changed, key=lambda path: here[path][1]):
                    known[path] = self._upload(path, here[path])
                for path in gone:
                    if not path.endswith(_IMAGES):  # whoever frees the disk of a mirror deletes no images
                        self._delete(path)
                        del known[path]
            finally:
                self._remember(known)

    def _is_missing(self, path: str, info: Mapping[str, Any], known: dict[str, _Object], *, images: bool) -> bool:
        """Tell whether an object is to be brought; one that is not is noted as it is now."""
        last, file = known.get(path), self.folder / path
        if last is not None and last.version == version_of(info) and (file.exists() or not _is_wanted(path, images)):
            return False  # it is here, or was changed here and will be published
        if _is_wanted(path, images):
            return True
        file.unlink(missing_ok=True)
        known[path] = _Object(version_of(info), info["size"], None)
        return False

    def _download(self, path: str, info: Mapping[str, Any]) -> Stamp:
        """Bring one object, whole or not at all."""
        target = self.folder / path
        with files.atomic(target) as partial:
            bring(self.url, path, info, partial)
        return _stamp(target)

    def _upload(self, path: str, stamp: Stamp) -> _Object:
        """Upload one file: the store shows the object when it is whole, and checks what arrives."""
        target = f"{self._root}/{path}"
        with asking(f"{self.url}/{path}"):
            self._system.put_file(str(self.folder / path), target)
            info = self._system.info(target)
        if info["size"] != stamp[0] and _stamp(self.folder / path) == stamp:
            raise StoreError(f"{self.url}/{path}: {info['size']:,} bytes arrived of {stamp[0]:,}; run it again")
        return _Object(version_of(info), info["size"], stamp)

    def _delete(self, path: str) -> None:
        with asking(f"{self.url}/{path}"):
            if self._system.exists(f"{self._root}/{path}"):
                self._system.rm_file(f"{self._root}/{path}")

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()
        elif self._flow is not None:
            holder = last_holder(self.url)
            if holder is None or holder.released or holder.number != self._flow:
                raise BusyRunError(
                    f"{self.url}: the flow that this worker did a unit for has ended; nothing is published"
                )

    def _forget(self, path: str, known: dict[str, _Object]) -> None:
        """Remove the file of an object that was deleted on the store, unless it was changed here."""
        file, last = self.folder / path, known.pop(path)
        if last.stamp is not None and file.is_file() and _stamp(file) == last.stamp:
            file.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield the path and stamp of each file that is to be on the store."""
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                file = Path(folder, name)
                path = file.relative_to(self.folder).as_posix()
                if self._is_published(path):
                    try:
                        yield path, _stamp(file)
                    except FileNotFoundError:  # replaced or removed meanwhile, by another process
                        continue

    def _is_published(self, path: str) -> bool:
        """Tell whether a file is of the run: not hidden, and not of this machine alone."""
        if any(part.startswith(".") for part in path.split("/")):
            return False
        return not any(path == own or path.startswith(f"{own}/") for own in self._of_this_machine)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Keep other threads and processes of this machine from moving files of the same folder."""
        with _threads[self.folder], files.lock(self.folder / STATE, wait=True):
            yield

    def _known(self) -> dict[str, _Object]:
        return dict(_objects(self.folder))

    def _remember(self, known: Mapping[str, _Object]) -> None:
        state = self.folder / STATE
        if not (state / URL_FILE).is_file():
            files.write_text(state / URL_FILE, self.url)
        entries = {path: [it.version, it.size, it.stamp] for path, it in sorted(known.items())}
        files.write_json(state / OBJECTS_FILE, entries)


class NoStore:
    """Stands for the store of a run that is in a folder of this machine: there is nothing to do."""

    lease = 0

    def work_for(self, lease: int) -> None:
        """See `Store`."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Store`."""
        yield

    @contextmanager
    def exclusive(self, folder: Path) -> Iterator[None]:
        """See `Store`."""
        yield

    def pull(self, *, images: bool = False) -> list[Path]:
        """See `Store`."""
        return []

    def publish(self) -> None:
        """See `Store`."""


def local_folder(path: Path, *, images: bool = False, may_be_new: bool = False) -> Path:
    """Give the folder of this machine that a run's path means: of a URL its mirror, brought up to date.

    Raises:
        StoreError: the store cannot be read, or there is nothing and that may not be.
    """
    url = url_of(path)
    if url is None:
        return path
    store = Store(url)
    store.pull(images=images)
    if not may_be_new and not _objects(store.folder):
        raise StoreError(f"{url}: nothing is there; correct the URL, or make a run with `--output {url}`")
    return store.folder


def is_on_store(file: Path, size: int) -> bool:
    """Tell whether a file that is not here is on the store that its folder mirrors, with so many bytes."""
    if file.exists():
        return False
    for folder in file.parents:
        if (folder / STATE / URL_FILE).is_file():
            known = _objects(folder).get(file.relative_to(folder).as_posix())
            return known is not None and known.size == size
    return False


def _objects(folder: Path) -> Mapping[str, _Object]:
    """Read what is known of the objects that a folder mirrors; a file that has not changed is read once."""
    path = folder / STATE / OBJECTS_FILE
    try:
        stamp = _stamp(path)
    except FileNotFoundError:
        return {}
    if _last_read.get(path, (None, {}))[0] != stamp:
        _last_read[path] = stamp, _read_objects(path)
    return _last_read[path][1]


def _read_objects(path: Path) -> dict[str, _Object]:
    try:
        stored = files.read_json(path).items()
        return {name: _Object(str(it[0]), int(it[1]), (it[2][0], it[2][1]) if it[2] else None) for name, it in stored}
    except (TypeError, ValueError, IndexError):
        return {}


def _is_wanted(path: str, images: bool) -> bool:
    return images or not path.endswith(_IMAGES)


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
