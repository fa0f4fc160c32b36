"""Cuts views from photos: what the heads of a few-shot classifier train on."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.config import seed_from
from dct_augment.images import to_tensor

LEAST_AREA, MOST_STRETCH, MOST_COLOUR = 0.5, 1.2, 0.2
"""The smallest share of a photo that a view shows, how much it is stretched, and by how much colours change."""


class Views:
    """The views of photos; number 0 is the photo itself. A view depends on `flips`, seed and its two numbers alone.

    With `flips`, about half of the views are mirrored; the others are the same as without.
    """

    def __init__(
        self, images: Sequence[Image.Image], preprocess: Preprocess, *, count: int, flips: bool, seed: int
    ) -> None:
        self._images, self._preprocess, self._seed = images, preprocess, seed
        self.count, self.flips = count, flips
        self._open: tuple[int, Image.Image] | None = None
        self._side = max(preprocess.crop or preprocess.resize or (0, 0))

    def view(self, photo: int, number: int) -> torch.Tensor:
        """Cut a view of a photo, as the backbone takes it, (3, h, w)."""
        image = self._image(photo)
        if number:
            image = _augmented(image, self._random("view", photo, number), side=self._side)
        if self.is_mirrored(photo, number):
            image = ImageOps.mirror(image)
        prepared: torch.Tensor = self._preprocess(to_tensor(image))[0]
        return prepared

    def is_mirrored(self, photo: int, number: int) -> bool:
        """Tell whether a view is mirrored."""
        return self.flips and number > 0 and self._random("flip", photo, number).random() < 0.5

    def _random(self, *purpose: str | int) -> np.random.Generator:
        return np.random.default_rng(seed_from("few-shot", self._seed, *purpose))

    def _image(self, photo: int) -> Image.Image:
        """Take a photo; the one taken last is kept, as its views are cut one after another."""
        if self._open is None or self._open[0] != photo:
            self._open = photo, self._images[photo]
        return self._open[1]

    def batch(self, chosen: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Cut several views, each given by photo and number, (B, 3, h, w)."""
        return torch.stack([self.view(photo, number) for photo, number in chosen])


def _augmented(image: Image.Image, random: np.random.Generator, *, side: int) -> Image.Image:
    """Cut and recolour an image; one much larger than the backbone's input is made smaller first."""
    image = _cut(image, random)
    factor = min(image.size) // (2 * side) if side else 1
    if factor > 1:
        image = image.reduce(factor)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(float(random.uniform(1 - MOST_COLOUR, 1 + MOST_COLOUR)))
    return image


def _cut(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cut a part of about the shape of the image, of half its area or more."""
    width, height = image.size
    side = random.uniform(LEAST_AREA, 1) ** 0.5
    stretch = MOST_STRETCH ** random.uniform(-0.5, 0.5)
    across = max(1, min(width, round(width * side * stretch)))
    down = max(1, min(height, round(height * side / stretch)))
    left, top = int(random.integers(width - across + 1)), int(random.integers(height - down + 1))
    return image.crop((left, top, left + across, top + down))
