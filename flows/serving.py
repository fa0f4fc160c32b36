"""`dct-augment serve`: a Prefect server if none answers, the deployments of prefect.yaml, and a worker for them.

Each part is a `prefect` command that one could type; here they start in order and end together.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, Settings, temporary_settings
from prefect.states import Crashed

from dct_augment.errors import DctAugmentError, InputError
from flows import server

POOL = "augment"

_LOOK_EVERY = 5.0  # seconds between two looks at a server of others


def serve(port: int, print_line: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        InputError: there is no prefect.yaml, or the port is taken.
        DctAugmentError: a part of it failed.
    """
    file, configured = _deployments(), Settings().api.url
    bypass = server.bypass_proxies()
    own: server.Server | None = None
    with ExitStack() as parts:
        url = next((url for url in (configured, server.api_url(port)) if url and server.answers(url)), None)
        if url:
            print_line(f"using the Prefect server at {url}")
        else:
            url = server.api_url(port)
            if not server.is_free(port):
                raise InputError(f"port {port} is taken by something that is no Prefect server; choose another --port")
            print_line(f"starting a Prefect server at {url}")
            own = parts.enter_context(server.running(port, ui=True))
            _mark_crashed(url, _active_runs(url))  # they died with the server before this one
        if not _has_pool(url):
            _prefect(url, "work-pool", "create", "--type", "process", POOL)
        _prefect(url, "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
        worker = parts.enter_context(_worker(url))
        print_line(f"UI: {url.removesuffix('/api')}")
        print_line("in another terminal here:")
        if configured != url:
            print_line(f"  export PREFECT_API_URL={url}")
        if bypass:
            print_line(f"  export NO_PROXY={bypass}")
        print_line("  prefect deployment run augment/pocket --watch")
        print_line("Ctrl-C stops the worker, and the server if it was started here")
        _watch(worker, own, url, print_line)


def _watch(
    worker: subprocess.Popen[bytes], own: server.Server | None, url: str, print_line: Callable[[str], None]
) -> None:
    """Wait for the end of the worker or of our own server; say when that of others no longer answers.

    Raises:
        DctAugmentError: one of them has ended.
    """
    answered, next_look = True, time.monotonic() + _LOOK_EVERY
    while worker.poll() is None:
        if own is not None and own.has_ended:
            os.killpg(worker.pid, signal.SIGKILL)  # without the server it would wait, and could report nothing
            raise DctAugmentError(
                f"the Prefect server ended with exit code {own.process.returncode}. Runs that were at work are marked "
                f"as crashed by the next `dct-augment serve`, and go on where they were. Its last words:\n"
                f"{own.last_words()}"
            )
        if own is None and time.monotonic() > next_look:
            answers, next_look = server.answers(url), time.monotonic() + _LOOK_EVERY
            if answers != answered:
                print_line(f"the Prefect server at {url} {'answers again' if answers else 'no longer answers'}")
            answered = answers
        time.sleep(0.3)
    raise DctAugmentError(f"the worker ended with exit code {worker.returncode}; what it printed is above")


def _deployments() -> Path:
    """The prefect.yaml of this folder, else the one shipped with the package."""
    package = Path(str(resources.files("dct_augment")))
    for folder in (Path(), package.parent, package):
        if (folder / "prefect.yaml").is_file():
            return folder / "prefect.yaml"
    raise InputError("there is no prefect.yaml in this folder, nor in the package; install dct-augment anew")


@contextmanager
def _client(url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def _has_pool(url: str) -> bool:
    with _client(url) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            return False
        return True


@contextmanager
def _worker(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker beside the body; runs that are at work when it stops are marked, whoever the server belongs to."""
    at_work: list[UUID] = []
    try:
        with server.child(["worker", "start", "--pool", POOL, "--limit", "1"], url) as worker:
            try:
                yield worker
            finally:
                at_work = _runs_of(worker.pid)
    finally:
        if at_work and any(server.answers(url) for _ in range(3)):  # a busy server may be slow to answer
            active = set(_active_runs(url))
            _mark_crashed(url, [run for run in at_work if run in active])


def _runs_of(worker: int) -> list[UUID]:
    """List the flow runs of the processes that a worker has begun, as Prefect tells them in their environment."""
    runs = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\nPPid:\t{worker}\n" in (folder / "status").read_text():
                variables = (folder / "environ").read_bytes().split(b"\0")
                runs += [UUID(text.decode()[-36:]) for text in variables if text.startswith(b"PREFECT__FLOW_RUN_ID=")]
    return list(dict.fromkeys(runs))


def _active_runs(url: str) -> list[UUID]:
    """List the runs that a server takes to be at work: they hold their places."""
    states = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    )
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    with _client(url) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=states), work_pool_filter=pool)
    return [run.id for run in runs]


def _mark_crashed(url: str, runs: Sequence[UUID]) -> None:
    """Note that runs are over."""
    crashed: State[Any] = Crashed(
        message="`dct-augment serve` ended while this run was at work; run it again to go on."
    )
    with _client(url) as client:
        for run in runs:
            client.set_flow_run_state(run, crashed, force=True)


def _prefect(url: str, *command: str) -> None:
    """Run a `prefect` command to its end; what it prints is shown if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command],
        env=server.environment(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        printed = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise DctAugmentError(f"`prefect {' '.join(command)}` failed:\n{printed}")
