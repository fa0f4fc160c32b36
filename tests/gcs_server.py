"""A server on 127.0.0.1 that speaks what we need of Google Cloud Storage's JSON API, in a process of its own.

No package offers one that takes `ifGenerationMatch`, the conditional write by which machines take turns. So this is
ours, after https://cloud.google.com/storage/docs/json_api: objects of one bucket, in memory.
"""

import hashlib
import json
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

from tests.store_server import BUCKET, StoreServer, started


class GCSServer(StoreServer):
    """A server that gcsfs finds, with a bucket of the usual kind."""

    scheme = "gs"

    @property
    def environment(self) -> dict[str, str]:
        """See `StoreServer`."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


@contextmanager
def running() -> Iterator[GCSServer]:
    """Run a server."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "tests.gcs_server", str(port)]

    def bucket(endpoint: str) -> urllib.request.Request:
        return urllib.request.Request(f"{endpoint}/storage/v1/b/{BUCKET}")

    with started(command, bucket) as (endpoint, process):
        yield GCSServer(endpoint, process)


class _Bucket(BaseHTTPRequestHandler):
    """Answers a request about the bucket, or an object of it."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, tuple[dict[str, Any], bytes]]] = {}
    uploads: ClassVar[dict[str, tuple[str, bool, bytes]]] = {}
    generation = 0

    def do_GET(self) -> None:
        """Give the bucket, a list of objects, what is known of one, or its bytes."""
        name, query = self._asked()
        if not self._is_of_bucket():
            return
        if name is None:
            self._list(query) if self._here.endswith("/o") else self._json({"name": BUCKET})
        elif name not in self.objects:
            self._json({"error": {"code": 404, "message": "No such object"}}, 404)
        elif query.get("alt") == "media" or "/download/" in self.path:
            self._bytes(self.objects[name][1])
        else:
            self._json(self.objects[name][0])

    def do_POST(self) -> None:
        """Take an object that comes with its name in one request; begin one that comes in several, or take a part."""
        _, query = self._asked()
        body = self._body()
        if not self._is_of_bucket():
            return
        if "upload" in query:
            self._take_part(query["upload"], body)
            return
        if query["uploadType"] == "resumable":
            upload = uuid4().hex
            self.uploads[upload] = json.loads(body)["name"], query.get("ifGenerationMatch") == "0", b""
            self._answer(b"", 200, "application/json", {"Location": f"{self._here}?upload={upload}"})
            return
        boundary = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        _, described, content, _ = body.split(boundary)
        name = json.loads(described.partition(b"\n\n")[2])["name"]
        self._take(name, query.get("ifGenerationMatch") == "0", content.partition(b"\n\n")[2].removesuffix(b"\n"))

    def do_DELETE(self) -> None:
        """Remove an object, or what has come of one."""
        name, query = self._asked()
        found = self.uploads.pop(query["upload"], None) if "upload" in query else self.objects.pop(str(name), None)
        self._json({}, 204 if found else 404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _is_of_bucket(self) -> bool:
        """Tell whether a request is about the bucket; of any other, say that it does not exist."""
        if f"/b/{BUCKET}" in self.path:
            return True
        self._json({"error": {"code": 404, "message": "The specified bucket does not exist."}}, 404)
        return False

    @property
    def _here(self) -> str:
        return f"http://{self.headers['Host']}{self.path.partition('?')[0]}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _asked(self) -> tuple[str | None, dict[str, str]]:
        """Return the name of the object that a request is about, if any, and its parameters."""
        address = urlsplit(self.path)
        _, found, name = address.path.partition(f"/b/{BUCKET}/o/")
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        return (unquote(name) if found else None), query

    def _take_part(self, upload: str, part: bytes) -> None:
        """Take a part of an object: each says how long the whole is."""
        name, is_new, before = self.uploads[upload]
        content = before + part
        self.uploads[upload] = name, is_new, content
        if self.headers["Content-Range"].endswith(f"/{len(content)}"):
            self._take(name, is_new, content)
        else:
            self._answer(b"", 308, "application/json", {"Range": f"bytes=0-{len(content) - 1}"})

    def _take(self, name: str, is_new: bool, content: bytes) -> None:
        """Keep an object, unless it is to be new and is there."""
        if is_new and name in self.objects:
            self._json({"error": {"code": 412, "message": "conditionNotMet"}}, 412)
            return
        type(self).generation += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known = {
            "kind": "storage#object",
            "bucket": BUCKET,
            "name": name,
            "generation": str(self.generation),
            "size": str(len(content)),
            "md5Hash": b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
            "etag": f"e{self.generation}",
            "timeCreated": now,
            "updated": now,
        }
        self.objects[name] = known, content
        self._json(known)

    def _list(self, query: dict[str, str]) -> None:
        """List the objects below a prefix; what lies behind a delimiter counts as a folder."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix):
                continue
            before, deeper, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if deeper:
                folders.add(f"{prefix}{before}{delimiter}")
            else:
                items.append(self.objects[name][0])
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def _bytes(self, content: bytes) -> None:
        status, asked = 200, self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            content, status = content[int(first) : int(last) + 1 if last else None], 206
        self._answer(content, status, "application/octet-stream")

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        self._answer(json.dumps(value).encode() if status != 204 else b"", status, "application/json")

    def _answer(self, content: bytes, status: int, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Bucket).serve_forever()
