"""What a run uses of a data set: its classes, and not more val images than trials read."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment import config, datasets
from dct_augment.datasets.splits import evenly, keys, labels
from dct_augment.records import Dataset, Example
from tests.datasets.layouts import load, save_image


def photos(counts: list[int]) -> list[Example]:
    return [
        Example(f"{label}/{number}", label, lambda: Image.new("RGB", (1, 1)))
        for label, count in enumerate(counts)
        for number in range(count)
    ]


COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=6)


@given(COUNTS, st.integers(1, 60))
def test_each_class_gives_as_many_as_the_next_as_far_as_it_has_them(counts: list[int], most: int) -> None:
    examples = photos(counts)
    rows = evenly(examples, most)
    assert len(rows) == min(most, len(examples))
    assert sorted(set(rows)) == list(rows)
    chosen = Counter(examples[row].label for row in rows)
    highest = max((chosen[label] for label in range(len(counts))), default=0)
    for label, count in enumerate(counts):
        assert chosen[label] in {min(count, highest), min(count, highest - 1)}


@given(COUNTS, st.integers(1, 60), st.integers(0, 20))
def test_a_higher_number_takes_the_same_images_and_others(counts: list[int], most: int, more: int) -> None:
    examples = photos(counts)
    assert set(evenly(examples, most)) <= set(evenly(examples, most + more))


def tree(root: Path, split: str, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        for number in range(count):
            save_image(root / split / name / f"{number}.png")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    tree(tmp_path, "train", {"gull": 3, "tern": 3, "wren": 3})
    tree(tmp_path, "val", {"gull": 30, "tern": 2, "wren": 30})
    tree(tmp_path, "test", {"gull": 2, "tern": 2, "wren": 2})
    return load("folder", tmp_path)


def section(path: Path, **settings: object) -> "config.DatasetConfig":
    values = {"name": "folder", "path": str(path), **settings}
    return config.validate({"name": "x", "dataset": values, "guide": {"name": "pocket/birds-guide"}}).dataset


def counted(dataset: Dataset, split: str) -> dict[int, int]:
    return dict(Counter(labels(dataset.examples(split))))


def test_few_val_images_are_all_used(data: Dataset, tmp_path: Path) -> None:
    assert datasets.used(data, section(tmp_path)) is data


def test_no_example_is_made_to_choose_images(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of those that are left out, nor of the others: of ImageNet these are a million objects."""
    made = []
    kind = type(data.examples("val"))
    example = kind.example
    monkeypatch.setattr(kind, "example", lambda images, row: made.append(row) or example(images, row))
    settings = section(tmp_path, val_images=12, classes=["gull"])
    first = next(iter(keys(datasets.used(data, settings).examples("val"))))
    used = datasets.used(data, settings, {"val": {first}})
    assert [len(used.examples(split)) for split in ("train", "val", "test")] == [3, 11, 2]
    assert made == []
    assert used.examples("val")[0].label == 0
    assert made == [0]


def test_of_many_val_images_some_are_used_evenly_over_the_chosen_classes(data: Dataset, tmp_path: Path) -> None:
    used = datasets.used(data, section(tmp_path, val_images=12, classes=["gull", "tern"]))
    assert counted(used, "val") == {0: 10, 1: 2}
    assert counted(used, "train") == {0: 3, 1: 3}
    assert counted(used, "test") == {0: 2, 1: 2}
    assert used.notes == ("12 of 32 val images are used, evenly over the classes (dataset.val_images)",)


def test_an_image_that_is_left_out_is_not_replaced(data: Dataset, tmp_path: Path) -> None:
    settings = section(tmp_path, val_images=6)
    chosen = list(keys(datasets.used(data, settings).examples("val")))
    without = datasets.used(data, settings, {"val": {chosen[0]}})
    assert list(keys(without.examples("val"))) == chosen[1:]


def test_val_images_that_are_not_used_are_not_opened(data: Dataset, tmp_path: Path) -> None:
    settings = section(tmp_path, val_images=6)
    used = datasets.used(data, settings)
    unused = set(keys(data.examples("val"))) - set(keys(used.examples("val")))
    assert len(unused) == 56
    for key in unused:
        (tmp_path / key).write_bytes(b"no picture")
    overview = datasets.look(used, settings, tmp_path / "look")
    assert overview.counts == {"train": 9, "val": 6, "test": 6}
    assert not overview.unreadable
