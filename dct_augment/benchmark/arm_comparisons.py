"""The numbers of the benchmark: arms at the base setting, paired differences, curves, and mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dct_augment.benchmark import estimates
from dct_augment.benchmark.arms import ARMS
from dct_augment.intervals import estimate_json, fold_test, permutation_test, sign_test
from dct_augment.metrics.accuracy import confusion_counts

PAIRS = (
    ("class_token", "real+strong_aug"),
    ("class_token", "plain_prompt"),
    ("class_token", "textual_inversion"),
    ("class_token", "class_token_few_shot_guide"),
    ("class_token_few_shot_guide", "real+strong_aug"),
    ("class_token_few_shot_guide", "plain_prompt"),
    ("class_token_few_shot_guide", "textual_inversion"),
    ("class_token_few_shot_guide", "image_variation"),
    ("class_token_few_shot_guide", "lora_plain_prompt"),
    ("image_variation", "real+strong_aug"),
    ("lora_plain_prompt", "real+strong_aug"),
    ("lora_plain_prompt", "plain_prompt"),
    ("lora_class_token", "real+strong_aug"),
    ("lora_class_token", "lora_plain_prompt"),
    ("lora_class_token", "class_token_few_shot_guide"),
    ("class_token_filtered", "class_token"),
    ("textual_inversion", "real+strong_aug"),
    ("plain_prompt", "real+strong_aug"),
    ("real+strong_aug", "real"),
    ("real+linear_probe", "real"),
)
"""Arms that are compared on the same seeds. The first two answer what the run is for."""

CONFUSED = ("real+strong_aug", "class_token", "plain_prompt", "textual_inversion", "class_token_few_shot_guide")
"""Arms whose mistakes are shown."""

_UNCLEAR = (
    "unclear: why a difference is not significant (holds_0: its interval includes 0; no_spread: it is the same in "
    "every draw, which makes nothing sure; few_folds; one_draw), empty if it is"
)
_HOLDOUT_METHOD = (
    "mean over seeds with Student's t interval, or Wilson's over the test images if that is wider; paired: difference "
    "of two arms on the same seeds, with Student's t interval over seeds, or that over the test images (Student's t "
    "over their means, or Newcombe's where all are equal) if that is wider; sign_p, permutation_p: two-sided tests of "
    "no difference, by the signs of the differences and by all their sign flips, exact (up to 16 seeds); " + _UNCLEAR
)
_FOLDS_METHOD = (
    "mean over folds with the corrected resampled t interval (Nadeau and Bengio 2003), which allows for the overlap of "
    "their training images, or Wilson's over the photos if that is wider; paired: difference of two arms on the same "
    "folds, with the corrected resampled t interval, or Newcombe's paired one over the photos if that is wider; "
    "fold_p: the two-sided corrected resampled t test; " + _UNCLEAR
)
_FEW_FOLDS_METHOD = (
    "mean over folds with Wilson's interval over the photos, each counted once, as so few folds cannot tell how much "
    "it varies; paired: difference of two arms on the same folds, with Newcombe's paired interval over the photos, and "
    "without a test; " + _UNCLEAR
)


@dataclass(frozen=True)
class _BaseSetting:
    """The setting at which arms are compared; the curves vary one of its numbers."""

    shots: int
    per_class: int

    def trials(self, trials: pd.DataFrame) -> pd.DataFrame:
        """The trials at this setting; arms without synthetic images have 0 per class."""
        return trials[(trials["shots"] == self.shots) & trials["per_class"].isin([0, self.per_class])]


def summarize_trials(
    trials: pd.DataFrame, names: Mapping[int, str], shots: int, per_class: int, folds: int | None = None
) -> dict[str, Any]:
    """Return every number of the benchmark.

    Arms are compared by the trials of `downstream.model`. `models` has the accuracy of every arm by model: "" and
    `downstream.other_models`.

    Args:
        trials: A row per trial, as `Trial` has its fields.
        names: The classes by index.
        shots: Of the base setting. Where no trial has it, the most frequent one takes its place.
        per_class: Synthetic images per class of the base setting, likewise.
        folds: Of one repeat of cross-validation, if the trials are its folds; else None.
    """
    protocol = {"protocol": "cross_validation" if folds else "holdout", "folds": folds}
    of_all_models = trials
    trials = trials[trials["other_model"] == ""] if len(trials) else trials
    if trials.empty:
        return {
            **protocol,
            "few_folds": None,
            "shots": None,
            "per_class": None,
            "steps": None,
            "seeds": [],
            "method": _method(0, folds),
            "arms": {},
            "trials": {},
            "paired": _paired(trials, folds),
            "curves": {},
            "confusion": {},
            "by_class": _by_class({}, names),
            "models": _models_at(of_all_models, shots, per_class, folds),
        }
    base = _base_setting(trials, shots, per_class)
    at_base = base.trials(trials)
    steps = sorted({int(value) for value in trials["steps"]})
    by_arm = {str(arm): group for arm, group in at_base.groupby("arm", sort=False)}
    seeds = sorted({int(seed) for seed in at_base["seed"]})
    return {
        **protocol,
        "few_folds": len(seeds) if estimates.few_folds(len(seeds), folds) else None,
        "shots": base.shots,
        "per_class": base.per_class,
        "steps": steps[0] if len(steps) == 1 else steps,
        "seeds": seeds,
        "method": _method(len(seeds), folds),
        "arms": {arm: _accuracy(group, folds) for arm, group in by_arm.items()},
        "trials": {arm: _accuracy_by_seed(group) for arm, group in by_arm.items()},
        "paired": _paired(at_base, folds),
        "curves": _curves(trials, base, folds),
        "confusion": _confusions(at_base, names),
        "by_class": _by_class(by_arm, names),
        "models": _models(base.trials(of_all_models), folds),
    }


def _models_at(trials: pd.DataFrame, shots: int, per_class: int, folds: int | None) -> dict[str, dict[str, Any]]:
    """The accuracy of every arm by model, where only other models have trials."""
    if trials.empty:
        return {}
    return _models(_base_setting(trials, shots, per_class).trials(trials), folds)


def _base_setting(trials: pd.DataFrame, shots: int, per_class: int) -> _BaseSetting:
    """The setting asked for where there are trials of it, else the most frequent one."""
    if not (trials["shots"] == shots).any():
        shots = int(trials["shots"].mode()[0])
    available = trials.loc[(trials["shots"] == shots) & (trials["per_class"] > 0), "per_class"]
    if len(available) and not (available == per_class).any():
        per_class = int(available.mode()[0])
    return _BaseSetting(shots, per_class)


def _method(draws: int, folds: int | None) -> str:
    """Say how the intervals of so many draws are made."""
    if draws and estimates.few_folds(draws, folds):
        return _FEW_FOLDS_METHOD
    return _FOLDS_METHOD if folds else _HOLDOUT_METHOD


def _accuracy(trials: pd.DataFrame, folds: int | None) -> dict[str, Any]:
    return estimate_json(estimates.accuracy(trials, folds))


def _accuracy_by_seed(trials: pd.DataFrame) -> dict[str, float]:
    ordered = trials.sort_values("seed")
    return {str(seed): round(float(value), 4) for seed, value in zip(ordered["seed"], ordered["accuracy"], strict=True)}


def _paired(trials: pd.DataFrame, folds: int | None) -> dict[str, dict[str, Any]]:
    """The comparison of each of `PAIRS`, as `arm-baseline`."""
    return {f"{arm}-{baseline}": _pair(trials, arm, baseline, folds) for arm, baseline in PAIRS}


def _pair(trials: pd.DataFrame, arm: str, baseline: str, folds: int | None) -> dict[str, Any]:
    difference = None if trials.empty else estimates.difference(trials, arm, baseline, folds)
    pair = {"arm": arm, "baseline": baseline, **estimate_json(difference.estimate if difference else None)}
    pair |= {"unclear": difference.unclear if difference else None}
    pair |= {"sign_p": None, "permutation_p": None, "smallest_p": None, "fold_p": None}
    if difference is None or difference.unclear == "few_folds":
        return pair
    values = difference.values
    if folds:  # the exact tests are of independent pairs, which folds are not
        return pair | {"fold_p": round(fold_test(values, folds), 6)}
    return {
        **pair,
        "sign_p": round(float(sign_test(values)), 6),
        "permutation_p": round(float(permutation_test(values)), 6),
        # The most extreme of 2^n equally likely outcomes, on both sides: no test of n pairs can say less.
        "smallest_p": min(1.0, 2.0 ** (1 - len(values))),
    }


def _curves(trials: pd.DataFrame, base: _BaseSetting, folds: int | None) -> dict[str, Any]:
    """Accuracy against shots at the base number of synthetic images, and against that number at the base shots."""
    at_base_images = trials[trials["per_class"].isin([0, base.per_class])]
    at_base_shots = trials[trials["shots"] == base.shots]
    by_images = _curve_by_arm(at_base_shots[at_base_shots["per_class"] > 0], "per_class", folds)
    for curve in by_images.values():
        for point in curve:
            point["ratio"] = round(point["per_class"] / base.shots, 2)
    reference = at_base_shots[at_base_shots["arm"] == "real+strong_aug"]
    return {
        "shots": {"per_class": base.per_class, "arms": _curve_by_arm(at_base_images, "shots", folds)},
        "per_class": {"shots": base.shots, "arms": by_images, "reference": _accuracy(reference, folds)},
    }


def _curve_by_arm(trials: pd.DataFrame, setting: str, folds: int | None) -> dict[str, list[dict[str, Any]]]:
    """Accuracy at each value of a setting."""
    curves = {}
    for arm, arm_trials in trials.groupby("arm", sort=False):
        curves[str(arm)] = [
            {setting: int(value)} | _accuracy(trials_at_value, folds)
            for value, trials_at_value in arm_trials.groupby(setting)
        ]
    return curves


def _models(trials: pd.DataFrame, folds: int | None) -> dict[str, dict[str, Any]]:
    """The accuracy of every arm, by model."""
    return {
        str(model): {str(arm): _accuracy(group, folds) for arm, group in of_model.groupby("arm", sort=False)}
        for model, of_model in trials.groupby("other_model", sort=False)
    }


def _confusions(trials: pd.DataFrame, names: Mapping[int, str]) -> dict[str, Any]:
    """What the low-resource classifiers take for what on the test images, all seeds together."""
    confusions: dict[str, Any] = {}
    for arm in CONFUSED:
        pairs: list[tuple[str, str]] = []
        for row in trials[trials["arm"] == arm].to_dict("records"):
            pairs += zip(_class_names(row["truth"], names), _class_names(row["predicted"], names), strict=True)
        confusion = confusion_counts(pairs, list(names.values()))
        if confusion is not None:
            confusions[arm] = confusion
    return confusions


def _by_class(by_arm: Mapping[str, pd.DataFrame], names: Mapping[int, str]) -> dict[str, Any]:
    """Give the accuracy of each class by arm, all draws together, and the best arms with and without synthetic images.

    Of equal ones the first is the best; None where there is none.
    """
    shares = {arm: _class_shares(trials, names) for arm, trials in by_arm.items()}
    means = {arm: float(trials["accuracy"].mean()) for arm, trials in by_arm.items()}
    with_images = [arm for arm in means if arm in ARMS and ARMS[arm].images is not None]
    without = [arm for arm in means if arm in ARMS and ARMS[arm].images is None]
    return {
        "arms": shares,
        "arm": max(with_images, key=means.__getitem__, default=None),
        "baseline": max(without, key=means.__getitem__, default=None),
    }


def _class_shares(trials: pd.DataFrame, names: Mapping[int, str]) -> dict[str, float]:
    """Share of right answers of each class that the test has."""
    truth = np.concatenate([np.asarray(labels) for labels in trials["truth"]])
    right = truth == np.concatenate([np.asarray(labels) for labels in trials["predicted"]])
    shares = pd.Series(right).groupby(truth).mean()
    return {name: round(float(shares[index]), 4) for index, name in names.items() if index in shares.index}


def _class_names(indices: Sequence[int], names: Mapping[int, str]) -> list[str]:
    return [names.get(int(index), f"class {index}") for index in indices]
