"""`dct-augment serve`: a Prefect server if none answers, the deployments of prefect.yaml, and a worker for them.

Each part is a `prefect` command that one could type; here they start in order and end together.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, Settings, temporary_settings
from prefect.states import Crashed

from dct_augment.errors import DctAugmentError, InputError
from flows import server

POOL = "augment"


def serve(port: int, print_line: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        InputError: there is no prefect.yaml, or the port is taken.
        DctAugmentError: a part of it failed.
    """
    file, configured = _deployments(), Settings().api.url
    with ExitStack() as parts:
        url = next((url for url in (configured, server.api_url(port)) if url and server.answers(url)), None)
        if url:
            print_line(f"using the Prefect server at {url}")
        else:
            url = server.api_url(port)
            if not server.is_free(port):
                raise InputError(f"port {port} is taken by something that is no Prefect server; choose another --port")
            print_line(f"starting a Prefect server at {url}")
            parts.enter_context(server.running(port, ui=True))
            _mark_crashed(url)
        if not _has_pool(url):
            _prefect(url, "work-pool", "create", "--type", "process", POOL)
        _prefect(url, "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
        worker = parts.enter_context(server.child(["worker", "start", "--pool", POOL, "--limit", "1"], url))
        print_line(f"UI: {url.removesuffix('/api')}")
        print_line("in another terminal here:")
        if configured != url:
            print_line(f"  export PREFECT_API_URL={url}")
        print_line("  prefect deployment run augment/pocket --watch")
        print_line("Ctrl-C stops the worker, and the server if it was started here")
        while worker.poll() is None:
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


def _mark_crashed(url: str) -> None:
    """Note that runs which a server was killed with are over: they would hold their places for ever."""
    states = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    )
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    with _client(url) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=states), work_pool_filter=pool):
            client.set_flow_run_state(run.id, Crashed(message="The server was stopped while this run was at work."))


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
