"""Checks the files of benchmark, classifier, report and of the look at the data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from dct_augment import files, tables
from dct_augment.benchmark.arms import ARMS
from dct_augment.classifiers import kept
from dct_augment.pipeline.stages.trial_records import has_logits, trial_file
from dct_augment.pipeline.verify.problem import LOOK, Problem, damaged, json_problems, missing, table_problems
from dct_augment.records import StageName
from dct_augment.report.summary_files import SUMMARY, changed_files
from dct_augment.wording import counted

_TRIALS, _METRICS = StageName.BENCHMARK, StageName.METRICS


def benchmark_problems(folder: Path, report: Path, *, was_made: bool) -> Iterator[Problem]:
    """Yield what is wrong with trials, metrics, and the tables beside them; with `was_made` there must be trials."""
    trials, table = folder / "trials", folder / "trials.parquet"
    if was_made and not table.is_file() and not any(trials.glob("*.json")):
        yield missing(trials, _TRIALS)
    if not any(folder.glob("metrics*")) and _kinds_measured(report):
        yield missing(folder / "metrics", _METRICS, "the report speaks of them")
    yield from json_problems(sorted(trials.glob("*.json")), _TRIALS)
    yield from json_problems(sorted((folder / "metrics").glob("*.json")), _METRICS)
    yield from table_problems(sorted(folder.glob("splits/*.parquet")), _TRIALS)
    yield from table_problems(folder.glob("filter.parquet"), _TRIALS)
    yield from table_problems(folder.glob("trials.parquet"), _TRIALS)
    yield from table_problems(folder.glob("metrics.parquet"), _METRICS)
    records = {path: record for path in sorted(trials.glob("*.json")) if (record := files.read_json(path))}
    for path, record in records.items():
        if not has_logits(path, record.get("logits")):
            logits = path.with_suffix(".npy")
            yield damaged(logits, _TRIALS) if logits.is_file() else missing(logits, _TRIALS)
    yield from _unlisted(trials, table, records)
    yield from _lost_beside(folder, records)
    yield from _lost_metrics(folder)


def _unlisted(folder: Path, table: Path, records: dict[Path, dict[str, Any]]) -> Iterator[Problem]:
    """Compare the recorded trials with their table."""
    stored = tables.read(table)
    if stored is None:
        if records and not table.is_file():
            yield missing(table, _TRIALS)
        return
    for row in stored.to_pandas().to_dict("records"):
        path = folder / trial_file(row["arm"], row["shots"], row["seed"], row["per_class"], row.get("other_model", ""))
        if not path.is_file():
            yield missing(path, _TRIALS)
        elif path in records and records[path].get("identity") != row.get("identity"):
            yield Problem(table, f"what it says of {path.name} is not what that says", _TRIALS, (table,), True)


def _lost_beside(folder: Path, records: dict[Path, dict[str, Any]]) -> Iterator[Problem]:
    """Yield the splits of recorded trials, and the filter of their images, that are not there."""
    for shots, seed in sorted({(record.get("shots"), record.get("seed")) for record in records.values()}, key=str):
        split = folder / "splits" / f"{shots}-{seed}.parquet"
        if not split.is_file():
            yield missing(split, _TRIALS)
    arms = [ARMS.get(str(record.get("arm"))) for record in records.values()]
    if any(arm is not None and arm.filtered for arm in arms) and not (folder / "filter.parquet").is_file():
        yield missing(folder / "filter.parquet", _TRIALS)


def _lost_metrics(folder: Path) -> Iterator[Problem]:
    """Compare the measured kinds of images with their table."""
    table, measured = folder / "metrics.parquet", sorted((folder / "metrics").glob("*.json"))
    if measured and not table.is_file():
        yield missing(table, _METRICS)
    stored = tables.read(table, ["kind", "metric", "value"])
    if stored is not None and not metrics_agree(stored.to_pandas(), folder / "metrics"):
        yield Problem(table, "it is not of what lies in metrics/", _METRICS, (table,))
    for kind in sorted(set(stored["kind"].to_pylist())) if stored is not None else ():
        path = folder / "metrics" / f"{kind}.json"
        if not path.is_file():
            yield missing(path, _METRICS)


def _kinds_measured(report: Path) -> bool:
    """Whether a report shows metrics of some kind of images."""
    shown = files.read_json(report / SUMMARY).get("metrics")
    return isinstance(shown, dict) and bool(shown.get("kinds"))


def metrics_agree(table: pd.DataFrame, folder: Path) -> bool:
    """Tell whether a table of metrics is that of the files in a folder, so far as these are there."""
    for kind, rows in table.groupby("kind"):
        recorded = files.read_json(folder / f"{kind}.json").get("rows")
        if recorded:
            told = {(row["metric"], str(float(row["value"]))) for row in recorded}  # not a number is no other's equal
            if told != set(zip(rows["metric"], rows["value"].astype(float).map(str), strict=True)):
                return False
    return True


def classifier_problems(folder: Path, benchmark: Path, report: Path) -> Iterator[Problem]:
    """Yield what is wrong with the classifier that was kept; its threshold may be any."""
    maker, record = StageName.CLASSIFIER, folder / kept.FILE
    if not folder.is_dir():
        answer = files.read_json(report / SUMMARY).get("answer")
        if isinstance(answer, dict) and isinstance(answer.get("kept"), dict) and answer["kept"].get("made"):
            yield missing(folder, maker, "the report speaks of it")
        return
    if not record.is_file():
        yield missing(record, maker)
        return
    try:
        content = kept.load(record)
    except (OSError, ValueError) as error:
        yield damaged(record, maker, str(error))
        return
    hashes = dict(content.get("files") or {})
    if "card_sha256" in content:
        hashes[kept.CARD] = content["card_sha256"]
    for name in files.changed(folder, hashes):
        path = folder / name
        yield damaged(path, maker) if path.is_file() else missing(path, maker)
    chosen_by = set(map(str, content.get("trials") or ())) if (benchmark / "trials").is_dir() else set()
    if unknown := chosen_by - _trials_known(benchmark):
        what = f"{counted(len(unknown), 'trial')} that chose it, and the settings of these, are not of this run"
        yield Problem(record, what, maker, (folder,), unfinished=True)


def _trials_known(benchmark: Path) -> set[str]:
    """List the identities of the trials that there are, or were: a lost one is still in their table."""
    table = tables.read(benchmark / "trials.parquet", ["identity"])
    listed = set() if table is None else set(table["identity"].to_pylist())
    return listed | {str(files.read_json(path).get("identity")) for path in benchmark.glob("trials/*.json")}


def report_problems(folder: Path) -> Iterator[Problem]:
    """Yield what is wrong with the report."""
    for name in changed_files(folder):
        path = folder / name
        state = "damaged, or of another report" if path.exists() else "missing"
        yield Problem(path, state, StageName.REPORT, (path,) if path.exists() else (), unfinished=True)


def look_problems(folder: Path) -> Iterator[Problem]:
    """Yield what is wrong with what a look at the data left."""
    yield from json_problems(folder.glob("*.json"), LOOK)
    yield from table_problems(sorted(folder.glob("*.parquet")), LOOK)
    if any(folder.glob("*")):
        searched = files.read_json(folder / "overview.json").get("duplicates")
        names = ["overview.json", "pictures.parquet", "unreadable.parquet"]
        if isinstance(searched, dict) and searched.get("searched"):
            names.append("duplicates.parquet")
        for name in names:
            if not (folder / name).is_file():
                yield missing(folder / name, LOOK)
