"""Frozen classifiers as guides and judges: one, or several that vote."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dct_augment.classifiers.labels import Labels
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.records import ClassInfo


class Classifier(ABC):
    """A frozen classifier over images (B, 3, H, W) in [-1, 1]."""

    labels: tuple[str, ...]

    @abstractmethod
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) over the classifier's own labels, float32; gradients flow to the images."""

    @abstractmethod
    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """The label index of each class.

        Raises:
            ModelError: a class has no label, or more than one; all are listed.
        """

    @torch.no_grad()
    def verdicts(self, images: torch.Tensor, targets: Sequence[int]) -> list[tuple[str, float]]:
        """For each image: the label chosen, and the probability of its target label (an index of `labels`)."""
        chances = self.logits(images).softmax(1)
        best = chances.argmax(1).tolist()
        rows = torch.arange(len(chances), device=chances.device)
        wanted = chances[rows, torch.tensor(targets, device=chances.device)].tolist()
        return [(self.labels[index], chance) for index, chance in zip(best, wanted, strict=True)]


class Single(Classifier):
    """One model with its preprocessing; `match` says how classes find their label (`Labels.match`)."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        labels: Sequence[str],
        *,
        ids: Sequence[str] = (),
        match: str | Path = "name",
        device: str = "cpu",
    ) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self.preprocess, self._match, self._device = preprocess, match, device
        self._labels = Labels(tuple(labels), tuple(ids))
        self.labels = self._labels.names

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """See `Classifier`."""
        output = self._model(self.preprocess(images.to(self._device)))
        return (output if isinstance(output, torch.Tensor) else output.logits).float()

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """See `Classifier`."""
        return self._labels.match(classes, self._match)


class Voting(Classifier):
    """Classifiers whose probabilities are averaged by weight, over the classes of a data set.

    Members may have other labels in another order: each is read at the classes alone, and all else is one
    last label, `(other)`.
    """

    def __init__(self, members: Sequence[Classifier], weights: Sequence[float], classes: Sequence[ClassInfo]) -> None:
        self._members, self._weights = tuple(members), [weight / sum(weights) for weight in weights]
        self._targets = [member.targets(classes) for member in members]
        self._places = {info.index: place for place, info in enumerate(classes)}
        self.labels = (*(info.name for info in classes), "(other)")

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, classes + 1), which are logits too; gradients flow to the images."""
        mixed = torch.zeros(())
        for member, weight, targets in zip(self._members, self._weights, self._targets, strict=True):
            chances = member.logits(images).softmax(1)[:, list(targets)]
            mixed = mixed.to(chances.device) + weight * chances
        other = (1 - mixed.sum(1, keepdim=True)).clamp(min=0)
        return torch.cat([mixed, other], 1).clamp(min=torch.finfo(mixed.dtype).tiny).log()

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """See `Classifier`."""
        return tuple(self._places[info.index] for info in classes)
