"""Indexes labelled image files, at the cost of about their own paths' bytes."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from dct_augment.datasets.indexed import IndexedImages
from dct_augment.errors import DatasetError, UnreadableImageError
from dct_augment.reading import SUFFIXES, ImageReader
from dct_augment.records import Example
from dct_augment.wording import agreeing, counted, listed, name_problem

_CHUNK = 50_000  # rows that are Python objects at once

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


class ImageFiles(IndexedImages):
    """Labelled image files under one root, or several. Paths lie in one Arrow array: about their own bytes each.

    A path is looked for in `root` first, then in each of `more_roots`; an absolute path is what it is.
    """

    def __init__(
        self,
        root: Path,
        paths: pa.Array,
        labels: np.ndarray,
        reader: ImageReader,
        boxes: Mapping[str, Box] | None = None,
        more_roots: Sequence[Path] = (),
    ) -> None:
        super().__init__(labels)
        self.root, self.paths, self.reader, self.boxes, self.more_roots = root, paths, reader, boxes or {}, more_roots

    def keys(self) -> Iterator[str]:
        """Yield the path of every image."""
        return (path.as_py() for path in self.paths)

    def files(self) -> Iterator[Path]:
        """Yield the file of every image."""
        roots = (self.root, *self.more_roots)
        return (find(roots, path) for path in self.keys())

    def example(self, row: int) -> Example:
        """Make the example of a row."""
        path = self.paths[row].as_py()
        roots = (self.root, *self.more_roots)
        return Example(path, int(self.labels[row]), partial(_open, self.reader, roots, path, self.boxes.get(path)))

    def take(self, rows: np.ndarray) -> "ImageFiles":
        """Take the image files of some rows, in their order."""
        paths = self.paths.take(pa.array(rows))
        return ImageFiles(self.root, paths, self.labels[rows], self.reader, self.boxes, self.more_roots)


@dataclass
class LeftOut:
    """Counts the files among pictures that are not read, and why."""

    endings: Counter[str] = field(default_factory=Counter)
    bad_names: int = 0
    circles: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Say what was left out; nothing if nothing was."""
        notes = []
        if self.endings:
            most = self.endings.most_common(8)
            counts = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in most)
            total = self.endings.total()
            files = f"{counted(total, 'file')} in class folders whose ending is not a picture's"
            notes.append(f"{files} {agreeing(total, 'is')} left out: {counts}")
        if self.bad_names:
            pictures = counted(self.bad_names, "picture", "is")
            notes.append(f"{pictures} left out, because a name {name_problem()}")
        if self.circles:
            links = counted(len(self.circles), "link", "leads")
            notes.append(
                f"{links} back to a folder that it lies in, and {agreeing(len(self.circles), 'is')} left out: "
                f"{listed(list(map(repr, self.circles)), 3)}"
            )
        return notes


def find(roots: Sequence[Path], path: str) -> Path:
    """Give the place of a file: in the first root that has it; in the first root if none has."""
    if len(roots) > 1:
        for root in roots:
            if (root / path).exists():
                return root / path
    return roots[0] / path


def _open(reader: ImageReader, roots: Sequence[Path], path: str, box: Box | None) -> Image.Image:
    image = reader.read(find(roots, path))
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


def paths_below(
    folder: Path, prefix: str = "", left_out: LeftOut | None = None, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """List the paths of all image files under a folder as `prefix/...`, sorted within each folder.

    Hidden files and folders are passed over. Links to folders are followed, but for those that lead round in a circle;
    `above` are the folders that lead here.
    """
    status = os.stat(folder)
    place = (status.st_dev, status.st_ino)
    if place in above:
        if left_out is not None:
            left_out.circles.append(str(folder))
        return
    with os.scandir(folder) as unsorted:
        entries = sorted(unsorted, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.name.startswith("."):
            continue
        if is_folder(entry):
            yield from paths_below(Path(entry.path), path, left_out, above | {place})
        elif not is_picture_name(entry.name):
            if left_out is not None:
                left_out.endings[os.path.splitext(entry.name)[1].lower()] += 1
        elif path.isascii() or _is_utf8(path):
            yield path
        elif left_out is not None:
            left_out.bad_names += 1


def is_picture_name(name: str) -> bool:
    """Tell whether a file's name ends as those of pictures do, and is not hidden."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _is_utf8(path: str) -> bool:
    """Tell whether a path can be written as text; Linux allows any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def folder_names(path: Path) -> list[str]:
    """List the names of the folders in a folder, sorted; hidden ones are left out.

    Raises:
        DatasetError: a name is not UTF-8, so that it cannot be a class.
    """
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and is_folder(entry))
    if bad := [name for name in names if not _is_utf8(name)]:
        shown = os.fsencode(bad[0]).decode("utf-8", "surrogateescape")
        raise DatasetError(f"{str(path)!r}: the folder name {shown!r} {name_problem()}")
    return names


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
