"""The lock of a run on a store: one holder, and a dead machine keeps it no longer than its lease."""

import multiprocessing
import threading
import time
from typing import Any

import pytest

from dct_augment.errors import BusyRunError
from dct_augment.remote.lease import Lease, last_holder
from tests.store_server import StoreServer


def _hold_for_ever(url: str, seconds: float) -> None:
    with Lease(url, seconds).held():
        time.sleep(60)


def test_one_process_holds_a_run_and_the_next_has_a_higher_number(server: StoreServer) -> None:
    url = server.new_url()
    first, second = Lease(url, 60), Lease(url, 60)
    busy = pytest.raises(BusyRunError, match=r"is being written by another process, on .* free 60 seconds after")
    with first.held(), busy:
        second._take(refuse=True)
    with second.held():
        second.check()
    assert (first.number, second.number) == (1, 2)
    holder = last_holder(url)
    assert holder is not None
    assert (holder.number, holder.released) == (2, True)


def test_of_many_that_ask_at_once_one_gets_it(server: StoreServer) -> None:
    url, got, begin = server.new_url(), [], threading.Barrier(6)

    def ask() -> None:
        lease = Lease(url, 60)
        begin.wait()
        try:
            lease._take(refuse=True)
            got.append(lease.number)
        except BusyRunError:
            pass

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [1]


def test_a_lease_whose_answer_was_lost_is_found_when_it_is_asked_for_again(server: StoreServer) -> None:
    url = server.new_url()
    lease = Lease(url, 60)
    write = lease._system.pipe_file

    def write_twice(*args: Any, **options: Any) -> None:
        """What a client does whose first request arrived, and whose first answer did not."""
        write(*args, **options)
        write(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease._system, "pipe_file", write_twice)
        assert lease._take(refuse=True)
    assert lease.number == 1
    with pytest.raises(BusyRunError):
        Lease(url, 60)._take(refuse=True)


def test_a_dead_machine_keeps_a_run_until_its_lease_expires_and_a_living_one_longer(server: StoreServer) -> None:
    url = server.new_url()
    process = multiprocessing.get_context("fork").Process(target=_hold_for_ever, args=(url, 2))
    process.start()
    while last_holder(url) is None:
        time.sleep(0.1)
    time.sleep(3.5)  # longer than the lease: it gives signs of life
    with pytest.raises(BusyRunError):
        Lease(url, 2)._take(refuse=True)
    process.kill()
    process.join()
    with pytest.raises(BusyRunError):
        Lease(url, 2)._take(refuse=True)
    began = time.monotonic()
    with (lease := Lease(url, 2)).held(wait=True):
        assert lease.number == 2
        assert 1 < time.monotonic() - began < 10


def test_a_holder_that_slept_too_long_is_told(server: StoreServer) -> None:
    url = server.new_url()
    sleeper, other = Lease(url, 4), Lease(url, 4)
    sleeper._take(refuse=True)  # and no sign of life after it
    sleeper._beat_at -= 5
    with pytest.raises(BusyRunError, match="could give no sign of life for 4 seconds"):
        sleeper.check()
    with other.held(wait=True):
        sleeper._beat_at = time.monotonic()
        sleeper.seconds = 0.4
        sleeper._beat()  # sees that there is a next number, and ends
        with pytest.raises(BusyRunError):
            sleeper.check()
        other.check()
