"""Published data sets are read as `torchvision.datasets` itself reads the same files: pictures, labels, classes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets

from dct_augment.datasets.flower_names import FLOWERS
from dct_augment.records import Dataset, Example
from tests.datasets.layouts import load
from tests.datasets.torchvision_trees import TREES

CASES: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]] = [
    # our name, torchvision's, our settings, its settings for all splits, and for each split that it has
    ("aircraft", "FGVCAircraft", {}, {}, {split: {"split": split} for split in ("train", "val", "test")}),
    (
        "aircraft",
        "FGVCAircraft",
        {"level": "manufacturer"},
        {"annotation_level": "manufacturer"},
        {split: {"split": split} for split in ("train", "val", "test")},
    ),
    ("flowers102", "Flowers102", {}, {}, {split: {"split": split} for split in ("train", "val", "test")}),
    ("pets", "OxfordIIITPet", {}, {}, {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    ("cars", "StanfordCars", {}, {}, {split: {"split": split} for split in ("train", "test")}),
    ("food101", "Food101", {}, {}, {split: {"split": split} for split in ("train", "test")}),
    ("dtd", "DTD", {}, {}, {split: {"split": split} for split in ("train", "val", "test")}),
    (
        "dtd",
        "DTD",
        {"partition": 2},
        {"partition": 2},
        {split: {"split": split} for split in ("train", "val", "test")},
    ),
    ("eurosat", "EuroSAT", {}, {}, {"train": {}}),
    ("caltech101", "Caltech101", {}, {}, {"train": {}}),
    ("cifar10", "CIFAR10", {}, {}, {"train": {"train": True}, "test": {"train": False}}),
    ("cifar100", "CIFAR100", {}, {}, {"train": {"train": True}, "test": {"train": False}}),
]


@pytest.fixture
def without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files cannot have the checksums of the real ones, which torchvision knows."""
    files = {key: (name, None) for key, (name, _) in torchvision_datasets.Flowers102._file_dict.items()}
    monkeypatch.setattr(torchvision_datasets.Flowers102, "_file_dict", files)
    for cifar in (torchvision_datasets.CIFAR10, torchvision_datasets.CIFAR100):
        for key in ("train_list", "test_list"):
            monkeypatch.setattr(cifar, key, [[name, None] for name, _ in getattr(cifar, key)])
        monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": None})


def pictures(pairs: Iterable[tuple[Any, int]]) -> list[tuple[bytes, int]]:
    return [(np.asarray(image.convert("RGB")).tobytes(), int(label)) for image, label in pairs]


def examples(data: Dataset, splits: Iterable[str]) -> list[Example]:
    return [example for split in splits for example in data.examples(split)]


@pytest.mark.usefixtures("without_checksums")
@pytest.mark.parametrize(("name", "class_name", "ours", "theirs", "splits"), CASES)
def test_a_published_data_set_is_read_as_torchvision_reads_it(
    name: str, class_name: str, ours: dict[str, Any], theirs: dict[str, Any], splits: dict[str, Any], tmp_path: Path
) -> None:
    root = TREES[name](tmp_path)
    data = load(name, root, **ours)
    made = {
        split: getattr(torchvision_datasets, class_name)(root, **theirs, **chosen) for split, chosen in splits.items()
    }
    for split, expected in made.items():
        held_out = [other for other in ("val", "test") if other not in splits and split == "train"]
        found = pictures((example.open(), example.label) for example in examples(data, [split, *held_out]))
        wanted = pictures(expected[row] for row in range(len(expected)))
        if held_out:  # which pictures are held out is ours to choose
            found, wanted = sorted(found), sorted(wanted)
        assert len(found) > 0
        assert found == wanted, split
    named = made["train"]
    classes = named.categories if name == "caltech101" else list(named.classes)
    spelled = [" ".join(part.title() for part in info.original_name.split("_")) for info in data.classes]
    assert (spelled if name == "pets" else [info.original_name for info in data.classes]) == classes


def test_flowers_have_the_names_that_torchvision_gives_them() -> None:
    assert list(FLOWERS) == torchvision_datasets.Flowers102.classes
