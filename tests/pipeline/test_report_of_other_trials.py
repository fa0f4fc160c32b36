"""A report with other settings than those of the trials says so, and changes nothing but the report."""

import json
from pathlib import Path

import pytest

from dct_augment import config
from dct_augment.pipeline import Run
from dct_augment.records import Progress, StageName

SMALL = [
    "downstream.image_size=32",
    "downstream.batch_size=4",
    "downstream.steps=2",
    "benchmark.arms=[real]",
    "benchmark.shots=1",
    "benchmark.seeds=2",
    "benchmark.processes=1",
    "report.images_per_class=1",
]


def run(output: Path, *changes: str) -> tuple[Run, list[Progress]]:
    told: list[Progress] = []
    settings = config.load("digits", [*SMALL, *changes], classes=["three", "eight"], output=output)
    return Run(settings, told.append), told


def report(one: Run) -> tuple[dict[str, object], str]:
    """Write the report; give its numbers and its page."""
    page = one.report()
    return json.loads((page.parent / "summary.json").read_text()), page.read_text(encoding="utf-8")


def remarks(told: list[Progress]) -> list[str]:
    """What was told of the report itself, and not of the look at the data."""
    return [progress.note for progress in told if progress.stage == StageName.REPORT]


@pytest.mark.slow
def test_a_report_with_other_settings_says_which_differ_and_keeps_the_configuration(tmp_path: Path) -> None:
    run(tmp_path)[0].benchmark()
    recorded = (tmp_path / "config.yaml").read_bytes()

    other, told = run(tmp_path, "downstream.steps=3")
    summary, page = report(other)
    remark = (
        "2 recorded trials were made with other settings or images (downstream.steps). To see them, give the same "
        f"--set. {tmp_path / 'config.yaml'} has the settings of the last work."
    )
    assert remarks(told) == [remark]
    assert summary["other_trials"] == remark
    assert page.count(f"No benchmark trial was made with these settings. {remark}") == 2
    assert "There are no benchmark trials yet" not in page
    assert (tmp_path / "config.yaml").read_bytes() == recorded

    same, told = run(tmp_path)
    summary, page = report(same)
    assert (summary["other_trials"], remarks(told)) == (None, [])
    assert "recorded trials were made with other settings" not in page

    more, _ = run(tmp_path, "benchmark.seeds=3", "downstream.steps=2")
    assert report(more)[0]["other_trials"] is None
    again = Run(config.load(str(tmp_path / "config.yaml")))
    assert again.config.downstream.steps == 2


def test_a_report_of_nothing_says_that_there_are_no_trials_and_records_its_configuration(tmp_path: Path) -> None:
    one, told = run(tmp_path)
    summary, page = report(one)
    assert (summary["other_trials"], told) == (None, [])
    assert "There are no benchmark trials yet" in page
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == config.recorded(one.config)
    assert config.load(str(tmp_path / "config.yaml")) == one.config
