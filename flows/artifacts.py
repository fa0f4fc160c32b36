"""What a run shows in Prefect's UI: progress of each stage, a table of tokens, thumbnails, a summary.

They are for people; nothing reads them back.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pandas as pd
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from dct_augment.pipeline.run import Run
from dct_augment.records import Progress, ProgressCallback, WorkUnit
from dct_augment.report import class_images, thumbnails
from dct_augment.report.page import answer_in_words, headlines
from dct_augment.report.summary import KINDS, json_value

_EVERY = 3.0  # seconds between two updates of a progress bar
_CLASSES_SHOWN = 12  # classes with thumbnails; the report has all
_TOKEN_COLUMNS = {
    "class": "class",
    "updates": "updates",
    "plain_guide_accuracy": "guide before",
    "guide_accuracy": "guide after",
    "plain_judge_accuracy": "judge before",
    "judge_accuracy": "judge after",
    "verdict": "verdict",
    "stop_reason": "stopped",
}


class StageProgress:
    """How far a stage is, over all its units: an artifact, and whoever else wants to know."""

    def __init__(self, run: str, title: str, units: Sequence[WorkUnit], on_progress: ProgressCallback) -> None:
        self._title, self._on_progress = title, on_progress
        self._total = sum(unit.size for unit in units)
        self._done = 0
        self._written = time.monotonic()
        self._artifact = cast(UUID, create_progress_artifact(0.0, _key(run, title), f"{title} of {run}"))

    def within(self, progress: Progress) -> None:
        """Take the progress of the unit at work."""
        if not progress.total:
            self._on_progress(progress)
            return
        self._show(self._done + progress.done, progress.note)

    def ended(self, unit: WorkUnit) -> None:
        """Count a unit that has ended."""
        self._done += unit.size
        self._show(self._done, unit.title)

    def _show(self, done: int, note: str) -> None:
        self._on_progress(Progress(self._title, done, self._total, note))
        if done >= self._total or time.monotonic() - self._written > _EVERY:
            self._written = time.monotonic()
            update_progress_artifact(self._artifact, min(100.0, 100.0 * done / self._total))


def show(run: Run, page: Path) -> None:
    """Publish what a run has made: table, thumbnails, summary."""
    name = run.config.name
    index = run.tokens.index()
    if len(index):
        create_table_artifact(_token_table(index), _key(name, "token table"), f"Class tokens of {name}")
    for images in _class_images(run):
        create_image_artifact(images.uri, _key(name, f"thumbnails {images.slug}"), images.title)
    create_markdown_artifact(_summary(run, page), _key(name, "summary"), f"What {name} showed")


def _key(*parts: str) -> str:
    """An artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def _token_table(index: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for token in index.to_dict("records"):
        rows.append({title: _cell(token[column]) for column, title in _TOKEN_COLUMNS.items()})
    return rows


def _cell(value: Any) -> Any:
    value = json_value(value)
    return round(value, 4) if isinstance(value, float) else value


@dataclass(frozen=True)
class _ClassImages:
    """Thumbnails of one class: plain prompts above, class tokens below."""

    slug: str
    title: str
    uri: str


def _class_images(run: Run) -> list[_ClassImages]:
    """Render thumbnails of the first classes; a class without images is left out."""
    rows = {kind: run.shards[kind].rows(thumbnails.COLUMNS) for kind in KINDS}
    classes = run.classes[:_CLASSES_SHOWN]
    sheets = dict(class_images.render_classes(classes, rows, run.shards, run.config.report.images_per_class))
    shown = []
    for info in classes:
        if info.slug in sheets:
            kinds = [str(kind).replace("_", " ") for kind in sheets[info.slug].rows]
            which = f"{kinds[0]} above, {kinds[1]} below" if len(kinds) > 1 else kinds[0]
            shown.append(_ClassImages(info.slug, f"{info.name}: {which}", sheets[info.slug].sheet.uri))
    return shown


def _summary(run: Run, page: Path) -> str:
    """The report in a few lines of markdown, with a link to it."""
    path = page.resolve()
    lines = [f"# {run.config.name}", "", f"Report: [{path}]({path.as_uri()})", ""]
    for line in answer_in_words(run.config.root):
        lines += [line, ""]
    lines += ["| what | mean | 95 % interval |", "|---|---|---|"]
    lines += [f"| {title} | {mean:.1%} | {interval} |" for title, mean, interval in headlines(run.config.root)]
    without = run.without_token
    if without:
        lines += ["", "No token for: " + ", ".join(f"{name} ({reason})" for name, reason in without.items())]
    return "\n".join(lines)
