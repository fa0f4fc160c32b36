"""Figures in the measured results are those of the machine-readable files beside them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import tables
from dct_augment.wording import counted

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FILES = sorted((BENCHMARKS / "results").glob("*.json"))
GPUS = sorted((BENCHMARKS / "results" / "gpu").glob("*.json"))
STUDIES = sorted((BENCHMARKS / "results" / "studies").glob("*.json"))


def points(estimate: dict[str, Any]) -> list[float]:
    return [100 * value for value in (estimate["mean"], *estimate["ci95"])]


def written(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", cell)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_of_a_study_stands_in_the_results_as_it_was_measured(path: Path) -> None:
    text = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8").replace("**", "")
    (section,) = (part for part in text.split("\n## ") if f"results/{path.name}" in part)
    findings = json.loads(path.read_text(encoding="utf-8"))
    assert findings["rows"]
    for row in findings["rows"]:
        place = f"| {row['dataset']}, {row['recipe']}, {counted(row['shots'], 'shot')} |"
        table = section[section.index(place) :].partition("\n\n")[0]
        (line,) = (line for line in table.splitlines() if line.startswith(f"| `{row['row']}`"))
        accuracy, gain = (written(cell) for cell in line.split("|")[2:4])
        assert accuracy == pytest.approx(points(row["accuracy"]), abs=0.051)
        expected = points(row["gain_over_best_real"])
        assert gain == pytest.approx(expected if any(expected) else [0], abs=0.051)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_answer_of_a_study_of_tokens_stands_in_the_results_with_its_rows(path: Path) -> None:
    text = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n### ") if f"results/studies/{path.name}" in part)
    findings = json.loads(path.read_text(encoding="utf-8"))
    assert findings["answers"]
    assert not findings["unanswered"]
    assert not findings["failed"]
    for answer in findings["answers"]:
        assert f"- {answer}\n" in section
    for row in findings["variants"]:
        title = f"{row['dataset']}, {row['group']}" if row["group"] else row["dataset"]
        table = section[section.index(f"| {title} |") :].partition("\n\n")[0]
        (line,) = (line for line in table.splitlines() if line.startswith(f"| `{row['variant']}`"))
        judge, gain = (written(cell) for cell in line.split("|")[2:4])
        assert judge == pytest.approx(points(row["judge"]), abs=0.051)
        assert gain == pytest.approx(points(row["gain"]), abs=0.051)


@pytest.mark.parametrize("path", GPUS, ids=lambda path: path.stem)
def test_every_table_of_a_gpu_stands_in_the_results_as_it_was_measured(path: Path) -> None:
    text = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n### ") if f"results/gpu/{path.name}" in part)
    rows = [line for line in tables.markdown(json.loads(path.read_text(encoding="utf-8"))) if line.startswith("|")]
    assert rows
    for row in rows:
        assert f"{row}\n" in section
