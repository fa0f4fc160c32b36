"""What servers of stores on 127.0.0.1 share: each is a process of its own, with one bucket."""

import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar
from uuid import uuid4

BUCKET = "bucket"


@dataclass(frozen=True)
class StoreServer:
    """A server, which programs find by the variables of `environment`."""

    scheme: ClassVar[str]
    endpoint: str
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """What tells programs where the server is, and who asks."""
        raise NotImplementedError

    def new_url(self, name: str = "run") -> str:
        """A URL that nothing is below."""
        return f"{self.scheme}://{BUCKET}/{uuid4().hex[:12]}/{name}"

    @contextmanager
    def hangs(self) -> Iterator[None]:
        """Let the server answer nothing while the body runs: who asks it is in the middle of it."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def started(
    command: Callable[[int], Sequence[str]], first_request: Callable[[str], urllib.request.Request]
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Start a server on a free port; it has answered its first request when the body begins, and ends with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        give_up = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(first_request(endpoint), timeout=20):
                    break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.1)
        yield endpoint, process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
