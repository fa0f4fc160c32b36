"""Prepares images as a classifier takes them, differentiably: resize, crop, normalise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from dct_augment.errors import ModelError
from dct_augment.images import to_tensor

Interpolation = Literal["bicubic", "bilinear", "nearest-exact", "lanczos"]
TOLERANCE = 3 / 255
_COMPARED_SIZES = ((300, 200), (701, 450))
"""Width and height: about as large as most inputs, and larger. Wide, as Pillow then resizes rows first too."""


@dataclass(frozen=True)
class Preprocess:
    """Resize to `resize` (height, width), or its shorter side to `shortest`; cut the middle `crop`; normalise.

    Interpolation is antialiased, as Pillow's is; the result equals a processor on an 8-bit image to 2/255. One
    exception: at some images higher than wide, Pillow 13 resizes columns first, torchvision and this always rows,
    and a few pixels at sharp corners are then up to 15/255 apart.
    """

    mean: Sequence[float]
    std: Sequence[float]
    resize: tuple[int, int] | None = None
    shortest: int | None = None
    crop: tuple[int, int] | None = None
    interpolation: Interpolation = "bicubic"
    floor: bool = False  # where half a pixel goes at the cut: torchvision rounds, transformers rounds down

    @classmethod
    def square(cls, size: int, mean: Sequence[float], std: Sequence[float]) -> "Preprocess":
        """Resize the full image to a square, bicubic."""
        return cls(mean, std, resize=(size, size))

    @property
    def in_words(self) -> str:
        """Say what is done, in a line."""
        height, width = self.crop or self.resize or ("any", "any")
        first = f"shorter side to {self.shortest}" if self.shortest else f"to {self.resize}" if self.resize else "no"
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (self.mean, self.std))
        return f"input {height} x {width} pixels (resized: {first}, {self.interpolation}), mean {mean}, std {std}"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (B, 3, H, W) in [-1, 1] into the model's input (B, 3, h, w)."""
        pixels = (images.clamp(-1, 1) + 1) / 2
        height, width = self._size(pixels.shape[-2], pixels.shape[-1])
        # Rows first and then columns, as Pillow does: bicubic overshoots at edges, and an image file cannot, between
        # the two either.
        for size in ((pixels.shape[-2], width), (height, width)):
            if pixels.shape[-2:] != size:
                pixels = functional.interpolate(
                    pixels, size=size, mode=self.interpolation, antialias=self.interpolation != "nearest-exact"
                ).clamp(0, 1)
        if self.crop is not None:
            pixels = _center(pixels, self.crop, self.floor)
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def same_as(self, reference: Callable[[Image.Image], torch.Tensor], name: str) -> "Preprocess":
        """Return itself, if it gives what a library's own preprocessing gives on two images, (3, h, w) each.

        Settings alone do not tell: some processors swap channels, normalise twice, or cut first.

        Raises:
            ModelError: the two differ, or one of them fails.
        """
        for width, height in _COMPARED_SIZES:
            image = _spots(width, height)
            pixels = to_tensor(image)
            try:
                ours, theirs = self(pixels)[0], reference(image)
                same = ours.shape == theirs.shape and self._difference(ours, theirs) <= TOLERANCE
            except Exception as error:  # whatever a library's own code raises on an image
                raise ModelError(f"classifier {name!r}: its preprocessing fails: {error}") from error
            if not same:
                raise ModelError(
                    f"classifier {name!r}: its preprocessing does more than resize, crop and normalise, and cannot be "
                    "followed here; give another classifier, or call this one from a function of your own with "
                    "library: function"
                )
        return self

    def _difference(self, ours: torch.Tensor, theirs: torch.Tensor) -> float:
        """Find the largest difference of two inputs (3, h, w), in [0, 1] as pixels are."""
        return float(((ours - theirs) * ours.new_tensor(self.std).view(3, 1, 1)).abs().max())

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.shortest is not None:
            short = min(height, width)
            return int(self.shortest * height / short), int(self.shortest * width / short)
        return self.resize or (height, width)


def _center(pixels: torch.Tensor, crop: tuple[int, int], floor: bool) -> torch.Tensor:
    """Cut the middle of the images, with a black border where they are smaller."""
    height, width = pixels.shape[-2:]
    down, right = max(crop[0] - height, 0), max(crop[1] - width, 0)
    if down or right:
        pixels = functional.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))
        height, width = pixels.shape[-2:]
    top, left = (int(margin / 2) if floor else round(margin / 2) for margin in (height - crop[0], width - crop[1]))
    return pixels[..., top : top + crop[0], left : left + crop[1]]


def _spots(width: int, height: int) -> Image.Image:
    """Make an image of spots of every colour with sharp edges."""
    spots = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.NEAREST)
