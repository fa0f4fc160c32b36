"""The whole product on the shipped Pocket models, as a user runs it: through the command line."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from tests.processes import Program

pytestmark = pytest.mark.slow

SMALL = [
    "tokens.max_updates=2",
    "tokens.validate_every=2",
    "tokens.validation_images=2",
    "tokens.images_per_update=2",
    "tokens.classes_per_batch=2",
    "tokens.classes_per_work_unit=2",
    "tokens.restarts=0",
    "tokens.certificate_images=2",
    "tokens.plain_first=false",
    "tokens.target_accuracy=0.01",
    "tokens.target_probability=0.0",
    "tokens.learning_rate=4",
    "generation.allow_uncertified=true",
    "sampling.num_inference_steps=2",
    "generation.shard_size=6",
    "downstream.steps=3",
    "downstream.batch_size=4",
    "benchmark.seeds=2",
    "benchmark.per_class=2",
    "report.images_per_class=2",
    "benchmark.processes=1",
    "generation.batch_size=4",
]


def start(folder: Path, *arguments: str, settings: Sequence[str] = SMALL, file_limit: int | None = None) -> Program:
    words = [*arguments, *(part for setting in settings for part in ("--set", setting))]
    return Program.start(folder, "dct_augment", *words, file_limit=file_limit)


def run(folder: Path, *arguments: str, code: int = 0, settings: Sequence[str] = SMALL) -> str:
    returned, printed = start(folder, *arguments, settings=settings).end()
    assert returned == code, printed
    assert "Traceback" not in printed
    return printed


def contents(folder: Path) -> dict[str, str]:
    """Checksum of every file that a run is about, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "times.json", "config.yaml")
    }


def test_more_images_are_added_and_none_is_changed(tmp_path: Path) -> None:
    run(tmp_path, "generate", "--classes", "crane,kiwi", "--per-class", "4")
    shards = tmp_path / "runs" / "pocket" / "shards"
    before = {name: digest for name, digest in contents(shards).items() if name.startswith("pocket-")}
    run(tmp_path, "generate", "--classes", "crane,kiwi", "--per-class", "9")
    after = contents(shards)
    assert before.items() <= after.items()
    numbers = sorted(int(path.stem[-6:]) for path in shards.glob("*.tar"))
    assert numbers == list(range(len(numbers)))
    rows = pd.concat(pd.read_parquet(path) for path in shards.glob("*.parquet"))
    assert rows.groupby("class_name").size().to_dict() == {"crane": 9, "kiwi": 9}
    assert not rows["key"].duplicated().any()


