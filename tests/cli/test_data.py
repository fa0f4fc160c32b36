"""`dct-augment data` as a user meets it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from dct_augment.cli.commands import app
from tests.cli.test_commands import HELP, loaded_by
from tests.datasets.photographs import photograph_tree, save


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photographs and its configuration, `birds.yaml`, in the working folder."""
    monkeypatch.chdir(tmp_path)
    data = {"name": "birds", "dataset": {"name": "folder", "path": "photos"}, "guide": {"name": "x"}}
    Path("birds.yaml").write_text(yaml.safe_dump(data | {"benchmark": {"shots": 2}}))
    return photograph_tree(tmp_path / "photos")


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["data", *arguments])


def test_the_look_needs_no_torch() -> None:
    assert loaded_by(HELP.format(arguments=["data"])) & {"torch", "timm", "transformers", "diffusers"} == set()


def test_without_arguments_it_shows_pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call()
    assert done.exit_code == 0
    assert "pocket: 1,120 images of 16 classes: 320 train, 160 val, 640 test" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_good_folder_is_exit_code_0(root: Path) -> None:
    done = call("--config", "birds.yaml")
    assert done.exit_code == 0, done.output
    for said in (
        "photos: 24 images of 2 classes: 12 train, 6 val, 6 test",
        "every image can be read",
        "duplicates: none",
    ):
        assert said in done.stdout
    assert {path.name for path in Path("runs/birds/data").iterdir()} == {
        "duplicates.parquet",
        "overview.json",
        "pictures.parquet",
        "unreadable.parquet",
    }


def test_duplicates_across_splits_are_shown_and_exit_code_2(root: Path) -> None:
    shutil.copy(root / "test" / "china" / "06.png", root / "train" / "china" / "[red]copy.png")
    done = call("--config", "birds.yaml")
    assert done.exit_code == 2
    assert "train/china/[red]copy.png (china)" in done.stdout
    assert "1 image is in more than one split" in done.stderr


def test_json_is_alone_on_stdout_and_has_everything(root: Path) -> None:
    save(root / "train" / "flower" / "copy.jpg", 5, quality=80)
    (root / "train" / "china" / "broken.png").write_bytes(b"no picture")
    done = call("--config", "birds.yaml", "--json")
    assert done.exit_code == 2
    data = json.loads(done.stdout)
    assert data["schema"] == 1
    assert data["counts"] == {"train": 14, "val": 6, "test": 6}
    assert [(info["name"], info["counts"]["train"]) for info in data["classes"]] == [("china", 7), ("flower", 7)]
    assert [picture["key"] for picture in data["unreadable"]] == ["train/china/broken.png"]
    (group,) = data["duplicates"]["groups"]
    assert (group["kind"], group["across_splits"], group["across_classes"]) == ("near", True, False)
    assert [picture["key"] for picture in group["pictures"]] == ["train/flower/copy.jpg", "val/flower/05.png"]
    assert len(data["problems"]) == 1


def test_classes_with_fewer_pictures_than_shots_are_noted(root: Path) -> None:
    for path in list((root / "train" / "china").iterdir())[1:]:
        path.write_bytes(b"no picture")
    done = call("--config", "birds.yaml", "--set", "benchmark.shots=3")
    assert "5 images cannot be read and are left out" in done.stdout
    assert "note: 1 class has fewer than 3 training images: china 1" in done.stdout
    assert done.exit_code == 0


def test_a_class_without_a_readable_picture_is_exit_code_2(root: Path) -> None:
    for path in (root / "train" / "china").iterdir():
        path.write_bytes(b"no picture")
    done = call("--config", "birds.yaml")
    assert done.exit_code == 2
    assert "1 of 2 classes has no training image left: 'china'" in done.stderr


def test_a_setting_is_taken(root: Path) -> None:
    shutil.copy(root / "test" / "china" / "06.png", root / "train" / "china" / "copy.png")
    done = call("--config", "birds.yaml", "--set", "dataset.duplicates=drop")
    assert done.exit_code == 0
    assert "1 image left out (dataset.duplicates: drop)" in done.stdout


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"{}", b"[1]"])
def test_a_damaged_file_of_the_last_look_is_made_again_and_stops_no_report(root: Path, content: bytes) -> None:
    call("--config", "birds.yaml")
    path = Path("runs/birds/data/overview.json")
    whole = path.read_bytes()
    path.write_bytes(content)
    report = CliRunner().invoke(app, ["report", "--config", "birds.yaml"])
    assert report.exit_code == 0, report.output
    again = "`dct-augment data --config runs/birds/config.yaml --output runs/birds` makes it again"
    assert f"overview.json is damaged; {again}" in " ".join(report.stderr.split())
    assert call("--config", "birds.yaml").exit_code == 0
    assert path.read_bytes() == whole


def test_some_classes_are_listed_with_their_labels_in_the_data(root: Path) -> None:
    done = call("--config", "birds.yaml", "--classes", "flower")
    assert done.exit_code == 2  # a classifier needs another one
    assert "a classifier tells classes apart" in done.stderr
    (row,) = [line for line in done.stdout.splitlines() if " flower " in line and "│" in line]
    assert row.split()[1] == "1"
