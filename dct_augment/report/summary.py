"""Every number of the report, as JSON can say it. The page shows these and computes none of its own."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dct_augment.config import Config, classifier_title
from dct_augment.intervals import Estimate, estimate_json
from dct_augment.metrics import accuracy
from dct_augment.metrics.accuracy import ROLES
from dct_augment.records import ClassInfo, ImageKind, StopReason
from dct_augment.report.class_order import gains_by_class, order_classes
from dct_augment.wording import listed

SCHEMA_VERSION = 4
"""3: what has a row for each class is in files of its own (`summary_files`)."""

KINDS = (ImageKind.PLAIN_PROMPT, ImageKind.CLASS_TOKEN)
"""The two kinds of generated images that a run compares, in the order of the page."""

IMAGE_COLUMNS = (
    "key",
    "class_index",
    "number",
    "kind",
    "status",
    "guide_label",
    "guide_right",
    "judge_label",
    "judge_right",
    "offset",
    "bytes",
)
"""What a report reads of the row of an image."""

METRICS = (
    "judge_top1",
    "judge_top5",
    "guide_top1",
    "guide_top5",
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "diversity",
)
"""Metrics of generated images, in the order of the page."""

_NAMED = 10
"""So many classes without a token are named in a sentence."""

VERDICTS = ("certified", "no_gain", "collapsed", "worse")

_TOKEN_COLUMNS = (
    "token",
    "usable",
    "stop_reason",
    "updates",
    "attempts",
    "unet_evaluations",
    "mean_pixel_change",
    "norm",
    "plain_guide_accuracy",
    "guide_accuracy",
    "guide_probability",
    "plain_judge_accuracy",
    "judge_accuracy",
    "verdict",
    "diversity",
    "plain_diversity",
)

_NEW_COLUMNS = ("certificate_images", "gain_level", "plain_validation_accuracy", "plain_validation_probability")
"""Columns that an index of an older version does not have."""


@dataclass(frozen=True)
class Tables:
    """What the stages left behind; each may be empty.

    `rows` are the shard rows by kind (`KINDS`), `benchmark` is `arm_comparisons.summarize_trials`; `filtered` has a row
    per image that the filter measured. `answer` is what the run answers (`answer.summarize`).
    """

    tokens: pd.DataFrame
    rows: Mapping[ImageKind, pd.DataFrame]
    benchmark: Mapping[str, Any]
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    filtered: pd.DataFrame = field(default_factory=pd.DataFrame)
    answer: Mapping[str, Any] | None = None


def summarize(
    config: Config, classes: Sequence[ClassInfo], *, environment: Mapping[str, str], tables: Tables
) -> dict[str, Any]:
    """Return the report's numbers; what is unknown or not finite is None."""
    recognised = {str(kind): accuracy.recognised_images(rows, classes) for kind, rows in tables.rows.items()}
    titles = accuracy.class_titles(classes)
    gains = _gains(recognised, titles)
    tokens = {row["slug"]: row for row in tables.tokens.to_dict("records")}
    images = {kind: _by_class(table) for kind, table in recognised.items()}
    class_numbers = {titles[info.index]: _class_numbers(info, images, tokens.get(info.slug)) for info in classes}
    arms = _compared_arms(tables)
    _add_test_accuracies(class_numbers, tables.benchmark["by_class"], arms)
    order, names = order_classes(class_numbers)
    summary = {
        "schema": SCHEMA_VERSION,
        "name": config.name,
        "dataset": config.dataset.name,
        "guide": " + ".join(map(classifier_title, config.guide)),
        "judge": " + ".join(map(classifier_title, config.judge)) if config.judge else None,
        "answer": tables.answer,
        "benchmark": _with_model_names(tables.benchmark, config.downstream.model),
        **_accuracies(recognised, classes),
        "images": {kind: _image_counts(table) for kind, table in recognised.items()},
        "gains": gains,
        "classes": class_numbers,
        "class_order": {"by": order, **arms, "names": names},
        "certificates": _certificates(class_numbers),
        "no_token": _no_token(class_numbers),
        "confusion": _confusions(recognised, classes),
        "metrics": _metrics(tables.metrics),
        "filter": _filter_counts(tables.filtered, tables.rows[ImageKind.CLASS_TOKEN], titles),
        "seeds": {section: getattr(config, section).seed for section in ("tokens", "generation", "benchmark")},
        "facts": dict(environment),
    }
    return dict(json_value(summary))


def _with_model_names(benchmark: Mapping[str, Any], first: str) -> dict[str, Any]:
    """Call the first model by its name, too."""
    models = {name or first: accuracies for name, accuracies in benchmark.get("models", {}).items()}
    return {**benchmark, "models": models}


def _compared_arms(tables: Tables) -> dict[str, str | None]:
    """The arms that the order of the classes compares: those of the answer, else the best with and without images."""
    compared = (tables.answer or {}).get("effect") or tables.benchmark["by_class"]
    return {"arm": compared["arm"], "baseline": compared["baseline"]}


