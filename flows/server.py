"""Prefect's server: the configured one if it answers, else one of our own that lives no longer than this process."""

import atexit
import ctypes
import errno
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import IO

from prefect.settings import PREFECT_API_URL, PREFECT_HOME, Settings, temporary_settings

from dct_augment import stopping
from dct_augment.errors import DctAugmentError, InputError

HOST = "127.0.0.1"

_START_WITHIN = 180.0  # seconds: the first start of all makes a data base
_PATIENCE = 10.0  # seconds for a process to end by itself
_PR_SET_PDEATHSIG = 1


def ensure_server(folder: Path, print_line: Callable[[str], None]) -> None:
    """Ensure that this process, and those that it starts, have a Prefect server until they end.

    That is the configured one; `print_line` gets one line if it does not answer and a temporary one takes its place,
    which keeps its data base in the run's `folder`, unless PREFECT_HOME says where: the user's home may be shared by
    runs at work, or not be there.

    Raises:
        InputError: a proxy of the environment needs a package that is not here.
        DctAugmentError: the temporary server does not start.
    """
    bypass_proxies()
    configured = Settings().api.url
    if configured and answers(configured):
        return
    if configured:
        print_line(f"the Prefect server at {configured} does not answer; this run uses a temporary one")
    port, servers = free_port(), ExitStack()
    atexit.register(servers.close)  # what Prefect registers after this goes first, and sends its last logs
    closing = Event()
    atexit.register(closing.set)
    home = Path(os.environ.setdefault("PREFECT_HOME", str((folder / ".prefect").resolve())))
    home.mkdir(parents=True, exist_ok=True)
    own = servers.enter_context(running(port, ui=False))
    Thread(target=_abort_when_it_ends, args=(own, closing), daemon=True).start()
    os.environ["PREFECT_API_URL"] = api_url(port)  # for child processes
    servers.enter_context(temporary_settings({PREFECT_API_URL: api_url(port), PREFECT_HOME: home}))


def _abort_when_it_ends(server: "Server", closing: Event) -> None:
    """End this process when its server does: a flow would try again for minutes, and could report nothing."""
    while not server.has_ended:
        if closing.wait(0.3):
            return
    if not closing.is_set():
        stopping.abort(
            f"error: the Prefect server of this run ended with exit code {server.process.returncode}. What is finished "
            "is kept; run it again to go on"
        )


def bypass_proxies() -> str:
    """Let this process and its children reach servers of this machine without the proxy that the environment names.

    Returns:
        The NO_PROXY that does it; empty if no proxy is named.

    Raises:
        InputError: that is a SOCKS proxy, for which Prefect's client, also beside it, needs a package.
    """
    proxies = {kind: url for kind, url in urllib.request.getproxies().items() if kind != "no"}
    if not proxies:
        return ""
    kind = next((kind for kind, url in proxies.items() if url.startswith("socks")), None)
    if kind and importlib.util.find_spec("socksio") is None:
        raise InputError(
            f"{kind.upper()}_PROXY is {proxies[kind]!r}, a SOCKS proxy, for which Prefect needs another package: "
            "pip install 'httpx[socks]'; or unset it"
        )
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = bypass = ",".join(dict.fromkeys([*hosts, HOST, "localhost"]))
    return bypass


def api_url(port: int) -> str:
    """Where the API of a server of this machine is."""
    return f"http://{HOST}:{port}/api"


def answers(url: str) -> bool:
    """Whether a Prefect server answers at the URL of an API."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it wants a key, and Prefect itself will say so
    except (OSError, ValueError):
        return False


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server can listen on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def environment(url: str) -> dict[str, str]:
    """The environment of a `prefect` command that uses the server at `url`."""
    return {**os.environ, "PREFECT_API_URL": url}


@contextmanager
def running(port: int, *, ui: bool) -> Iterator["Server"]:
    """Keep a server; it has answered when the body begins, and ends with it, or with this process.

    Raises:
        DctAugmentError: it does not start; quotes the last of what it printed.
        OSError: its disk is full.
    """
    # An empty address: the server is no client of the one that is configured, which may not be there.
    command = ["server", "start", "--host", HOST, "--port", str(port), "--ui" if ui else "--no-ui"]
    page = {"PREFECT_UI_API_URL": api_url(port)}  # what the UI, in a browser, talks to
    with tempfile.TemporaryFile("w+") as log, child(command, "", log.fileno(), page) as process:
        server = Server(process, log)
        give_up = time.monotonic() + _START_WITHIN
        while not answers(api_url(port)):
            if server.has_ended or time.monotonic() > give_up:
                said = server.last_words()
                if any(words in said for words in ("disk is full", os.strerror(errno.ENOSPC))):
                    home = os.environ.get("PREFECT_HOME", str(Settings().home))
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), home)
                raise DctAugmentError(f"Prefect's server does not start on port {port}. Its last words:\n{said}")
            time.sleep(0.1)
        yield server


@dataclass(frozen=True)
class Server:
    """A Prefect server of this process."""

    process: subprocess.Popen[bytes]
    log: IO[str]

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, by itself or because somebody killed it."""
        return self.process.poll() is not None

    def last_words(self) -> str:
        """Quote the last lines that it printed."""
        self.log.seek(0)
        return "\n".join(self.log.read().strip().splitlines()[-5:])


@contextmanager
def child(
    command: list[str], url: str, output: int | None = None, more: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a `prefect` command beside the body; it is stopped after it, and dies when this process does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", *command],
        env=environment(url) | dict(more or {}),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C is for this process, which stops the child when its turn has come
        preexec_fn=_die_with_parent,
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a child, and then what it has started: a flow run still has the time to report that it was stopped."""
    with suppress(ProcessLookupError):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        for number in (signal.SIGTERM, signal.SIGKILL):
            give_up = time.monotonic() + _PATIENCE
            os.killpg(process.pid, number)
            while time.monotonic() < give_up:
                process.poll()
                os.killpg(process.pid, 0)  # raises when none is left
                time.sleep(0.1)


_libc = ctypes.CDLL(None)  # loaded here: a forked child should only call


def _die_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Prefect stops by it; a shell's background jobs ignore it
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
