"""Keeps pictures in memory that a training uses again and again: few photos are drawn dozens of times each."""

from typing import Any, Protocol

from PIL import Image

from dct_augment.downstream.mixing import Transform

MOST_BYTES = 512 * 2**20
"""Memory for the decoded pictures of one data set; what does not fit is decoded whenever it is drawn."""


class _Pictures(Protocol):
    labels: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, int]: ...


class PicturesInMemory:
    """`(image, label)` by index from a data set of pictures, each decoded once while memory lasts.

    A picture much larger than `side`, the longer side of the model's input, is first made smaller by a whole factor:
    its shorter side stays at least twice as long, so that every crop of a quarter of it still has all its pixels.

    Args:
        source: pictures with labels, not transformed.
        transform: applied to a picture each time that it is drawn.
        side: pixels.
        most_bytes: memory for decoded pictures.
    """

    def __init__(self, source: _Pictures, transform: Transform, *, side: int, most_bytes: int = MOST_BYTES) -> None:
        self._source, self._transform, self._side = source, transform, side
        self._bytes_left = most_bytes
        self._kept: dict[int, Image.Image] = {}
        self.labels = source.labels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(self._picture(index)), self.labels[index]

    def _picture(self, index: int) -> Image.Image:
        if index in self._kept:
            return self._kept[index]
        picture = reduced(self._source[index][0], self._side)
        size = 3 * picture.width * picture.height
        if size <= self._bytes_left:
            self._bytes_left -= size
            self._kept[index] = picture
        return picture


def reduced(picture: Image.Image, side: int) -> Image.Image:
    """Make a picture smaller by the largest whole factor that leaves its shorter side at least 2 x `side` long."""
    factor = min(picture.size) // (2 * side)
    return picture.reduce(factor) if factor > 1 else picture
