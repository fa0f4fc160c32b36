"""Workers of two machines without a shared folder: all that they share is an S3 URL and the network."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from dct_augment.pipeline.verify import verify
from dct_augment.remote.store import local_folder
from tests.flows.test_augment import command, environment, overrides
from tests.made_files import made_files
from tests.processes import Program
from tests.remote.machines import Machines, stored
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

WORDS = ["--config", "digits", "--set", "generation.per_class=4", "--classes", "one,seven,nine"]
SETTINGS = overrides(
    "benchmark.arms=[real, class_token_few_shot_guide]",
    "benchmark.shots=2",
    "metrics.features=null",
    "report.images_per_class=1",
)
NAMES = ("one", "two")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def of_machine(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a machine, with a cache of its own."""
    return {**variables, "DCT_AUGMENT_CACHE": str(folder / "cache")}


def kill_all(folder: Path) -> None:
    """Kill every process that has the cache of this machine: the machine dies."""
    mark = f"DCT_AUGMENT_CACHE={folder / 'cache'}\0".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes() + b"\0":
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue


@contextmanager
def dask(folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """A Dask scheduler, and workers with folders and caches of their own."""
    address, options = f"127.0.0.1:{free_port()}", ["--no-dashboard"]
    (folder / "scheduler").mkdir()
    where = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    head = Program.start(folder / "scheduler", "distributed.cli.dask_scheduler", *where, *options)
    options += ["--nthreads", "1", "--no-nanny", "--memory-limit", "0"]
    for name in NAMES:
        own = of_machine(folder / name, variables)
        Program.start(folder / name, "distributed.cli.dask_worker", f"tcp://{address}", *options, environment=own)
    try:
        yield address
    finally:
        head.end(signal.SIGKILL)


@contextmanager
def ray(folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """A Ray cluster of a head without cores, and two nodes with folders and caches of their own."""
    address, temporary = f"127.0.0.1:{free_port()}", tempfile.mkdtemp(prefix="ray")  # its sockets need short paths
    heads = ["--head", f"--port={address.rpartition(':')[2]}", f"--temp-dir={temporary}", "--include-dashboard=false"]
    machines = {"head": [*heads, "--num-cpus=0"]}
    machines |= {name: [f"--address={address}", "--num-cpus=1"] for name in NAMES}
    try:
        for name, options in machines.items():
            (folder / name).mkdir(exist_ok=True)
            own = of_machine(folder / name, variables)
            options = ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", *options]
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", *options]
            done = subprocess.run(start, cwd=folder / name, env=own, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        yield address
    finally:
        kill_all(folder / "head")
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize("engine", [dask, ray])
def test_workers_without_a_shared_folder_make_the_same_bytes_and_one_is_killed(
    engine: object, s3: S3Server, machines: Machines, tmp_path: Path
) -> None:
    tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    url, variables = s3.new_url(), environment(tmp_path / "home", **tokens) | s3.environment
    for name in ("flow", "alone", *NAMES):
        (tmp_path / name).mkdir()
    of_flow = of_machine(tmp_path / "flow", variables)
    for stages in ("generate", "fit"):
        code, printed = command(tmp_path / "alone", variables, stages, *WORDS, *SETTINGS, "--output", "run")
        assert code == 0, printed
    kind = "dask" if engine is dask else "ray"
    try:
        with engine(tmp_path, variables) as address:
            runner = ["--set", f"runner.kind={kind}", "--set", f"runner.address={address}", "--output", url]
            flow = Program.start(
                tmp_path / "flow", "dct_augment", "run", *WORDS, *SETTINGS, *runner, environment=of_flow
            )
            flow.until(lambda: any(path.endswith(".safetensors") for path in stored(url)))
            time.sleep(0.5)
            kill_all(tmp_path / "one")
            code, printed = flow.end()
            assert code == 0, printed
    finally:
        for name in NAMES:
            kill_all(tmp_path / name)
    machines.be("another")
    mirror = local_folder(Path(url), images=True)
    assert verify(mirror, "digits").problems == ()
    assert made_files(mirror) == made_files(tmp_path / "alone" / "run")
    for name in NAMES:
        assert list((tmp_path / name / "cache").glob("stores/s3/*/*/run/tokens/*.json")), "this worker did nothing"
