"""CUB-200-2011 is read as published."""

from pathlib import Path

import pytest

from dct_augment import datasets
from dct_augment.config import CubDataset
from dct_augment.datasets import look
from dct_augment.datasets.overview import Sizes
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
    assert_refused("do not agree: image '2' is in images.txt but not in image_class_labels.txt", "cub", tmp_path)
    (arm_folder / "images.txt").write_bytes(b"\xff")
    assert_refused(r"images.txt' is damaged: it is no UTF-8 text", "cub", tmp_path)
    (arm_folder / "images.txt").write_text("one\n")
    assert_refused(r"images.txt' is damaged", "cub", tmp_path)
    (arm_folder / "classes.txt").unlink()
    assert_refused("lacks classes.txt; it holds .*Caltech", "cub", tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("image_class_labels.txt", "3 1\n", "3 7\n", "class '7' of image_class_labels.txt is not in classes.txt"),
        ("image_class_labels.txt", "3 1\n", "3 1\n99 1\n", "image '99' is in image_class_labels.txt but not in images"),
        ("train_test_split.txt", "3 1\n", "", "image '3' is in images.txt but not in train_test_split.txt"),
        ("train_test_split.txt", "3 1\n", "3 2\n", "'2' is neither 1 \\(train\\) nor 0 \\(test\\)"),
        ("images.txt", "3 ", "2 ", "line 3 gives number 2 again"),
        ("bounding_boxes.txt", "3 5.0 6.0 20.0 10.0\n", "", "image '3' is in images.txt but not in bounding_boxes.txt"),
        ("bounding_boxes.txt", "3 5.0", "3 nan", "'nan 6.0 20.0 10.0' is not `x y width height`"),
    ],
)
def test_files_of_cub_that_disagree_are_one_message(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    path = cub_tree(tmp_path) / "CUB_200_2011" / file
    text = path.read_text()
    begin = text.index("\n" + old) + 1
    path.write_text(text[:begin] + new + text[begin + len(old) :])
    assert_refused(message, "cub", tmp_path, crop=True)


def test_a_box_of_an_image_that_is_not_listed_changes_nothing(tmp_path: Path) -> None:
    path = cub_tree(tmp_path) / "CUB_200_2011" / "bounding_boxes.txt"
    path.write_text(path.read_text() + "99 5.0 6.0 20.0 10.0\n")
    assert {example.open().size for example in load("cub", tmp_path, crop=True).examples("test")} == {(20, 10)}


def test_other_boxes_are_another_look_at_the_same_files(tmp_path: Path) -> None:
    path = cub_tree(tmp_path / "cub") / "CUB_200_2011" / "bounding_boxes.txt"
    settings = CubDataset(name="cub", path=tmp_path / "cub", crop=True)

    def sizes() -> Sizes | None:
        return look(datasets.load(settings), settings, tmp_path / "data", processes=1).sizes

    assert sizes() == Sizes((20, 10), (20, 10), (20, 10))
    path.write_text(path.read_text().replace(" 20.0 10.0", " 12.0 8.0"))
    assert sizes() == Sizes((12, 8), (12, 8), (12, 8))
