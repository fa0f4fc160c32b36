"""What a classifier does to a picture before it looks: resize, crop, normalise; differentiably."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

Interpolation = Literal["bicubic", "bilinear", "nearest-exact"]


@dataclass(frozen=True)
class Preprocess:
    """Resize to `resize` (height, width), or its shorter side to `shortest`; cut the middle `crop`; normalise.

    Interpolation is antialiased, as Pillow's is; the result equals a processor on an 8-bit picture to 2/255.
    """

    mean: Sequence[float]
    std: Sequence[float]
    resize: tuple[int, int] | None = None
    shortest: int | None = None
    crop: tuple[int, int] | None = None
    interpolation: Interpolation = "bicubic"

    @classmethod
    def square(cls, size: int, mean: Sequence[float], std: Sequence[float]) -> "Preprocess":
        """The whole picture, bicubic, at one size."""
        return cls(mean, std, resize=(size, size))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """From images (B, 3, H, W) in [-1, 1] to the model's input (B, 3, h, w)."""
        pixels = (images.clamp(-1, 1) + 1) / 2
        size = self._size(pixels.shape[-2], pixels.shape[-1])
        if pixels.shape[-2:] != size:
            pixels = functional.interpolate(
                pixels, size=size, mode=self.interpolation, antialias=self.interpolation != "nearest-exact"
            )
            pixels = pixels.clamp(0, 1)  # bicubic overshoots at edges; a resized picture file cannot
        if self.crop is not None:
            pixels = _center(pixels, self.crop)
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.shortest is not None:
            short = min(height, width)
            return int(self.shortest * height / short), int(self.shortest * width / short)
        return self.resize or (height, width)


def _center(pixels: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    """The middle of the pictures, with a black border where they are smaller."""
    height, width = pixels.shape[-2:]
    down, right = max(crop[0] - height, 0), max(crop[1] - width, 0)
    if down or right:
        pixels = functional.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))
        height, width = pixels.shape[-2:]
    top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return pixels[..., top : top + crop[0], left : left + crop[1]]
