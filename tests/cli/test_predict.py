"""`dct-augment predict` as a user meets it."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import dct_augment
from dct_augment.cli.commands import app
from dct_augment.config import DownstreamConfig
from dct_augment.downstream import training
from dct_augment.downstream.saving import ClassifierFacts, save_classifier
from tests.cli.test_commands import HELP, loaded_by
from tests.conftest import CLASSES, speckled

NAMES = {"crane", "Çà bird", "gull"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a classifier with random weights."""
    root = tmp_path_factory.mktemp("runs") / "tiny"
    settings = DownstreamConfig(image_size=32)
    torch.manual_seed(1)
    model: Any = training.create(settings, 3)
    with torch.no_grad():
        model.get_classifier().weight.normal_(std=1.0)
    facts = ClassifierFacts(classes=CLASSES, arm="real", photos={"crane": 1}, temperature=0.5)
    save_classifier(root / "classifier", model.eval(), settings, facts)
    return root


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures and a file that is none, in `photos/` of the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for label in range(3):
        speckled(label, label).resize((40, 30)).save(folder / f"{label}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def call(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["predict", *map(str, arguments)])


def failure(*arguments: object) -> str:
    """The message of a command that fails with exit code 2."""
    done = call(*arguments)
    assert isinstance(done.exception, dct_augment.DctAugmentError), done.output
    assert done.exception.exit_code == 2
    return str(done.exception)


def test_a_table_has_a_line_for_every_picture(kept: Path, photos: Path) -> None:
    done = call(kept, "photos")
    assert done.exit_code == 0, done.output
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["class", "probability", "picture"]
    expected = dct_augment.load_classifier(str(kept)).predict([f"photos/{label}.png" for label in range(3)], top=3)
    for line, label, found in zip(lines, range(3), expected, strict=False):
        assert f"photos/{label}.png" in line
        assert line.startswith(str(found.label))
        assert f" {found.probability:.1%} " in line
        assert f"{found.top[1][0]} {found.top[1][1]:.1%}" in line
    assert " ".join(lines[3].split()) == "- - photos/broken.jpg: it is no picture of a known format"
    assert "1 of 4 pictures cannot be read, e.g. photos/broken.jpg" in done.stderr


def test_json_is_a_line_per_picture_and_alone_on_stdout(kept: Path, photos: Path) -> None:
    done = call(kept, "photos", "--json", "--top", 2)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == ["photos/0.png", "photos/1.png", "photos/2.png", "photos/broken.jpg"]
    for row in rows[:3]:
        assert row["class"] in NAMES
        assert 1 / 3 < row["probability"] <= 1
        assert row["top"][0] == {"class": row["class"], "probability": row["probability"]}
        assert len(row["top"]) == 2
        assert row["reason"] is None
    assert rows[3] == {
        "path": "photos/broken.jpg",
        "class": None,
        "probability": None,
        "top": [],
        "reason": "it is no picture of a known format",
    }


def test_csv_has_the_same_rows(kept: Path, photos: Path) -> None:
    done = call(kept, "photos", "--csv", "out/table.csv", "--json", "--top", 9)
    rows = list(csv.DictReader(io.StringIO(Path("out/table.csv").read_text(encoding="utf-8"))))
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    assert list(rows[0])[:4] == ["path", "class", "probability", "reason"]
    for row, same in zip(rows, expected, strict=True):
        assert (row["path"], row["class"]) == (same["path"], same["class"] or "")
        if same["class"]:
            assert float(row["probability"]) == same["probability"]
            assert {row[f"class_{n}"] for n in (1, 2, 3)} == NAMES
            assert sum(float(row[f"probability_{n}"]) for n in (1, 2, 3)) == pytest.approx(1, abs=1e-5)
    assert rows[3]["reason"] == "it is no picture of a known format"
    lines = list(csv.reader(io.StringIO(Path("out/table.csv").read_text(encoding="utf-8"))))
    assert {len(line) for line in lines} == {4 + 2 * 3}
    assert "4 pictures in out/table.csv" in done.stderr
    assert [path.name for path in Path("out").iterdir()] == ["table.csv"]


def test_the_threshold_makes_the_unsure_unknown(kept: Path, photos: Path) -> None:
    rows = [json.loads(line) for line in call(kept, "photos/0.png", "--json", "--threshold", 1).stdout.splitlines()]
    assert rows[0]["class"] == "unknown"
    line = call(kept, "photos/0.png", "--threshold", 1).stdout.splitlines()[1]
    assert line.startswith(f"unknown ({rows[0]['top'][0]['class']}) ")
    assert rows[0]["top"][0]["class"] in NAMES
    assert json.loads(call(kept, "photos/0.png", "--json", "--threshold", 0).stdout)["class"] in NAMES


def test_folders_patterns_files_and_a_tar_are_taken_together(kept: Path, photos: Path) -> None:
    with tarfile.open("more.tar.gz", "w:gz") as archive:
        archive.add(photos / "1.png", "x/1.png")
    arguments = ("photos/[01].png", "photos/2.png", "more.tar.gz", "photos")
    rows = [json.loads(line) for line in call(kept / "classifier", *arguments, "--json").stdout.splitlines()]
    paths = [row["path"] for row in rows]
    assert paths[:4] == ["photos/0.png", "photos/1.png", "photos/2.png", "more.tar.gz/x/1.png"]
    assert len(paths) == 8
    assert rows[3]["top"] == rows[1]["top"]


def test_the_batch_size_changes_nothing(kept: Path, photos: Path) -> None:
    one, many = (call(kept, "photos", "--json", "--batch-size", size).stdout.splitlines() for size in (1, 3))
    for left, right in zip(map(json.loads, one), map(json.loads, many), strict=True):
        assert left["class"] == right["class"]
        assert left["probability"] == pytest.approx(right["probability"], abs=1e-5)


def test_a_path_that_no_terminal_can_show_is_shown(kept: Path, photos: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    speckled(0, 0).save(Path(name), "PNG")
    done = call(kept, name, "--csv", "t.csv")
    assert done.exit_code == 0, done.output
    assert b"caf\xe9.png" in Path("t.csv").read_bytes()
    assert "caf\\udce9.png" in call(kept, name).stdout
    assert json.loads(call(kept, name, "--json").stdout)["path"] == name


def test_what_cannot_be_is_one_message_and_nothing_is_written(kept: Path, photos: Path) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("name: run\n")
    Path("empty").mkdir()
    assert "'none.png' does not exist" in failure(kept, "none.png", "--csv", "t.csv")
    assert "no picture in 'empty': there is no file" in failure(kept, "empty", "--csv", "t.csv")
    assert "has no classifier yet" in failure("run", "photos", "--csv", "t.csv")
    nothing = failure("empty", "photos", "--csv", "t.csv")
    assert nothing.startswith("no classifier in 'empty': it has no config.json. Give the folder of a classifier, or of")
    assert "`dct-augment fit --config FILE --output empty` makes one there" in nothing
    assert f"There is one in: '{kept}'" in failure(kept.parent, "photos")
    assert "'nowhere' is no folder" in failure("nowhere", "photos")
    assert "device 'gpu7' is not available" in failure(kept, "photos", "--device", "gpu7")
    message = failure(kept, "photos/broken.jpg", "--csv", "t.csv")
    assert message == "cannot read the only picture; photos/broken.jpg: it is no picture of a known format"
    assert "is a folder" in failure(kept, "photos", "--csv", "empty")
    assert not list(Path().glob("*t.csv*"))
    assert {path.name for path in Path().iterdir()} == {"photos", "run", "empty"}


@pytest.mark.parametrize("option", [("--threshold", "2"), ("--top", "0"), ("--batch-size", "0")])
def test_a_number_that_cannot_be_is_exit_code_2(kept: Path, photos: Path, option: tuple[str, str]) -> None:
    assert " ".join(option) in failure(kept, "photos", *option)


def test_help_and_a_wrong_path_need_no_torch(tmp_path: Path) -> None:
    assert loaded_by(HELP.format(arguments=["predict", "--help"])) == set()
    assert "torch" not in loaded_by(HELP.format(arguments=["predict", str(tmp_path), str(tmp_path / "none.png")]))


@pytest.mark.slow
def test_rows_go_to_stdout_and_bars_to_stderr_where_only_stderr_is_a_terminal(kept: Path, photos: Path) -> None:
    """Rich sends what is printed under its bars to stderr, if it may."""
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", "dct_augment", "predict", str(kept), "photos/0.png", "--json"]
    environment = os.environ | {"TERM": "xterm", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True, check=True)
    os.close(stderr)
    assert json.loads(done.stdout)["path"] == "photos/0.png"
    assert b"photos/0.png" not in os.read(terminal, 100_000)
    os.close(terminal)
