"""The random generators that all threads of a process share."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> tuple[list[int], Any, str]:
    """Read the states of torch's generator of the CPU, of `random`, and of NumPy."""
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state(legacy=False))


@contextmanager
def other_thread_draws() -> Iterator[None]:
    """Draw from `random` and NumPy in another thread all the time, as the event loop of Dask does now and then."""
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            random.random()
            np.random.random()
            time.sleep(1e-4)  # the other thread needs Python, too

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
