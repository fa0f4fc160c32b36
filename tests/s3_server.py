"""A real S3 server on 127.0.0.1: moto's, which takes one request after the other.

moto's own command answers in threads and looks for an object before it writes it, in two steps: of two conditional
writes at once, which S3 grants to one, both may succeed.
"""

import os
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.store_server import BUCKET, StoreServer, started

__all__ = ["BUCKET", "SECRET", "S3Server", "running"]

SECRET = "the-secret-of-tests"


class S3Server(StoreServer):
    """A server that boto finds."""

    scheme = "s3"

    @property
    def environment(self) -> dict[str, str]:
        """See `StoreServer`."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running() -> Iterator[S3Server]:
    """Run a server, and make the bucket."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "tests.s3_server", str(port)]

    def new_bucket(endpoint: str) -> urllib.request.Request:
        return urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")

    with started(command, new_bucket) as (endpoint, process):
        yield S3Server(endpoint, process)


def _serve(port: int) -> None:
    """Answer requests until the process is killed."""
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with one_at_a_time:
            return list(moto(environ, start_response))

    run_simple("127.0.0.1", port, answer, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
