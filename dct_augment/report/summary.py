"""Every number of the report, as strict JSON. The page shows these and computes none of its own."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dct_augment.config import Config
from dct_augment.generation.shards import PLAIN, TRAIN
from dct_augment.intervals import Estimate, estimate
from dct_augment.metrics import accuracy
from dct_augment.metrics.accuracy import ROLES
from dct_augment.records import ClassInfo

SCHEMA_VERSION = 2

KINDS = {"plain_prompt": PLAIN, "class_token": TRAIN}
"""The two ways to draw a class, and the shard split of each."""

METRICS = (
    "judge_top1", "judge_top5", "guide_top1", "guide_top5", "fid", "kid", "precision", "recall", "density", "coverage",
    "diversity",
)  # fmt: skip
"""Metrics of generated images, in the order of the page."""

VERDICTS = ("certified", "no_gain", "collapsed", "diverged")

_TOKEN_FACTS = (
    "token", "usable", "stop_reason", "updates", "attempts", "unet_evaluations", "effect", "norm",
    "plain_guide_accuracy", "guide_accuracy", "guide_probability",
    "plain_judge_accuracy", "judge_accuracy", "verdict", "diversity", "plain_diversity",
)  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """What the stages left behind; each may be empty.

    `rows` are the shard rows by kind (`KINDS`), `benchmark` is `comparisons.summarize`; `filtered` has a row per image
    that the filter looked at.
    """

    tokens: pd.DataFrame
    rows: Mapping[str, pd.DataFrame]
    benchmark: Mapping[str, Any]
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    filtered: pd.DataFrame = field(default_factory=pd.DataFrame)


def summarize(
    config: Config, classes: Sequence[ClassInfo], *, facts: Mapping[str, str], tables: Tables
) -> dict[str, Any]:
    """The report's numbers: what is unknown or not finite is None."""
    seen = {kind: accuracy.image_table(rows, classes) for kind, rows in tables.rows.items()}
    titles = accuracy.titles(classes)
    summary: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "name": config.name,
        "dataset": config.dataset.name,
        "guide": " + ".join(member.name for member in config.guide),
        "judge": " + ".join(member.name for member in config.judge) if config.judge else None,
    }
    summary |= _accuracies(seen, classes)
    summary["images"] = {kind: _counts(table) for kind, table in seen.items()}
    summary["gains"] = _gains(seen, titles)
    summary["classes"] = {titles[info.index]: _class(info, seen, summary["gains"], tables.tokens) for info in classes}
    summary["certificates"] = _certificates(summary["classes"])
    summary["confusion"] = _confusions(seen, classes)
    summary["benchmark"] = dict(tables.benchmark)
    summary["metrics"] = _metrics(tables.metrics)
    summary["filter"] = _filter(tables.filtered, tables.rows["class_token"], titles)
    summary["seeds"] = {
        section: getattr(config, section).seed for section in ("tokens", "generation", "benchmark")
    }  # fmt: skip
    summary["facts"] = dict(facts)
    return dict(json_value(summary))


def _accuracies(seen: Mapping[str, pd.DataFrame], classes: Sequence[ClassInfo]) -> dict[str, Any]:
    homonyms = [info.index for info in classes if info.homonym]
    accuracies = {}
    for who in ROLES:
        accuracies[f"{who}_accuracy"] = accuracy.compare(seen, who, [info.index for info in classes])
        if homonyms:
            accuracies[f"{who}_accuracy_homonyms"] = accuracy.compare(seen, who, homonyms)
    return accuracies


def _gains(seen: Mapping[str, pd.DataFrame], titles: Mapping[int, str]) -> dict[str, Any]:
    """Per class, and which classes gain most: `judge` and `guide` have their names in that order."""
    gains: dict[str, Any] = {"method": accuracy.GAIN_METHOD, "of": {title: {} for title in titles.values()}}
    for who in ROLES:
        of = {title: accuracy.gain(seen, who, index) for index, title in titles.items()}
        gains[who] = accuracy.by_gain(of)
        for title, value in of.items():
            gains["of"][title][who] = estimate(value)
    return gains


def _class(
    info: ClassInfo, seen: Mapping[str, pd.DataFrame], gains: Mapping[str, Any], tokens: pd.DataFrame
) -> dict[str, Any]:
    facts: dict[str, Any] = {"homonym": info.homonym}
    for kind, table in seen.items():
        mine = table[table["class_index"] == info.index]
        judge, guide = (estimate(accuracy.share(mine[who])) for who in ("judge", "guide"))
        facts[kind] = _counts(mine) | {
            "judge_accuracy": judge["mean"],
            "ci95": judge["ci95"],
            "guide_accuracy": guide["mean"],
            "guide_ci95": guide["ci95"],
        }
    mine = tokens[tokens["slug"] == info.slug].to_dict("records") if len(tokens) else []
    facts["token"] = _token(mine[0]) if mine else None
    return facts


