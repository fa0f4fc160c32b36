"""Classes whose names are markup, fields of a template, options, or code: every command takes them for names."""

from pathlib import Path

import pandas as pd
import pytest

import dct_augment
from tests.robustness.command_line import CommandLine
from tests.small import SMALL

pytestmark = pytest.mark.slow

NAMES = ("[red] gull", "{context} {class}", "<script>alert(1)<", "-rf; touch pwned", "null", "日本 a'b\"c\\n%s")
SHOTS = 4
SETTINGS = (
    *SMALL,
    "guide={name: few_shot, backbone: pocket/backbone, heads: 1, augmentations: 1}",
    "downstream.model=pocket/backbone",
    "downstream.pretrained=true",
    "downstream.image_size=32",
    "benchmark.arms=[real, class_token]",
    "benchmark.folds=2",
    "benchmark.processes=1",
    "generation.per_class=2",
    "metrics.features=null",
)


def write_photos(folder: Path) -> None:
    """Write digits under the names."""
    written = dict.fromkeys(range(len(NAMES)), 0)
    for example in dct_augment.load_dataset("digits").examples("train"):
        if written.get(example.label, SHOTS) < SHOTS:
            path = folder / NAMES[example.label] / f"{written[example.label]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            example.open().save(path)
            written[example.label] += 1


def test_names_stay_names_from_photos_to_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    line = CommandLine(monkeypatch, capsys)
    assert line("init", "photos", "--yes", "--model", "pocket", "--to", "own.yaml").code == 0
    options = ("--config", "own.yaml", "--output", "made", *(word for each in SETTINGS for word in ("--set", each)))
    for command in ("train", "generate", "fit", "report"):
        outcome = line(command, *options)
        assert outcome.code == 0, (command, outcome.said)
        if command == "train":
            for name in NAMES:
                assert name in outcome.said
    page = (tmp_path / "made" / "report" / "index.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page  # a name is text there, in JSON of the page, too
    assert line("verify", "--output", "made").code == 0
    predicted = line("predict", "made", f"photos/{NAMES[3]}", "--csv", "told.csv")
    assert predicted.code == 0, predicted.said
    assert set(pd.read_csv("told.csv", keep_default_na=False)["class"]) <= set(NAMES)
    forms = {"imagefolder", "csv"}
    for form in forms:
        assert line("export", "made", "--to", form, "--format", form).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "photos",
        "own.yaml",
        "made",
        "told.csv",
        "imagefolder",
        "csv",
    }
    (table,) = (tmp_path / "csv").glob("*.csv")
    exported = pd.read_csv(table, keep_default_na=False)
    assert set(exported["label"]) == set(NAMES)
    assert all(name in prompt for name, prompt in zip(exported["label"], exported["prompt"], strict=True))
