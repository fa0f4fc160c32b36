from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment.datasets.folds import fold_split
from dct_augment.errors import DatasetError
from dct_augment.records import ClassInfo, Example

Copies = tuple[frozenset[str], ...]
NONE: Copies = ()


@dataclass(frozen=True)
class Photos:
    """So many photos of each class; the label is the place."""

    counts: tuple[int, ...]
    name: str = "photos"
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo(index, f"class {index}", f"class-{index}") for index in range(len(self.counts)))

    def examples(self, split: str) -> list[Example]:
        if split != "train":
            return []
        return [
            Example(f"{label}/{number}", label, lambda: Image.new("RGB", (1, 1)))
            for label, count in enumerate(self.counts)
            for number in range(count)
        ]


def keys_by_fold(photos: Photos, folds: int, repeat: int, copies: Copies = NONE) -> list[set[str]]:
    """The keys that each fold of a repeat is tested on."""
    splits = [fold_split(photos, folds, repeat, fold, copies) for fold in range(folds)]
    everything = {example.key for example in photos.examples("train")}
    for split in splits:
        assert {example.key for example in split.train} | {example.key for example in split.test} == everything
        assert not {example.key for example in split.train} & {example.key for example in split.test}
    return [{example.key for example in split.test} for split in splits]


@given(st.lists(st.integers(5, 17), min_size=2, max_size=5), st.integers(2, 5), st.integers(0, 3))
def test_each_photo_is_tested_once_and_every_class_is_spread_evenly(counts: list[int], folds: int, repeat: int) -> None:
    tests = keys_by_fold(Photos(tuple(counts)), folds, repeat)
    assert Counter(key for test in tests for key in test).most_common(1)[0][1] == 1
    assert sum(map(len, tests)) == sum(counts)
    for label, count in enumerate(counts):
        sizes = [sum(key.startswith(f"{label}/") for key in test) for test in tests]
        assert {count // folds, -(-count // folds)} >= set(sizes)


def test_the_folds_of_a_repeat_are_those_of_every_machine_and_of_no_other_repeat() -> None:
    photos = Photos((5, 5))
    assert keys_by_fold(photos, 5, 0) == keys_by_fold(photos, 5, 0)
    assert keys_by_fold(photos, 5, 0) != keys_by_fold(photos, 5, 1)
    assert sorted(fold_split(photos, 5, 0, 0).test, key=lambda example: example.key)[0].key == "0/4"


def test_copies_of_a_photo_are_in_one_fold_whatever_their_class() -> None:
    copies = (frozenset({"0/0", "0/4"}), frozenset({"0/1", "1/3", "not there"}))
    for repeat in range(20):
        tests = keys_by_fold(Photos((6, 6)), 4, repeat, copies)
        for group in copies:
            assert sum(bool(test & group) for test in tests) == 1


def test_a_class_whose_photos_are_all_copies_is_refused_by_name() -> None:
    copies = (frozenset({"1/0", "1/1", "1/2"}),)
    with pytest.raises(DatasetError, match=r"class 'class 1' has 1 different photo; cross-validation needs two"):
        fold_split(Photos((3, 3)), 3, 0, 0, copies)


def test_a_class_of_fewer_photos_than_folds_is_in_the_test_of_as_many_folds() -> None:
    tests = keys_by_fold(Photos((5, 2)), 5, 0)
    assert sum(any(key.startswith("1/") for key in test) for test in tests) == 2
    for fold in range(5):
        assert {example.label for example in fold_split(Photos((5, 2)), 5, 0, fold).train} == {0, 1}


def test_a_fold_says_how_many_photos_of_a_class_it_trains_on_at_most() -> None:
    assert {fold_split(Photos((5, 9)), 5, 0, fold).shots for fold in range(5)} == {7, 8}
    assert [fold_split(Photos((5, 5)), 5, 2, fold).seed for fold in range(5)] == [10, 11, 12, 13, 14]
