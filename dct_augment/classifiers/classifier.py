"""A frozen classifier as guide or judge."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dct_augment.classifiers import imagenet
from dct_augment.classifiers.labels import Labels
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.errors import ModelError
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

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the last layer sees, (B, D) float32 on the CPU, without gradient.

        Raises:
            ModelError: the model has no linear last layer.
        """

    @torch.no_grad()
    def verdicts(self, images: torch.Tensor, targets: Sequence[int]) -> list[tuple[str, bool, float]]:
        """For each image: the label chosen, whether it is the target (an index of `labels`), and its probability."""
        chances = self.logits(images).softmax(1)
        best = chances.argmax(1).tolist()
        rows = torch.arange(len(chances), device=chances.device)
        wanted = chances[rows, torch.tensor(targets, device=chances.device)].tolist()
        found = zip(best, targets, wanted, strict=True)
        return [(self.labels[index], index == target, chance) for index, target, chance in found]


class SingleClassifier(Classifier):
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
        self._labels = Labels(tuple(labels), tuple(ids) or imagenet.ids(labels))
        self.labels = self._labels.names

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """See `Classifier`.

        Raises:
            ModelError: the model's output is not one number per label.
        """
        output = self._model(self.preprocess(images.to(self._device)))
        output = getattr(output, "logits", output)
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        if shape != (len(images), len(self.labels)):
            raise ModelError(
                f"a classifier with {len(self.labels)} labels returned {shape} for {len(images)} images, not "
                f"{(len(images), len(self.labels))}; correct its labels"
            )
        return output.float()

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """See `Classifier`."""
        linear = [one for one in self._model.modules() if isinstance(one, nn.Linear)]
        last = next((one for one in reversed(linear) if one.out_features == len(self.labels)), None)
        if last is None:
            raise ModelError("the classifier has no linear last layer whose inputs could be features; set "
                             "metrics.features to another one, inception, or a timm name")  # fmt: skip
        seen: list[torch.Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.logits(images)
        finally:
            hook.remove()
        if not seen:
            raise ModelError("the classifier's last linear layer takes no part in its output; set metrics.features")
        return seen[-1].flatten(1).float().cpu()

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """See `Classifier`."""
        return self._labels.match(classes, self._match)
