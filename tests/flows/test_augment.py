"""The flow with a real Prefect server, a real Dask cluster, killed workers, and a browser."""

import contextlib
import errno
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed

from dct_augment import config as configuration
from dct_augment.config.studies import available_studies
from dct_augment.errors import InputError, ModelError, TokenTrainingError
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import TokenStage
from dct_augment.records import StageName, WorkUnit
from flows import augment, runners, server, transient, workers
from flows.workers import Job
from tests.made_files import made_files
from tests.processes import Program
from tests.report.pages import class_table
from tests.small import SMALL
from tests.studies import test_token_study

pytestmark = pytest.mark.slow

SETTINGS = (
    *SMALL,
    "tokens.validate_every=2",
    "tokens.learning_rate=4",
    "generation.shard_size=3",
    "benchmark.arms=[plain_prompt, class_token]",
    "benchmark.processes=1",
    "downstream.image_size=32",
    "metrics.per_class=3",
    "report.images_per_class=2",
)
CHROMIUM = shutil.which("chromium")
COMMAND = [sys.executable, "-W", "ignore", "-m", "dct_augment"]


def environment(home: Path, **more: str) -> dict[str, str]:
    # One thread: the bits of a sum depend on how many threads share it, and the processes of a cluster have one each.
    return {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": "", "OMP_NUM_THREADS": "1", **more}


def run(command: list[str], folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def command(
    folder: Path, variables: dict[str, str], *words: str, shares_server: bool = False
) -> tuple[int | None, str]:
    """Run `dct-augment`; the exit code and what it printed."""
    return Program.start(folder, "dct_augment", *words, environment=variables, shares_server=shares_server).end()


def overrides(*more: str) -> list[str]:
    return [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]


def digests(root: Path) -> dict[str, str]:
    """What tokens, shards and trials a run made, by content."""
    paths = [
        *root.glob("tokens/*.*"),
        *root.glob("shards/*.*"),
        *root.glob("comparison/*.*"),
        *root.glob("benchmark/trials/*"),
    ]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def group(session: int) -> list[str]:
    """The processes of a session."""
    listed = subprocess.run(["ps", "-o", "pid=,stat=,args=", "-s", str(session)], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if " Z" not in line]


def tiny(tmp_path: Path, **parameters: Any) -> configuration.Config:
    return configuration.load("digits", SETTINGS, classes=["one"], output=tmp_path / "run", per_class=2, **parameters)


class TestUnits:
    """The task of a unit, without a server: `.fn` is what Prefect calls."""

    def job(self, config: configuration.Config, folder: Path) -> Job:
        return Job("of-a-test", config.model_dump(mode="json"), str(folder))

    def do(self, unit: WorkUnit, job: Job) -> None:
        augment._task("tokens", unit.title)(augment.do).fn(unit, job)

    @pytest.fixture(autouse=True)
    def _alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(workers, "_remote_session", None)
        monkeypatch.setattr(workers, "_log", lambda progress: None)  # there is no task run to log to

    def test_a_worker_does_a_unit_and_keeps_the_models_for_the_next(self, tmp_path: Path) -> None:
        config = tiny(tmp_path)
        run = Run(config)
        (unit,) = self.pending(run)
        self.do(unit, self.job(run.config, tmp_path))
        assert self.pending(run) == ()  # the class has a token, or a recorded failure
        outcomes = [path.name for path in (tmp_path / "run" / "tokens").glob("one.*")]
        assert outcomes in (["one.safetensors"], ["one.failed.json"])
        assert workers._remote_session is not None
        first = workers._remote_session[1].run.backend
        again = configuration.load("digits", SETTINGS, classes=["two"], output=tmp_path / "other", per_class=2)
        other = Run(again)
        (unit,) = self.pending(other)
        self.do(unit, Job("of-another", other.config.model_dump(mode="json"), str(tmp_path)))
        assert workers._remote_session[1].run.backend is first

    def test_a_worker_of_another_version_refuses(self, tmp_path: Path) -> None:
        job = Job("of-a-test", {}, str(tmp_path), version="0.0.1")
        with pytest.raises(InputError, match=r"the flow has 0\.0\.1; install the same"):
            self.do(WorkUnit(StageName.TOKENS, 0, "one", 1), job)

    def test_a_worker_that_does_not_see_the_flows_files_refuses(self, tmp_path: Path) -> None:
        config = tiny(tmp_path)
        with pytest.raises(InputError, match="cannot enter the flow's folder '/nowhere/at/all': No such file"):
            self.do(WorkUnit(StageName.TOKENS, 0, "one", 1), self.job(config, Path("/nowhere/at/all")))
        with pytest.raises(InputError, match="does not see the run folder"):
            self.do(WorkUnit(StageName.TOKENS, 0, "one", 1), self.job(config, tmp_path))

    def pending(self, run: Run) -> tuple[WorkUnit, ...]:
        """What a flow would hand out, with the folder as it then is."""
        found: list[WorkUnit] = []
        run.run_stages([TokenStage(run)], lambda stage, units: found.extend(units))
        return tuple(found)


def test_a_class_without_token_is_remembered_and_fails_the_run_or_is_skipped(tmp_path: Path) -> None:
    hopeless = ["guide={name: 'tests.broken_guide:Broken', library: function}"]

    def ending(end: str) -> Run:
        settings = [*SETTINGS, *hopeless, f"on_class_failure={end}"]
        return Run(configuration.load("digits", settings, classes=["three"], output=tmp_path / "run"))

    ending("fail").train()
    assert set(ending("fail").failed) == {"three"}
    with pytest.raises(TokenTrainingError, match="no class token for 1 of 1 class: three"):
        ending("fail").check()
    ending("skip").check()


class TestTransient:
    def caused(self, cause: BaseException) -> ModelError:
        try:
            raise ModelError("cannot be loaded") from cause
        except ModelError as error:
            return error

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            OSError(errno.ENOSPC, "full"),
            ConnectionResetError(),
            TimeoutError(),
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        ],
    )
    def test_what_may_pass_is_tried_again_also_as_a_cause(self, error: Exception) -> None:
        assert transient.transient(error)
        assert transient.transient(self.caused(error))
        assert transient.retry(None, None, Failed(data=error))

    @pytest.mark.parametrize(
        "error",
        [
            InputError("x"),
            ValueError("x"),
            OSError(errno.ENOENT, "none"),
            OSError(errno.EACCES, "no"),
            KeyError("x"),
        ],
    )
    def test_what_stays_wrong_fails_at_once(self, error: Exception) -> None:
        assert not transient.transient(error)
        assert not transient.transient(self.caused(error))

    def test_answers_of_the_hub_go_by_their_status(self) -> None:
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        for status, passes in ((429, True), (503, True), (404, False), (401, False)):
            answer = httpx.Response(status, request=httpx.Request("GET", "http://hub"))
            assert transient.transient(HfHubHTTPError("x", response=cast(Any, answer))) is passes
        assert transient.transient(httpx.ConnectError("x"))
        assert not transient.transient(OfflineModeIsEnabled("x"))


