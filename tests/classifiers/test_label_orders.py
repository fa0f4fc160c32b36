"""Labels in a wrong order: a guide that has them does not pass, and the order that fits its answers is found."""

import numpy as np
import pytest
from scipy.stats import binom

from dct_augment.classifiers.label_orders import Answers, explain, needed_right
from dct_augment.classifiers.sanity_check import spread
from dct_augment.records import ClassInfo


def classes(count: int, name: str = "bird {}") -> list[ClassInfo]:
    names = [name.format(index) for index in range(count)]
    return [ClassInfo(index, name, f"c{index}", original_name=name) for index, name in enumerate(names)]


def answers(order: np.ndarray, accuracy: float, rng: np.random.Generator, per_class: int = 0) -> Answers:
    """Answers of a classifier whose output for class i is order[i], on the pictures that the check reads."""
    counts = spread(len(order))
    shown = np.repeat(list(counts), [max(count, per_class) for count in counts.values()])
    guesses = rng.integers(len(order), size=len(shown))
    return Answers(shown, np.where(rng.random(len(shown)) < accuracy, order[shown], guesses))


@pytest.mark.parametrize("count", [200, 1000])
def test_a_good_guide_with_shuffled_labels_passes_in_fewer_than_1_percent_of_the_orders(count: int) -> None:
    rng, orders, passed = np.random.default_rng(0), 600, 0
    for _ in range(orders):
        look = answers(rng.permutation(count), 0.9, rng)
        passed += look.right(range(count)).sum() >= needed_right(len(look), count)
    assert passed < 0.01 * orders


@pytest.mark.parametrize("count", [200, 1000])
def test_a_weak_guide_with_the_right_labels_passes(count: int) -> None:
    rng = np.random.default_rng(0)
    looks = [answers(np.arange(count), 0.15, rng) for _ in range(100)]
    assert all(look.right(range(count)).sum() >= needed_right(len(look), count) for look in looks)


@pytest.mark.parametrize(("images", "count"), [(40, 2), (64, 16), (200, 200), (200, 1000)])
def test_guesses_pass_in_at_most_1_percent(images: int, count: int) -> None:
    needed = needed_right(images, count)
    assert binom.sf(needed - 1, images, 1 / count) <= 0.01 < binom.sf(needed - 2, images, 1 / count)


def test_of_few_images_half_way_from_chance_to_all_is_enough() -> None:
    assert needed_right(6, 2) == 5  # all six would not be 1 % by chance


@pytest.mark.parametrize("count", [1, 2, 16, 50, 150, 200, 1000, 21_841])
def test_images_are_spread_evenly_over_all_classes(count: int) -> None:
    images = spread(count)
    assert max(images.values()) - min(images.values()) <= 1
    assert images.total() <= 200
    assert min(images) == 0
    assert max(images) >= count - max(1, -(-count // 200))
    assert len(images) == min(count, 200)


def explained(order: np.ndarray, labels: list[str] | None = None, accuracy: float = 0.9) -> str:
    count = len(order)
    rng = np.random.default_rng(1)
    look = answers(order, accuracy, rng, per_class=2)
    infos = classes(count)
    names = labels or [info.name for info in infos]
    targets = [names.index(info.name) for info in infos]
    return explain(look, infos, targets, names) or ""


@pytest.mark.parametrize("count", [2, 16, 200, 1000])
def test_an_honest_guide_has_no_other_order(count: int) -> None:
    for accuracy in (0.0, 0.1, 0.5, 1.0):
        assert explained(np.arange(count), accuracy=accuracy) == ""


def test_one_answer_to_all_pictures_fits_no_other_order() -> None:
    infos = classes(20)
    shown = np.repeat(range(20), 4)
    assert explain(Answers(shown, np.full(80, 7)), infos, range(20), [info.name for info in infos]) is None


def test_labels_in_alphabetical_order_are_found() -> None:
    """The file counts bird 2 before bird 10; the training counted folders as text."""
    names = [f"bird {index}" for index in range(200)]
    rank = {name: place for place, name in enumerate(sorted(names))}
    assert "in alphabetical order of the labels. Sort the file of labels so" in explained(
        np.array([rank[name] for name in names])
    )


def test_outputs_in_the_order_of_the_data_set_are_found() -> None:
    labels = sorted(f"bird {index}" for index in range(200))
    assert explained(np.arange(200), labels).endswith("and so on. Set match: index")


@pytest.mark.parametrize(("step", "said"), [(1, "one output later. Begin the file"), (-1, "line too many: remove it")])
def test_labels_shifted_by_one_are_found(step: int, said: str) -> None:
    order = np.arange(200) + step
    order[order < 0] = 0
    labels = [*(f"bird {index}" for index in range(200)), "other"]
    assert said in explained(order, labels)


@pytest.mark.parametrize("count", [4, 16, 200, 1000])
def test_any_other_order_is_found_by_half_of_the_answers_and_proven_by_the_other_half(count: int) -> None:
    order = np.roll(np.random.default_rng(3).permutation(count), 1) if count > 4 else np.array([2, 3, 0, 1])
    text = explained(order, accuracy=0.95)
    assert "of the answers fit another order of its labels: 'bird " in text
    first = next(place for place in range(count) if order[place] != place)
    if count > 4:
        assert f"'bird {first}' is output {order[first]} ('bird {order[first]}')" in text
    assert "match: FILE.yaml" in text


def test_labels_of_which_half_are_shifted_are_found() -> None:
    """A class that is missing in the middle of the file: the rest is one line too early."""
    order = np.arange(200)
    order[100:199] += 1
    order[199] = 100
    assert "fit another order" in explained(order, accuracy=0.95)
