"""Counts the test images of a benchmark: each once, however many draws are tested on it."""

import pandas as pd


def images_per_answer(trials: int, folds: int | None) -> float:
    """Say how many test images an answer stands for, of one arm and one model.

    Draws of a holdout share their test, and each repeat of cross-validation tests every photo once.

    Args:
        trials: how many there are.
        folds: of one repeat of cross-validation, if the trials are its folds; else None.
    """
    return min(1.0, (folds or 1) / trials)


def distinct_images(trials: pd.DataFrame, folds: int | None) -> int:
    """Count the distinct test images of the trials of one arm and one model."""
    return round(sum(map(len, trials["truth"])) * images_per_answer(len(trials), folds))
