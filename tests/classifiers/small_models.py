"""Small networks, images and classifiers that the tests of classifiers share."""

import numpy as np
import torch
from PIL import Image

from dct_augment.classifiers import Preprocess, SingleClassifier
from dct_augment.records import ClassInfo

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LABELS = ("Red_Bird", "stone", "kiwi", "Crane")
SHAPES = [(32, 32), (64, 64), (100, 60), (40, 90), (20, 20), (200, 301)]
COLOURS = [ClassInfo(0, "blue", "blue"), ClassInfo(1, "red", "red")]


class RecordingNetwork(torch.nn.Module):
    """Stands in for a network; keeps what it was given."""

    def forward(self, pixels):
        self.pixels = pixels
        return pixels.mean((2, 3))[:, [0, 1, 2, 0]]


class MeanColour(torch.nn.Module):
    """Knows red, green and blue."""

    labels = ("red", "green", "blue")

    def forward(self, images):
        assert images.min() >= -1
        return 20 * images.mean((2, 3))


class FixedLogits(torch.nn.Module):
    """Answers with fixed logits, the same for every image, that depend on the image all the same."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits * (1 + images.mean((1, 2, 3)))[:, None]


def image_with_an_edge(height: int, width: int) -> Image.Image:
    """Soft colours beside a white bar, at whose edge interpolation overshoots."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([127 + 100 * np.sin(9 * x), 40 + 150 * y, 90 + 60 * np.cos(5 * x * y)], -1)
    pixels[:, : width // 3] = 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def flat(*colour: float) -> torch.Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 8, 8)


def classifier_of(model: torch.nn.Module, *labels: str) -> SingleClassifier:
    return SingleClassifier(model, Preprocess.square(8, (0.0,) * 3, (1.0,) * 3), labels)
