"""Lets several classifiers vote, whatever the order and number of their labels."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from dct_augment.classifiers.classifier import Classifier
from dct_augment.classifiers.prediction import Prepared
from dct_augment.errors import ModelError
from dct_augment.prompts import normalize_labels
from dct_augment.records import ClassInfo


@dataclass(frozen=True)
class _OtherLabel:
    """A label of one member that is no class. `number` tells labels of one member with the same name apart."""

    name: str
    number: int


class EnsembleClassifier(Classifier):
    """Classifiers whose probabilities are averaged by weight.

    The labels are the classes of the data set, in order, and after them every other label that a member has;
    other labels of one name are one label. A member gives no probability to a label that it lacks.
    """

    def __init__(self, members: Sequence[Classifier], weights: Sequence[float], classes: Sequence[ClassInfo]) -> None:
        """Align the labels of the members.

        Raises:
            ModelError: no classes, or a member has no label for a class.
        """
        if not classes:
            raise ModelError("several classifiers vote over the classes of a data set: give load(members, classes)")
        self._members = tuple(members)
        self._log_weights = [math.log(weight / sum(weights)) for weight in weights]
        self._places = {info.index: place for place, info in enumerate(classes)}
        targets = [member.targets(classes) for member in members]
        other_labels = [
            _other_labels(member.labels, member_targets)
            for member, member_targets in zip(members, targets, strict=True)
        ]
        spellings = _spellings(members, other_labels)
        self.labels = (*(info.name for info in classes), *spellings.values())
        # For each member, which of its outputs each label is; -1 stands for one that is added as the last, if none is.
        self._outputs = [
            [*member_targets, *(outputs.get(label, -1) for label in spellings)]
            for member_targets, outputs in zip(targets, other_labels, strict=True)
        ]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities (B, K) of the mixture, which are logits too; gradients flow to the images.

        log sum_m w_m p_m with p_m = softmax(z_m / T_m), summed as logarithms: a probability too small for float32 still
        has a gradient. T_m is the temperature of a member.
        """
        return self._mixed([member.logits(images) for member in self._members])

    def prepare(self, image: Image.Image) -> list[Prepared]:
        """Turn an RGB picture into what each member takes."""
        return [member.prepare(image) for member in self._members]

    def logits_of_prepared(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Compute log-probabilities (B, K) of prepared pictures."""
        of_members = zip(*prepared, strict=True)
        return self._mixed(
            [member.logits_of_prepared(list(own)) for member, own in zip(self._members, of_members, strict=True)]
        )

    def _mixed(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mix the logits of the members, each at its temperature."""
        votes = []
        temperatures = [member.temperature for member in self._members]
        of_members = zip(logits, temperatures, self._log_weights, self._outputs, strict=True)
        for member_logits, temperature, log_weight, outputs in of_members:
            log_probabilities = (member_logits / temperature).log_softmax(1)
            impossible = log_probabilities.new_full((len(log_probabilities), 1), -torch.inf)
            votes.append(torch.cat([log_probabilities, impossible], 1)[:, outputs] + log_weight)
        return torch.stack(votes).logsumexp(0)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Put the features of all members side by side."""
        return torch.cat([member.features(images) for member in self._members], 1)

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """See `Classifier`."""
        missing = [info.name for info in classes if info.index not in self._places]
        if missing:
            raise ModelError(f"the classifiers vote over other classes, without {missing[:10]}")
        return tuple(self._places[info.index] for info in classes)


def _other_labels(labels: Sequence[str], targets: Sequence[int]) -> dict[_OtherLabel, int]:
    """Find the outputs of a member that are no class of the data set, by label."""
    outputs: dict[_OtherLabel, int] = {}
    counts: Counter[str] = Counter()
    for output, name in enumerate(normalize_labels(labels)):
        if output in targets:
            continue
        counts[name] += 1
        outputs[_OtherLabel(name, counts[name])] = output
    return outputs


def _spellings(members: Sequence[Classifier], other_labels: Sequence[dict[_OtherLabel, int]]) -> dict[_OtherLabel, str]:
    """Spell every other label as the first member that has it does, in the order of the members."""
    spellings: dict[_OtherLabel, str] = {}
    for member, outputs in zip(members, other_labels, strict=True):
        for label, output in outputs.items():
            spellings.setdefault(label, member.labels[output])
    return spellings
