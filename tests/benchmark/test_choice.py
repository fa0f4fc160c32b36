import math
from typing import Any

import pandas as pd
import pytest

from dct_augment.benchmark.choice import choose, synthetic_effect
from dct_augment.intervals import mean_of_folds, proportion


def first_right(accuracy: float, images: int) -> tuple[int, ...]:
    """Answers of which the first are right."""
    right = round(accuracy * images)
    return (0,) * right + (1,) * (images - right)


def trials(images: int = 5, /, **accuracies: list[float]) -> pd.DataFrame:
    """A trial per arm and draw, each with so many test images; without validation images."""
    same: dict[str, Any] = {"val_accuracy": math.nan, "other_model": "", "truth": (0,) * images}
    rows = [
        {"arm": arm, "seed": seed, "accuracy": accuracy, "predicted": first_right(accuracy, images), **same}
        for arm, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_of_folds_the_best_arm_is_chosen_and_its_accuracy_is_that_of_choosing_by_the_other_folds() -> None:
    table = trials(real=[0.5, 0.5, 0.5], token=[0.9, 0.4, 0.4])
    choice = choose(table, {"real", "token"}, folds=3)
    assert choice is not None
    assert choice.arm == "token"
    # Fold 0: the others say real (0.5 > 0.4), which has 0.5 there; folds 1 and 2: they say token, which has 0.4.
    assert choice.accuracy.mean == pytest.approx((0.5 + 0.4 + 0.4) / 3)
    assert (choice.by, choice.optimistic) == ("other_folds", False)


def test_of_several_models_the_best_is_chosen_with_its_arm_and_each_fold_by_the_others() -> None:
    large = trials(real=[0.9, 0.3, 0.3], token=[0.6, 0.6, 0.6]).assign(other_model="large")
    table = pd.concat([trials(real=[0.5, 0.5, 0.5], token=[0.5, 0.4, 0.4]), large], ignore_index=True)
    choice = choose(table, {"real", "token"}, folds=3)
    assert choice is not None
    assert (choice.arm, choice.other_model) == ("token", "large")
    # Fold 0: the others say large token, 0.6. Folds 1 and 2: large real and large token both have 0.6; real is first.
    assert choice.accuracy.mean == pytest.approx((0.6 + 0.3 + 0.3) / 3)
    small = choose(table[table["other_model"] == ""], {"real", "token"}, folds=3)
    assert small is not None
    assert (small.arm, small.other_model) == ("real", "")


def test_another_repeat_chooses_for_none_of_its_folds() -> None:
    table = trials(real=[0.5, 0.5, 0.1, 0.1], token=[0.4, 0.4, 0.9, 0.9])
    choice = choose(table, {"real", "token"}, folds=2)
    assert choice is not None
    assert choice.accuracy.mean == pytest.approx((0.5 + 0.5 + 0.9 + 0.9) / 4)


def test_of_a_holdout_validation_chooses_and_the_test_is_stated() -> None:
    table = trials(real=[0.6, 0.6], token=[0.5, 0.7]).assign(val_accuracy=[0.5, 0.5, 0.8, 0.8])
    choice = choose(table, {"real", "token"})
    assert choice is not None
    assert (choice.arm, choice.by, choice.optimistic) == ("token", "validation", False)
    assert choice.accuracy.mean == pytest.approx(0.6)


def test_without_validation_images_each_half_of_the_test_chooses_for_the_other() -> None:
    """Four images of class 0, the second and the fourth in one half. Each arm is right on one half alone."""
    answers = {"real": (0, 1, 0, 1), "token": (1, 0, 1, 0)}
    rows = [
        {"arm": arm, "seed": seed, "accuracy": 0.5, "val_accuracy": math.nan, "other_model": "", "truth": (0, 0, 0, 0)}
        | {"predicted": predicted}
        for arm, predicted in answers.items()
        for seed in (0, 1)
    ]
    choice = choose(pd.DataFrame(rows), set(answers))
    assert choice is not None
    assert (choice.arm, choice.by, choice.optimistic) == ("real", "other_half", False)
    assert choice.accuracy.mean == 0.0  # what looks best on one half is wrong on all of the other


def test_halves_of_a_test_have_half_of_each_class() -> None:
    """Two classes in turn: of each, the second image is in the second half."""
    rows = [
        {
            "arm": "real",
            "seed": seed,
            "accuracy": 0.5,
            "val_accuracy": math.nan,
            "other_model": "",
            "truth": (0, 1, 0, 1),
        }
        | {"predicted": (0, 0, 0, 0)}
        for seed in (0, 1)
    ]
    choice = choose(pd.DataFrame(rows), {"real"})
    assert choice is not None
    assert (choice.by, choice.accuracy.mean) == ("other_half", 0.5)


def test_an_accuracy_that_nothing_else_can_choose_for_is_called_optimistic() -> None:
    table = trials(real=[1.0, 0.0], token=[1.0, 1.0]).assign(truth=[(0,)] * 4, predicted=[(0,), (1,), (0,), (0,)])
    choice = choose(table, {"real", "token"})
    assert choice is not None
    assert (choice.arm, choice.by, choice.optimistic) == ("token", "test", True)


def test_the_interval_of_a_difference_allows_for_few_test_images() -> None:
    """All draws gain one image of five: they are sure of each other, and five images are not."""
    table = trials(real=[0.4, 0.4, 0.4, 0.4], token=[0.6, 0.6, 0.6, 0.6])
    effect = synthetic_effect(table, {"token"}, {"real"})
    assert effect is not None
    assert effect.difference.estimate.mean == pytest.approx(0.2)
    assert effect.difference.estimate.low < 0
    assert effect.verdict == "Synthetic images make no clear difference."


def test_only_some_arms_may_be_chosen_and_of_equal_ones_the_first() -> None:
    table = trials(real=[0.5, 0.5], plain=[0.5, 0.5], token=[0.9, 0.9])
    choice = choose(table, {"real", "plain"}, folds=2)
    assert choice is not None
    assert choice.arm == "real"
    assert choose(table, {"other"}, folds=2) is None


@pytest.mark.parametrize(
    ("token", "verdict"),
    [
        ([0.7, 0.72, 0.71, 0.7], "Synthetic images help."),
        ([0.3, 0.32, 0.31, 0.3], "Synthetic images hurt."),
        ([0.9, 0.2, 0.8, 0.3], "Synthetic images make no clear difference."),
        ([0.6, 0.6, 0.6, 0.6], "Synthetic images make no clear difference."),  # no spread is no certainty
        ([0.4, 0.4, 0.4, 0.4], "Synthetic images make no clear difference."),
    ],
)
def test_what_synthetic_images_do_is_said_by_the_interval_of_the_paired_difference(
    token: list[float], verdict: str
) -> None:
    table = trials(100, real=[0.4, 0.4, 0.4, 0.4], strong=[0.5, 0.5, 0.5, 0.5], plain=[0.1] * 4, token=token)
    effect = synthetic_effect(table, {"plain", "token"}, {"real", "strong"}, folds=2)
    assert effect is not None
    assert (effect.arm, effect.baseline, effect.verdict) == ("token", "strong", verdict)
    assert effect.difference.estimate.mean == pytest.approx(sum(token) / 4 - 0.5)
    assert effect.difference.estimate.low < effect.difference.estimate.high


def test_two_folds_never_say_that_synthetic_images_help() -> None:
    """100 photos, 40 more recognised, nearly the same on both folds: the photos are sure, two folds are too few."""
    effect = synthetic_effect(trials(50, real=[0.5, 0.5], token=[0.9, 0.88]), {"token"}, {"real"}, folds=2)
    assert effect is not None
    assert effect.difference.estimate.low > 0.2
    assert effect.difference.unclear == "few_folds"
    assert effect.verdict == "Synthetic images make no clear difference."


@pytest.mark.parametrize(("right", "near"), [(0.5, True), (0.7, True), (0.9, False)])
def test_an_accuracy_whose_interval_holds_that_of_the_most_frequent_class_is_near_chance(
    right: float, near: bool
) -> None:
    """Of ten photos of each fold, six are of one class. Wilson's of 14 of 20 begins at 48 %, of 18 at 70 %."""
    table = trials(10, real=[right, right]).assign(truth=[(0,) * 6 + (1,) * 4] * 2)
    choice = choose(table, {"real"}, folds=2)
    assert choice is not None
    assert (choice.chance, choice.is_near_chance) == (0.6, near)


@pytest.mark.parametrize(("folds", "images"), [(2, 10), (None, 5)])
def test_draws_that_are_all_right_do_not_make_the_accuracy_sure(folds: int | None, images: int) -> None:
    """Two folds have ten photos, tested in each of two repeats; four draws of a holdout share five test images."""
    choice = choose(trials(real=[1.0, 1.0, 1.0, 1.0]), {"real"}, folds)
    assert choice is not None
    wilson = proportion(images, images)
    assert (choice.accuracy.low, choice.accuracy.high, choice.accuracy.mean) == (wilson.low, 1.0, 1.0)
    assert choice.accuracy.low == pytest.approx({10: 0.7225, 5: 0.5655}[images], abs=1e-4)


def test_an_interval_over_draws_that_is_wider_than_that_over_images_is_kept() -> None:
    values = [0.2, 1.0, 0.2, 1.0]
    choice = choose(trials(real=values), {"real"}, folds=2)
    assert choice is not None
    assert choice.accuracy == mean_of_folds(values, 2, (0, 1))


def test_without_both_kinds_of_arms_nothing_is_said_of_synthetic_images() -> None:
    assert synthetic_effect(trials(real=[0.5, 0.5]), {"token"}, {"real"}) is None
    assert synthetic_effect(pd.DataFrame(columns=["arm", "seed", "accuracy"]), {"token"}, {"real"}) is None
