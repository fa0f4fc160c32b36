"""How much a result varies from one training of the tokens to the next: the whole benchmark with several token seeds.

    OMP_NUM_THREADS=1 python -m benchmarks.token_seeds digits --seeds 5

Tokens, images and classifiers are made anew for each seed. The interval that one run prints is over few-shot draws
with the same images; the last line here is over trainings, each with tokens and images of its own. The number of
threads changes the last bits of torch's sums, and training magnifies them: another number of threads is like another
seed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dct_augment import config as configuration
from dct_augment.intervals import mean_t
from dct_augment.pipeline import Run

ARMS = ("real+strong_aug", "class_token")


def main() -> None:
    """Run what is missing, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_seeds", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="name of a configuration, or path to a YAML file")
    parser.add_argument("--seeds", type=int, default=5, help="token seeds, 2 or more")
    parser.add_argument("--output", type=Path, default=Path("runs/token-seeds"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    summaries = [_run(options.config, seed, options.output, options.overrides) for seed in range(options.seeds)]
    rows = [_accuracies(summary) for summary in summaries]
    print("| token seed | judge accuracy | real+strong_aug | class_token | gain, points |")
    print("|---|---|---|---|---|")
    for seed, row in enumerate(rows):
        print(f"| {seed} | " + " | ".join(f"{100 * value:.1f}" for value in row) + " |")
    columns = zip(*rows, strict=True)
    print("| mean (95 % interval over trainings) | " + " | ".join(map(_interval, columns)) + " |")


def _run(config: str, seed: int, output: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The summary of one benchmark; a second call reuses finished work."""
    folder = output / f"{Path(config).stem}-{seed}"
    settings = [
        f"tokens.seed={seed}",
        f"generation.seed={seed}",
        f"benchmark.arms=[{', '.join(ARMS)}]",
        "metrics.features=null",
        *overrides,
    ]
    run = Run(configuration.load(config, settings, output=folder))
    run.benchmark()
    run.report()
    return dict(json.loads((folder / "report" / "summary.json").read_text(encoding="utf-8")))


def _accuracies(summary: dict[str, Any]) -> tuple[float, ...]:
    arms = summary["benchmark"]["arms"]
    real, token = (arms[arm]["mean"] for arm in ARMS)
    return summary["judge_accuracy"]["class_token"]["mean"], real, token, token - real


def _interval(values: Sequence[float]) -> str:
    estimate = mean_t(values)
    return f"{100 * estimate.mean:.1f} ({100 * estimate.low:.1f} .. {100 * estimate.high:.1f})"


if __name__ == "__main__":
    main()
