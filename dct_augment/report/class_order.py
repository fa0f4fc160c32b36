"""The order of the classes on the page: those that synthetic images change most come first."""

from collections.abc import Mapping
from typing import Any

from dct_augment.records import ImageKind


def gains_by_class(by_class: Mapping[str, Any], arm: str | None, baseline: str | None) -> dict[str, float]:
    """Return what the test accuracy of each class gains from one arm to another; nothing without both.

    Args:
        by_class: The accuracy of the classes, as `arm_comparisons.summarize_trials` gives it.
        arm: That with synthetic images.
        baseline: That without.
    """
    after, before = by_class["arms"].get(arm, {}), by_class["arms"].get(baseline, {})
    return {name: round(after[name] - before[name], 4) for name in after if name in before}


def order_classes(classes: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return what the order goes by, and the names of the classes in it.

    By `test_gain` the largest gain is followed by the largest loss, then by the second largest gain, and so on. Without
    one, classes that the guide recognises least are first: `guide_accuracy`. Without that, the order is that of the
    `data_set`. Classes without a number are last; equal ones stay in the order of the data set.

    Args:
        classes: The numbers of each class, by name.
    """
    gains = {name: numbers["test_gain"] for name, numbers in classes.items() if numbers["test_gain"] is not None}
    if gains:
        return "test_gain", _with_the_rest(_alternating(gains), classes)
    shares = {name: _guide_accuracy(numbers) for name, numbers in classes.items()}
    known = {name: share for name, share in shares.items() if share is not None}
    if known:
        return "guide_accuracy", _with_the_rest(sorted(known, key=known.__getitem__), classes)
    return "data_set", list(classes)


def _alternating(gains: Mapping[str, float]) -> list[str]:
    """Gains and losses by turns, each from the largest; then the classes that neither gain nor lose."""
    gaining = sorted((name for name in gains if gains[name] > 0), key=lambda name: -gains[name])
    losing = sorted((name for name in gains if gains[name] < 0), key=lambda name: gains[name])
    both = min(len(gaining), len(losing))
    names: list[str] = []
    for pair in zip(gaining, losing, strict=False):
        names += pair
    return names + gaining[both:] + losing[both:] + [name for name in gains if gains[name] == 0]


def _with_the_rest(first: list[str], classes: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*first, *classes]))


def _guide_accuracy(numbers: Mapping[str, Any]) -> float | None:
    """The share of class-token images that the guide recognises, or of plain-prompt images where there are none."""
    for kind in (ImageKind.CLASS_TOKEN, ImageKind.PLAIN_PROMPT):
        share: float | None = numbers[kind]["guide_accuracy"]
        if share is not None:
            return share
    return None
