"""CUB-200-2011 is read as published."""

from pathlib import Path

import pytest

from tests.datasets.layouts import CUB_NAMES, assert_refused, cub_tree, load


@pytest.mark.parametrize("inner", ["", "CUB_200_2011"])
def test_cub_keeps_its_official_split(tmp_path: Path, inner: str) -> None:
    data = load("cub", cub_tree(tmp_path) / inner)
    assert [info.name for info in data.classes] == ["black footed albatross", "laysan albatross"]
    assert [info.original_name for info in data.classes] == list(CUB_NAMES)
    assert len(data.examples("test")) == 8
    assert len(data.examples("train")) + len(data.examples("val")) == 8
    assert all(example.key.endswith(tuple(f"{n:04d}.jpg" for n in (1, 3, 5, 7))) for example in data.examples("test"))
    assert {example.open().size for example in data.examples("test")} == {(40, 30)}


def test_cub_images_are_cut_to_their_boxes(tmp_path: Path) -> None:
    data = load("cub", cub_tree(tmp_path), crop=True)
    assert {example.open().size for example in data.examples("train")} == {(20, 10)}


def test_damaged_files_of_cub_are_named(tmp_path: Path) -> None:
    arm_folder = cub_tree(tmp_path) / "CUB_200_2011"
    (arm_folder / "image_class_labels.txt").write_text("1 1\n")
    assert_refused("do not agree: '3'", "cub", tmp_path)
    (arm_folder / "images.txt").write_text("one\n")
    assert_refused(r"images.txt' is damaged", "cub", tmp_path)
    (arm_folder / "classes.txt").unlink()
    assert_refused("lacks classes.txt; it holds .*Caltech", "cub", tmp_path)