class TestRunners:
    def test_a_window_of_units_is_kept_and_every_outcome_comes_back(self) -> None:
        units = [WorkUnit(StageName.TOKENS, number, str(number), 1) for number in range(7)]
        lock, running, most = threading.Lock(), 0, 0

        def work(number: int) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1
            if number == 3:
                raise ValueError("three")

        with ThreadPoolExecutor(7) as pool:
            outcomes = dict(runners._keep_submitted(units, lambda unit: pool.submit(work, unit.number), lambda: 2))  # type: ignore[arg-type, return-value]
        assert set(outcomes) == set(units)
        assert most == 2
        assert [unit.number for unit, error in outcomes.items() if error] == [3]

    def test_workers_elsewhere_need_a_server_that_they_can_reach(self) -> None:
        for kind in ("dask", "ray"):
            config = configuration.load("digits", [f"runner.kind={kind}", "runner.address=node7:8786"])
            wrong = pytest.raises(InputError, match=r"cannot reach the Prefect server .*--host 0\.0\.0\.0")
            here = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"})
            with here, runners.make(config) as runner, wrong:
                runner._start()

    def test_a_cluster_that_does_not_answer_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = configuration.load("digits", ["runner.kind=dask", "runner.address=127.0.0.1:9"])
        monkeypatch.setattr(runners, "_reachable", lambda address: None)
        monkeypatch.setattr(runners, "_ANSWER_WITHIN", 1)
        with runners.make(config) as runner, pytest.raises(InputError, match=r"no Dask scheduler answers.*dask sched"):
            runner._start()

    def test_a_package_that_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"pip install 'dct-augment\[dask\]'"):
            runners._need("prefect_dask", "dask")

    def test_no_more_workers_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        cluster = runners.Dask(configuration.load("digits", ["runner.kind=dask", "runner.workers=3"]))
        assert cluster._gpus == ["4", "6"]
        with pytest.raises(InputError, match=r"runner\.workers is 3, but there are 2 GPUs"):
            cluster._processes()


