"""Confusion matrices: a table of numbers for few classes, a small image for many."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dct_augment.report.data_uris import png_data_uri

READABLE = 20
"""Up to so many classes a matrix is shown as a table with its numbers."""

_LARGEST = 300  # pixels of an image's side; above it, neighbouring cells share a pixel, which shows the darkest
_RIGHT, _WRONG = (59, 130, 196), (196, 84, 43)  # mid-tones, seen on light and on dark


@dataclass(frozen=True)
class Cell:
    """Count of one (truth, answer), its share of the truth's images in [0, 1], and whether it is a right answer."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix to show: `grid` by truth and answer for few classes, else `uri`, a PNG of `side` pixels."""

    columns: tuple[str, ...] = ()
    grid: Mapping[str, tuple[Cell, ...]] | None = None
    uri: str = ""
    side: int = 0


def render(confusion: Mapping[str, Any], elsewhere: str = "other") -> Matrix:
    """Render a summary's confusion (`accuracy.confusion_counts`); answers outside the classes are one last column."""
    names = list(confusion["counts"])
    if len(names) > READABLE:
        image = _image(_shares(confusion, names))
        # 16 colours at most, so a palette: a quarter of the size.
        palette_image = image.quantize(32, method=Image.Quantize.FASTOCTREE)
        return Matrix(uri=png_data_uri(palette_image, optimize=True), side=image.width)
    has_outside = any(confusion["elsewhere"].values())
    grid = {truth: _cells(confusion, truth, names, has_outside) for truth in names}
    return Matrix(tuple(names) + ((elsewhere,) if has_outside else ()), grid)


def _cells(confusion: Mapping[str, Any], truth: str, names: list[str], has_outside: bool) -> tuple[Cell, ...]:
    """The cells of one row, one for each answer."""
    images = confusion["images"][truth] or 1
    cells = []
    for answer in names:
        count = confusion["counts"][truth].get(answer, 0)
        cells.append(Cell(count, count / images, truth == answer))
    if has_outside:
        count = confusion["elsewhere"][truth]
        cells.append(Cell(count, count / images, False))
    return tuple(cells)


def _shares(confusion: Mapping[str, Any], names: list[str]) -> np.ndarray[Any, Any]:
    """Shares of each truth's images, (N, N) in [0, 1]."""
    places = {name: index for index, name in enumerate(names)}
    shares = np.zeros((len(names), len(names)))
    for truth, answers in confusion["counts"].items():
        for answer, count in answers.items():
            shares[places[truth], places[answer]] = count / (confusion["images"][truth] or 1)
    return shares


def _image(shares: np.ndarray[Any, Any]) -> Image.Image:
    """An RGBA image of the shares (N, N): transparent where the share is 0, right and wrong answers in two colours."""
    count = len(shares)
    block = -(-count // _LARGEST)
    right = _pool(np.diag(np.diag(shares)), block)
    wrong = _pool(shares - np.diag(np.diag(shares)), block)
    levels = np.maximum(right, wrong)
    pixels = np.empty((*levels.shape, 4), np.uint8)
    pixels[..., :3] = np.where((right > wrong)[..., None], _RIGHT, _WRONG)
    # The root lets a rare mistake be seen; eight levels keep the image small.
    pixels[..., 3] = np.ceil(np.sqrt(levels) * 8) / 8 * 255
    pixels[levels == 0] = 0
    return Image.fromarray(pixels)


def _pool(shares: np.ndarray[Any, Any], block: int) -> np.ndarray[Any, Any]:
    """The largest of each block x block cells."""
    if block == 1:
        return shares
    side = -(-len(shares) // block)
    padded = np.zeros((side * block, side * block))
    padded[: len(shares), : len(shares)] = shares
    largest: np.ndarray[Any, Any] = padded.reshape(side, block, side, block).max((1, 3))
    return largest
