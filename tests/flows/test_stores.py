"""Dask workers of two machines without a shared folder: all that they share is an S3 URL and the network."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dct_augment.pipeline.verify import verify
from dct_augment.remote.store import local_folder
from tests.flows.test_augment import command, digests, environment, overrides
from tests.processes import Program
from tests.remote.machines import Machines, stored
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

WORDS = ["--config", "digits", "--per-class", "4", "--classes", "one,seven,nine"]
SETTINGS = overrides("benchmark.arms=[real]", "metrics.features=null", "report.images_per_class=1")


@contextmanager
def cluster(folder: Path, variables: dict[str, str], names: list[str]) -> Iterator[tuple[str, dict[str, Program]]]:
    """A Dask scheduler, and workers with folders and caches of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "scheduler").mkdir()
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    programs = {"": Program.start(folder / "scheduler", "distributed.cli.dask_scheduler", *options)}
    try:
        for name in names:
            (folder / name).mkdir()
            own = variables | {"DCT_AUGMENT_CACHE": str(folder / name / "cache")}
            words = [
                f"tcp://127.0.0.1:{port}",
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
                "--memory-limit",
                "0",
            ]
            programs[name] = Program.start(folder / name, "distributed.cli.dask_worker", *words, environment=own)
        yield f"127.0.0.1:{port}", programs
    finally:
        for program in programs.values():
            program.end(signal.SIGKILL)


def test_workers_without_a_shared_folder_make_the_same_bytes_and_one_is_killed(
    s3: S3Server, machines: Machines, tmp_path: Path
) -> None:
    url, variables = s3.new_url(), environment(tmp_path / "home") | s3.environment
    (tmp_path / "flow").mkdir()
    (tmp_path / "alone").mkdir()
    of_flow = variables | {"DCT_AUGMENT_CACHE": str(tmp_path / "flow" / "cache")}
    code, printed = command(tmp_path / "alone", variables, "generate", *WORDS, *SETTINGS, "--output", "run")
    assert code == 0, printed
    with cluster(tmp_path, variables, ["one", "two"]) as (address, programs):
        runner = ["--set", "runner.kind=dask", "--set", f"runner.address={address}"]
        flow = Program.start(
            tmp_path / "flow", "dct_augment", "run", *WORDS, *SETTINGS, *runner, "--output", url, environment=of_flow
        )
        flow.until(lambda: any(path.endswith(".safetensors") for path in stored(url)))
        time.sleep(0.5)
        programs["one"].end(signal.SIGKILL)
        code, printed = flow.end()
        logs = "\n".join((tmp_path / f"{name}.log").read_text()[-3000:] for name in ("one", "two"))
        assert code == 0, printed + logs
    machines.be("another")
    mirror = local_folder(Path(url), images=True)
    assert verify(mirror, "digits").problems == ()
    alone = digests(tmp_path / "alone" / "run")
    made = {name: digest for name, digest in digests(mirror).items() if "trials" not in name}
    assert made == alone
    for name in ("one", "two"):
        assert list((tmp_path / name / "cache").glob("stores/s3/*/*/run/tokens/*.json")), "this worker did nothing"
