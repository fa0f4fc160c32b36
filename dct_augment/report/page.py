"""The last stage: what a run showed, as one page for people and one JSON file for machines.

The page shows the numbers of the JSON file and computes none of its own.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from dct_augment import files
from dct_augment.config import Config, dump
from dct_augment.generation.shards import ShardFolder
from dct_augment.metrics import accuracy
from dct_augment.records import ClassInfo
from dct_augment.report import charts, confusion_matrices, thumbnails
from dct_augment.report.summary import KINDS, Tables, summarize

CHARTS_BUDGET = 800_000
"""Characters of training curves in the page: some 120 classes."""

NAMED_GAINS = 40
"""Up to so many classes the chart of gains names them."""

ROWS = 500
"""Classes in a table of the page; the others are in summary.json."""

_DASH, _MINUS, _THIN = "\u2013", "\u2212", "\u202f"


def build(
    root: Path,
    *,
    config: Config,
    classes: Sequence[ClassInfo],
    facts: Mapping[str, str],
    tokens: pd.DataFrame,
    shards: ShardFolder,
    benchmark: Mapping[str, Any],
    metrics: pd.DataFrame | None = None,
    filtered: pd.DataFrame | None = None,
) -> Path:
    """Write `report/summary.json`, then `report/index.html`, under `root`; return the page's path.

    All tables may be empty: the page then says which command makes them. `benchmark` is `comparisons.summarize`,
    `metrics` has a row per kind and metric of generated images, `filtered` one per image that the filter looked at.

    Raises:
        ShardError: a shard cannot be read.
    """
    rows = {kind: shards.rows(split) for kind, split in KINDS.items()}
    none = pd.DataFrame()
    tables = Tables(
        tokens, rows, benchmark, none if metrics is None else metrics, none if filtered is None else filtered
    )  # fmt: skip
    summary = summarize(config, classes, facts=facts, tables=tables)
    page = _environment().get_template("report.html.j2").render(
        summary=summary,
        config=dump(config),
        kinds=tuple(KINDS),
        limit=ROWS,
        pictures=_pictures(classes, rows, shards, config.report.strip),
        slugs={title: info.slug for info, title in _titled(classes)},
        curves=_curves(classes, summary["classes"]),
        benchmark_charts=_benchmark_charts(summary["benchmark"]),
        gain_chart=_gain_chart(summary),
        by_gain=_by_gain(summary),
        matrices=_matrices(summary),
    )  # fmt: skip
    files.write_text(root / "report" / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    path = root / "report" / "index.html"
    files.write_text(path, page)
    return path


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


def _titled(classes: Sequence[ClassInfo]) -> list[tuple[ClassInfo, str]]:
    titles = accuracy.titles(classes)
    return [(info, titles[info.index]) for info in classes]


def _pictures(
    classes: Sequence[ClassInfo], rows: Mapping[str, pd.DataFrame], shards: ShardFolder, count: int
) -> dict[str, dict[str, thumbnails.ThumbnailRow]]:
    wanted = {info.index: thumbnails.numbers(list(rows.values()), info.index, count) for info in classes}
    tiles = {kind: thumbnails.collect(shards, split, rows[kind], wanted) for kind, split in KINDS.items()}
    sets = {
        title: {kind: tiles[kind][info.index] for kind in KINDS if info.index in tiles[kind]}
        for info, title in _titled(classes)
    }
    return thumbnails.fit({title: kinds for title, kinds in sets.items() if kinds})


def _curves(classes: Sequence[ClassInfo], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Markup]:
    """A chart for each class with a history, in order, until the budget is spent."""
    trained = {title: (info, facts[title]["token"]) for info, title in _titled(classes) if facts[title]["token"]}
    highest = max((loss for _, token in trained.values() for loss in token["losses"] if loss is not None), default=1.0)
    drawn: dict[str, Markup] = {}
    budget = CHARTS_BUDGET
    for title, (info, token) in trained.items():
        losses = [loss for loss in token["losses"] if loss is not None]
        if not losses:
            continue
        validations = [(update, accuracy) for update, accuracy in token["validations"]]
        data = charts.Training(losses, validations, token["plain_guide_accuracy"])
        label = f"{title}: loss and validation accuracy over {len(losses)} updates"
        chart = charts.training(data, name=f"curve-{info.slug}", label=label, highest_loss=highest * 1.05)
        budget -= len(chart)
        if budget < 0:
            break
        drawn[title] = chart
    return drawn


def _benchmark_charts(bench: Mapping[str, Any]) -> dict[str, Markup]:
    """Charts by name, of what there is: `arms`, `paired`, and the curves `shots` and `per_class`."""
    drawn: dict[str, Markup] = {}
    if not bench["arms"]:
        return drawn
    arms = _ordered(bench["arms"])
    drawn["arms"] = charts.arms(
        arms, {arm: list(bench["trials"][arm].values()) for arm in arms}, name="benchmark-arms",
        label="Test accuracy of every arm with its 95 % interval and single trials; the table below has the numbers",
    )  # fmt: skip
    if pairs := [pair for pair in bench["paired"].values() if pair["n"]]:
        label = "Paired differences of arms in points with 95 % intervals; the table below has the numbers"
        drawn["paired"] = charts.differences(pairs, name="benchmark-paired", label=label)
    for by, axis in (("shots", "real images per class"), ("per_class", "synthetic images per class")):
        curve = bench["curves"][by]
        if len({point[by] for points in curve["arms"].values() for point in points}) > 1:
            drawn[by] = charts.curves(
                _ordered(curve["arms"]), by, axis=axis, name=f"benchmark-{by}", reference=curve.get("reference"),
                label=f"Test accuracy of every arm against {axis}, with 95 % bands; the table below has the numbers",
            )  # fmt: skip
    return drawn


def _ordered(by_arm: Mapping[str, Any]) -> dict[str, Any]:
    """The arms in the order of the page; those that it does not know last."""
    known = [arm for arm in charts.ARM_STYLES if arm in by_arm]
    return {arm: by_arm[arm] for arm in [*known, *(arm for arm in by_arm if arm not in charts.ARM_STYLES)]}


def _gain_chart(summary: Mapping[str, Any]) -> Markup | None:
    """Gains of all classes, by the judge if it has looked."""
    gains = summary["gains"]
    who = "judge" if gains["judge"] else "guide"
    names = gains[who]
    if not names:
        return None
    label = f"Recognition by the {who}, plain prompt to class token, of {len(names)} classes from the largest gain"
    if len(names) > NAMED_GAINS:
        values = [gains["of"][name][who]["mean"] for name in names]
        return charts.many_gains(values, name="gains", label=f"{label}; the table below has the numbers")
    shares = {
        name: tuple(summary["classes"][name][kind][f"{who}_accuracy"] for kind in ("plain_prompt", "class_token"))
        for name in names
    }
    return charts.gains(shares, name="gains", label=f"{label}; the table below has the numbers")


def _by_gain(summary: Mapping[str, Any]) -> list[str]:
    """All classes, the largest gain first, those without one last."""
    names = summary["gains"]["judge"] or summary["gains"]["guide"]
    return list(dict.fromkeys([*names, *summary["classes"]]))


def _matrices(summary: Mapping[str, Any]) -> dict[str, dict[str, confusion_matrices.Matrix]]:
    """Matrices of the generated images by kind (`images`), and of the few-shot classifiers by arm (`benchmark`)."""
    images = {kind: summary["confusion"][kind] for kind in KINDS if kind in summary["confusion"]}
    drawn = {"images": images, "benchmark": summary["benchmark"]["confusion"]}
    return {name: {key: confusion_matrices.draw(one) for key, one in group.items()} for name, group in drawn.items()}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dct_augment.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent, "points": _points, "interval": _interval, "p_value": _p_value, "number": _number,
        "arm_style": charts.arm_style, "ordered": _ordered,
        "arm_order": lambda arms: list(_ordered(dict.fromkeys(arms))),
    }  # fmt: skip
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    return _DASH if share is None else f"{share * 100:.{digits}f}{_THIN}%"


def _points(difference: float | None) -> str:
    return _DASH if difference is None else f"{difference * 100:+.1f}".replace("-", _MINUS)


def _number(value: float | None, digits: int) -> str:
    return _DASH if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def _p_value(value: float | None) -> str:
    if value is None:
        return _DASH
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.1 else f"{value:.3f}"


def _interval(ends: Sequence[float | None], *, signed: bool = False, digits: int | None = None) -> str:
    """As shares in percent; `signed` as differences in points; with `digits` as plain numbers."""
    low, high = ends
    if low is None or high is None:
        return _DASH
    if digits is not None:
        return f"{_number(low, digits)} to {_number(high, digits)}"
    return f"{_points(low)} to {_points(high)}" if signed else f"{low * 100:.1f}{_DASH}{high * 100:.1f}{_THIN}%"
