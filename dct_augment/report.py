"""The last stage: what a run showed, as one page for people and one JSON file for machines.

The page shows the numbers of the JSON file and computes none of its own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from dct_augment import charts, files, strips
from dct_augment.config import Config, dump
from dct_augment.records import ClassInfo
from dct_augment.shards import PLAIN, TRAIN, ShardFolder
from dct_augment.statistics import Estimate, mean_t, proportion

SCHEMA_VERSION = 1

KINDS = {"plain_prompt": PLAIN, "class_token": TRAIN}
"""The two ways to draw a class, and the shard split of each."""

PAIRS = (
    ("class_token", "real+strong_aug"),
    ("class_token", "plain_prompt"),
    ("plain_prompt", "real+strong_aug"),
    ("real+strong_aug", "real"),
)
"""Arms that are compared on the same seeds. The first two answer what the run is for."""

_ACCURACY_METHOD = (
    "mean: over classes, of the share of images recognised as their class; ci95: Wilson's interval of the share of "
    "all n images; failed images are left out; difference: class_token minus plain_prompt class by class, "
    "over the classes that have both, with Student's t interval"
)
_BENCHMARK_METHOD = "mean over seeds with Student's t interval; paired: difference of two arms on the same seeds"

CHARTS_BUDGET = 1_000_000
"""Bytes of training curves in the page: some 150 classes."""

_DASH, _MINUS = "\u2013", "\u2212"

_TOKEN_FACTS = (
    "token", "usable", "stop_reason", "updates", "attempts", "unet_evaluations", "effect", "norm",
    "plain_guide_accuracy", "guide_accuracy", "plain_guide_probability", "guide_probability",
    "plain_judge_accuracy", "judge_accuracy",
)  # fmt: skip


def build(
    root: Path,
    *,
    config: Config,
    classes: Sequence[ClassInfo],
    facts: Mapping[str, str],
    tokens: pd.DataFrame,
    shards: ShardFolder,
    trials: pd.DataFrame,
) -> Path:
    """Write `report/summary.json`, then `report/index.html`, under `root`; return the page's path.

    `tokens`, `shards` and `trials` may be empty: the page then says which command makes them.

    Raises:
        ShardError: a shard cannot be read.
    """
    rows = {kind: shards.rows(split) for kind, split in KINDS.items()}
    summary = summarize(config, classes, facts=facts, tokens=tokens, rows=rows, trials=trials)
    page = _environment().get_template("report.html.j2").render(
        summary=summary,
        config=dump(config),
        kinds=tuple(KINDS),
        pictures=_pictures(classes, rows, shards, config.report.strip),
        slugs={info.name: info.slug for info in classes},
        curves=_curves(classes, tokens),
        chart=_chart(trials),
        pairs=[f"{arm}-{baseline}" for arm, baseline in PAIRS],
    )  # fmt: skip
    files.write_text(root / "report" / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    path = root / "report" / "index.html"
    files.write_text(path, page)
    return path


def summarize(
    config: Config,
    classes: Sequence[ClassInfo],
    *,
    facts: Mapping[str, str],
    tokens: pd.DataFrame,
    rows: Mapping[str, pd.DataFrame],
    trials: pd.DataFrame,
) -> dict[str, Any]:
    """Every number of the report as strict JSON: what is unknown or not finite is None."""
    names = [info.name for info in classes]
    homonyms = [info.name for info in classes if info.homonym]
    seen = {kind: _verdicts(table, names) for kind, table in rows.items()}
    summary: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "name": config.name,
        "dataset": config.dataset.name,
        "guide": " + ".join(member.name for member in config.guide),
        "judge": " + ".join(member.name for member in config.judge) if config.judge else None,
    }
    for who in ("judge", "guide"):
        summary[f"{who}_accuracy"] = _compare(seen, who, names)
        if homonyms:
            summary[f"{who}_accuracy_homonyms"] = _compare(seen, who, homonyms)
    summary["images"] = {kind: _counts(table) for kind, table in seen.items()}
    summary["classes"] = {info.name: _class(info, seen, tokens) for info in classes}
    summary["benchmark"] = _benchmark(trials)
    summary["seeds"] = {
        section: getattr(config, section).seed for section in ("tokens", "generation", "benchmark")
    }  # fmt: skip
    summary["facts"] = dict(facts)
    strict: dict[str, Any] = _strict(summary)
    return strict


def headlines(root: Path) -> list[tuple[str, float, str]]:
    """What a run showed, from its `report/summary.json`: title, mean, and 95 % interval in words."""
    summary = json.loads((root / "report" / "summary.json").read_text(encoding="utf-8"))
    groups = (
        ("judge, ", summary["judge_accuracy"]),
        ("arm ", summary["benchmark"].get("arms", {})),
        ("gain ", summary["benchmark"].get("paired", {})),
    )
    found = []
    for title, group in groups:
        for name, value in group.items():
            if isinstance(value, dict) and value.get("mean") is not None:
                low, high = ("-" if edge is None else f"{edge:.1%}" for edge in value["ci95"])
                found.append((title + name, float(value["mean"]), f"{low} .. {high}"))
    return found


def _verdicts(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row per image: `class_name`, `ok`, and under `guide` and `judge` 1 right, 0 wrong, NaN not judged."""
    if rows.empty:
        return pd.DataFrame({"class_name": [], "ok": [], "guide": [], "judge": []})
    rows = rows[rows["class_name"].isin(names)]
    table = rows[["class_name"]].assign(ok=rows["status"] == "ok")
    for who in ("guide", "judge"):
        labels = rows[f"{who}_label"].fillna("").map(_normal)
        right = (labels == rows["class_name"].map(_normal)).astype(float)
        table[who] = right.where(table["ok"] & (labels != ""))
    return table