def test_killed_at_any_moment_it_ends_with_the_same_files(tmp_path: Path) -> None:
    words = ("generate", "--classes", "crane,kiwi,cardinal", "--per-class", "4")
    settings = [*SMALL, "generation.shard_size=3"]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    run(tmp_path / "whole", *words, settings=settings)
    expected = contents(tmp_path / "whole")
    root = tmp_path / "killed" / "runs" / "pocket"
    # Kill when a certain thing has just appeared, so that every phase is hit on a fast or slow machine.
    for moment in (
        "tokens/.training-000.pt",
        "tokens/*.safetensors",
        "shards/*000000.tar",
        "shards/*000002.tar",
    ):
        command = start(tmp_path / "killed", *words, settings=settings)
        command.until(lambda moment=moment: bool(list(root.glob(moment))))  # type: ignore[misc]
        command.end(signal.SIGKILL)
    run(tmp_path / "killed", *words, settings=settings)
    assert contents(tmp_path / "killed") == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_no_partial_file(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "run").mkdir()
    command = start(tmp_path / "run", "generate", "--classes", "crane,kiwi", "--per-class", "20")
    command.until(lambda: bool(list(tmp_path.glob("run/runs/pocket/shards/*.tar"))))
    returned, printed = command.end(number)
    assert returned == code, printed
    assert "goes on from there" in printed
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_benchmark_processes_end_with_the_command_and_trials_are_kept(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    words = ("benchmark", "--classes", "crane,kiwi")
    settings = [*SMALL, "benchmark.arms=[real]", "benchmark.seeds=6", "downstream.steps=16", "benchmark.processes=2"]
    trials = folder / "runs" / "pocket" / "benchmark" / "trials"
    command = start(folder, *words, settings=settings)
    command.until(lambda: bool(list(trials.glob("*.json"))))
    command.end(number)
    deadline = time.monotonic() + 30
    while left := [pid for pid in Path("/proc").iterdir() if pid.name.isdigit() and _folder(pid) == folder]:
        assert time.monotonic() < deadline, [(pid / "cmdline").read_text() for pid in left]
        time.sleep(0.05)
    before = {path: path.read_bytes() for path in trials.glob("*.json")}
    run(folder, *words, settings=settings)
    assert len(pd.read_parquet(trials.with_suffix(".parquet"))) == len(list(trials.iterdir())) == 6
    assert all(path.read_bytes() == kept for path, kept in before.items())


def test_a_stop_between_two_trials_ends_the_benchmark_processes(tmp_path: Path) -> None:
    from dct_augment import config
    from dct_augment.pipeline.run import Run
    from dct_augment.records import Progress, StageName

    def stop(progress: Progress) -> None:
        if progress.stage == StageName.BENCHMARK:
            raise KeyboardInterrupt

    overrides = [*SMALL, "benchmark.arms=[real]", "benchmark.processes=2"]
    strangers = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt) as stopped:
        Run(config.load("pocket", overrides, output=tmp_path), stop).benchmark()
    assert stopped.traceback  # and with it the frames of the stopped run, which an interpreter keeps while it exits
    for child in set(multiprocessing.active_children()) - strangers:
        child.join(30)
        assert not child.is_alive()
    assert len(list(tmp_path.glob("benchmark/trials/*.json"))) == 1


def _folder(process: Path) -> Path | None:
    """The working folder of a process, unless it has ended."""
    try:
        return (process / "cwd").resolve()
    except OSError:
        return None


def test_other_settings_for_the_same_folder_are_refused(tmp_path: Path) -> None:
    run(tmp_path, "train", "--classes", "crane")
    before = contents(tmp_path)
    refused = run(tmp_path, "train", "--classes", "crane", settings=[*SMALL, "tokens.seed=7"], code=2)
    assert "tokens.seed: 0 -> 7" in " ".join(refused.split())
    assert contents(tmp_path) == before


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    printed = run(tmp_path, "generate", "--dry-run", "--per-class", "5")
    assert "80 images" in printed
    assert "16 classes" in printed
    assert not list(tmp_path.iterdir())


def test_disk_full_is_one_message_and_nothing_half_written(tmp_path: Path) -> None:
    words = ("generate", "--classes", "crane", "--per-class", "6")
    run(tmp_path, "train", "--classes", "crane")
    # A file size limit stands in for a full disk: writes fail in the middle of a shard.
    returned, printed = start(tmp_path, *words, file_limit=4096).end()
    assert returned == 2, printed
    assert "Traceback" not in printed
    assert "error: 'runs/pocket/" in printed
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.glob("runs/pocket/shards/*.tar"))
    run(tmp_path, *words)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    root = Path(__file__).parent.parent
    built = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(root)]
    subprocess.run(built, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


OF_THE_WHEEL = """
import dct_augment, flows, sys
from dct_augment.cli import main
from flows.serving import _deployments

print(dct_augment.__file__, flows.__file__, _deployments(), sep="\\n")
sys.argv = ["dct-augment", *sys.argv[1:]]
main()
"""


def test_the_wheel_carries_everything(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, capture_output=True)
    words = [sys.executable, "-W", "ignore", "-c", OF_THE_WHEEL, "generate", "--classes", "crane", "--per-class", "2"]
    words += [part for setting in SMALL for part in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(words, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (empty / "runs" / "pocket" / "shards" / "pocket-train-000000.tar").is_file()
    found = done.stdout.splitlines()[:3]
    parts = ("dct_augment/__init__.py", "flows/__init__.py", "dct_augment/prefect.yaml")
    assert found == [str(site / part) for part in parts]