def test_a_server_whose_disk_is_full_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def child(command: list[str], url: str, output: int, more: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        said = "print('sqlite3.OperationalError: database or disk is full')"
        with subprocess.Popen([sys.executable, "-c", said], stdout=output) as process:
            process.wait()
            yield process

    monkeypatch.setattr(server, "child", child)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        server.running(server.free_port(), ui=False),
    ):
        pass
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


class TestServer:
    def test_only_a_prefect_server_counts_as_an_answer(self) -> None:
        assert not server.answers("http://127.0.0.1:9/api")
        assert not server.answers("not an address")
        other = http.server.ThreadingHTTPServer((server.HOST, 0), http.server.BaseHTTPRequestHandler)
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            assert not server.answers(server.api_url(other.server_port))
            assert not server.is_free(other.server_port)
        finally:
            other.shutdown()
            other.server_close()
            thread.join()

    def test_a_port_that_is_taken_is_named(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind((server.HOST, 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            code, printed = command(tmp_path, environment(tmp_path / "home"), "serve", "--port", port)
        assert code == 2
        assert f"port {port} is taken" in printed
        assert "Traceback" not in printed


@dataclass(frozen=True)
class Served:
    """`dct-augment serve` at work in a folder."""

    folder: Path
    url: str
    variables: dict[str, str]
    process: subprocess.Popen[str]

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-m", "prefect", *arguments], self.folder, self.variables)

    def deployment(self, name: str, flow: str = "augment", /, **parameters: Any) -> subprocess.CompletedProcess[str]:
        given = [part for key, value in parameters.items() for part in ("-p", f"{key}={json.dumps(value)}")]
        return self.prefect("deployment", "run", f"{flow}/{name}", "--watch", "--watch-timeout", "300", *given)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One real server with worker, started as a user does; at the end all of it must be gone."""
    folder = tmp_path_factory.mktemp("served")
    port = server.free_port()
    url = server.api_url(port)
    variables = environment(folder / "home", PREFECT_API_URL=url)
    with serving(folder, port, variables) as process:
        yield Served(folder, url, variables, process)
    give_up = time.monotonic() + 20  # helpers of a run that has just ended take a moment to see it
    while (left := _processes_with(f"PREFECT_HOME={folder / 'home'}")) and time.monotonic() < give_up:
        time.sleep(0.3)
    assert not left


@contextlib.contextmanager
def serving(folder: Path, port: int, variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Serve in a folder, until the body ends."""
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", str(port)],
            cwd=folder,
            env=variables,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            give_up = time.monotonic() + 200
            while "Ctrl-C stops" not in (folder / "serve.log").read_text():
                assert process.poll() is None, (folder / "serve.log").read_text()
                assert time.monotonic() < give_up, (folder / "serve.log").read_text()
                time.sleep(0.3)
            yield process
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="session")
def finished(served: Served) -> str:
    """What `prefect deployment run augment/pocket --watch` printed."""
    narrowed = [
        *SETTINGS,
        "benchmark.arms=[real+strong_aug, plain_prompt]",
        "benchmark.ratios=[]",
        "benchmark.per_class_curve=[]",
    ]
    done = served.deployment("pocket", per_class=4, classes=["crane", "kiwi"], overrides=narrowed, full=True)
    assert done.returncode == 0, done.stdout + done.stderr + (served.folder / "serve.log").read_text()
    return done.stdout


class TestServe:
    def test_a_deployment_runs_where_the_worker_was_started(self, served: Served, finished: str) -> None:
        assert "Completed" in finished
        root = served.folder / "runs" / "pocket"
        assert (root / "report" / "index.html").is_file()
        rows = pd.concat(pd.read_parquet(path) for path in root.glob("comparison/*.parquet"))
        assert len(rows) == 8  # per_class and classes merged with the deployment's own config
        trials = pd.read_parquet(root / "benchmark" / "trials.parquet")
        assert set(trials["shots"]) == {1, 2, 5, 10, 20}  # of the full benchmark

    def test_every_deployment_is_there_with_a_queue_and_no_path_of_this_machine(self, served: Served) -> None:
        found = {one["name"]: one for one in served.post("/deployments/filter")}
        shipped = {"digits", "pocket", "winter"}
        configured = shipped | {"aircraft", "cub", "flowers", "folder", "imagenet", "inat", "pets"}
        assert set(found) == configured | set(available_studies())
        for name, one in found.items():
            assert one["parameters"] == {"config" if name in configured else "name": name}
            assert one["description"]
            assert one["tags"]
            assert one["global_concurrency_limit"]["limit"] == 1
            assert one["concurrency_options"]["collision_strategy"] == "ENQUEUE"
            assert not [value for value in _strings(one) if value.startswith("/") and "$ref" not in value]
            gpus = one["job_variables"].get("env", {}).get("CUDA_VISIBLE_DEVICES")
            assert gpus == (None if name in (*shipped, *available_studies()) else "0")
        form = found["cub"]["parameter_openapi_schema"]["properties"]
        assert set(form) == {"config", "per_class", "classes", "output", "overrides", "full"}
        assert {"type": "integer"} in form["per_class"]["anyOf"]

    def test_a_study_is_a_deployment_and_a_run_of_it_that_fails_is_named(self, served: Served) -> None:
        broken = {"broken": {"settings": ["model.path=./none"]}}
        path = test_token_study.written(served.folder, variants=broken, claims=[])
        done = served.deployment("depth", "study", name=str(path), output="study")
        assert "Failed" in done.stdout
        said = (served.folder / "serve.log").read_text()
        assert "birds, broken, seed 300: model.path './none': no model_index.json there" in said
        assert "Traceback" not in said
        path = test_token_study.written(served.folder, variants={"last": {}}, claims=[])
        done = served.deployment("depth", "study", name=str(path), output="study")
        assert "Completed" in done.stdout, done.stdout + done.stderr
        assert (served.folder / "study" / "index.html").is_file()

    def test_the_server_listens_on_this_machine_alone(self, served: Served) -> None:
        """A promise of SECURITY.md."""
        port = int(served.url.split(":")[2].split("/")[0])
        rows = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
        local = [row.split()[1] for row in rows[1:] if row.split()[3] == "0A"]
        assert [address for address in local if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]

    def test_artifacts_show_progress_tokens_thumbnails_and_the_report(self, served: Served, finished: str) -> None:
        found = {one["key"]: one for one in served.post("/artifacts/latest/filter")}
        for stage in ("tokens", "class-token-images", "plain-prompt-images", "benchmark"):
            assert found[f"pocket-{stage}"]["type"] == "progress"
        for key, one in found.items():
            if one["type"] == "progress":
                assert one["data"] == 100.0, key
        table = json.loads(found["pocket-token-table"]["data"])
        assert {row["class"] for row in table} <= {"crane", "kiwi"}
        assert {"updates", "guide before", "guide after", "stopped"} <= set(table[0])
        assert found["pocket-thumbnails-crane"]["data"].startswith("data:image/webp;base64,")
        page = served.folder / "runs" / "pocket" / "report" / "index.html"
        assert f"[{page}]({page.as_uri()})" in found["pocket-summary"]["data"]

    def test_bad_input_fails_at_once_with_its_message(self, served: Served) -> None:
        done = served.deployment(
            "pocket", output="bad", classes=["crane", "kiwi"], overrides=[*SETTINGS, "guide.name=local-dir:nowhere"]
        )
        assert "Failed" in done.stdout
        assert "nowhere" in done.stdout  # --watch shows the reason, too
        runs = served.post("/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Failed"]}}}})
        assert any("nowhere" in one["state"]["message"] for one in runs)
        tasks = served.post("/task_runs/filter", {"task_runs": {"state": {"name": {"any_": ["Failed"]}}}})
        assert {one["run_count"] for one in tasks} <= {
            1
        }  # none is tried again; a missing guide is seen before the first
        said = (served.folder / "serve.log").read_text()
        assert "nowhere" in said
        assert "Traceback" not in said

    def test_only_errors_that_may_pass_are_retried(self, served: Served, tmp_path: Path) -> None:
        (tmp_path / "retries.py").write_text(RETRIES)
        code, printed = Program.start(tmp_path, "retries", environment=served.variables).end()
        assert code == 0, printed
        assert (tmp_path / "calls.txt").read_text() == "3 1"

    @pytest.mark.skipif(not CHROMIUM, reason="no browser: install Debian's package chromium")
    def test_the_ui_and_the_report_open_in_a_browser(self, served: Served, finished: str) -> None:
        from playwright.sync_api import expect, sync_playwright

        home = served.url.removesuffix("/api")
        found = {one["key"]: one for one in served.post("/artifacts/latest/filter")}
        deployments = {one["name"]: one["id"] for one in served.post("/deployments/filter")}
        errors: list[str] = []
        with sync_playwright() as tools:
            browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.set_default_timeout(60_000)
            page.goto(f"{home}/deployments")  # it shows ten of them
            expect(page.get_by_text(re.compile(f"^({'|'.join(deployments)})$")).first).to_be_visible(timeout=60_000)
            for name in ("pocket", "depth"):
                page.goto(f"{home}/deployments/deployment/{deployments[name]}")
                expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=60_000)
            page.goto(f"{home}/deployments/deployment/{deployments['cub']}/run")
            for name in ("per_class", "classes", "output", "overrides"):
                expect(page.get_by_text(re.compile(rf"^{name}\b")).first).to_be_visible(timeout=60_000)
            page.goto(f"{home}/artifacts/artifact/{found['pocket-thumbnails-crane']['latest_id']}")
            page.wait_for_function("[...document.images].some(one => one.src.startsWith('data:') && one.naturalWidth)")
            page.goto((served.folder / "runs" / "pocket" / "report" / "index.html").as_uri())
            assert page.locator("img").count() >= 2
            assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
            assert "crane" in page.inner_text("body")
            browser.close()
        assert errors == []


