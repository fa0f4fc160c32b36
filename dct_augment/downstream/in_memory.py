"""Keeps pictures in memory that a training uses again and again: few photos are drawn dozens of times each."""

from typing import Any, Protocol

from PIL import Image
from torch.utils.data import get_worker_info

from dct_augment.downstream.mixing import Transform

MOST_BYTES = 512 * 2**20
"""Memory for the decoded pictures of one data set; what does not fit is decoded whenever it is drawn.

Processes that read pictures for one training share it.
"""


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
        self._most_bytes, self._kept_bytes = most_bytes, 0
        self._kept: dict[int, Image.Image] = {}
        self.labels = source.labels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(self._picture(index)), self.labels[index]

    @property
    def all_fit(self) -> bool:
        """Whether all pictures fit the memory, if each is as large as the first."""
        return not len(self) or len(self) * _bytes_of(self._picture(0)) <= self._most_bytes

    def _picture(self, index: int) -> Image.Image:
        if index in self._kept:
            return self._kept[index]
        picture = reduced(self._source[index][0], self._side)
        reader = get_worker_info()
        most_bytes = self._most_bytes // reader.num_workers if reader else self._most_bytes
        if self._kept_bytes + _bytes_of(picture) <= most_bytes:
            self._kept_bytes += _bytes_of(picture)
            self._kept[index] = picture
        return picture


def _bytes_of(picture: Image.Image) -> int:
    return 3 * picture.width * picture.height


def reduced(picture: Image.Image, side: int) -> Image.Image:
    """Make a picture smaller by the largest whole factor that leaves its shorter side at least 2 x `side` long."""
    factor = min(picture.size) // (2 * side)
    return picture.reduce(factor) if factor > 1 else picture
