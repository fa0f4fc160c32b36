"""Confusion matrices: a table of numbers for few classes, a small picture for many."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

READABLE = 20
"""Up to so many classes a matrix is shown as a table with its numbers."""

_LARGEST = 300  # pixels of a picture's side; above it, neighbouring cells share a pixel, which shows the darkest
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


def draw(confusion: Mapping[str, Any], elsewhere: str = "other") -> Matrix:
    """A summary's confusion (`recognition.confusion`) as a matrix; answers outside the classes are one last column."""
    names = list(confusion["counts"])
    if len(names) > READABLE:
        picture = _picture(_shares(confusion, names))
        return Matrix(uri=_uri(picture), side=picture.width)
    outside = any(confusion["elsewhere"].values())
    grid = {truth: _row(confusion, truth, names, outside) for truth in names}
    return Matrix(tuple(names) + ((elsewhere,) if outside else ()), grid)


def _row(confusion: Mapping[str, Any], truth: str, names: list[str], outside: bool) -> tuple[Cell, ...]:
    whole = confusion["images"][truth] or 1
    counts = [confusion["counts"][truth].get(answer, 0) for answer in names]
    cells = [Cell(count, count / whole, truth == answer) for count, answer in zip(counts, names, strict=True)]
    if outside:
        count = confusion["elsewhere"][truth]
        cells.append(Cell(count, count / whole, False))
    return tuple(cells)


def _shares(confusion: Mapping[str, Any], names: list[str]) -> np.ndarray[Any, Any]:
    """Shares of each truth's images, (N, N) in [0, 1]."""
    place = {name: index for index, name in enumerate(names)}
    shares = np.zeros((len(names), len(names)))
    for truth, answers in confusion["counts"].items():
        for answer, count in answers.items():
            shares[place[truth], place[answer]] = count / (confusion["images"][truth] or 1)
    return shares


def _picture(shares: np.ndarray[Any, Any]) -> Image.Image:
    """Transparent where the share is 0; right and wrong answers in two colours."""
    count = len(shares)
    block = -(-count // _LARGEST)
    right = _pool(np.diag(np.diag(shares)), block)
    wrong = _pool(shares - np.diag(np.diag(shares)), block)
    levels = np.maximum(right, wrong)
    pixels = np.empty((*levels.shape, 4), np.uint8)
    pixels[..., :3] = np.where((right > wrong)[..., None], _RIGHT, _WRONG)
    # The root lets a rare mistake be seen; eight levels keep the picture small.
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


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    # 16 colours at most, so a palette: a quarter of the size.
    picture.quantize(32, method=Image.Quantize.FASTOCTREE).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