def _normal(label: str) -> str:
    return label.strip().lower().replace("_", " ")


def _compare(seen: Mapping[str, pd.DataFrame], who: str, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy of both kinds over these classes, and their difference class by class."""
    means = {
        kind: table[table["class_name"].isin(names)].groupby("class_name")[who].mean().dropna()
        for kind, table in seen.items()
    }
    compared: dict[str, Any] = {}
    for kind, table in seen.items():
        pooled = _share(table.loc[table["class_name"].isin(names), who])
        mean = round(float(means[kind].mean()), 4) if pooled.count else None
        compared[kind] = _json(pooled) | {"mean": mean, "classes": len(means[kind])}
    gaps = (means["class_token"] - means["plain_prompt"]).dropna().tolist()
    return compared | {"difference": _json(mean_t(gaps) if gaps else None), "method": _ACCURACY_METHOD}


def _class(info: ClassInfo, seen: Mapping[str, pd.DataFrame], tokens: pd.DataFrame) -> dict[str, Any]:
    facts: dict[str, Any] = {"homonym": info.homonym}
    for kind, table in seen.items():
        mine = table[table["class_name"] == info.name]
        judge, guide = (_json(_share(mine[who])) for who in ("judge", "guide"))
        facts[kind] = _counts(mine) | {
            "judge_accuracy": judge["mean"],
            "ci95": judge["ci95"],
            "guide_accuracy": guide["mean"],
            "guide_ci95": guide["ci95"],
        }
    found = [row for row in tokens.to_dict("records") if row["class"] == info.name]
    facts["token"] = {key: found[0].get(key) for key in _TOKEN_FACTS} if found else None
    return facts


def _counts(table: pd.DataFrame) -> dict[str, int]:
    finished = int(table["ok"].sum())
    return {"n": finished, "failed": len(table) - finished}


def _benchmark(trials: pd.DataFrame) -> dict[str, Any]:
    facts: dict[str, Any] = {"shots": None, "steps": None, "seeds": [], "arms": {}, "paired": {}}
    facts["method"] = _BENCHMARK_METHOD
    if not trials.empty:
        for key in ("shots", "steps"):
            values = sorted({int(value) for value in trials[key]})
            facts[key] = values[0] if len(values) == 1 else values
        facts["seeds"] = sorted({int(seed) for seed in trials["seed"]})
        facts["seconds"] = float(trials["seconds"].sum())
        facts["arms"] = {arm: _json(estimate) for arm, estimate in _arms(trials).items()}
    for arm, baseline in PAIRS:
        facts["paired"][f"{arm}-{baseline}"] = _json(_paired(trials, arm, baseline))
    return facts


def _arms(trials: pd.DataFrame) -> dict[str, Estimate]:
    return {str(arm): mean_t(group["accuracy"].tolist()) for arm, group in trials.groupby("arm", sort=False)}


def _paired(trials: pd.DataFrame, arm: str, baseline: str) -> Estimate | None:
    """Mean difference of two arms over the draws they share; None if they share none."""
    if trials.empty:
        return None
    table = trials.pivot_table(index=["shots", "seed"], columns="arm", values="accuracy")
    if arm not in table or baseline not in table:
        return None
    gaps = (table[arm] - table[baseline]).dropna().tolist()
    return mean_t(gaps) if gaps else None


def _share(right: pd.Series) -> Estimate:
    counted = right.dropna()
    return proportion(int(counted.sum()), len(counted))


def _json(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None or estimate.count == 0:
        return {"mean": None, "ci95": [None, None], "n": 0}
    return dict(_strict(estimate.as_json()))


def _strict(value: Any) -> Any:
    """The value with numpy's numbers as Python's, and None for what JSON cannot say."""
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pictures(
    classes: Sequence[ClassInfo], rows: Mapping[str, pd.DataFrame], shards: ShardFolder, count: int
) -> dict[str, dict[str, strips.Strip]]:
    wanted = {info.name: strips.numbers(list(rows.values()), info.name, count) for info in classes}
    tiles = {kind: strips.collect(shards, split, rows[kind], wanted) for kind, split in KINDS.items()}
    sets = {name: {kind: tiles[kind][name] for kind in KINDS if name in tiles[kind]} for name in wanted}
    return strips.fit({name: kinds for name, kinds in sets.items() if kinds})


def _curves(classes: Sequence[ClassInfo], tokens: pd.DataFrame) -> dict[str, str]:
    """A chart for each class with a history, in order, until the budget is spent."""
    trained = {row["class"]: row for row in tokens.to_dict("records")}
    histories = {info: _history(trained[info.name]) for info in classes if info.name in trained}
    highest = max((loss for data in histories.values() for loss in data.losses), default=1.0) * 1.05
    drawn: dict[str, str] = {}
    budget = CHARTS_BUDGET
    for info, data in histories.items():
        if not data.losses:
            continue
        label = f"{info.name}: loss and validation accuracy over {len(data.losses)} updates"
        chart = charts.training(data, name=f"curve-{info.slug}", label=label, highest_loss=highest)
        budget -= len(chart)
        if budget < 0:
            break
        drawn[info.name] = chart
    return drawn


def _history(row: Mapping[str, Any]) -> charts.Training:
    losses = [float(loss) for loss in row["losses"] if math.isfinite(loss)]
    validations = [(int(seen["update"]), float(seen["accuracy"])) for seen in json.loads(row["validations"])]
    plain = row["plain_guide_accuracy"]
    return charts.Training(losses, validations, None if pd.isna(plain) else float(plain))


def _chart(trials: pd.DataFrame) -> str:
    if trials.empty:
        return ""
    singles = {str(arm): group["accuracy"].tolist() for arm, group in trials.groupby("arm", sort=False)}
    label = "Test accuracy of every arm with its 95 % interval and single trials; the table below has the numbers"
    return charts.arms(_arms(trials), singles, name="benchmark-arms", label=label)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dct_augment", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "interval": _interval}
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    return _DASH if share is None else f"{share * 100:.{digits}f}\u202f%"


def _points(difference: float | None) -> str:
    return _DASH if difference is None else f"{difference * 100:+.1f}".replace("-", _MINUS)


def _interval(ends: Sequence[float | None], *, signed: bool = False) -> str:
    low, high = ends
    if low is None or high is None:
        return _DASH
    return f"{_points(low)} to {_points(high)}" if signed else f"{low * 100:.1f}{_DASH}{high * 100:.1f}\u202f%"
