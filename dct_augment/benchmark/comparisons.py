"""What the benchmark's trials say: arms at the base setting, paired differences, curves, and mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dct_augment.intervals import estimate, mean_t, permutation_test, sign_test
from dct_augment.metrics.accuracy import confusion

PAIRS = (
    ("class_token", "real+strong_aug"),
    ("class_token", "plain_prompt"),
    ("class_token", "textual_inversion"),
    ("class_token", "class_token_few_shot_guide"),
    ("class_token_few_shot_guide", "real+strong_aug"),
    ("class_token_few_shot_guide", "textual_inversion"),
    ("class_token_filtered", "class_token"),
    ("textual_inversion", "real+strong_aug"),
    ("plain_prompt", "real+strong_aug"),
    ("real+strong_aug", "real"),
)
"""Arms that are compared on the same seeds. The first two answer what the run is for."""

CONFUSED = ("real+strong_aug", "class_token", "plain_prompt", "textual_inversion", "class_token_few_shot_guide")
"""Arms whose mistakes are shown."""

_METHOD = (
    "mean over seeds with Student's t interval; paired: difference of two arms on the same seeds; sign_p, "
    "permutation_p: two-sided tests of no difference, by the signs of the differences and by all their sign flips, "
    "exact (up to 16 seeds)"
)


def summarize(trials: pd.DataFrame, names: Mapping[int, str], shots: int, per_class: int) -> dict[str, Any]:
    """Every number of the benchmark; `names` are the classes by index, `shots` and `per_class` the base setting.

    Where no trial has the base setting, the most frequent one takes its place.
    """
    facts: dict[str, Any] = {"shots": None, "per_class": None, "steps": None, "seeds": [], "method": _METHOD}
    facts |= {"arms": {}, "trials": {}, "paired": {}, "curves": {}, "confusion": {}}
    at_base = trials
    if not trials.empty:
        shots, per_class = _base(trials, shots, per_class)
        at_base = trials[(trials["shots"] == shots) & trials["per_class"].isin([0, per_class])]
        steps = sorted({int(value) for value in trials["steps"]})
        facts |= {"shots": shots, "per_class": per_class, "steps": steps[0] if len(steps) == 1 else steps}
        facts["seeds"] = sorted({int(seed) for seed in at_base["seed"]})
        facts["seconds"] = float(trials["seconds"].sum())
        for arm, group in at_base.groupby("arm", sort=False):
            facts["arms"][str(arm)] = _accuracy(group)
            facts["trials"][str(arm)] = _singles(group)
        facts["curves"] = _curves(trials, shots, per_class)
        facts["confusion"] = _mistakes(at_base, names)
    for arm, baseline in PAIRS:
        facts["paired"][f"{arm}-{baseline}"] = _pair(at_base, arm, baseline)
    return facts


def _accuracy(trials: pd.DataFrame) -> dict[str, Any]:
    return estimate(mean_t(trials["accuracy"].tolist(), (0, 1)) if len(trials) else None)


def _base(trials: pd.DataFrame, shots: int, per_class: int) -> tuple[int, int]:
    if not (trials["shots"] == shots).any():
        shots = int(trials["shots"].mode()[0])
    offered = trials.loc[(trials["shots"] == shots) & (trials["per_class"] > 0), "per_class"]
    if len(offered) and not (offered == per_class).any():
        per_class = int(offered.mode()[0])
    return shots, per_class


def _singles(group: pd.DataFrame) -> dict[str, float]:
    """Accuracy by seed."""
    ordered = group.sort_values("seed")
    return {str(seed): round(float(value), 4) for seed, value in zip(ordered["seed"], ordered["accuracy"], strict=True)}


def _pair(trials: pd.DataFrame, arm: str, baseline: str) -> dict[str, Any]:
    gaps = differences(trials, arm, baseline)
    facts: dict[str, Any] = {"arm": arm, "baseline": baseline} | estimate(mean_t(gaps, (-1, 1)) if gaps else None)
    # The most extreme of 2^n equally likely outcomes, on both sides: no test of n pairs can say less.
    smallest = min(1.0, 2.0 ** (1 - len(gaps))) if gaps else None
    tests = {"sign_p": sign_test(gaps), "permutation_p": permutation_test(gaps)} if gaps else {}
    known = {key: round(float(value), 6) for key, value in tests.items()}
    return facts | {"sign_p": None, "permutation_p": None} | known | {"smallest_p": smallest}


def differences(trials: pd.DataFrame, arm: str, baseline: str) -> list[float]:
    """Accuracy of an arm minus that of another, for every seed that both have."""
    if trials.empty:
        return []
    table = trials.pivot_table(index=["shots", "seed"], columns="arm", values="accuracy")
    if arm not in table or baseline not in table:
        return []
    # Rounded so that equal accuracies are equal: a difference of 1e-17 has a sign.
    return [round(float(gap), 10) for gap in (table[arm] - table[baseline]).dropna()]


def _curves(trials: pd.DataFrame, shots: int, per_class: int) -> dict[str, Any]:
    """Accuracy against shots at the base number of synthetic images, and against that number at the base shots."""
    by_shots = trials[trials["per_class"].isin([0, per_class])]
    by_number = trials[(trials["shots"] == shots) & (trials["per_class"] > 0)]
    reference = trials[(trials["shots"] == shots) & (trials["arm"] == "real+strong_aug")]
    numbers = _points(by_number, "per_class")
    for points in numbers.values():
        for point in points:
            point["ratio"] = round(point["per_class"] / shots, 2)
    return {
        "shots": {"per_class": per_class, "arms": _points(by_shots, "shots")},
        "per_class": {"shots": shots, "arms": numbers, "reference": _accuracy(reference)},
    }


def _points(trials: pd.DataFrame, by: str) -> dict[str, list[dict[str, Any]]]:
    return {
        str(arm): [{by: int(value)} | _accuracy(some) for value, some in group.groupby(by)]
        for arm, group in trials.groupby("arm", sort=False)
    }


def _mistakes(trials: pd.DataFrame, names: Mapping[int, str]) -> dict[str, Any]:
    """What the few-shot classifiers take for what on the test images, all seeds together."""
    found: dict[str, Any] = {}
    for arm in CONFUSED:
        pairs: list[tuple[str, str]] = []
        for row in trials[trials["arm"] == arm].to_dict("records"):
            pairs += zip(_named(row["truth"], names), _named(row["predicted"], names), strict=True)
        if (confused := confusion(pairs, list(names.values()))) is not None:
            found[arm] = confused
    return found


def _named(indices: Sequence[int], names: Mapping[int, str]) -> list[str]:
    return [names.get(int(index), f"class {index}") for index in indices]