RETRIES = """
from pathlib import Path

from dct_augment.errors import InputError
from flows.augment import _task

calls = []

def full():
    calls.append(1)
    if len(calls) < 3:
        raise OSError(28, "No space left on device")

def wrong():
    calls.append(1)
    raise InputError("no such model")

_task("tokens", "full", retries=2, delay=0.1)(full)()
counts = [len(calls)]
calls.clear()
try:
    _task("tokens", "wrong", retries=2, delay=0.1)(wrong)()
except InputError:
    counts.append(len(calls))
Path("calls.txt").write_text(" ".join(map(str, counts)))
"""


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


GUIDE = """
import os, signal, torch
from dct_augment import classifiers, datasets
from dct_augment.config import ClassifierConfig, DigitsDataset

class Fragile(torch.nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        classes = datasets.load(DigitsDataset(name="digits")).classes
        self.inner = classifiers.load([ClassifierConfig(name="pocket/digits-guide")], classes)
        self.labels = [info.name for info in classes]

    def forward(self, images):
        Fragile.calls += 1
        for number, name in ((4, "a"), (11, "b")):
            if Fragile.calls == number and os.environ["FRAGILE"]:
                try:
                    os.close(os.open(os.path.join(os.environ["FRAGILE"], name), os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.logits(images)

def build():
    return Fragile()
"""


