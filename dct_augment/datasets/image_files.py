"""Indexes labelled image files under one folder, at the cost of about their own paths' bytes."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from PIL import Image

from dct_augment.datasets.reading import SUFFIXES, ImageReader
from dct_augment.errors import DatasetError, UnreadableImageError
from dct_augment.records import Example

_CHUNK = 50_000  # rows that are Python objects at once

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


class ImageFiles(Sequence[Example]):
    """Labelled image files under one root. Paths lie in one Arrow array: about their own bytes each."""

    def __init__(
        self,
        root: Path,
        paths: pa.Array,
        labels: np.ndarray,
        reader: ImageReader,
        boxes: Mapping[str, Box] | None = None,
    ) -> None:
        self.root, self.paths, self.labels, self.reader, self.boxes = root, paths, labels, reader, boxes or {}

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "Example | ImageFiles":
        """Make one example, or take the image files of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        path = self.paths[index if index >= 0 else len(self) + index].as_py()
        return Example(
            path, int(self.labels[index]), partial(_open, self.reader, self.root / path, self.boxes.get(path))
        )

    def take(self, rows: np.ndarray) -> "ImageFiles":
        """Take the image files of some rows, in their order."""
        return ImageFiles(self.root, self.paths.take(pa.array(rows)), self.labels[rows], self.reader, self.boxes)


def _open(reader: ImageReader, path: Path, box: Box | None) -> Image.Image:
    image = reader.read(path)
    if box is None:
        return image
    left, top, width, height = box
    corners = (round(left), round(top), round(left + width), round(top + height))
    inside = (max(corners[0], 0), max(corners[1], 0), min(corners[2], image.width), min(corners[3], image.height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise UnreadableImageError(f"its box (x {left:g}, y {top:g}, {width:g} x {height:g}) has no pixel inside it")
    return image.crop(inside)


def index(
    root: Path, rows: Iterable[tuple[str, int]], reader: ImageReader, boxes: Mapping[str, Box] | None = None
) -> ImageFiles:
    """Index rows of a path under the root and a label."""
    paths = [pa.array([], pa.large_string())]
    labels = [np.array([], np.int32)]
    remaining = iter(rows)
    while chunk := list(islice(remaining, _CHUNK)):
        paths.append(pa.array([path for path, _ in chunk], pa.large_string()))
        labels.append(np.array([label for _, label in chunk], np.int32))
    return ImageFiles(root, pa.concat_arrays(paths), np.concatenate(labels), reader, boxes)


def paths_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """List the paths of all image files under a folder as `prefix/...`, sorted within each folder."""
    with os.scandir(folder) as unsorted:
        entries = sorted(unsorted, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.is_dir():
            yield from paths_below(Path(entry.path), path)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.name.startswith("."):
            yield path


def folder_names(path: Path) -> list[str]:
    """List the names of the folders in a folder, sorted; hidden ones are left out."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def own_folder(path: Path, name: str) -> Path:
    """Find a data set's own folder, e.g. `dtd/dtd`: below the user's path, or the path itself."""
    parts = Path(name).parts
    below = (path.joinpath(*parts[begin:]) for begin in range(len(parts)))
    return next((folder for folder in below if folder.is_dir()), path)


def require(path: Path, *names: str, published: str) -> None:
    """Check that a folder and what must be in it exist.

    Raises:
        DatasetError: one of them is missing; `published` says what the user should put there.
    """
    if not path.is_dir():
        raise DatasetError(f"dataset.path {str(path)!r} does not exist or is no folder. Put {published} there")
    missing = [name for name in names if not (path / name).exists()]
    if missing:
        content = ", ".join(sorted(os.listdir(path))[:8]) or "nothing"
        raise DatasetError(
            f"dataset.path {str(path)!r} lacks {', '.join(missing)}; it holds {content}. Put {published} there"
        )
