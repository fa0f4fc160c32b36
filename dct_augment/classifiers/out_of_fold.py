"""Measures a few-shot classifier on photos that had no part in it: folds, accuracy, temperature, refused classes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from dct_augment.classifiers.few_shot_heads import log_probabilities
from dct_augment.config import seed_from
from dct_augment.intervals import Estimate, proportion

SIGNIFICANT = 0.05
"""A guide whose answers would be as good by chance in more cases than this is refused."""


@dataclass(frozen=True)
class OutOfFold:
    """What a few-shot classifier says of photos that it was not trained on: each is answered by the other folds' one.

    A class is refused if the probability that the guide gives it ranks its own photos no higher than those of other
    classes: area under the ROC curve of 0.5 or less. All classes are refused if the number of right answers is no
    surprise: one-sided binomial test, p > 0.05, against the accuracy that the same answers would have on photos in
    random order (chance in Cohen's kappa: sum_k share of answers k * share of photos k). p is doubled if the better of
    two classifiers was chosen, with and without mirrored views. Photos that are answered by classifiers of all others
    are a little harder than chance says, so the test errs towards refusal. Where even right answers alone would not be
    significant, there are too few photos to tell, and nothing is refused.

    `classes`, `right`, `counts` and `ranks` are in the order of the classifier's labels: names, right answers, photos
    with an answer, area under the ROC curve (None without an answer). `folds` is 0 where nothing could be measured.
    `loss` is the mean of -log p of the right class at the temperature, `flips` whether views were mirrored.
    """

    classes: tuple[str, ...]
    right: tuple[int, ...]
    counts: tuple[int, ...]
    ranks: tuple[float | None, ...]
    folds: int
    temperature: float
    chance: float
    p_value: float | None
    loss: float | None
    flips: bool

    @property
    def accuracy(self) -> Estimate:
        """The share of right answers with Wilson's 95 % interval."""
        return proportion(sum(self.right), sum(self.counts))

    @property
    def refused(self) -> tuple[str, ...]:
        """The names of the classes that the classifier must not guide."""
        if self.p_value is not None and self.p_value > SIGNIFICANT:
            return self.classes
        pairs = zip(self.classes, self.ranks, strict=True)
        return tuple(name for name, rank in pairs if rank is not None and rank <= 0.5)

    @property
    def refusal(self) -> str:
        """Why which classes are refused, and what to do; empty if none is."""
        if not self.refused:
            return ""
        fix = (
            "give more photos, look for wrong labels among them (`dct-augment data`), choose another guide.backbone, "
            "or give a guide that knows the classes"
        )
        if self.p_value is not None and self.p_value > SIGNIFICANT:
            return (
                f"the few-shot guide recognises {sum(self.right)} of {sum(self.counts)} photos that it was not trained "
                f"on, no more than chance ({self.chance:.0%}, p = {self.p_value:.2f}), so it cannot guide: "
                f"{_listed(self.classes)}; {fix}"
            )
        return (
            f"the few-shot guide is no better than chance for {_listed(self.refused)}: photos of other classes look as "
            f"much like them to it as their own; {fix}, or leave them out with dataset.classes"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was measured."""
        alone = [name for name, count in zip(self.classes, self.counts, strict=True) if not count]
        if not self.folds:
            return (
                "the few-shot guide could not be measured: that needs two classes with two different photos each. Its "
                "accuracy is unknown, its temperature is 1, and no class is refused",
            )
        notes = []
        if alone:
            notes.append(
                f"one photo alone (or copies of one) of {_listed(alone)}: the few-shot guide learns from it, and its "
                "accuracy for the class is unknown"
            )
        if self.p_value is None:
            notes.append("too few photos to tell whether the few-shot guide is better than chance")
        return tuple(notes)

    @property
    def summary(self) -> str:
        """One line for a person."""
        if not self.folds:
            return "out-of-fold accuracy unknown"
        accuracy = self.accuracy
        return (
            f"out-of-fold accuracy {accuracy.mean:.0%} ({100 * accuracy.low:.0f} .. {100 * accuracy.high:.0f}) of "
            f"{accuracy.count} photos, chance {self.chance:.0%}, {self.folds} folds, temperature {self.temperature:.2f}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` makes it again; what follows from them is there for readers."""
        accuracy = self.accuracy if self.folds else None
        derived = {"refused": self.refused, "accuracy": asdict(accuracy) if accuracy else None}
        return {**asdict(self), **derived}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "OutOfFold":
        """Make it from what `as_json` returned."""
        lists: dict[str, Any] = {key: tuple(values[key]) for key in ("classes", "right", "counts", "ranks")}
        numbers: dict[str, Any] = {
            key: values[key] for key in ("folds", "temperature", "chance", "p_value", "loss", "flips")
        }
        return cls(**lists, **numbers)


def stratified_folds(places: Sequence[int], contents: Sequence[str], most: int, seed: int) -> list[list[int]]:
    """Divide photos into folds, each class evenly; copies of a photo are in one fold.

    There are `most` folds, but no more than the smallest class has different photos; a class with one photo is in no
    fold, and always learned from.

    Args:
        places: the class of each photo.
        contents: what a photo shows; equal for copies.
        most: folds at most.
        seed: which photos come together.

    Returns:
        The places of the photos of each fold; empty if fewer than two classes have two different photos.
    """
    photos: dict[int, dict[str, list[int]]] = {}
    for number, (place, content) in enumerate(zip(places, contents, strict=True)):
        photos.setdefault(place, {}).setdefault(content, []).append(number)
    divisible = {place: list(copies.values()) for place, copies in sorted(photos.items()) if len(copies) > 1}
    if len(divisible) < 2:
        return []
    count = min(most, *(len(copies) for copies in divisible.values()))
    folds: list[list[int]] = [[] for _ in range(count)]
    random, start = np.random.default_rng(seed_from("few-shot folds", seed)), 0
    for different in divisible.values():
        for position, chosen in enumerate(random.permutation(len(different))):
            folds[(start + position) % count] += different[chosen]
        start += len(different)
    return [sorted(fold) for fold in folds]


def measure(
    logits: torch.Tensor,
    places: Sequence[int],
    classes: Sequence[str],
    folds: int,
    temperature: float,
    *,
    flips: bool = False,
    options: int = 1,
) -> OutOfFold:
    """Count the right answers among the logits (heads, B, K) of B photos, and test them against chance.

    `options` is the number of classifiers of which this may be the best one (Bonferroni's correction).
    """
    from scipy.stats import binomtest

    probabilities = log_probabilities(logits.double(), temperature).exp().cpu().numpy()
    truth, answers = np.asarray(places), probabilities.argmax(1)
    counts = np.bincount(truth, minlength=len(classes))
    right = np.bincount(truth[answers == truth], minlength=len(classes))
    shares = counts / len(truth) * np.bincount(answers, minlength=len(classes)) / len(truth)
    chance, total = float(shares.sum()), len(truth)
    p_value = None
    if options * max(chance, 1 / len(classes)) ** total <= SIGNIFICANT:
        p_value = float(binomtest(int(right.sum()), total, chance, alternative="greater").pvalue)
        p_value = min(1.0, options * p_value)
    ranks = tuple(_rank(probabilities[:, place], truth == place) for place in range(len(classes)))
    by_class = (tuple(classes), tuple(right.tolist()), tuple(counts.tolist()), ranks)
    loss = -float(np.log(probabilities[np.arange(total), truth]).mean())
    return OutOfFold(*by_class, folds, temperature, chance, p_value, loss, flips)


def unmeasured(classes: Sequence[str], *, flips: bool) -> OutOfFold:
    """Say that nothing could be measured."""
    none = (0,) * len(classes)
    return OutOfFold(tuple(classes), none, none, (None,) * len(classes), 0, 1.0, 1 / len(classes), None, None, flips)


def _rank(scores: np.ndarray, own: np.ndarray) -> float | None:
    """Compute the area under the ROC curve: the share of pairs in which an own photo scores higher; ties are half."""
    if own.all() or not own.any():
        return None
    difference = scores[own][:, None] - scores[~own][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