class TestEnds:
    """`serve` in a folder of its own, whose server dies, or belongs to others. A proxy that leads nowhere is set."""

    @pytest.fixture
    def variables(self, tmp_path: Path) -> dict[str, str]:
        proxy = "http://127.0.0.1:9"
        return environment(tmp_path / "home", HTTP_PROXY=proxy, http_proxy=proxy, ALL_PROXY=proxy)

    def test_it_ends_with_a_message_when_its_server_dies_and_the_next_one_marks_what_was_at_work(
        self, tmp_path: Path, variables: dict[str, str]
    ) -> None:
        port = server.free_port()
        with serving(tmp_path, port, variables) as process:
            own = Served(tmp_path, server.api_url(port), variables | {"NO_PROXY": _bypass(tmp_path)}, process)
            _begin_digits(own)
            words = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)]
            lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
            (of_server,) = [line for line in lines if "server start" in line]
            os.kill(int(of_server.split()[0]), signal.SIGKILL)
            assert process.wait(20) == 1
        assert "error: the Prefect server ended with exit code -9" in (tmp_path / "serve.log").read_text()
        give_up = time.monotonic() + 20  # the program of the run ends when it finds that nobody listens
        while left := _processes_with(f"PREFECT_HOME={tmp_path / 'home'}"):
            assert time.monotonic() < give_up, left
            time.sleep(0.1)
        with serving(tmp_path, port, variables):
            (run_of_it,) = own.post("/flow_runs/filter")
            assert run_of_it["state"]["type"] == "CRASHED"

    def test_of_a_server_of_others_it_says_whether_it_answers_and_marks_the_runs_that_it_stops(
        self, tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "theirs"))
        port = server.free_port()
        with server.running(port, ui=False) as theirs:
            variables |= {"PREFECT_API_URL": server.api_url(port), "NO_PROXY": server.HOST}
            with serving(tmp_path, port, variables) as process:
                others = Served(tmp_path, server.api_url(port), variables, process)
                theirs.process.send_signal(signal.SIGSTOP)
                _wait_for(tmp_path / "serve.log", "no longer answers")
                theirs.process.send_signal(signal.SIGCONT)
                _wait_for(tmp_path / "serve.log", "answers again")
                _begin_digits(others)
            (run_of_it,) = others.post("/flow_runs/filter")
            assert run_of_it["state"]["type"] in ("CRASHED", "CANCELLED", "FAILED")


