"""Chooses the arm, and of several models the model, of the user's classifier; says how good it is on other images."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from dct_augment.benchmark import estimates
from dct_augment.benchmark.image_counts import distinct_images
from dct_augment.intervals import Estimate


@dataclass(frozen=True)
class ArmChoice:
    """An arm with a model, and the accuracy to expect of a classifier that is trained in what was chosen so.

    `other_model` is one of `downstream.other_models`; empty for `downstream.model`.

    `by` is whose accuracy chose the arm. The accuracy is `optimistic` if the images it is measured on chose the arm.
    `chance` is the accuracy of always answering the most frequent class of the test images.
    """

    arm: str
    accuracy: Estimate
    by: Literal["validation", "other_folds", "other_half", "test"]
    optimistic: bool
    other_model: str = ""
    chance: float = math.nan

    @property
    def is_near_chance(self) -> bool:
        """Whether the accuracy is not clearly better than chance, by its interval; False without an interval."""
        return math.isfinite(self.accuracy.low) and self.accuracy.low <= self.chance


@dataclass(frozen=True)
class SyntheticEffect:
    """What synthetic images do: the accuracy of the best arm with them minus that of the best one without, paired."""

    arm: str
    baseline: str
    difference: estimates.Difference

    @property
    def verdict(self) -> str:
        """Say it in words."""
        if self.difference.unclear:
            return "Synthetic images make no clear difference."
        return "Synthetic images help." if self.difference.estimate.mean > 0 else "Synthetic images hurt."


def synthetic_effect(
    trials: pd.DataFrame, synthetic: Collection[str], real: Collection[str], folds: int | None = None
) -> SyntheticEffect | None:
    """Compare the best of the arms with synthetic images with the best of those without; None if either is missing.

    All trials are of one model.
    The best two are chosen by the same trials, so the difference is a little optimistic for both.
    """
    accuracies = _by_draw(trials, "accuracy", ["arm"])
    with_images = accuracies[[arm for arm in accuracies if arm in synthetic]]
    without = accuracies[[arm for arm in accuracies if arm in real]]
    if with_images.empty or without.empty:
        return None
    sizes = _test_sizes(trials)
    arm, baseline = _best(with_images, sizes), _best(without, sizes)
    on_all_draws = trials[trials["seed"].isin(accuracies.index)]
    difference = estimates.difference(on_all_draws, arm, baseline, folds)
    return None if difference is None else SyntheticEffect(arm, baseline, difference)


def choose(trials: pd.DataFrame, arms: Collection[str], folds: int | None = None) -> ArmChoice | None:
    """Choose the best of some arms, with the best model for it; None if there is no trial of any.

    Of a holdout, the accuracy on validation images chooses, and that on test images is stated. Without validation
    images each half of the test images chooses for the other half: the stated accuracy is the mean of both, and the arm
    is the one with the best mean over all. In cross-validation the
    arm is the one with the best mean over all folds. The stated accuracy is that of choosing: for each fold the arm
    that is best on the other folds of its repeat, measured on the fold. Its interval is that of `estimates`.

    Args:
        trials: A row per trial at one setting, as `Trial` has its fields.
        arms: Which may be chosen.
        folds: Of one repeat of cross-validation, if the trials are its folds; else None.
    """
    table = trials[trials["arm"].isin(arms)]
    accuracies = _by_draw(table, "accuracy", _CHOSEN)
    if accuracies.empty:
        return None
    by: Literal["validation", "other_folds", "other_half", "test"]
    sizes = _test_sizes(table)
    validation = pd.DataFrame() if folds else _by_draw(table, "val_accuracy", _CHOSEN)
    if folds:
        best, by = _best(accuracies, sizes), "other_folds"
        values = [_on_fold(accuracies, sizes, draw, folds) for draw in accuracies.index]
        optimistic = len(accuracies) < 2
    elif len(validation) == len(accuracies) and set(validation) == set(accuracies):
        best, by, optimistic = _best(validation, sizes), "validation", False
        values = accuracies[best].tolist()
    else:
        best, halves = _best(accuracies, sizes), _on_halves(table, accuracies)
        by, optimistic = "other_half" if halves else "test", not halves
        values = halves or accuracies[best].tolist()
    arm, model = best
    rows = table[(table["arm"] == arm) & (table["other_model"] == model)]
    tested = [int(sizes[draw]) for draw in accuracies.index]
    accuracy = estimates.mean_accuracy(values, tested, distinct_images(rows, folds), folds)
    return ArmChoice(arm, accuracy, by, optimistic, model, estimates.chance(rows))


_CHOSEN = ["arm", "other_model"]


def _by_draw(trials: pd.DataFrame, column: str, by: list[str]) -> pd.DataFrame:
    """A row per draw that all have, a column per arm, or arm and model, in the order of the trials."""
    if trials.empty:
        return pd.DataFrame()
    table = trials.pivot_table(index="seed", columns=by if len(by) > 1 else by[0], values=column)
    order = trials[by].drop_duplicates().itertuples(index=False, name=None)
    present = [key for key in (row if len(by) > 1 else row[0] for row in order) if key in table]
    return table[present].dropna()


def _test_sizes(trials: pd.DataFrame) -> pd.Series:
    """The number of test images of each draw."""
    first = trials.drop_duplicates("seed").set_index("seed")
    return first["truth"].map(len)


def _best(accuracies: pd.DataFrame, sizes: pd.Series) -> Any:
    """The column with the best mean over the test images; of equal ones the first, which needs fewer images."""
    weights = sizes.loc[accuracies.index].to_numpy()
    means = pd.Series(np.average(accuracies.to_numpy(), axis=0, weights=weights), accuracies.columns)
    return means.round(10).idxmax()


def _right(trials: pd.DataFrame) -> pd.DataFrame:
    """Tell which test images were recognised: a row per trial, a column per image."""
    return pd.DataFrame(np.array(trials["truth"].tolist()) == np.array(trials["predicted"].tolist()), trials["seed"])


def _on_halves(trials: pd.DataFrame, accuracies: pd.DataFrame) -> list[float]:
    """For each draw, the accuracy on each half of the test images of what is best on the other half, averaged.

    Every second image of a class is in one half. Nothing, if a half has none.
    """
    truth = pd.Series(trials["truth"].iloc[0])
    is_second = (truth.groupby(truth).cumcount() % 2 == 1).to_numpy()
    if not is_second.any():
        return []
    right = {key: _right(group).loc[accuracies.index] for key, group in trials.groupby(_CHOSEN)}
    first, second = (
        pd.DataFrame({key: right[key].loc[:, half].mean(axis=1) for key in accuracies})
        for half in (~is_second, is_second)
    )
    share = is_second.mean()
    sizes = _test_sizes(trials)
    mean = (1 - share) * first[_best(second, sizes)] + share * second[_best(first, sizes)]
    return [float(value) for value in mean]


def _on_fold(accuracies: pd.DataFrame, sizes: pd.Series, draw: int, folds: int) -> float:
    """The accuracy on one fold of the arm that is best on the others of its repeat."""
    others = accuracies[(accuracies.index // folds == draw // folds) & (accuracies.index != draw)]
    return float(accuracies.loc[draw, _best(others if len(others) else accuracies, sizes)])
