"""Chooses the arm, and of several models the model, of the user's classifier; says how good it is on other images."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from dct_augment.benchmark.image_counts import images_per_answer
from dct_augment.intervals import Estimate, mean_of_folds, mean_t, proportion, wider


@dataclass(frozen=True)
class ArmChoice:
    """An arm with a model, and the accuracy to expect of a classifier that is trained in what was chosen so.

    `other_model` is one of `downstream.other_models`; empty for `downstream.model`.

    `by` is whose accuracy chose the arm. The accuracy is `optimistic` if the images it is measured on chose the arm.
    """

    arm: str
    accuracy: Estimate
    by: Literal["validation", "other_folds", "other_half", "test"]
    optimistic: bool
    other_model: str = ""


@dataclass(frozen=True)
class SyntheticEffect:
    """What synthetic images do: the accuracy of the best arm with them minus that of the best one without, paired."""

    arm: str
    baseline: str
    difference: Estimate

    @property
    def verdict(self) -> str:
        """Say it in words; a difference whose interval holds 0 is not clear, nor is one without any spread."""
        if self.difference.low == self.difference.high:
            return "Synthetic images make no clear difference."
        if self.difference.low > 0:
            return "Synthetic images help."
        return "Synthetic images hurt." if self.difference.high < 0 else "Synthetic images make no clear difference."


def synthetic_effect(
    trials: pd.DataFrame, synthetic: Collection[str], real: Collection[str], folds: int | None = None
) -> SyntheticEffect | None:
    """Compare the best of the arms with synthetic images with the best of those without; None if either is missing.

    All trials are of one model.
    The best two are chosen by the same trials, so the difference is a little optimistic for both. In a holdout, its
    interval is that over draws or that over test images, whichever is wider: draws may have the same photos.
    """
    accuracies = _by_draw(trials, "accuracy", ["arm"])
    with_images = accuracies[[arm for arm in accuracies if arm in synthetic]]
    without = accuracies[[arm for arm in accuracies if arm in real]]
    if with_images.empty or without.empty:
        return None
    arm, baseline = _best(with_images), _best(without)
    differences = [round(float(value), 10) for value in accuracies[arm] - accuracies[baseline]]
    if folds:
        return SyntheticEffect(arm, baseline, mean_of_folds(differences, folds, (-1, 1)))
    by_image = _right(trials[trials["arm"] == arm]).mean() - _right(trials[trials["arm"] == baseline]).mean()
    over_images = mean_t(by_image.tolist(), (-1, 1))
    return SyntheticEffect(arm, baseline, wider(mean_t(differences, (-1, 1)), over_images))


def choose(trials: pd.DataFrame, arms: Collection[str], folds: int | None = None) -> ArmChoice | None:
    """Choose the best of some arms, with the best model for it; None if there is no trial of any.

    Of a holdout, the accuracy on validation images chooses, and that on test images is stated. Without validation
    images each half of the test images chooses for the other half: the stated accuracy is the mean of both, and the arm
    is the one with the best mean over all. In cross-validation the
    arm is the one with the best mean over all folds. The stated accuracy is that of choosing: for each fold the arm
    that is best on the other folds of its repeat, measured on the fold. Its interval is that over the draws or
    Wilson's over the test images, whichever is wider: draws that are all alike do not make an accuracy sure.

    Args:
        trials: A row per trial at one setting, as `Trial` has its fields.
        arms: Which may be chosen.
        folds: Of one repeat of cross-validation, if the trials are its folds; else None.
    """
    table = trials[trials["arm"].isin(arms)]
    accuracies = _by_draw(table, "accuracy", _CHOSEN)
    if accuracies.empty:
        return None
    if folds:
        chosen = [_on_fold(accuracies, draw, folds) for draw in accuracies.index]
        arm, model = best = _best(accuracies)
        estimate = _with_images(mean_of_folds(chosen, folds, (0, 1)), table, best, folds)
        return ArmChoice(arm, estimate, "other_folds", optimistic=len(accuracies) < 2, other_model=model)
    validation = _by_draw(table, "val_accuracy", _CHOSEN)
    if len(validation) == len(accuracies) and set(validation) == set(accuracies):
        arm, model = best = _best(validation)
        estimate = _with_images(mean_t(accuracies[best].tolist(), (0, 1)), table, best, folds)
        return ArmChoice(arm, estimate, "validation", optimistic=False, other_model=model)
    arm, model = best = _best(accuracies)
    halves = _on_halves(table, accuracies)
    estimate = _with_images(mean_t(halves or accuracies[best].tolist(), (0, 1)), table, best, folds)
    return ArmChoice(arm, estimate, "other_half" if halves else "test", optimistic=not halves, other_model=model)


_CHOSEN = ["arm", "other_model"]


def _with_images(over_draws: Estimate, trials: pd.DataFrame, chosen: tuple[str, str], folds: int | None) -> Estimate:
    """Return the accuracy over draws with the interval over the test images of what was chosen, if that is wider."""
    arm, model = chosen
    rows = trials[(trials["arm"] == arm) & (trials["other_model"] == model)]
    images = round(sum(map(len, rows["truth"])) * images_per_answer(len(rows), folds))
    return wider(over_draws, proportion(round(over_draws.mean * images), images))


def _by_draw(trials: pd.DataFrame, column: str, by: list[str]) -> pd.DataFrame:
    """A row per draw that all have, a column per arm, or arm and model, in the order of the trials."""
    if trials.empty:
        return pd.DataFrame()
    table = trials.pivot_table(index="seed", columns=by if len(by) > 1 else by[0], values=column)
    order = trials[by].drop_duplicates().itertuples(index=False, name=None)
    present = [key for key in (row if len(by) > 1 else row[0] for row in order) if key in table]
    return table[present].dropna()


def _best(accuracies: pd.DataFrame) -> Any:
    """The column with the best mean; of equal ones the first, which needs fewer images."""
    return accuracies.mean().round(10).idxmax()


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
    mean = (1 - share) * first[_best(second)] + share * second[_best(first)]
    return [float(value) for value in mean]


def _on_fold(accuracies: pd.DataFrame, draw: int, folds: int) -> float:
    """The accuracy on one fold of the arm that is best on the others of its repeat."""
    others = accuracies[(accuracies.index // folds == draw // folds) & (accuracies.index != draw)]
    return float(accuracies.loc[draw, _best(others if len(others) else accuracies)])