def _bypass(folder: Path) -> str:
    """What `serve` says to export, so that commands beside it reach the server in spite of a proxy."""
    (line,) = [line for line in (folder / "serve.log").read_text().splitlines() if "export NO_PROXY=" in line]
    return line.partition("=")[2]


def _begin_digits(served: Served) -> None:
    """Deploy a run, and wait until it is at work."""
    served.prefect("deployment", "run", "augment/digits")
    _wait_for(served.folder / "runs" / "digits" / "config.yaml", "")


def _wait_for(file: Path, text: str) -> None:
    """Wait until a file holds a text."""
    give_up = time.monotonic() + 100
    while not file.is_file() or text not in file.read_text():
        assert time.monotonic() < give_up, (file, text)
        time.sleep(0.1)


@dataclass(frozen=True)
class Engines:
    """The same run with several engines."""

    folder: Path
    variables: dict[str, str]

    def run(self, output: str, *more: str, **variables: str) -> dict[str, str]:
        """Run all stages; return what it made. FRAGILE is where the guide notes whom it has killed."""
        words = ["run", "--config", "digits", "--per-class", "4", "--classes", "one,seven,nine", "--output", output]
        words += overrides(
            "guide.name=fragile:build",
            "guide.library=function",
            "benchmark.arms=[real, plain_prompt, class_token, class_token_few_shot_guide]",
            "benchmark.shots=2",
            "metrics.features=judge",
            "report.images_per_class=1",
            *more,
        )
        code, printed = command(self.folder, self.variables | variables, *words, shares_server=True)
        assert code == 0, printed
        assert not list((self.folder / output / "tokens").glob(".*.partial"))
        return made_files(self.folder / output)


