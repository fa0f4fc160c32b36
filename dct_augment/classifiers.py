"""Frozen classifiers as guides and judges: differentiable preprocessing and logits, labels by name."""

import json
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional

from dct_augment import pocket
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo


class Classifier:
    """A frozen classifier over images (B, 3, H, W) in [-1, 1], read in the order of a data set's classes."""

    def __init__(
        self,
        model: nn.Module,
        *,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        labels: Sequence[str],
        device: str = "cpu",
    ) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._size, self.labels = size, tuple(labels)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) over all of the classifier's own labels; gradients flow to the images."""
        pixels = (images.clamp(-1, 1) + 1) / 2
        if pixels.shape[-2:] != (self._size, self._size):
            pixels = functional.interpolate(pixels, size=(self._size, self._size), mode="bicubic", antialias=True)
            pixels = pixels.clamp(0, 1)  # bicubic overshoots at edges; a resized picture file cannot
        return self._model((pixels - self._mean) / self._std)

    @torch.no_grad()
    def verdicts(self, images: torch.Tensor, targets: Sequence[int]) -> list[tuple[str, float]]:
        """For each image: the label chosen, and the probability of its target label (an index of `labels`)."""
        chances = self.logits(images).softmax(1)
        best = chances.argmax(1).tolist()
        wanted = chances[torch.arange(len(chances)), torch.tensor(targets)].tolist()
        return [(self.labels[index], chance) for index, chance in zip(best, wanted, strict=True)]

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """The label index of each class, matched by name.

        Raises:
            ModelError: a class has no label, or more than one; all are listed.
        """
        normal = [label.strip().lower().replace("_", " ") for label in self.labels]
        wrong = [info.name for info in classes if normal.count(info.name.lower()) != 1]
        if wrong:
            raise ModelError(
                f"the classifier has no single label for {len(wrong)} of {len(classes)} classes: "
                f"{', '.join(repr(name) for name in wrong[:10])}. Its labels: {', '.join(self.labels[:20])}"
                f"{' ...' if len(self.labels) > 20 else ''}"
            )
        return tuple(normal.index(info.name.lower()) for info in classes)


def load(name: str, *, device: str = "cpu") -> Classifier:
    """Load a classifier: `pocket/<name>`, or a timm name with source (`local-dir:<folder>`, `hf-hub:<id>`).

    Raises:
        ModelError: unknown name, missing folder, or a model without label names.
    """
    source = name
    if name.startswith("pocket/"):
        inner = name.removeprefix("pocket/")
        if inner not in pocket.CLASSIFIERS:
            raise ModelError(f"classifier {name!r} does not exist; Pocket has: "
                             + ", ".join(f"pocket/{known}" for known in pocket.CLASSIFIERS))  # fmt: skip
        source = f"local-dir:{pocket.path(inner)}"
    if source.startswith("local-dir:") and not (Path(source.removeprefix("local-dir:")) / "config.json").is_file():
        raise ModelError(f"classifier {name!r}: no config.json in {source.removeprefix('local-dir:')!r}")
    try:
        model = timm.create_model(source, pretrained=True)
    except (RuntimeError, OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"classifier {name!r} cannot be loaded: {reason}") from error
    data = timm.data.resolve_model_data_config(model)
    labels = model.pretrained_cfg.get("label_names")
    if not labels:
        raise ModelError(f"classifier {name!r} carries no label_names in its config.json; add them in class order")
    return Classifier(
        model, size=data["input_size"][-1], mean=data["mean"], std=data["std"], labels=labels, device=device
    )
