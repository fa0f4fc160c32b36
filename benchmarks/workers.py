"""Token training on Pocket by one worker process and by two, side by side in one run.

    python benchmarks/workers.py

Every setting trains the same 16 classes in 8 groups on a Dask cluster of its own, which has loaded its models before
the clock starts; the settings take turns, `--rounds` times. Prints the seconds of each and the ratios of their medians.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from dct_augment import config as configuration
from dct_augment.config import Config
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import TokenStage
from flows import augment, runners, server

SETTINGS = {"1 worker, 1 thread": (1, 1), "1 worker, 2 threads": (1, 2), "2 workers, 1 thread each": (2, 1)}
"""Worker processes, and threads of each."""


def config(folder: Path, workers: int, *, updates: int, classes: list[str] | None, warm: bool) -> Config:
    settings = ["runner.kind=dask", f"runner.workers={workers}", "tokens.restarts=0", "tokens.patience=100"]
    if warm:  # as many units as there are workers: each loads its models
        settings += ["tokens.classes_per_work_unit=1", "tokens.max_updates=1"]
    else:
        settings += ["tokens.classes_per_work_unit=2", f"tokens.max_updates={updates}", "tokens.plain_first=false"]
        settings += ["tokens.target_accuracy=1.0", "tokens.certificate_looks=1"]
        settings += ["tokens.target_probability=1.0"]
    chosen = ["crane", "kiwi"][:workers] if warm else classes
    return configuration.load("pocket", settings, output=folder, classes=chosen)


def seconds(folder: Path, workers: int, threads: int, updates: int, classes: list[str] | None) -> float:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    spent = 0.0
    with runners.make(config(folder, workers, updates=updates, classes=classes, warm=True)) as runner:
        for warm in (True, False):
            place = folder / ("warm" if warm else "timed")
            run = Run(config(place, workers, updates=updates, classes=classes, warm=warm))
            began = time.monotonic()
            augment.run_stages(run, [TokenStage(run)], runner)
            spent = time.monotonic() - began
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=10, help="of each class; none stops early")
    parser.add_argument("--classes", help="comma-separated; all if not given")
    options = parser.parse_args()
    classes = options.classes.split(",") if options.classes else None
    server.ensure_server(Path("runs"), print)
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for turn in range(options.rounds):
        for name, (workers, threads) in SETTINGS.items():
            folder = Path(tempfile.mkdtemp())
            times[name].append(seconds(folder, workers, threads, options.updates, classes))
            shutil.rmtree(folder)
            print(f"round {turn + 1}, {name}: {times[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    two = medians.pop("2 workers, 1 thread each")
    for name, one in medians.items():
        print(f"2 workers, 1 thread each, against {name}: {one / two:.2f} times as fast")


if __name__ == "__main__":
    main()