LISTENING = """
import psutil
from dct_augment import config
from flows import runners

if __name__ == "__main__":
    with runners.make(config.load("digits", ["runner.kind=dask", "runner.workers=2"])) as runner:
        cluster = runner._cluster()
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    print("listens", one.laddr.ip)
"""


def test_the_dask_of_a_run_listens_on_this_machine_alone(tmp_path: Path) -> None:
    """A promise of SECURITY.md."""
    (tmp_path / "listening.py").write_text(LISTENING)
    done = run([sys.executable, "listening.py"], tmp_path, environment(tmp_path / "home"))
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("listens ")]
    assert len(found) > 4, done.stderr
    assert set(found) == {"127.0.0.1"}


OF_RAY = """
import os, subprocess, sys
from dct_augment import config
from flows import runners

STRANGER = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print('obeys', ray.get(ray.put(7)))"

if __name__ == "__main__":
    with runners.make(config.load("digits", ["runner.kind=ray", "runner.workers=1"])) as runner:
        runner._start()
        address = runner._ray.get_runtime_context().gcs_address
        without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        for environment in (dict(os.environ), without):
            words = [sys.executable, "-c", STRANGER, address]
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
            print("stranger", "obeys 7" in done.stdout)
"""


def test_the_ray_of_a_run_obeys_those_alone_who_know_its_token(tmp_path: Path) -> None:
    """A promise of SECURITY.md."""
    (tmp_path / "ray_of_a_run.py").write_text(OF_RAY)
    done = run([sys.executable, "ray_of_a_run.py"], tmp_path, environment(tmp_path / "home"))
    found = [line for line in done.stdout.splitlines() if line.startswith("stranger ")]
    assert found == ["stranger True", "stranger False"], done.stderr


@pytest.fixture(scope="module")
def engines(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "fragile.py").write_text(GUIDE)
    return Engines(folder, served.variables | {"PYTHONPATH": str(folder), "FRAGILE": ""})


@pytest.fixture(scope="module")
def of_one_process(engines: Engines) -> dict[str, str]:
    made = engines.run("here")
    for part in ("tokens/one", "shards/", "comparison/", "benchmark/trials/", "benchmark/metrics/", "arms/"):
        assert any(name.startswith(part) for name in made), part
    for part in ("classifier/classifier.json", "benchmark/trials.parquet", "tokens/index.parquet"):
        assert part in made
    return made


class TestEngines:
    """One process, Dask and Ray make the same bytes in every stage."""

    def test_dask_whose_workers_are_killed(self, engines: Engines, of_one_process: dict[str, str]) -> None:
        """The guide kills the worker process it runs in, twice; Dask starts others, which do the units again."""
        marks = engines.folder / "marks"
        marks.mkdir()
        # Dask's workers, too, are forks of the server that has imported torch; they take their environment from Dask.
        names = ("PREFECT_HOME", "PREFECT_API_URL")
        of_workers = {name: engines.variables[name] for name in names} | {"FRAGILE": str(marks)}
        made = engines.run(
            "dask",
            "runner.kind=dask",
            "runner.workers=2",
            FRAGILE=str(marks),
            DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD="forkserver",
            DASK_DISTRIBUTED__NANNY__ENVIRON=repr(of_workers),
        )
        assert {path.name for path in marks.iterdir()} == {"a", "b"}
        assert made == of_one_process

    def test_ray(self, engines: Engines, of_one_process: dict[str, str]) -> None:
        assert engines.run("ray", "runner.kind=ray", "runner.workers=2") == of_one_process


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's data base for runs with a temporary server."""
    return tmp_path_factory.mktemp("home")


