"""The last stage: what a run showed, as one page for people, and its numbers in files for programs.

The page shows the numbers of these files and computes none of its own.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from dct_augment import files
from dct_augment.config import Config, dump
from dct_augment.generation.shards import ShardFolder
from dct_augment.records import ClassInfo, ImageKind
from dct_augment.report import answer as answer_section
from dct_augment.report import charts, class_images, confusion_matrices, number_formats
from dct_augment.report import real_images as real_image_section
from dct_augment.report.answer import AnswerSection
from dct_augment.report.arm_styles import arm_style, arms_in_page_order, in_page_order
from dct_augment.report.confusion_matrices import Matrix
from dct_augment.report.real_images import RealImageSection
from dct_augment.report.summary import IMAGE_COLUMNS, KINDS, Tables, summarize
from dct_augment.report.summary_files import PAGE, write_summary
from dct_augment.wording import settings_of

CHARTS_BUDGET = 400_000
"""Characters of training curves in the page: some 60 classes."""

NAMED_GAINS = 40
"""Up to so many classes the chart of gains names them."""

ROWS = 200
"""Classes in a table of the page; classes.csv has all."""

CLASSES_PER_PAGE = 24
"""Classes whose images are shown at a time; more of them can be searched and paged through."""

_SEE_TABLE = "the table below has the numbers"


def write_report(
    root: Path,
    *,
    config: Config,
    classes: Sequence[ClassInfo],
    environment: Mapping[str, str],
    tokens: pd.DataFrame,
    shards: Mapping[ImageKind, ShardFolder],
    benchmark: Mapping[str, Any],
    metrics: pd.DataFrame | None = None,
    filtered: pd.DataFrame | None = None,
    real_images: RealImageSection | None = None,
    other_trials: str = "",
    answer: AnswerSection | None = None,
) -> Path:
    """Write images, `report/index.html` and the files of numbers under `root`; return the page's path.

    All tables may be empty: the page then says which command makes them.

    Args:
        root: The folder of the run.
        config: The configuration of the run.
        classes: The classes to report.
        environment: By name, versions and device to show.
        tokens: The index of the token folder.
        shards: The generated images, by kind.
        benchmark: What `arm_comparisons.summarize_trials` returns.
        metrics: A row per kind and metric of generated images.
        filtered: A row per image that the filter measured.
        real_images: What the look at the data set found; without it, the page has no such section.
        other_trials: A remark on recorded trials that were made with other settings; empty if there are none.
        answer: What the run answers; without it, the page begins with the numbers.

    Raises:
        ShardError: a shard cannot be read.
    """
    rows = {kind: shards[kind].rows(IMAGE_COLUMNS) for kind in KINDS}
    tables = Tables(
        tokens=tokens,
        rows=rows,
        benchmark=benchmark,
        metrics=pd.DataFrame() if metrics is None else metrics,
        filtered=pd.DataFrame() if filtered is None else filtered,
        answer=answer_section.summarize(answer) if answer else None,
    )
    summary = summarize(config, classes, environment=environment, tables=tables)
    summary["real_images"] = real_image_section.summarize(real_images) if real_images else None
    summary["other_trials"] = other_trials or None
    folder = root / "report"
    slugs = [summary["classes"][name]["slug"] for name in summary["class_order"]["names"]]
    by_slug = {info.slug: info for info in classes}
    in_order = [by_slug[slug] for slug in slugs]
    images = class_images.render_classes(in_order, rows, shards, config.report.images_per_class)
    sheets = class_images.publish(folder, images)
    page = _page_template(root).stream(
        summary=summary,
        config=dump(config),
        kinds=KINDS,
        sheets=sheets,
        token_charts=_token_charts(summary),
        benchmark_charts=_benchmark_charts(summary["benchmark"]),
        gain_chart=_gain_chart(summary),
        gains_are_named=len(summary["gains"][_role_of_gains(summary)]) <= NAMED_GAINS,
        classes_by_gain=_ends(_classes_by_gain(summary)),
        table_classes=set(summary["class_order"]["names"][:ROWS]),
        matrices=_matrices(summary),
        few_folds=answer_section.few_folds_in_words(summary["benchmark"]),
        metrics_are_off=config.metrics.features is None,
        mistake_images=answer_section.render_mistakes(answer) if answer else [],
        group_sheets=real_image_section.render_groups(real_images) if real_images else [],
    )
    path = folder / PAGE
    with files.atomic(path) as partial:
        page.dump(str(partial), encoding="utf-8")
    write_summary(folder, summary)
    return path


def answer_in_words(root: Path) -> list[str]:
    """Return what a run answers, from its `report/summary.json`, in a line or two; nothing if it answers nothing."""
    return answer_section.in_words(_read_summary(root))


def classifier_is_made(root: Path) -> bool:
    """Whether a run has kept the classifier that its `report/summary.json` speaks of."""
    answer = _read_summary(root).get("answer")
    return answer is not None and bool(answer["kept"]["made"])


def headlines(root: Path) -> list[tuple[str, float, str]]:
    """Return the main results of a run from its `report/summary.json`: title, mean, and 95 % interval in words."""
    summary = _read_summary(root)
    groups = (
        ("judge, ", summary["judge_accuracy"]),
        ("arm ", summary["benchmark"].get("arms", {})),
        ("gain ", summary["benchmark"].get("paired", {})),
    )
    lines = []
    for title, group in groups:
        for name, value in group.items():
            if isinstance(value, dict) and value.get("mean") is not None:
                low, high = ("-" if end is None else f"{end:.1%}" for end in value["ci95"])
                lines.append((title + name, float(value["mean"]), f"{low} .. {high}"))
    return lines


def _read_summary(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "report" / "summary.json").read_text(encoding="utf-8")))


def _token_charts(summary: Mapping[str, Any]) -> dict[str, Markup]:
    """A chart for each class with a history, in the order of the page, until the budget is spent."""
    histories = {}
    for name in summary["class_order"]["names"]:
        token = summary["classes"][name]["token"]
        losses = [loss for loss in token["losses"] if loss is not None] if token else []
        if losses:
            validations = [(update, accuracy) for update, accuracy in token["validations"]]
            histories[name] = charts.TokenHistory(losses, validations, token["plain_guide_accuracy"])
    highest = max((max(history.losses) for history in histories.values()), default=1.0)
    rendered: dict[str, Markup] = {}
    budget = CHARTS_BUDGET
    for name, history in histories.items():
        chart = charts.render_token_history(
            history,
            chart_id=f"curve-{summary['classes'][name]['slug']}",
            label=f"{name}: loss and validation accuracy over {len(history.losses)} updates",
            highest_loss=highest * 1.05,
        )
        budget -= len(chart)
        if budget < 0:
            break
        rendered[name] = chart
    return rendered


def _benchmark_charts(benchmark: Mapping[str, Any]) -> dict[str, Markup]:
    """Charts by name, of what there is: `arms`, `paired`, and the curves `shots` and `per_class`."""
    rendered: dict[str, Markup] = {}
    if not benchmark["arms"]:
        return rendered
    arms = in_page_order(benchmark["arms"])
    rendered["arms"] = charts.render_arms(
        arms,
        {arm: list(benchmark["trials"][arm].values()) for arm in arms},
        chart_id="benchmark-arms",
        label=f"Test accuracy of every arm with its 95 % interval and single trials; {_SEE_TABLE}",
    )
    pairs = [pair for pair in benchmark["paired"].values() if pair["n"]]
    if pairs:
        rendered["paired"] = charts.render_differences(
            pairs,
            chart_id="benchmark-paired",
            label=f"Paired differences of arms in points with 95 % intervals; {_SEE_TABLE}",
        )
    for setting, axis_title in (("shots", "real images per class"), ("per_class", "synthetic images per class")):
        curves = benchmark["curves"][setting]
        values = {point[setting] for curve in curves["arms"].values() for point in curve}
        if len(values) > 1:
            rendered[setting] = charts.render_curves(
                in_page_order(curves["arms"]),
                setting,
                axis_title=axis_title,
                chart_id=f"benchmark-{setting}",
                reference=curves.get("reference"),
                label=f"Test accuracy of every arm against {axis_title}, with 95 % bands; {_SEE_TABLE}",
            )
    return rendered


def _gain_chart(summary: Mapping[str, Any]) -> Markup | None:
    """A chart of the gains of all classes; many classes are bars without names."""
    gains, role = summary["gains"], _role_of_gains(summary)
    names = gains[role]
    if not names:
        return None
    label = (
        f"Recognition by the {role}, plain prompt to class token, of {len(names)} classes from the largest gain; "
        f"{_SEE_TABLE}"
    )
    if len(names) > NAMED_GAINS:
        means = [gains["of"][name][role]["mean"] for name in names]
        return charts.render_unnamed_gains(means, chart_id="gains", label=label)
    shares = {}
    for name in names:
        numbers, key = summary["classes"][name], f"{role}_accuracy"
        shares[name] = (numbers["plain_prompt"][key], numbers["class_token"][key])
    return charts.render_gains(shares, chart_id="gains", label=label)


def _classes_by_gain(summary: Mapping[str, Any]) -> list[str]:
    """All classes, the largest gain first, those without one last."""
    names = summary["gains"][_role_of_gains(summary)]
    return list(dict.fromkeys([*names, *summary["classes"]]))


def _ends(names: list[str]) -> list[str]:
    """The first and the last names, as many as a table has rows for."""
    return names if len(names) <= ROWS else [*names[: ROWS // 2], *names[-ROWS // 2 :]]


def _role_of_gains(summary: Mapping[str, Any]) -> str:
    """The judge if it has measured any gain, else the guide."""
    return "judge" if summary["gains"]["judge"] else "guide"


def _matrices(summary: Mapping[str, Any]) -> dict[str, dict[str, Matrix | None]]:
    """Matrices of the generated images by kind (`images`), and of the low-resource classifiers by arm (`benchmark`)."""
    images = {kind: summary["confusion"][kind] for kind in KINDS if kind in summary["confusion"]}
    arms = summary["benchmark"]["confusion"]
    return {
        "images": {kind: confusion_matrices.render(confusion) for kind, confusion in images.items()},
        "benchmark": {arm: confusion_matrices.render(confusion) for arm, confusion in arms.items()},
    }


def _page_template(root: Path) -> jinja2.Template:
    """Load the template of the page, with its script and the hash of it: the page lets no other script run."""
    environment = jinja_environment()
    script = (resources.files("dct_augment.report") / "templates" / "classes.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    environment.globals |= {
        "options": "".join(f" {word}" for word in map(shlex.quote, settings_of(root))),
        "per_page": CLASSES_PER_PAGE,
        "row_limit": ROWS,
        "script": Markup(script),
        "script_hash": base64.b64encode(digest).decode("ascii"),
    }
    return environment.get_template("report.html.j2")


def jinja_environment() -> jinja2.Environment:
    """Return what all pages share: templates, filters, and no value that is not escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dct_augment.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": number_formats.format_percent,
        "points": number_formats.format_points,
        "interval": number_formats.format_interval,
        "p_value": number_formats.format_p_value,
        "number": number_formats.format_number,
        "arm_style": arm_style,
        "in_page_order": in_page_order,
        "arms_in_page_order": arms_in_page_order,
        "names": _as_sentence,
    }
    return environment


def _as_sentence(names: Sequence[str]) -> Markup:
    """List names in a sentence; none of them can turn the direction of the words around it."""
    return Markup(", ").join(Markup("<bdi>{}</bdi>").format(name) for name in names)
