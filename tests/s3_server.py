"""A real S3 server on 127.0.0.1: moto's."""

import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.store_server import BUCKET, StoreServer, started

__all__ = ["BUCKET", "S3Server", "running"]


class S3Server(StoreServer):
    """A server that boto finds."""

    scheme = "s3"

    @property
    def environment(self) -> dict[str, str]:
        """See `StoreServer`."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running() -> Iterator[S3Server]:
    """Run a server, and make the bucket."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    def new_bucket(endpoint: str) -> urllib.request.Request:
        return urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")

    with started(command, new_bucket) as (endpoint, process):
        yield S3Server(endpoint, process)