def test_run_does_everything_without_the_configured_server_and_a_second_run_nothing(
    served: Served, tmp_path: Path
) -> None:
    """The first run has no home either, as in a container without one: its server keeps its data in the run.

    And the proxy of its environment leads nowhere.
    """
    dead = "http://127.0.0.1:9/api"
    words = [
        "run",
        "--classes",
        "crane,kiwi",
        "--per-class",
        "3",
        *overrides("benchmark.arms=[real, plain_prompt, class_token]"),
    ]
    homeless = environment(tmp_path, PREFECT_API_URL=dead, HOME="/proc/none", DCT_AUGMENT_CACHE="/proc/none/cache")
    homeless |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    del homeless["PREFECT_HOME"]
    code, printed = command(tmp_path, homeless, *words)
    assert code == 0, printed
    assert re.sub(r"\s+", " ", printed).count(f"server at {dead} does not answer") == 1
    assert "Traceback" not in printed
    root = tmp_path / "runs" / "pocket"
    assert (root / ".prefect" / "prefect.db").is_file()
    summary = json.loads((root / "report" / "summary.json").read_text())
    assert set(class_table(root).index) == {"crane", "kiwi"}
    assert set(summary["benchmark"]["arms"]) >= {"real", "plain_prompt"}
    assert (root / "report" / "index.html").is_file()
    before = digests(root)
    code, printed = command(tmp_path, served.variables, *words)
    assert code == 0, printed
    assert "does not answer" not in printed
    assert digests(root) == before
    assert "all agree" in command(tmp_path, served.variables, "verify")[1]


def test_a_wrong_config_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["augment", "nope"])
    with pytest.raises(SystemExit) as ended:
        augment.main()
    assert ended.value.code == 2
    assert "error: nope: 1 problem" in capsys.readouterr().err


@pytest.mark.parametrize("killed", ["the program", "its server"])
def test_the_flows_module_runs_a_config_offline_and_a_kill_leaves_no_process(
    home: Path, tmp_path: Path, killed: str
) -> None:
    variables = environment(home)
    config = tmp_path / "mine.yaml"
    shipped = configuration.load("digits", SETTINGS, classes=["one", "seven"], per_class=2)
    config.write_text(configuration.dump(shipped))
    program = Program.start(tmp_path, "flows.augment", str(config), environment=variables)
    plan = tmp_path / "runs" / "digits" / "tokens" / "plan.json"
    program.until(plan.is_file)
    servers = [process for process, line in _processes_with(f"PREFECT_HOME={home}") if "server\0start" in line]
    if killed == "its server":
        os.kill(servers[0], signal.SIGKILL)
        code, printed = program.end()
        assert code == 1, printed
        assert "error: the Prefect server of this run ended with exit code -9. What is finished is kept" in printed
        assert "Traceback" not in printed
    else:
        code, printed = program.end(signal.SIGKILL)
        assert (code, len(servers), plan.is_file()) == (-signal.SIGKILL, 1, True), printed
    session, give_up = program.process.pid or 0, time.monotonic() + 60
    while group(session) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert not group(session)
    assert not _processes_with(f"PREFECT_HOME={home}")


def _processes_with(variable: str) -> list[tuple[int, str]]:
    """Numbers and commands of the processes that were started with a variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append((int(path.parent.name), (path.parent / "cmdline").read_text()))
    return found
