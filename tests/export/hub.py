"""A Hub of a few data sets on 127.0.0.1: the answers that an upload or a download needs."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote


class SmallHub:
    """Data sets by name, each a mapping from path to content; `answer` is the status of every request if it is set."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()
        self.requests: list[str] = []
        self.answer: int | None = None
        self.endpoint = ""

    def reply(self, method: str, path: str, body: bytes) -> object:
        """Answer a request with the bytes of a file, or something that becomes JSON; None if it is not known."""
        path = path.partition("?")[0]
        self.requests.append(f"{method} {path}")
        if path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or 'user'}/{request['name']}"
            self.files.setdefault(name, {})
            self.private.setdefault(name, bool(request.get("private") or request.get("visibility") == "private"))
            return {"url": f"{self.endpoint}/datasets/{name}", "id": name}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path.startswith("/datasets/") and "/resolve/" in path:
            place, _, file = path.removeprefix("/datasets/").partition("/resolve/")
            return self.files.get(place, {}).get(unquote(file).partition("/")[2])
        if not path.startswith("/api/datasets/"):
            return None
        user, name, *rest = path.removeprefix("/api/datasets/").split("/")
        repository = f"{user}/{name}"
        if repository not in self.files:
            return None
        action = rest[0] if rest else "revision"
        if action == "revision":
            siblings = [{"rfilename": file} for file in self.files[repository]]
            return {"id": repository, "sha": "0" * 40, "siblings": siblings, "private": self.private[repository]}
        if action == "tree":
            below = "/".join(rest[2:])
            listed = [
                {"type": "file", "path": file, "size": len(data), "oid": "0" * 40}
                for file, data in self.files[repository].items()
                if not below or file.startswith(f"{below}/")
            ]
            return listed if listed or not below else None
        if action == "preupload":
            listed = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in listed]}
        if action == "commit":
            self._commit(repository, body)
            return {"commitUrl": f"{self.endpoint}/datasets/{repository}/commit/{'1' * 40}", "commitOid": "1" * 40}
        return None

    def _commit(self, repository: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                assert value["encoding"] == "base64"
                self.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del self.files[repository][value["path"]]


@contextmanager
def serving() -> Iterator[SmallHub]:
    """Serve a small Hub."""
    hub = SmallHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self._chunks()
            hub.tokens.add(self.headers.get("Authorization"))
            reply = hub.reply(self.command, self.path, body) if hub.answer is None else None
            status = hub.answer or (404 if reply is None else 200)
            data = (
                reply
                if isinstance(reply, bytes)
                else json.dumps(reply if status == 200 else {"error": "not so"}).encode()
            )
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 404:
                is_known = any(f"/{name}" in self.path for name in hub.files)
                self.send_header("X-Error-Code", "EntryNotFound" if is_known else "RepoNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = respond

        def _chunks(self) -> bytes:
            data = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return data

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
