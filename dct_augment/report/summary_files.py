"""The files of the report's numbers: a short `summary.json`, and beside it a table of classes and one of confusions."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.report import class_images

PAGE, SUMMARY = "index.html", "summary.json"
CLASSES = "classes.csv"
CONFUSIONS = "confusions.csv"

_NAMES = 20
"""Most names in a list of `summary.json`."""

_WIDTH = 120  # characters of a line of `summary.json`; what fits into one stays in one
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets calculate
_WITHOUT_COLUMN = ("losses", "validations", "reasons")

Numbers = Mapping[str, Any]


def write_summary(folder: Path, summary: Numbers) -> None:
    """Write the numbers of a report: `classes.csv`, `confusions.csv`, then `summary.json`, with the hashes of all.

    Page and images are there already.

    Args:
        folder: Of the report.
        summary: All numbers, as `summary.summarize` gives them.
    """
    _write_csv(folder / CLASSES, _class_rows(summary))
    _write_csv(folder / CONFUSIONS, _confusion_rows(summary))
    short = {**_shortened(summary), "hashes": _hashes(folder)}
    files.write_text(folder / SUMMARY, _as_json(files.signed(short)) + "\n")


def changed_files(folder: Path) -> list[str]:
    """List the files of a report that are not there, or not what was written; older versions wrote no hashes."""
    try:
        recorded = files.load_json(folder / SUMMARY).get("hashes")
    except (OSError, ValueError):
        return [SUMMARY]
    if not isinstance(recorded, dict):
        return []
    today = _hashes(folder)
    return [name for name, digest in recorded.items() if today.get(name) != digest]


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a report beside its summary, and one of all its images."""
    digests = {name: files.sha256(folder / name) for name in (PAGE, CLASSES, CONFUSIONS) if (folder / name).is_file()}
    images = folder / class_images.FOLDER
    return digests | ({class_images.FOLDER: files.content_hash(files.hashes(images))} if images.is_dir() else {})


def _shortened(summary: Numbers) -> dict[str, Any]:
    """The numbers without what has a row for each class, and with the first of long lists of names."""
    gains, benchmark = summary["gains"], summary["benchmark"]
    short = {"schema": summary["schema"], "files": {"classes": CLASSES, "confusions": CONFUSIONS}, **summary}
    short |= {
        "classes": len(summary["classes"]),
        "class_order": {key: value for key, value in summary["class_order"].items() if key != "names"},
        "gains": {"method": gains["method"], **{role: _ends_of_gains(gains, role) for role in ("judge", "guide")}},
        "certificates": _shortened_certificates(summary["certificates"]),
        "confusion": {key: _without_counts(value) for key, value in summary["confusion"].items()},
        "benchmark": {key: value for key, value in benchmark.items() if key != "by_class"},
        "filter": {key: value for key, value in summary["filter"].items() if key != "classes"},
    }
    short["benchmark"]["confusion"] = {arm: _without_counts(value) for arm, value in benchmark["confusion"].items()}
    if summary.get("answer"):
        short["answer"] = _shortened_answer(summary["answer"])
    return short


def _ends_of_gains(gains: Numbers, role: str) -> dict[str, float]:
    """The mean gain by class from the largest; of many classes the first and the last."""
    names = gains[role]
    if len(names) > _NAMES:
        names = [*names[: _NAMES // 2], *names[-_NAMES // 2 :]]
    return {name: gains["of"][name][role]["mean"] for name in names}


def _shortened_certificates(certificates: Numbers) -> dict[str, Any]:
    untrained = {reason: _first_names(names) for reason, names in certificates["untrained"].items()}
    return {**certificates, "untrained": untrained, "fallback": _first_names(certificates["fallback"])}


def _first_names(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "names": names[:_NAMES]}


def _without_counts(confusion: Any) -> Any:
    """A confusion without what `confusions.csv` has; `by`, which is a word, as it is."""
    if not isinstance(confusion, Mapping):
        return confusion
    return {key: confusion[key] for key in ("n", "right", "pairs")}


def _shortened_answer(answer: Numbers) -> dict[str, Any]:
    short = {key: value for key, value in answer.items() if key != "classes"}
    if short["effect"]:
        short["effect"] = {key: value for key, value in short["effect"].items() if key != "gain_by_class"}
    return short


def _class_rows(summary: Numbers) -> list[dict[str, Any]]:
    """A row per class, in the order of the page."""
    answer = summary.get("answer") or {}
    kept, effect = answer.get("classes", {}), answer.get("effect") or {}
    rows = []
    for name in summary["class_order"]["names"]:
        numbers = {
            "class": name,
            **summary["classes"][name],
            "kept": {**kept.get(name, {}), "gain": effect.get("gain_by_class", {}).get(name)},
            "gain": summary["gains"]["of"][name],
            "filter": summary["filter"]["classes"].get(name),
        }
        rows.append(dict(_cells(numbers)))
    return rows


def _cells(numbers: Numbers, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Columns and values of nested numbers: `token.gain.mean`, and the ends `token.gain.low`, `token.gain.high`."""
    for key, value in numbers.items():
        if key in _WITHOUT_COLUMN:
            continue
        if isinstance(value, Mapping):
            yield from _cells(value, f"{prefix}{key}.")
        elif key.endswith("ci95"):
            before = prefix + key.removesuffix("ci95")
            yield f"{before}low", value[0]
            yield f"{before}high", value[1]
        else:
            yield prefix + key, value


def _confusion_rows(summary: Numbers) -> list[dict[str, Any]]:
    """A row for each class and answer that there is, of generated images and of the test; no answer: another class."""
    generated = {arm: value for arm, value in summary["confusion"].items() if arm != "by"}
    rows = []
    for images, confusions in (("generated", generated), ("test", summary["benchmark"]["confusion"])):
        for arm, confusion in confusions.items():
            for truth, answers in confusion["counts"].items():
                outside = confusion["elsewhere"][truth]
                for answer, count in {**answers, **({"": outside} if outside else {})}.items():
                    rows.append({"images": images, "arm": arm, "class": truth, "answer": answer, "count": count})
    return rows


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table that spreadsheets open: with a byte-order mark, and without a text that is taken for a formula."""
    columns = dict.fromkeys(column for row in rows for column in row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({column: _cell(value) for column, value in row.items()})
    files.write_text(path, "\ufeff" + stream.getvalue())


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if is_formula else value


def _as_json(value: Any, indent: str = "", before: int = 0) -> str:
    """Write strict JSON for people: what fits into a line stays in one. `before` are the characters before it there."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list) or len(indent) + before + len(line) < _WIDTH:
        return line
    inner = indent + " "
    if isinstance(value, list):
        parts = [inner + _as_json(item, inner) for item in value]
        return "[\n" + ",\n".join(parts) + f"\n{indent}]"
    parts = []
    for key, item in value.items():
        head = json.dumps(key, ensure_ascii=False) + ": "
        parts.append(inner + head + _as_json(item, inner, len(head)))
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
