"""What a run answers: how good the classifier is with these photos, and which classes synthetic images help."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dct_augment.benchmark import estimates
from dct_augment.benchmark.choice import ArmChoice, SyntheticEffect
from dct_augment.benchmark.image_counts import images_per_answer
from dct_augment.intervals import Estimate, estimate_json, proportion

NAMED = 5
"""Classes that are named of each kind: that gain, that lose, to photograph next."""


def answer(
    trials: pd.DataFrame,
    names: Mapping[int, str],
    choice: ArmChoice,
    effect: SyntheticEffect | None,
    folds: int | None = None,
) -> dict[str, Any]:
    """Return the numbers that the report begins with.

    Args:
        trials: A row per trial at the setting at which arms are compared.
        names: The classes by index.
        choice: The arm that is kept.
        effect: What synthetic images do, if arms with and without them were compared.
        folds: Of one repeat of cross-validation, if the trials are its folds; else None.
    """
    kept = _class_accuracies(trials, choice.arm, folds)
    result: dict[str, Any] = {
        "kept": {
            "arm": choice.arm,
            "accuracy": estimate_json(choice.accuracy),
            "chosen_by": choice.by,
            "optimistic": choice.optimistic,
            "arm_accuracy": _accuracy(trials, choice.arm, folds)["mean"],
            "chance": None if math.isnan(choice.chance) else round(choice.chance, 4),
            "near_chance": choice.is_near_chance,
        },
        "classes": {name: _class_numbers(kept, index) for index, name in names.items()},
        "photograph_next": _weakest(kept, names),
        "all_right": bool(len(kept)) and bool((kept["share"] == 1).all()),
        "effect": None,
    }
    if effect is None:
        return result
    with_images, without = (_class_accuracies(trials, arm, folds) for arm in (effect.arm, effect.baseline))
    gains = {
        name: with_images.loc[index, "share"] - without.loc[index, "share"]
        for index, name in names.items()
        if index in with_images.index and index in without.index
    }
    ordered = sorted(gains, key=lambda name: -gains[name])
    result["effect"] = {
        "arm": effect.arm,
        "baseline": effect.baseline,
        "accuracy": _accuracy(trials, effect.arm, folds),
        "baseline_accuracy": _accuracy(trials, effect.baseline, folds),
        "difference": estimate_json(effect.difference.estimate),
        "unclear": effect.difference.unclear,
        "verdict": effect.verdict,
        "gain_by_class": {name: round(float(gains[name]), 4) for name in ordered},
        "gaining": [name for name in ordered if gains[name] > 0][:NAMED],
        "losing": [name for name in reversed(ordered) if gains[name] < 0][:NAMED],
    }
    return result


def _accuracy(trials: pd.DataFrame, arm: str, folds: int | None) -> dict[str, Any]:
    return estimate_json(estimates.accuracy(trials[trials["arm"] == arm], folds))


def _class_accuracies(trials: pd.DataFrame, arm: str, folds: int | None) -> pd.DataFrame:
    """Give, by class index, the share of right answers over all draws, and the number of test images."""
    of_arm = trials[trials["arm"] == arm]
    answers = [
        (truth, truth == predicted)
        for row in of_arm.to_dict("records")
        for truth, predicted in zip(row["truth"], row["predicted"], strict=True)
    ]
    table = pd.DataFrame(answers, columns=["truth", "right"])
    accuracies = table.groupby("truth")["right"].agg(share="mean", images="count")
    images = accuracies["images"] * images_per_answer(max(len(of_arm), 1), folds)
    return accuracies.assign(images=images.round().astype(int))


def _class_numbers(accuracies: pd.DataFrame, index: int) -> dict[str, Any]:
    """The share of right answers of a class, with Wilson's interval over its test images, each counted once."""
    if index not in accuracies.index:
        return estimate_json(None)
    share, images = float(accuracies.loc[index, "share"]), int(accuracies.loc[index, "images"])
    interval = proportion(round(share * images), images)
    return estimate_json(Estimate(share, min(interval.low, share), max(interval.high, share), images))


def _weakest(accuracies: pd.DataFrame, names: Mapping[int, str]) -> list[str]:
    """Name the classes with the lowest accuracy; of equal ones that with fewer images, whose interval is wider."""
    known = accuracies[accuracies.index.isin(list(names)) & (accuracies["share"] < 1)]
    return [names[int(index)] for index in known.sort_values(["share", "images"], kind="stable").index[:NAMED]]
