"""Holds many labelled images as arrays: an example is made when it is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np

from dct_augment.records import Example


class IndexedImages(Sequence[Example], ABC):
    """Labelled images, of which an adapter says how each becomes an example. They cost a few bytes each."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """Yield the key of every image."""

    @abstractmethod
    def files(self) -> Iterator[Path | None]:
        """Yield where every image lies: its own file, a tar, a table. While that has not changed, it has not.

        None where nothing says so.
        """

    @abstractmethod
    def take(self, rows: np.ndarray) -> Self:
        """Take the images of some rows, in their order."""

    @abstractmethod
    def example(self, row: int) -> Example:
        """Make the example of a row, which is 0 or more."""

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Example | Self:
        """Make one example, or take the images of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = index if index >= 0 else len(self) + index
        if not 0 <= row < len(self):
            raise IndexError(index)
        return self.example(row)

    def __iter__(self) -> Iterator[Example]:
        for row in range(len(self)):
            yield self.example(row)
