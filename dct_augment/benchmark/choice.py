"""Chooses the arm that the user's classifier is trained in, and says how good it is on images that did not choose."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from dct_augment.intervals import Estimate, mean_of_folds, mean_t


@dataclass(frozen=True)
class ArmChoice:
    """An arm, and the accuracy to expect of a classifier that is trained in the arm chosen so.

    `by` is whose accuracy chose the arm. The accuracy is `optimistic` if the images it is measured on chose the arm.
    """

    arm: str
    accuracy: Estimate
    by: Literal["validation", "other_folds", "test"]
    optimistic: bool


@dataclass(frozen=True)
class SyntheticEffect:
    """What synthetic images do: the accuracy of the best arm with them minus that of the best one without, paired."""

    arm: str
    baseline: str
    difference: Estimate

    @property
    def verdict(self) -> str:
        """Say it in words; a difference whose interval holds 0 is not clear."""
        if self.difference.low > 0:
            return "Synthetic images help."
        return "Synthetic images hurt." if self.difference.high < 0 else "Synthetic images make no clear difference."


def synthetic_effect(
    trials: pd.DataFrame, synthetic: Collection[str], real: Collection[str], folds: int | None = None
) -> SyntheticEffect | None:
    """Compare the best of the arms with synthetic images with the best of those without; None if either is missing.

    The best two are chosen by the same trials, so the difference is a little optimistic for both.
    """
    accuracies = _by_draw(trials, "accuracy")
    with_images = accuracies[[arm for arm in accuracies if arm in synthetic]]
    without = accuracies[[arm for arm in accuracies if arm in real]]
    if with_images.empty or without.empty:
        return None
    arm, baseline = _best(with_images), _best(without)
    differences = [round(float(value), 10) for value in accuracies[arm] - accuracies[baseline]]
    mean = mean_of_folds(differences, folds, (-1, 1)) if folds else mean_t(differences, (-1, 1))
    return SyntheticEffect(arm, baseline, mean)


def choose(trials: pd.DataFrame, arms: Collection[str], folds: int | None = None) -> ArmChoice | None:
    """Choose the best of some arms; None if there is no trial of any.

    Of a holdout, the accuracy on validation images chooses, and that on test images is stated. In cross-validation the
    arm is the one with the best mean over all folds. The stated accuracy is that of choosing: for each fold the arm
    that is best on the other folds of its repeat, measured on the fold.

    Args:
        trials: A row per trial at one setting, as `Trial` has its fields.
        arms: Which may be chosen.
        folds: Of one repeat of cross-validation, if the trials are its folds; else None.
    """
    table = trials[trials["arm"].isin(arms)]
    accuracies = _by_draw(table, "accuracy")
    if accuracies.empty:
        return None
    if folds:
        chosen = [_on_fold(accuracies, draw, folds) for draw in accuracies.index]
        estimate = mean_of_folds(chosen, folds, (0, 1))
        return ArmChoice(_best(accuracies), estimate, "other_folds", optimistic=len(accuracies) < 2)
    validation = _by_draw(table, "val_accuracy")
    validated = len(validation) == len(accuracies) and set(validation) == set(accuracies)
    arm = _best(validation if validated else accuracies)
    estimate = mean_t(accuracies[arm].tolist(), (0, 1))
    return ArmChoice(arm, estimate, "validation" if validated else "test", optimistic=not validated)


def _by_draw(trials: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per draw that all arms have, a column per arm, in the order of the trials."""
    if trials.empty:
        return pd.DataFrame()
    table = trials.pivot_table(index="seed", columns="arm", values=column)
    present = [arm for arm in dict.fromkeys(trials["arm"]) if arm in table]
    return table[present].dropna()


def _best(accuracies: pd.DataFrame) -> str:
    """The arm with the best mean; of equal ones the first, which needs fewer images."""
    return str(accuracies.mean().round(10).idxmax())


def _on_fold(accuracies: pd.DataFrame, draw: int, folds: int) -> float:
    """The accuracy on one fold of the arm that is best on the others of its repeat."""
    others = accuracies[(accuracies.index // folds == draw // folds) & (accuracies.index != draw)]
    return float(accuracies.loc[draw, _best(others if len(others) else accuracies)])
