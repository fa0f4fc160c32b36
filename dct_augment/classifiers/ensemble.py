"""Several classifiers that vote, whatever the order and number of their labels."""

import math
from collections.abc import Sequence

import torch

from dct_augment.classifiers.classifier import Classifier
from dct_augment.errors import ModelError
from dct_augment.prompts import normalize_label
from dct_augment.records import ClassInfo


class EnsembleClassifier(Classifier):
    """Classifiers whose probabilities are averaged by weight.

    The labels are the classes of the data set, in order, and after them every other label that a member has;
    other labels of one name are one label. A member gives no probability to a label that it lacks.
    """

    def __init__(self, members: Sequence[Classifier], weights: Sequence[float], classes: Sequence[ClassInfo]) -> None:
        """Align the members.

        Raises:
            ModelError: no classes, or a member has no label for a class.
        """
        if not classes:
            raise ModelError("several classifiers vote over the classes of a data set: give load(members, classes)")
        self._members = tuple(members)
        self._logs = [math.log(weight / sum(weights)) for weight in weights]
        self._places = {info.index: place for place, info in enumerate(classes)}
        self._columns, others = _align(members, classes)
        self.labels = (*(info.name for info in classes), *others)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, K) of the mixture, which are logits too; gradients flow to the images.

        log sum_m w_m p_m, summed as logarithms: a probability too small for float32 still has a gradient.
        """
        votes = []
        for member, weight, columns in zip(self._members, self._logs, self._columns, strict=True):
            known = member.logits(images).log_softmax(1)
            unknown = known.new_full((len(known), 1), -torch.inf)
            votes.append(torch.cat([known, unknown], 1)[:, list(columns)] + weight)
        return torch.stack(votes).logsumexp(0)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Those of all members, side by side."""
        return torch.cat([member.features(images) for member in self._members], 1)

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """See `Classifier`."""
        missing = [info.name for info in classes if info.index not in self._places]
        if missing:
            raise ModelError(f"the classifiers vote over other classes, without {missing[:10]}")
        return tuple(self._places[info.index] for info in classes)


def _align(members: Sequence[Classifier], classes: Sequence[ClassInfo]) -> tuple[list[tuple[int, ...]], list[str]]:
    """For each member, which of its outputs each label is (-1, the last, if none), and the names of other labels."""
    targets = [member.targets(classes) for member in members]
    rest = [_others(member.labels, taken) for member, taken in zip(members, targets, strict=True)]
    keys = list(dict.fromkeys(key for found in rest for key in found))
    columns = [
        (*taken, *(found.get(key, (-1, ""))[0] for key in keys)) for taken, found in zip(targets, rest, strict=True)
    ]
    return columns, [next(found[key][1] for found in rest if key in found) for key in keys]


def _others(labels: Sequence[str], taken: Sequence[int]) -> dict[tuple[str, int], tuple[int, str]]:
    """The outputs that are no class, by name; the number tells outputs of one name apart."""
    found: dict[tuple[str, int], tuple[int, str]] = {}
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        if index not in taken:
            name = normalize_label(label)
            seen[name] = seen.get(name, 0) + 1
            found[name, seen[name]] = (index, label)
    return found
