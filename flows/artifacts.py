"""What a run shows in Prefect's UI: progress of each stage, a table of tokens, strips of pictures, a summary.

They are for looking at; nothing reads them back.
"""

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from dct_augment.generation.shards import PLAIN, TRAIN
from dct_augment.pipeline.run import Run
from dct_augment.records import Progress, ProgressCallback, WorkUnit
from dct_augment.report import thumbnails
from dct_augment.report.page import headlines

_EVERY = 3.0  # seconds between two updates of a progress bar
_STRIPS = 12  # classes whose pictures are shown; the report has the others
_STRIP_BUDGET = 300_000  # characters of one picture; the server's data base keeps them


class StageProgress:
    """How far a stage is, over all its units: an artifact, and whoever else wants to know."""

    def __init__(self, run: str, title: str, units: Sequence[WorkUnit], on_progress: ProgressCallback) -> None:
        self._title, self._on_progress = title, on_progress
        self._total = sum(unit.size for unit in units)
        self._done = 0
        self._written = time.monotonic()
        self._artifact = cast(UUID, create_progress_artifact(0.0, _key(run, title), f"{title} of {run}"))

    def within(self, progress: Progress) -> None:
        """Take what the one unit at work reports."""
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
    """Publish what a run has made: table, strips, summary."""
    name = run.config.name
    if len(index := run.tokens.index()):
        columns = {
            "class": "class", "updates": "updates", "plain_guide_accuracy": "guide before",
            "guide_accuracy": "guide after", "plain_judge_accuracy": "judge before", "judge_accuracy": "judge after",
            "verdict": "verdict",
            "stop_reason": "stopped",
        }  # fmt: skip
        rows = [{title: _cell(row[column]) for column, title in columns.items()} for row in index.to_dict("records")]
        create_table_artifact(rows, _key(name, "token table"), f"Class tokens of {name}")
    for slug, title, uri in _pictures(run):
        create_image_artifact(uri, _key(name, f"strip {slug}"), title)
    create_markdown_artifact(_summary(run, page), _key(name, "summary"), f"What {name} showed")


def _key(*parts: str) -> str:
    """An artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def _pictures(run: Run) -> list[tuple[str, str, str]]:
    """Slug, title and data URI of a strip for each of the first classes: plain prompts above, class tokens below."""
    tables = {split: run.shards.rows(split) for split in (PLAIN, TRAIN)}
    shown, count = run.classes[:_STRIPS], run.config.report.strip
    wanted = {info.index: thumbnails.numbers(list(tables.values()), info.index, count) for info in shown}
    tiles = {split: thumbnails.collect(run.shards, split, table, wanted) for split, table in tables.items()}
    found = []
    for info in shown:
        rows = [tiles[split][info.index] for split in (PLAIN, TRAIN) if info.index in tiles[split]]
        if rows:
            title = f"{info.name}: " + ("plain prompt above, class token below" if len(rows) > 1 else "class token")
            found.append((info.slug, title, thumbnails.sheet(rows, _STRIP_BUDGET)))
    return found


def _summary(run: Run, page: Path) -> str:
    """The report in a few lines of markdown, with a link to it."""
    path = page.resolve()
    lines = [f"# {run.config.name}", "", f"Report: [{path}]({path.as_uri()})", ""]
    lines += ["| what | mean | 95 % interval |", "|---|---|---|"]
    lines += [f"| {title} | {mean:.1%} | {interval} |" for title, mean, interval in headlines(run.config.root)]
    failed = run.failed
    if failed:
        lines += ["", "No token for: " + ", ".join(f"{name} ({reason})" for name, reason in failed.items())]
    return "\n".join(lines)
