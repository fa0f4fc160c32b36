"""Defines what a guide or judge is: a frozen classifier over images."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from dct_augment.classifiers import imagenet, prediction
from dct_augment.classifiers.kept import PredictionSettings
from dct_augment.classifiers.labels import Labels
from dct_augment.classifiers.prediction import ClassPrediction, Picture, Prepared
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.errors import ModelError
from dct_augment.images import to_tensor
from dct_augment.records import ClassInfo


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    `label` is the likeliest label, `is_target` whether that is the target, and `probability` that of the target.
    """

    label: str
    is_target: bool
    probability: float


class Classifier(ABC):
    """A frozen classifier over images (B, 3, H, W) in [-1, 1].

    `predict` divides the logits by `temperature`; a picture whose class is less probable than `threshold` is unknown.
    """

    labels: tuple[str, ...]
    temperature: float = 1.0
    threshold: float | None = None

    @abstractmethod
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K) over the classifier's own labels, float32; gradients flow to the images."""

    @abstractmethod
    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """Find the label of each class, as an index of `labels`.

        Raises:
            ModelError: a class has no label, or more than one; all are listed.
        """

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the inputs of the last layer, (B, D) float32 on the CPU, without gradient.

        Raises:
            ModelError: the model has no linear last layer.
        """

    @torch.no_grad()
    def predictions(self, images: torch.Tensor, targets: Sequence[int]) -> list[Prediction]:
        """Predict the label of each image (B, 3, H, W); `targets` are the labels that they should have, as indices."""
        probabilities = (self.logits(images) / self.temperature).softmax(1)
        best = probabilities.argmax(1).tolist()
        rows = torch.arange(len(probabilities), device=probabilities.device)
        of_targets = probabilities[rows, torch.tensor(targets, device=probabilities.device)].tolist()
        return [
            Prediction(self.labels[index], index == target, probability)
            for index, target, probability in zip(best, targets, of_targets, strict=True)
        ]

    def predict(
        self,
        images: Iterable[Picture] | Picture,
        *,
        top: int = 5,
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> list[ClassPrediction]:
        """Predict the class of pictures.

        Args:
            images: paths, PIL images, arrays (H, W, 3) and the like, or the bytes of files; any size and mode.
            top: how many of the likeliest classes are listed.
            batch_size: pictures that the model takes at once; changes speed.
            threshold: a picture whose class is less probable is `unknown`; the classifier's own if not given.

        Returns:
            A prediction for each picture, in order. One that cannot be read has a reason, and no label.

        Raises:
            InputError: an argument cannot be, or something is no picture at all.
        """
        return list(self.predict_each(images, top=top, batch_size=batch_size, threshold=threshold))

    def predict_each(
        self,
        images: Iterable[Picture] | Picture,
        *,
        top: int = 5,
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> Iterable[ClassPrediction]:
        """Predict as `predict` does, one after the other: memory does not grow with the number of pictures."""
        pictures = prediction.listed(images)
        return prediction.predict_each(self, pictures, top=top, batch_size=batch_size, threshold=threshold)

    def prepare(self, image: Image.Image) -> Prepared:
        """Turn an RGB picture into what `logits_of_prepared` takes; called in threads."""
        return to_tensor(image)

    def logits_of_prepared(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Compute logits (B, K) of prepared pictures; here one by one, as their sizes differ."""
        return torch.cat([self.logits(image) for image in prepared])


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
        predicting: PredictionSettings | None = None,
    ) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self.preprocess, self._match, self._device = preprocess, match, device
        self._labels = Labels(tuple(labels), tuple(ids) or imagenet.ids(labels))
        self.labels = self._labels.names
        predicting = predicting or PredictionSettings()
        self.temperature, self.threshold = predicting.temperature, predicting.threshold

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """See `Classifier`.

        Raises:
            ModelError: the model's output is not one number per label.
        """
        return self._output(self.preprocess(images.to(self._device)))

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB picture into the model's input (1, 3, h, w)."""
        return self.preprocess(to_tensor(image))

    def logits_of_prepared(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Compute logits (B, K) of model inputs, in one batch if they are of one size."""
        if len({inputs.shape for inputs in prepared}) > 1:  # a function of the user's own may take any size
            return torch.cat([self._output(inputs.to(self._device)) for inputs in prepared])
        return self._output(torch.cat(list(prepared)).to(self._device))

    def _output(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K) of the model's inputs (B, 3, h, w)."""
        output = self._model(inputs)
        output = getattr(output, "logits", output)
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        if shape != (len(inputs), len(self.labels)):
            raise ModelError(
                f"a classifier with {len(self.labels)} labels returned {shape} for {len(inputs)} images, not "
                f"{(len(inputs), len(self.labels))}; correct its labels"
            )
        return output.float()

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """See `Classifier`."""
        inputs: list[torch.Tensor] = []
        hook = self._last_layer().register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        try:
            self.logits(images)
        finally:
            hook.remove()
        if not inputs:
            raise ModelError("the classifier's last linear layer takes no part in its output; set metrics.features")
        return inputs[-1].flatten(1).float().cpu()

    def _last_layer(self) -> nn.Linear:
        layers = [layer for layer in self._model.modules() if isinstance(layer, nn.Linear)]
        for layer in reversed(layers):
            if layer.out_features == len(self.labels):
                return layer
        raise ModelError(
            "the classifier has no linear last layer whose inputs could be features; set metrics.features to another "
            "one, inception, or a timm name"
        )

    def targets(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        """See `Classifier`."""
        return self._labels.match(classes, self._match)
