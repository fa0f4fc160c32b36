"""Picture files as a data set: a compact index, splits, and held-out shares where a layout has none."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from dct_augment.errors import DatasetError
from dct_augment.records import ClassInfo, Example

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


class Pictures(Sequence[Example]):
    """Labelled picture files under one root. Paths lie in one Arrow array: about their own bytes each."""

    def __init__(self, root: Path, paths: pa.Array, labels: np.ndarray, boxes: Mapping[str, Box] | None = None) -> None:
        self.root, self.paths, self.labels, self.boxes = root, paths, labels, boxes or {}

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "Example | Pictures":
        """One example, or the pictures of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        path = self.paths[index if index >= 0 else len(self) + index].as_py()
        return Example(path, int(self.labels[index]), partial(_open, self.root, path, self.boxes.get(path)))

    def take(self, rows: np.ndarray) -> "Pictures":
        """The pictures of some rows, in their order."""
        return Pictures(self.root, self.paths.take(pa.array(rows)), self.labels[rows], self.boxes)


def _open(root: Path, path: str, box: Box | None) -> Image.Image:
    with Image.open(root / path) as stored:  # as it is held, whatever way the camera was
        picture = ImageOps.exif_transpose(stored).convert("RGB")
    if box is not None:
        left, top, width, height = box
        picture = picture.crop((round(left), round(top), round(left + width), round(top + height)))
    return picture


@dataclass(frozen=True)
class OnDisk:
    """A data set in files: its short name, its classes, and the pictures of each split."""

    name: str
    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, Sequence[Example]] = field(repr=False)

    def examples(self, split: str) -> Sequence[Example]:
        """The labelled pictures of `train`, `val` or `test`."""
        return self.splits[split]


def build(root: Path, rows: Iterable[tuple[str, int]], boxes: Mapping[str, Box] | None = None) -> Pictures:
    """An index of (path under root, label) rows."""
    paths: list[pa.Array] = []
    labels: list[np.ndarray] = []
    for chunk in _chunks(rows, 50_000):
        paths.append(pa.array([path for path, _ in chunk], pa.large_string()))
        labels.append(np.array([label for _, label in chunk], np.int32))
    if not paths:
        return Pictures(root, pa.array([], pa.large_string()), np.array([], np.int32), boxes)
    return Pictures(root, pa.concat_arrays(paths), np.concatenate(labels), boxes)


def _chunks(rows: Iterable[tuple[str, int]], size: int) -> Iterator[list[tuple[str, int]]]:
    chunk: list[tuple[str, int]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def below(folder: Path, prefix: str = "") -> Iterator[str]:
    """Paths of all picture files under a folder, sorted within each, as `prefix/...`."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.is_dir():
            yield from below(Path(entry.path), path)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.name.startswith("."):
            yield path


def folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def hold_out(pictures: Pictures, shares: Mapping[str, float], seed: int) -> dict[str, Pictures]:
    """Split off shares by a hash of each picture's path: adding pictures moves none. `train` is what is left."""
    if sum(shares.values()) >= 1:
        raise DatasetError(
            f"dataset.val and dataset.test hold out {sum(shares.values()):g} of all; leave some to train"
        )
    place = np.fromiter((_fraction(path.as_py(), seed) for path in pictures.paths), float, len(pictures))
    found, begin = {}, 0.0
    for name, share in shares.items():
        found[name] = pictures.take(np.flatnonzero((place >= begin) & (place < begin + share)))
        begin += share
    found["train"] = pictures.take(np.flatnonzero(place >= begin))
    return found


def _fraction(path: str, seed: int) -> float:
    """A number in [0, 1) that a path and a seed decide."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8, salt=str(seed).encode()[:16])
    return int.from_bytes(digest.digest(), "big") / 2**64


def complete(
    known: Mapping[str, Pictures], *, val: float, test: float, seed: int, carved: Sequence[str] = ("val", "test")
) -> dict[str, Pictures]:
    """All three splits: those that a layout has as they are, the missing ones held out of `train`."""
    wanted = {"val": val, "test": test}
    missing = {name: wanted[name] for name in carved if name not in known}
    return {**known, **hold_out(known["train"], missing, seed)} if missing else dict(known)


def complete_listed(
    splits: Mapping[str, Sequence[Example]],
    held: Mapping[str, float],
    seed: int,
    classes: Sequence[ClassInfo],
    root: Path,
) -> dict[str, Sequence[Example]]:
    """All three splits of examples that are no picture files, held out by key; an empty class is an error."""
    at = {example.key: example for example in splits["train"]}
    index = build(root, ((example.key, example.label) for example in splits["train"]))
    known = {split: index if split == "train" else build(root, ()) for split in splits}
    whole = complete(known, val=held["val"], test=held["test"], seed=seed)
    refuse_empty(classes, whole["train"], root)
    return {
        split: splits[split] if split in splits and split != "train" else [at[path.as_py()] for path in part.paths]
        for split, part in whole.items()
    }


def require(path: Path, *names: str, published: str) -> None:
    """Raise DatasetError unless a folder and what must be in it exist."""
    if not path.is_dir():
        raise DatasetError(f"dataset.path {str(path)!r} does not exist or is no folder. Put {published} there")
    absent = [name for name in names if not (path / name).exists()]
    if absent:
        there = ", ".join(sorted(os.listdir(path))[:8]) or "nothing"
        raise DatasetError(
            f"dataset.path {str(path)!r} lacks {', '.join(absent)}; it holds {there}. Put {published} there"
        )


def refuse_empty(classes: Sequence[ClassInfo], train: Pictures, where: Path) -> None:
    """Raise DatasetError for classes without a training picture."""
    counts = np.bincount(train.labels, minlength=len(classes)) if len(train) else np.zeros(len(classes), int)
    empty = [info.source or info.name for info in classes if not counts[info.index]]
    if empty:
        listed = ", ".join(map(repr, empty[:10])) + (" ..." if len(empty) > 10 else "")
        raise DatasetError(
            f"{len(empty)} of {len(classes)} classes in {str(where)!r} have no training picture: {listed}. Add some, "
            "remove the folder, or hold out less (dataset.val, dataset.test)"
        )
