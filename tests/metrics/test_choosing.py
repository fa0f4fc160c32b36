"""Which images are measured where there are more: evenly over classes, the same ones for one seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dct_augment.metrics.choosing import at_random, evenly_by_class


def test_all_images_are_measured_where_the_limit_is_not_reached() -> None:
    assert evenly_by_class([3, 1, 3, 1], 4, seed=0) == at_random(4, 4, seed=0) == [0, 1, 2, 3]


def test_each_class_gives_its_first_images() -> None:
    labels = [label for label in range(5) for _ in range(50)]
    chosen = evenly_by_class(labels, 10, seed=0)
    assert chosen == [50 * label + number for label in range(5) for number in range(2)]


def test_the_seed_decides_which_classes_give_one_more() -> None:
    labels = list(range(1000)) * 50
    counts = [Counter(labels[place] for place in evenly_by_class(labels, 1300, seed)) for seed in (0, 0, 1)]
    assert set(counts[0].values()) == {1, 2}
    assert counts[0] == counts[1] != counts[2]


def test_classes_with_few_images_leave_their_place_to_others() -> None:
    labels = [0] * 2 + [1] * 100 + [2] * 100
    assert Counter(labels[place] for place in evenly_by_class(labels, 42, seed=0)) == {0: 2, 1: 20, 2: 20}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 90), st.integers(0, 5))
def test_the_limit_is_used_up_and_no_class_has_two_more_than_another_that_could(
    labels: list[int], most: int, seed: int
) -> None:
    chosen = evenly_by_class(labels, most, seed)
    assert len(chosen) == len(set(chosen)) == min(most, len(labels))
    given_images, counts = Counter(labels[place] for place in chosen), Counter(labels)
    short = [given_images[label] for label in counts if given_images[label] < counts[label]]
    assert max(given_images.values()) - min(short, default=len(labels)) <= 1


@pytest.mark.parametrize("seed", [0, 1])
def test_real_images_are_chosen_from_all_of_them(seed: int) -> None:
    chosen = at_random(10_000, 100, seed)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 100
    assert max(chosen) > 8000
