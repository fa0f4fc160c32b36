"""What a run answers: how good the classifier is with these photos, and which classes synthetic images help."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dct_augment.benchmark.choice import ArmChoice, SyntheticEffect
from dct_augment.intervals import estimate_json, mean_of_folds, mean_t, proportion

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
    kept = _class_accuracies(trials, choice.arm)
    result: dict[str, Any] = {
        "kept": {
            "arm": choice.arm,
            "accuracy": estimate_json(choice.accuracy),
            "chosen_by": choice.by,
            "optimistic": choice.optimistic,
        },
        "classes": {name: _class_numbers(kept, index) for index, name in names.items()},
        "photograph_next": _weakest(kept, names),
        "effect": None,
    }
    if effect is None:
        return result
    with_images, without = _class_accuracies(trials, effect.arm), _class_accuracies(trials, effect.baseline)
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
        "difference": estimate_json(effect.difference),
        "verdict": effect.verdict,
        "gain_by_class": {name: round(float(gains[name]), 4) for name in ordered},
        "gaining": [name for name in ordered if gains[name] > 0][:NAMED],
        "losing": [name for name in reversed(ordered) if gains[name] < 0][:NAMED],
    }
    return result


def _accuracy(trials: pd.DataFrame, arm: str, folds: int | None) -> dict[str, Any]:
    values = trials.loc[trials["arm"] == arm, "accuracy"].tolist()
    return estimate_json(mean_of_folds(values, folds, (0, 1)) if folds else mean_t(values, (0, 1)))


def _class_accuracies(trials: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Count, by class index, the right answers, all answers, and their share, over all draws."""
    answers = [
        (truth, truth == predicted)
        for row in trials[trials["arm"] == arm].to_dict("records")
        for truth, predicted in zip(row["truth"], row["predicted"], strict=True)
    ]
    table = pd.DataFrame(answers, columns=["truth", "right"])
    counts = table.groupby("truth")["right"].agg(["sum", "count"])
    return counts.assign(share=counts["sum"] / counts["count"])


def _class_numbers(accuracies: pd.DataFrame, index: int) -> dict[str, Any]:
    """The share of a class's test images that are recognised, with Wilson's interval."""
    if index not in accuracies.index:
        return estimate_json(None)
    right, count = (int(accuracies.loc[index, column]) for column in ("sum", "count"))
    return estimate_json(proportion(right, count))


def _weakest(accuracies: pd.DataFrame, names: Mapping[int, str]) -> list[str]:
    """Name the classes with the lowest accuracy; of equal ones that with fewer answers, whose interval is wider."""
    known = accuracies[accuracies.index.isin(list(names)) & (accuracies["share"] < 1)]
    return [names[int(index)] for index in known.sort_values(["share", "count"], kind="stable").index[:NAMED]]