def _add_test_accuracies(
    class_numbers: Mapping[str, dict[str, Any]], by_class: Mapping[str, Any], arms: Mapping[str, str | None]
) -> None:
    """Add to each class its test accuracy by arm, and what it gains from `baseline` to `arm`."""
    gains = gains_by_class(by_class, arms["arm"], arms["baseline"])
    for name, numbers in class_numbers.items():
        numbers["test"] = {arm: shares[name] for arm, shares in by_class["arms"].items() if name in shares}
        numbers["test_gain"] = gains.get(name)


def _accuracies(recognised: Mapping[str, pd.DataFrame], classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Accuracy of all classes by role, and of homonyms alone if there are any."""
    indices = [info.index for info in classes]
    homonyms = [info.index for info in classes if info.homonym]
    accuracies = {}
    for role in ROLES:
        accuracies[f"{role}_accuracy"] = accuracy.accuracy_by_kind(recognised, role, indices)
        if homonyms:
            accuracies[f"{role}_accuracy_homonyms"] = accuracy.accuracy_by_kind(recognised, role, homonyms)
    return accuracies


def _gains(recognised: Mapping[str, pd.DataFrame], titles: Mapping[int, str]) -> dict[str, Any]:
    """Per class, and which classes gain most: `judge` and `guide` have their names in that order."""
    gains: dict[str, Any] = {"method": accuracy.GAIN_METHOD, "of": {title: {} for title in titles.values()}}
    for role in ROLES:
        by_index = accuracy.paired_class_gains(recognised, role, list(titles))
        by_class = {title: by_index[index] for index, title in titles.items()}
        gains[role] = accuracy.names_by_gain(by_class)
        for title, gain in by_class.items():
            gains["of"][title][role] = estimate_json(gain)
    return gains


def _by_class(table: pd.DataFrame) -> defaultdict[int, pd.DataFrame]:
    """The rows of each class; of a class without images a table without rows."""
    groups = {int(index): rows for index, rows in table.groupby("class_index")}
    return defaultdict(lambda: table.iloc[:0], groups)


def _class_numbers(
    info: ClassInfo, images: Mapping[str, Mapping[int, pd.DataFrame]], token: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is known of one class: its images and their accuracy by kind, and its token, a row of the index."""
    numbers: dict[str, Any] = {"slug": info.slug, "homonym": info.homonym}
    for kind, by_class in images.items():
        rows = by_class[info.index]
        judge = estimate_json(accuracy.recognised_share(rows["judge"]))
        guide = estimate_json(accuracy.recognised_share(rows["guide"]))
        numbers[kind] = {
            **_image_counts(rows),
            "judge_accuracy": judge["mean"],
            "ci95": judge["ci95"],
            "guide_accuracy": guide["mean"],
            "guide_ci95": guide["ci95"],
        }
    numbers["token"] = _token_numbers(token) if token else None
    return numbers


def _token_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the token index; an imported token has no certificate, which parquet keeps as None or NaN."""
    numbers: dict[str, Any] = {column: json_value(row[column]) for column in _TOKEN_COLUMNS}
    numbers |= {column: json_value(row.get(column)) for column in _NEW_COLUMNS}
    for prefix in ("", "judge_"):
        ends = [row[f"{prefix}gain_low"], row[f"{prefix}gain_high"]]
        numbers[f"{prefix}gain"] = {"mean": row[f"{prefix}gain"], "ci95": ends, "level": numbers["gain_level"]}
    diversity, plain_diversity = numbers["diversity"], numbers["plain_diversity"]
    numbers["diversity_kept"] = None
    if diversity is not None and plain_diversity:
        numbers["diversity_kept"] = round(diversity / plain_diversity, 4)
    numbers["losses"] = [round(float(loss), 4) for loss in row["losses"]]
    numbers["validations"] = [
        [int(validation["update"]), round(float(validation["accuracy"]), 4)]
        for validation in json.loads(row["validations"])
    ]
    return numbers


def _image_counts(table: pd.DataFrame) -> dict[str, int]:
    finished = int(table["ok"].sum())
    return {"n": finished, "failed": len(table) - finished, "fallback": int(table["fallback"].sum())}


def _certificates(class_numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many tokens have which verdict, and the classes whose images use the plain prompt instead.

    `untrained` are the classes without a token, by the reason for it.
    """
    records = [numbers["token"] for numbers in class_numbers.values() if numbers["token"]]
    tokens = [record for record in records if record["usable"]]
    verdicts = Counter(token["verdict"] for token in tokens)
    return {
        "counts": {verdict: verdicts[verdict] for verdict in VERDICTS} if tokens else {},
        "without": verdicts[None],
        "tokens": len(tokens),
        "untrained": _untrained(class_numbers),
        "fallback": [title for title, numbers in class_numbers.items() if numbers["class_token"]["fallback"]],
        "fallback_images": sum(numbers["class_token"]["fallback"] for numbers in class_numbers.values()),
    }


def _untrained(class_numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Group the classes that have no token, though it was their turn, by the reason for it."""
    untrained: dict[str, list[str]] = {}
    for title, numbers in class_numbers.items():
        if numbers["token"] and not numbers["token"]["usable"]:
            untrained.setdefault(numbers["token"]["stop_reason"], []).append(title)
    return untrained


def _no_token(class_numbers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say in one sentence why no class at all has a token; None if some class has one, or its turn is still to come."""
    untrained = _untrained(class_numbers)
    if not untrained or sum(map(len, untrained.values())) < len(class_numbers):
        return None
    if set(untrained) == {StopReason.PLAIN_IS_ENOUGH}:
        return "No class token was trained, as the plain prompt is enough for every class."
    reasons = "; ".join(f"{listed(titles, _NAMED)} ({reason})" for reason, titles in untrained.items())
    return f"No class token could be trained, so this run's images are of plain prompts: {reasons}."


def _confusions(recognised: Mapping[str, pd.DataFrame], classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Confusions by kind: the judge's if it has measured any image, else the guide's."""
    for role in ROLES:
        if any(table[role].notna().any() for table in recognised.values()):
            break
    else:
        return {"by": None}
    confusions: dict[str, Any] = {"by": role}
    for kind, table in recognised.items():
        confusion = accuracy.image_confusion_counts(table, role, classes)
        if confusion is not None:
            confusions[kind] = confusion
    return confusions


def _metrics(metrics: pd.DataFrame) -> dict[str, Any]:
    """`values[metric][kind]`, and each warning once with what it is about."""
    if metrics.empty:
        return {"kinds": [], "features": [], "values": {}, "warnings": []}
    values: dict[str, dict[str, Any]] = {}
    warnings: dict[str, list[list[str]]] = {}
    order = {name: place for place, name in enumerate(METRICS)}
    for row in sorted(metrics.to_dict("records"), key=lambda row: order.get(row["metric"], len(order))):
        numbers = _metric_numbers(row)
        values.setdefault(row["metric"], {})[row["kind"]] = numbers
        if numbers["warning"]:
            warnings.setdefault(numbers["warning"], []).append([row["metric"], row["kind"]])
    return {
        "kinds": list(dict.fromkeys(map(str, metrics["kind"]))),
        "features": [str(name) for name in dict.fromkeys(metrics["features"].dropna()) if name],
        "values": values,
        "warnings": [{"text": text, "about": about} for text, about in warnings.items()],
    }


def _metric_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """One metric of one kind; counts of images are whole numbers, which pandas makes floats where some are unknown."""
    counts = {}
    for column in ("n_real", "n_synthetic"):
        count = json_value(row[column])
        counts[column] = None if count is None else int(count)
    warning = json_value(row["warning"])
    return {
        "value": row["value"],
        "ci95": [row["low"], row["high"]],
        **counts,
        "warning": "" if warning is None else str(warning),
    }


def _filter_counts(filtered: pd.DataFrame, rows: pd.DataFrame, titles: Mapping[int, str]) -> dict[str, Any]:
    """How many images of each class the filter accepted, and why it rejected the rest."""
    if filtered.empty:
        return {"accepted": 0, "rejected": 0, "reasons": {}, "classes": {}}
    by_class: dict[str, dict[str, Any]] = {}
    reasons: Counter[str] = Counter()
    for title, group in _with_class_titles(filtered, rows, titles).groupby("title", sort=False):
        accepted = group["accepted"].astype(bool)
        class_reasons = Counter(
            str(reason) or "no reason given" for reason in group.loc[~accepted, "reason"].fillna("")
        )
        by_class[str(title)] = {
            "accepted": int(accepted.sum()),
            "rejected": int((~accepted).sum()),
            "reasons": dict(class_reasons),
        }
        reasons += class_reasons
    return {
        "accepted": sum(counts["accepted"] for counts in by_class.values()),
        "rejected": sum(counts["rejected"] for counts in by_class.values()),
        "reasons": dict(reasons.most_common()),
        "classes": by_class,
    }


def _with_class_titles(filtered: pd.DataFrame, rows: pd.DataFrame, titles: Mapping[int, str]) -> pd.DataFrame:
    """The filter's rows with the `title` of their class; a run of some classes leaves out the rest."""
    if not len(rows):
        return filtered.assign(title=filtered["class_name"].map(str))
    class_of_key = dict(zip(rows["key"], rows["class_index"], strict=True))
    filtered = filtered[filtered["key"].map(class_of_key).isin(titles)]
    return filtered.assign(title=[titles[class_of_key[key]] for key in filtered["key"]])


def json_value(value: Any) -> Any:
    """Return the value as JSON can say it: estimates as mappings, numpy's numbers as Python's, what is missing as None.

    None, pandas' NA, NaN and infinities are all None.
    """
    if isinstance(value, Estimate):
        return estimate_json(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if hasattr(value, "tolist"):
        return json_value(value.tolist())
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
