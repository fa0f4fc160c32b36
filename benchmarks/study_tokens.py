"""How good the class tokens of the rows of a study of classifiers are; by the certificates of all draws.

    OMP_NUM_THREADS=1 python -m benchmarks.study_tokens --tuning --shots 5 --datasets digits

The study must have run (`dct-augment study gain` with the same options): this reads what its arms have left. The judge
has no part in training; it sees images from fresh noise, of every class of every draw. Intervals are over draws, as are
the paired differences from the row `--against`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dct_augment.benchmark.arms import ARMS, ArmDraw
from dct_augment.config.studies import load_study
from dct_augment.intervals import mean_t
from dct_augment.pipeline import Run
from dct_augment.studies import plan
from dct_augment.studies.findings import points
from dct_augment.studies.plan import PlannedRun
from dct_augment.tokens.files import TokenFolder

_COLUMNS = ("judge_accuracy", "plain_judge_accuracy", "guide_accuracy", "unet_evaluations")


def main() -> None:
    """Print a table for each place of the study."""
    options = parser("benchmarks.study_tokens", __doc__).parse_args()
    for place, rows in read(planned_runs(options)).items():
        _print(place, rows, options.against)


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """Make a parser of which rows and draws of a study to read."""
    options = argparse.ArgumentParser(prog=f"python -m {module}", description=description.splitlines()[0])
    options.add_argument("--study", default="gain")
    options.add_argument("--tuning", action="store_true", help="the draws on which settings are chosen")
    options.add_argument("--shots", type=lambda text: [int(part) for part in text.split(",")])
    for option in ("--datasets", "--recipes", "--rows"):
        options.add_argument(option, type=lambda text: text.split(","))
    options.add_argument("--against", default="tokens", help="the row that others are compared with")
    options.add_argument("--output", type=Path, help="folder of the study; runs/studies/NAME if not given")
    return options


def planned_runs(options: argparse.Namespace) -> Sequence[PlannedRun]:
    """Plan the runs of the study that are asked for, as the study itself does."""
    study = load_study(options.study)
    study = study.narrowed(shots=options.shots, datasets=options.datasets, recipes=options.recipes, rows=options.rows)
    root = options.output or Path("runs/studies") / options.study
    draws = study.tuning if options.tuning else study.draws
    return list(plan.runs(study, draws, root / "tuning" if options.tuning else root))


def read(runs: Sequence[PlannedRun]) -> dict[str, dict[str, pd.DataFrame]]:
    """Read the means over classes of each draw (draws by columns): by place of the study, and by row."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for planned in runs:
        for row, arm in planned.arm_of.items():
            if ARMS[arm].tokens_from and len(means := _means(planned, arm)):
                found.setdefault(planned.cell.title, {})[row] = means
    return found


def _means(planned: PlannedRun, arm: str) -> pd.DataFrame:
    paths, settings = Run(planned.config).arm_paths, planned.config.benchmark
    rows = {}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        index = TokenFolder(paths.tokens(ArmDraw(arm, planned.cell.shots, seed)), "").index()
        if len(index):
            rows[seed] = index.reindex(columns=_COLUMNS).astype(float).mean()
    return pd.DataFrame(rows).T


def _print(place: str, rows: dict[str, pd.DataFrame], against: str) -> None:
    head = (place, "judge, %", f"points over `{against}`", "plain prompt, %", "guide, %", "evaluations a class")
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row, table in rows.items():
        other = rows.get(against)
        differences = (table["judge_accuracy"] - other["judge_accuracy"]).dropna() if other is not None else ()
        cells = (
            f"`{row}`",
            _percent(table["judge_accuracy"]),
            points(mean_t(list(differences), (-1, 1))) if len(differences) and row != against else "-",
            _percent(table["plain_judge_accuracy"]),
            _percent(table["guide_accuracy"]),
            f"{table['unet_evaluations'].mean():,.0f}",
        )
        print(f"| {' | '.join(cells)} |")


def _percent(shares: pd.Series) -> str:
    if shares.isna().any():  # without a judge
        return "-"
    share = mean_t(list(shares), (0, 1))
    return f"{100 * share.mean:.1f} ({100 * share.low:.1f} .. {100 * share.high:.1f})"


if __name__ == "__main__":
    main()
