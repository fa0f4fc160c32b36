"""Where torchvision's and timm's readers of folders are used beside ours, classes have the same numbers."""

from pathlib import Path

import pytest

from tests.datasets.layouts import load, save_image

NAMES = ("2", "10", "1", "class 9", "class 10", "Zebra", "ant", "001.a", "002.b", "010.c", "train")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in NAMES:
        for number in (1, 2, 10):
            save_image(tmp_path / name / f"{number}.jpg")
    return tmp_path


def ours(tree: Path, order: str) -> tuple[list[str], set[tuple[str, int]]]:
    data = load("folder", tree, val=0, test=0, class_order=order)
    images = {(example.key, example.label) for example in data.examples("train")}
    return [info.original_name for info in data.classes], images


def test_classes_and_images_are_those_of_timms_reader(tree: Path) -> None:
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    theirs = ReaderImageFolder(str(tree))
    names, images = ours(tree, "natural")
    assert dict(theirs.class_to_idx) == {name: number for number, name in enumerate(names)}
    assert images == {(str(Path(path).relative_to(tree)), label) for path, label in theirs.samples}


def test_classes_and_images_are_those_of_torchvisions_image_folder(tree: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(tree))
    names, images = ours(tree, "alphabetical")
    assert theirs.classes == names
    assert images == {(str(Path(path).relative_to(tree)), label) for path, label in theirs.samples}
