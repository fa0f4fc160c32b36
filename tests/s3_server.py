"""A real S3 server on 127.0.0.1: moto's, in a process of its own, with one bucket."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

BUCKET = "bucket"


@dataclass(frozen=True)
class S3Server:
    """A server, which programs find by the variables of `environment`."""

    endpoint: str
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """What tells boto where the server is, and who asks."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_url(self, name: str = "run") -> str:
        """A URL that nothing is below."""
        return f"s3://{BUCKET}/{uuid4().hex[:12]}/{name}"

    @contextmanager
    def hangs(self) -> Iterator[None]:
        """Let the server answer nothing while the body runs: who asks it is in the middle of it."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def running() -> Iterator[S3Server]:
    """Run a server; it answers when the body begins, and ends with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        give_up = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
                with urllib.request.urlopen(request, timeout=20):
                    break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.1)
        yield S3Server(endpoint, process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
