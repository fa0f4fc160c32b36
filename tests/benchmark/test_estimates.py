"""Intervals of arms and their differences: never narrower than few test images allow, and of few folds over photos."""

from typing import Any

import pandas as pd
import pytest

from dct_augment.benchmark.estimates import accuracy, chance, difference
from dct_augment.intervals import mean_of_folds, mean_t, paired_gain, proportion


def trials(**answers: list[str]) -> pd.DataFrame:
    """A trial per arm and draw; its answers are `+` for a test image that was recognised, `-` for another."""
    rows: list[dict[str, Any]] = []
    for arm, draws in answers.items():
        for seed, signs in enumerate(draws):
            predicted = [int(sign == "-") for sign in signs]
            share = signs.count("+") / len(signs)
            rows.append(
                {"arm": arm, "seed": seed, "accuracy": share, "truth": [0] * len(signs), "predicted": predicted}
            )
    return pd.DataFrame(rows)


def ends(estimate: Any) -> tuple[float, float]:
    return (estimate.low, estimate.high)


def test_fifteen_photos_of_two_folds_that_are_all_right_are_not_sure() -> None:
    estimate = accuracy(trials(real=["++++++++", "+++++++"]), folds=2)
    assert estimate is not None
    assert (estimate.mean, estimate.count) == (1, 2)
    assert ends(estimate) == pytest.approx((0.7961, 1), abs=1e-4)  # 15 / (15 + 1.96^2)


def test_one_mistake_in_two_folds_does_not_make_everything_possible() -> None:
    """Over two folds Student's interval would be 0 .. 100 %."""
    estimate = accuracy(trials(real=["++++++++", "++++++-"]), folds=2)
    assert estimate is not None
    assert estimate.mean == pytest.approx(14 / 15)
    assert ends(estimate) == ends(proportion(14, 15))


def test_folds_of_unequal_size_count_by_their_photos() -> None:
    """Five photos of a class in two folds: 12 and 8 photos of four classes. 18 and 17 of 20 are right."""
    table = trials(real=["+" * 12, "+" * 6 + "--"], token=["+" * 10 + "--", "+" * 7 + "-"])
    for arm, right in (("real", 18), ("token", 17)):
        estimate = accuracy(table[table["arm"] == arm], folds=2)
        assert estimate is not None
        assert estimate.mean == pytest.approx(right / 20)
        assert ends(estimate) == ends(proportion(right, 20))
    found = difference(table, "token", "real", folds=2)
    assert found is not None
    assert found.estimate.mean == pytest.approx(-1 / 20)


def test_an_interval_over_unequal_folds_is_around_the_mean_over_photos() -> None:
    estimate = accuracy(trials(real=["+" * 8 + "--", "+-", "+-", "+" * 9 + "-"] * 2), folds=4)
    assert estimate is not None
    over_folds = mean_of_folds([0.8, 0.5, 0.5, 0.9] * 2, 4)
    assert estimate.mean == pytest.approx(19 / 24)
    assert estimate.low - estimate.mean == pytest.approx(over_folds.low - over_folds.mean)


def test_with_three_degrees_of_freedom_the_interval_over_folds_stays() -> None:
    estimate = accuracy(trials(real=["++++", "+---", "++++", "+---"]), folds=2)
    assert estimate == mean_of_folds([1, 0.25, 1, 0.25], 2, (0, 1))


@pytest.mark.parametrize(("folds", "images"), [(None, 4), (4, 16), (2, 8)])
def test_draws_that_agree_have_the_interval_of_their_distinct_images(folds: int | None, images: int) -> None:
    estimate = accuracy(trials(real=["+++-"] * 4), folds)
    assert estimate is not None
    assert ends(estimate) == ends(proportion(images * 3 // 4, images))


def test_of_no_trial_there_is_no_accuracy_and_no_difference() -> None:
    assert accuracy(trials(real=["+"])[:0], None) is None
    assert difference(trials(real=["+", "-"]), "token", "real", None) is None


def test_a_difference_on_two_folds_is_that_of_paired_photos_and_never_clear() -> None:
    table = trials(token=["+" * 10, "+" * 10], real=["+" + "-" * 9, "-" * 10])
    found = difference(table, "token", "real", 2)
    assert found is not None
    assert ends(found.estimate) == ends(paired_gain(1, 19, 0, 0))
    assert found.estimate.low > 0
    assert found.unclear == "few_folds"


def test_a_difference_that_is_the_same_in_every_repeat_counts_each_photo_once() -> None:
    """Two folds of six photos, three times: 12 photos, of which 2 of each fold are recognised by the first alone."""
    table = trials(token=["++++--"] * 6, real=["++----"] * 6)
    found = difference(table, "token", "real", 2)
    assert found is not None
    assert ends(found.estimate) == ends(paired_gain(4, 4, 0, 4))
    assert found.unclear == "no_spread"


def test_arms_that_answer_alike_differ_by_nothing_that_is_sure() -> None:
    for folds in (None, 5):
        found = difference(trials(token=["++-"] * 5, real=["++-"] * 5), "token", "real", folds)
        assert found is not None
        images = 15 if folds else 3
        assert ends(found.estimate) == ends(paired_gain(images * 2 // 3, 0, 0, images // 3))
        assert found.estimate.low < 0 < found.estimate.high


def test_a_difference_of_a_holdout_is_as_uncertain_as_its_images() -> None:
    """Of four images one differs in both draws, one in the second: means 1, 1/2, 0, 0."""
    found = difference(trials(token=["+---", "++--"], real=["----", "----"]), "token", "real", None)
    assert found is not None
    over_draws, over_images = mean_t([0.25, 0.5], (-1, 1)), mean_t([1, 0.5, 0, 0], (-1, 1))
    assert ends(found.estimate) == ends(max(over_draws, over_images, key=lambda estimate: estimate.high - estimate.low))
    assert found.values == (0.25, 0.5)
    assert found.unclear == "holds_0"


def test_a_clear_difference_says_no_reason() -> None:
    table = trials(token=["+" * 100, "+" * 98 + "--"] * 3, real=["+" * 50 + "-" * 50] * 6)
    for folds in (None, 3):
        found = difference(table, "token", "real", folds)
        assert found is not None
        assert found.unclear == ""
        assert found.estimate.low > 0.3


def test_one_draw_has_no_interval() -> None:
    found = difference(trials(token=["+++"], real=["+--"]), "token", "real", None)
    assert found is not None
    assert found.unclear == "one_draw"
    assert found.estimate.low == -float("inf")


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    assert chance(pd.DataFrame({"truth": [[0, 0, 1], [0, 1, 2]]})) == 0.5