def _token(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the token index; an imported token has no certificate, which parquet keeps as None or NaN."""
    facts = {key: None if _unknown(row[key]) else row[key] for key in _TOKEN_FACTS}
    for prefix in ("", "judge_"):
        mean, low, high = (row[f"{prefix}gain{end}"] for end in ("", "_low", "_high"))
        facts[f"{prefix}gain"] = {"mean": mean, "ci95": [low, high]}
    spread, plain = facts["diversity"], facts["plain_diversity"]
    facts["diversity_kept"] = round(spread / plain, 4) if spread is not None and plain else None
    facts["losses"] = [round(float(loss), 4) for loss in row["losses"]]
    facts["validations"] = [
        [int(seen["update"]), round(float(seen["accuracy"]), 4)] for seen in json.loads(row["validations"])
    ]
    return facts


def _unknown(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _counts(table: pd.DataFrame) -> dict[str, int]:
    finished = int(table["ok"].sum())
    return {"n": finished, "failed": len(table) - finished, "fallback": int(table["fallback"].sum())}


def _certificates(classes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many tokens have which verdict, and the classes whose images were drawn with the plain prompt instead."""
    tokens = [facts["token"] for facts in classes.values() if facts["token"]]
    known = Counter(token["verdict"] for token in tokens)
    return {
        "counts": {verdict: known[verdict] for verdict in VERDICTS} if tokens else {},
        "without": known[None],
        "tokens": len(tokens),
        "fallback": [name for name, facts in classes.items() if facts["class_token"]["fallback"]],
        "fallback_images": sum(facts["class_token"]["fallback"] for facts in classes.values()),
    }


def _confusions(seen: Mapping[str, pd.DataFrame], classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """By the judge if it has looked at any image, else by the guide."""
    who = next((who for who in ROLES if any(table[who].notna().any() for table in seen.values())), None)
    if who is None:
        return {"by": None}
    found = {kind: accuracy.image_confusion(table, who, classes) for kind, table in seen.items()}
    return {"by": who} | {kind: confused for kind, confused in found.items() if confused}


def _metrics(metrics: pd.DataFrame) -> dict[str, Any]:
    """`values[metric][kind]`, and each warning once with what it is about."""
    facts: dict[str, Any] = {"kinds": [], "features": [], "values": {}, "warnings": []}
    if metrics.empty:
        return facts
    facts["kinds"] = list(dict.fromkeys(map(str, metrics["kind"])))
    facts["features"] = [str(name) for name in dict.fromkeys(metrics["features"].dropna()) if name]
    warnings: dict[str, list[list[str]]] = {}
    order = {name: place for place, name in enumerate(METRICS)}
    for row in sorted(metrics.to_dict("records"), key=lambda row: order.get(row["metric"], len(order))):
        text = "" if _unknown(row["warning"]) else str(row["warning"])
        facts["values"].setdefault(row["metric"], {})[row["kind"]] = {
            "value": row["value"], "ci95": [row["low"], row["high"]],
            "n_real": None if _unknown(row["n_real"]) else int(row["n_real"]),
            "n_synthetic": None if _unknown(row["n_synthetic"]) else int(row["n_synthetic"]), "warning": text,
        }  # fmt: skip
        if text:
            warnings.setdefault(text, []).append([row["metric"], row["kind"]])
    facts["warnings"] = [{"text": text, "about": about} for text, about in warnings.items()]
    return facts


def _filter(filtered: pd.DataFrame, rows: pd.DataFrame, titles: Mapping[int, str]) -> dict[str, Any]:
    """How many images of each class the filter let through, and why it rejected the others."""
    facts: dict[str, Any] = {"accepted": 0, "rejected": 0, "reasons": {}, "classes": {}}
    if filtered.empty:
        return facts
    index = dict(zip(rows["key"], rows["class_index"], strict=True)) if len(rows) else {}
    if index:
        filtered = filtered[filtered["key"].map(index).isin(titles)]  # a run of some classes shows no others
    names = [
        titles[index[key]] if index else str(name)
        for key, name in zip(filtered["key"], filtered["class_name"], strict=True)
    ]
    for name, group in filtered.assign(title=names).groupby("title", sort=False):
        accepted = group["accepted"].astype(bool)
        reasons = Counter(str(reason) or "no reason given" for reason in group.loc[~accepted, "reason"].fillna(""))
        facts["classes"][str(name)] = {
            "accepted": int(accepted.sum()), "rejected": int((~accepted).sum()), "reasons": dict(reasons),
        }  # fmt: skip
    for one in facts["classes"].values():
        facts["accepted"] += one["accepted"]
        facts["rejected"] += one["rejected"]
    whole = sum((Counter(one["reasons"]) for one in facts["classes"].values()), Counter[str]())
    facts["reasons"] = dict(whole.most_common())
    return facts


def json_value(value: Any) -> Any:
    """The value with estimates as mappings, numpy's numbers as Python's, and None for what JSON cannot say."""
    if isinstance(value, Estimate):
        return estimate(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if hasattr(value, "tolist"):
        return json_value(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
