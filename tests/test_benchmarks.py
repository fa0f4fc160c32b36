"""Scripts of benchmarks/ at their smallest size: that they still run, and that what they print or write is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dct_augment import config
from dct_augment.pipeline import Run

ROOT = Path(__file__).parent.parent
TINY = [
    "tokens.max_updates=1", "tokens.validate_every=1", "tokens.restarts=0", "tokens.validation_images=2",
    "tokens.certificate_images=4", "tokens.images_per_update=1",
]  # fmt: skip


def call(script: str, *arguments: str, folder: Path) -> str:
    """What a script prints, in a process of one thread."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "arm_folder"),
    }
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rows(text: str) -> list[list[str]]:
    """The cells of each row of Markdown tables, heads too, rules not."""
    lines = (line for line in text.splitlines() if line.startswith("|") and not line.startswith(("|---", "| ---")))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two digits with a benchmark of two arms, reported."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = [*TINY, "benchmark.arms=[real+strong_aug,plain_prompt]", "benchmark.seeds=2", "downstream.steps=2",
                "benchmark.shots=1", "benchmark.per_class=2", "benchmark.shots_curve=[]"]  # fmt: skip
    run = Run(config.load("digits", settings, classes=["one", "two"], output=folder, per_class=2))
    run.train()
    run.generate()
    run.benchmark()
    run.report()
    return folder


def test_dataset_index(tmp_path: Path) -> None:
    lines = call("dataset_index", "--pictures", "80", folder=tmp_path).splitlines()
    assert [re.match(r" *(\d+) pictures: [\d.]+ s", line)[1] for line in lines] == ["20", "80"]  # type: ignore[index]


def test_leaderboard(finished: Path, tmp_path: Path) -> None:
    found = rows(call("leaderboard", str(finished), "--details", folder=tmp_path))
    assert found[0] == ["judge accuracy", "digits, plain", "digits, token"]
    named = {row[0]: row[1:] for row in found}
    assert all(re.match(r"[\d.]+ % \([\d.]+ \.\. [\d.]+\)", cell) for cell in named["all classes"])
    assert named["`real+strong_aug`"][0].endswith(")")
    assert "`plain_prompt` - `real+strong_aug`" in named


def test_picture(finished: Path, tmp_path: Path) -> None:
    call("picture", str(finished), "--images", "2", "--out", "sheet.png", folder=tmp_path)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * (2 * 64 + 12) - 12, 16 + 2 * 64 + 4)
        assert len(sheet.convert("RGB").getcolors(1 << 20)) > 100


def test_savings(tmp_path: Path) -> None:
    head, *found = rows(call("savings", "--rounds", "1", "--no-compile", "--classes", "crane", folder=tmp_path))
    assert len(found) == 7
    cosines = {row[0]: row[head.index("cosine")] for row in found}
    assert cosines["balanced memory (checkpointing)"] == cosines["empty prompt encoded once"] == "1.0000"
