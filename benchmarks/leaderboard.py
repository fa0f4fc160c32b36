"""The tables of README and RESULTS.md, in Markdown, from the summaries of finished runs.

python -m benchmarks.leaderboard runs/pocket runs/digits
python -m benchmarks.leaderboard runs/pocket runs/digits --details
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

Summary = Mapping[str, Any]

KINDS = ("plain_prompt", "class_token")
METRICS = ("judge_top1", "fid", "kid", "precision", "recall", "density", "coverage", "diversity")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--details", action="store_true", help="also paired differences, curves and metrics")
    options = parser.parse_args()
    runs = [_read(run / "report") for run in options.runs]
    _table(
        ["judge accuracy", *(f"{summary['name']}, {kind}" for summary in runs for kind in ("plain", "token"))],
        _recognised(runs),
    )
    _table(["test accuracy", *(summary["name"] for summary in runs)], _arms(runs))
    if options.details:
        for summary in runs:
            _details(summary)


def _read(report: Path) -> Summary:
    """The summary of a run, with the least that the judge recognises of any class, by kind."""
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    table = pd.read_csv(report / summary["files"]["classes"])
    return {**summary, "worst_class": {kind: _worst(table, kind) for kind in KINDS}}


def _worst(table: pd.DataFrame, kind: str) -> dict[str, Any]:
    worst = table.loc[table[f"{kind}.judge_accuracy"].idxmin()]
    return {"mean": worst[f"{kind}.judge_accuracy"], "ci95": [worst[f"{kind}.low"], worst[f"{kind}.high"]]}


def _recognised(runs: Sequence[Summary]) -> Iterable[list[str]]:
    yield ["all classes", *(_interval(summary["judge_accuracy"][kind]) for summary in runs for kind in KINDS)]
    homonyms = [summary.get("judge_accuracy_homonyms") or {} for summary in runs]
    yield ["ambiguous words", *(_interval(summary.get(kind)) for summary in homonyms for kind in KINDS)]
    yield ["worst class", *(_interval(summary["worst_class"][kind]) for summary in runs for kind in KINDS)]


def _arms(runs: Sequence[Summary]) -> Iterable[list[str]]:
    benches = [summary["benchmark"] for summary in runs]
    for arm in dict.fromkeys(arm for bench in benches for arm in bench["arms"]):
        yield [f"`{arm}`", *(_interval(bench["arms"].get(arm)) for bench in benches)]
    for name in ("class_token-real+strong_aug", "class_token_few_shot_guide-real+strong_aug"):
        arm, baseline = (f"`{part}`" for part in name.rsplit("-", 1))
        yield [f"{arm} - {baseline}, points", *(_gap(bench["paired"][name]) for bench in benches)]


def _details(summary: Summary) -> None:
    bench, name = summary["benchmark"], summary["name"]
    rows = [
        [f"`{pair['arm']}` - `{pair['baseline']}`", _gap(pair), f"{pair['sign_p']:.3f}", f"{pair['permutation_p']:.3f}"]
        for pair in bench["paired"].values()
        if pair["n"]
    ]
    _table([f"{name}: paired differences", "points", "sign p", "permutation p"], rows)
    for by, title in (("shots", "shots"), ("per_class", "synthetic per class")):
        curves = {arm: {point[by]: point for point in points} for arm, points in bench["curves"][by]["arms"].items()}
        places = sorted({place for points in curves.values() for place in points})
        rows = [[f"`{arm}`", *(_interval(points.get(place)) for place in places)] for arm, points in curves.items()]
        _table([f"{name}: test accuracy by {title}", *map(str, places)], rows)
    values, kinds = summary["metrics"]["values"], summary["metrics"]["kinds"]
    metrics = [metric for metric in METRICS if metric in values]
    _table(
        [f"{name}: metric", *kinds],
        [[metric, *(_measured(values[metric].get(kind)) for kind in kinds)] for metric in metrics],
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


def _interval(point: Mapping[str, Any] | None) -> str:
    if not point or point["mean"] is None:
        return "-"
    low, high = (f"{end * 100:.1f}" for end in point["ci95"])
    return f"{_share(point['mean'])} ({low} .. {high})"


def _gap(pair: Mapping[str, Any]) -> str:
    if pair["mean"] is None:
        return "- -"
    low, high = (f"{end * 100:+.1f}" for end in pair["ci95"])
    return f"{pair['mean'] * 100:+.1f} ({low} .. {high})"


def _measured(value: Mapping[str, Any] | None) -> str:
    if not value:
        return "-"
    low, high = value["ci95"]
    return f"{value['value']:.3g} ({low:.3g} .. {high:.3g})"


if __name__ == "__main__":
    main()
