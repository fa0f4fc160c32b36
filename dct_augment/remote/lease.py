"""A lock on a store that a dead machine does not keep: a lease.

The leases of a run are objects `.lease/00000001.json`, `00000002.json` ...; the highest number holds the run. A number
is taken by a conditional write, which the store grants to one machine alone, and only its holder writes that object:
again and again while it works, and once more to give it back. A lease whose object was not written for its `seconds`
has expired. Both times are the store's own, so that no clock of a machine counts.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dct_augment.errors import BusyRunError, StoreError
from dct_augment.remote.urls import asking, listing, open_store

FOLDER = ".lease"

_BEATS = 4
"""How often a holder gives a sign of life in the time after which it counts as dead."""

_ASK_AGAIN = 1.0  # seconds


@dataclass(frozen=True)
class Holder:
    """Who holds, or held, a run: its number, and what it wrote."""

    number: int
    host: str
    seconds: float
    released: bool
    name: str
    """Of the one `Lease` that wrote it."""


class Lease:
    """The right of this process to write below a URL.

    Args:
        url: of the run, or of a folder in it.
        seconds: after which others may take it, if this process gives no sign of life.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds, self.number = url, seconds, 0
        self._name = uuid4().hex
        self._system, self._root = open_store(url)
        self._stop = threading.Event()
        self._beat_at = 0.0
        self._is_lost = False

    @contextmanager
    def held(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the lease; with `wait`, begin when it is free.

        Raises:
            BusyRunError: another process holds it.
            StoreError: the store cannot be asked.
        """
        while not self._take(refuse=not wait):
            time.sleep(_ASK_AGAIN)
        heart = threading.Thread(target=self._beat, daemon=True)
        heart.start()
        try:
            yield
        finally:
            self._stop.set()
            heart.join()
            self._release()

    def check(self) -> None:
        """Check that this process still holds the lease.

        Raises:
            BusyRunError: it gave no sign of life for too long, and others may work.
        """
        if self._is_lost or time.monotonic() - self._beat_at > self.seconds:
            raise BusyRunError(
                f"{self.url} is no longer held by this process: it could give no sign of life for {self.seconds:g} "
                "seconds. What is published is kept; run the same command again"
            )

    def _take(self, *, refuse: bool) -> bool:
        """Take the next number, unless the last one is held."""
        holder = last_holder(self.url)
        if holder is not None and not holder.released and not self._has_expired(holder):
            if not refuse:
                return False
            raise BusyRunError(
                f"{self.url} is being written by another process, on {holder.host}. Wait for it, or use another "
                f"--output. If that machine is dead, the run is free {holder.seconds:g} seconds after its last sign"
            )
        number = 1 if holder is None else holder.number + 1
        began = time.monotonic()
        try:
            with asking(self.url):
                self._system.pipe_file(self._object(number), self._content(), mode="create")
        except StoreError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
            if not self._wrote(number):  # another one was quicker
                return False if not refuse else self._take(refuse=refuse)
        self.number, self._beat_at = number, began
        for old in _numbers(self.url):
            if old < number:
                self._remove(self._object(old))
        return True

    def _wrote(self, number: int) -> bool:
        """Say whether the last object is this lease's: its first answer was lost, and the store was asked again."""
        holder = last_holder(self.url)
        return holder is not None and (holder.number, holder.name) == (number, self._name)

    def _has_expired(self, holder: Holder) -> bool:
        """Compare the times of two objects as the store has them: the lease's, and one that is written now."""
        probe = f"{self._root}/{FOLDER}/{uuid4().hex}.now"
        with asking(self.url):
            self._system.pipe_file(probe, b"now")
            try:
                now, then = self._system.modified(probe), self._system.modified(self._object(holder.number))
            except FileNotFoundError:  # removed by who took the next one
                return False
            finally:
                self._remove(probe)
        return bool((now - then).total_seconds() > holder.seconds)

    def _beat(self) -> None:
        """Give signs of life until the end."""
        while not self._stop.wait(self.seconds / _BEATS):
            began = time.monotonic()
            try:
                if max(_numbers(self.url), default=0) > self.number:
                    self._is_lost = True
                    return
                with asking(self.url):
                    self._system.pipe_file(self._object(self.number), self._content())
                self._beat_at = began
            except StoreError:  # the next one may arrive; `check` sees when none does
                continue

    def _release(self) -> None:
        """Say that the lease is free. Its object stays, so that no number is given twice."""
        try:
            with asking(self.url):
                self._system.pipe_file(self._object(self.number), self._content(released=True))
        except StoreError:
            return  # it expires

    def _remove(self, path: str) -> None:
        try:
            self._system.rm_file(path)
        except Exception:
            return  # it is there twice, and the next one tries again

    def _object(self, number: int) -> str:
        return f"{self._root}/{FOLDER}/{number:08d}.json"

    def _content(self, *, released: bool = False) -> bytes:
        who: dict[str, Any] = {"host": socket.gethostname(), "process": os.getpid(), "name": self._name}
        return json.dumps({**who, "seconds": self.seconds, "released": released}).encode()


def last_holder(url: str) -> Holder | None:
    """Read who holds a URL, or held it last; None if nobody ever did."""
    number = max(_numbers(url), default=0)
    if not number:
        return None
    system, root = open_store(url)
    try:
        with asking(url):
            written = json.loads(system.cat_file(f"{root}/{FOLDER}/{number:08d}.json"))
        host, seconds, released = str(written["host"]), float(written["seconds"]), bool(written["released"])
        return Holder(number, host, seconds, released, str(written.get("name", "")))  # older ones have none
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # a next one has been taken meanwhile
            return last_holder(url)
        raise
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{url}/{FOLDER}/{number:08d}.json is damaged; delete it if nobody works there") from None


def _numbers(url: str) -> list[int]:
    """List the numbers of the leases that are there."""
    stems = [name.partition(".") for name in listing(f"{url}/{FOLDER}")]
    return [int(stem) for stem, _, ending in stems if ending == "json" and stem.isdecimal()]
