"""The Prefect flow, run for real in its own process with Prefect's temporary server."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

PROGRAM = """
from flows.augment import augment
page = augment("digits", per_class=2, classes=["one", "seven"], overrides={overrides!r})
print("PAGE", page)
"""
SMALL = [
    "tokens.max_updates=2", "tokens.validate_every=2", "tokens.validation_images=2", "tokens.images_per_update=2",
    "tokens.target_accuracy=0.0", "tokens.target_probability=0.0", "sampling.num_inference_steps=2",
    "benchmark.steps=2", "benchmark.seeds=2", "benchmark.batch_size=4", "benchmark.per_class=2",
    "benchmark.processes=1",
]  # fmt: skip


def test_the_flow_runs_without_a_server_and_leaves_the_files_of_a_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(overrides=SMALL)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "digits" / "report" / "index.html").is_file()
    assert len(pd.read_parquet(tmp_path / "runs" / "digits" / "benchmark" / "trials.parquet")) == 8
