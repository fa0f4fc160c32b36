"""Accuracies of arms and their paired differences, with intervals that allow for few draws, and for few test images.

Draws that all agree do not make a number sure, and two folds say nothing about their spread. So no interval is narrower
than that over the distinct test images, and of so few folds that over the images takes its place. Means are over test
images: a fold with more of them counts more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dct_augment.benchmark.image_counts import distinct_images, images_per_answer
from dct_augment.intervals import Estimate, mean_of_folds, mean_t, paired_gain, proportion, wider

_FEW_FOLDS = 3
"""Of so few folds Student's t has one or two degrees of freedom, and an interval over them holds nearly everything."""


@dataclass(frozen=True)
class Difference:
    """The accuracy of an arm minus that of another on the same draws, and why it is not clear; "" if it is."""

    estimate: Estimate
    unclear: Literal["", "one_draw", "few_folds", "no_spread", "holds_0"]
    values: tuple[float, ...]


def few_folds(draws: int, folds: int | None) -> bool:
    """Tell whether these are so few folds, of all repeats, that an interval over them says nothing."""
    return folds is not None and draws <= _FEW_FOLDS


def accuracy(trials: pd.DataFrame, folds: int | None) -> Estimate | None:
    """Return the mean accuracy of the trials of one arm and one model at one setting; None of no trial.

    Args:
        trials: a row per draw.
        folds: of one repeat of cross-validation, if the draws are its folds; else None.
    """
    if trials.empty:
        return None
    sizes = [len(truth) for truth in trials["truth"]]
    return mean_accuracy(trials["accuracy"].tolist(), sizes, distinct_images(trials, folds), folds)


def mean_accuracy(values: Sequence[float], sizes: Sequence[int], images: int, folds: int | None) -> Estimate:
    """Return the mean of the accuracies on some draws, whose tests have these sizes, and so many distinct images.

    Its interval is that over draws or folds, or Wilson's over the images if that is wider; of few folds it is Wilson's.
    """
    mean = float(np.average(values, weights=sizes))
    over_images = proportion(round(mean * images), images)
    return _estimate(values, mean, over_images, folds, (0, 1))


def difference(trials: pd.DataFrame, arm: str, baseline: str, folds: int | None) -> Difference | None:
    """Return the paired difference of two arms on the draws that both have; None if there is no such draw.

    Its interval is that over draws or folds, or the paired one over the test images if that is wider; of few folds it
    is that over the images. Such a difference is never clear, nor is one that is the same in every draw.

    Args:
        trials: of one model at one setting.
        arm: whose accuracy it is.
        baseline: whose accuracy is subtracted.
        folds: of one repeat of cross-validation, if the draws are its folds; else None.
    """
    first, second = (trials[trials["arm"] == name].set_index("seed").sort_index() for name in (arm, baseline))
    draws = first.index.intersection(second.index)
    if draws.empty:
        return None
    first, second = first.loc[draws], second.loc[draws]
    # Rounded so that equal accuracies are equal: a difference of 1e-17 has a sign.
    values = [round(float(value), 10) for value in first["accuracy"] - second["accuracy"]]
    over_images = _paired_over_images(_right(first), _right(second), folds)
    mean = round(float(np.average(values, weights=[len(truth) for truth in first["truth"]])), 10)
    estimate = _estimate(values, mean, over_images, folds, (-1, 1))
    return Difference(estimate, _unclear(values, estimate, folds), tuple(values))


def chance(trials: pd.DataFrame) -> float:
    """Return the share of the most frequent class among the test images: the accuracy of always answering it."""
    truth = np.concatenate([np.asarray(labels) for labels in trials["truth"]])
    return float(np.unique(truth, return_counts=True)[1].max() / len(truth))


def _estimate(
    values: Sequence[float], mean: float, over_images: Estimate, folds: int | None, within: tuple[float, float]
) -> Estimate:
    if few_folds(len(values), folds):
        return wider(Estimate(mean, mean, mean, len(values)), over_images)
    over_draws = mean_of_folds(values, folds, within) if folds else mean_t(values, within)
    return wider(_around(mean, over_draws, within), over_images)


def _around(mean: float, estimate: Estimate, within: tuple[float, float]) -> Estimate:
    """Move an interval so that it is around this mean; it stays where the mean is that of the estimate."""
    shift = mean - estimate.mean
    if abs(shift) < 1e-9:
        return estimate
    low, high = max(estimate.low + shift, within[0]), min(estimate.high + shift, within[1])
    return Estimate(mean, min(low, mean), max(high, mean), estimate.count)


def _unclear(values: Sequence[float], estimate: Estimate, folds: int | None) -> Any:
    if few_folds(len(values), folds):
        return "few_folds"
    if len(values) < 2:
        return "one_draw"
    if len(set(values)) < 2:
        return "no_spread"
    return "holds_0" if estimate.low <= 0 <= estimate.high else ""


def _right(trials: pd.DataFrame) -> list[NDArray[np.bool_]]:
    """Tell of each draw which of its test images were recognised."""
    pairs = zip(trials["truth"], trials["predicted"], strict=True)
    return [np.asarray(truth) == np.asarray(predicted) for truth, predicted in pairs]


def _paired_over_images(
    first: Sequence[NDArray[np.bool_]], second: Sequence[NDArray[np.bool_]], folds: int | None
) -> Estimate:
    """Return the difference with its interval over the test images.

    Draws of a holdout share their test images: each has its mean over the draws, and the interval is Student's t, if
    they differ at all. Else it is Newcombe's of the number of images that both, one or none recognised, as a mean over
    the repeats: each image counts once.
    """
    if folds is None:
        by_image = (np.mean(first, axis=0) - np.mean(second, axis=0)).round(10)
        if len(set(by_image.tolist())) > 1:
            return mean_t(by_image.tolist(), (-1, 1))
    with_first, with_second = np.concatenate(first), np.concatenate(second)
    share = images_per_answer(len(first), folds)
    images = round(len(with_first) * share)
    both = round(float((with_first & with_second).sum()) * share)
    only_first = round(float((with_first & ~with_second).sum()) * share)
    only_second = round(float((~with_first & with_second).sum()) * share)
    return paired_gain(both, only_first, only_second, max(images - both - only_first - only_second, 0))
