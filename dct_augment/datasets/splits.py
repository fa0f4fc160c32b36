"""Makes a data set of the splits that a layout has; those that it lacks are held out of its training images."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dct_augment.config import DatasetOnDisk
from dct_augment.datasets.indexed import IndexedImages
from dct_augment.errors import DatasetError
from dct_augment.reading import ImageReader
from dct_augment.records import ClassInfo, Dataset, Example
from dct_augment.wording import agreeing, counted_of, listed


@dataclass(frozen=True)
class ImageDataset:
    """A data set: its short name, its classes, the images of each split, and remarks on how they were read.

    `held_out` are the splits that the layout lacks.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, Sequence[Example]] = field(repr=False)
    notes: tuple[str, ...] = ()
    held_out: frozenset[str] = frozenset()

    def examples(self, split: str) -> Sequence[Example]:
        """Return the labelled images of `train`, `val` or `test`."""
        return self.splits[split]


def image_reader(settings: DatasetOnDisk) -> ImageReader:
    """Make the reader that a data set's settings describe."""
    return ImageReader(settings.value_range, settings.background, settings.max_pixels)


def complete(
    name: str,
    classes: tuple[ClassInfo, ...],
    splits: Mapping[str, Sequence[Example]],
    settings: DatasetOnDisk,
    notes: Sequence[str] = (),
) -> ImageDataset:
    """Make a data set of its `train` split and, where the layout has them, `val` and `test`.

    A split that is missing, or has no image, takes its share out of `train`, as the settings say.

    Raises:
        DatasetError: nothing is left to train, or a class has no training image.
    """
    given = splits["train"]
    shares = {"val": settings.val, "test": settings.test}
    missing = {split: share for split, share in shares.items() if not len(splits.get(split, ()))}
    held_out = frozenset(shares.keys() - splits.keys())
    empty = [split for split, share in missing.items() if split not in held_out and share]
    notes = [*notes, *(f"split {split} has no picture; it is held out of train" for split in empty)]
    if missing:
        train = splits["train"]
        rows = hold_out(keys(train), missing, settings.seed)
        splits = {**splits, **{split: take(train, numbers) for split, numbers in rows.items()}}
    _refuse_empty_classes(classes, splits["train"], given, settings.path.expanduser())
    return ImageDataset(name, classes, splits, tuple(notes), held_out)


def hold_out(keys: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Divide images into splits by a hash of their keys: another image more moves none.

    Returns:
        The row numbers of each split of `shares`, and of `train`, which is what is left.

    Raises:
        DatasetError: the shares leave nothing.
    """
    if sum(shares.values()) >= 1:
        raise DatasetError(
            f"dataset.val and dataset.test hold out {sum(shares.values()):g} of all; leave some to train"
        )
    fractions = np.fromiter((_fraction(key, seed) for key in keys), float)
    rows: dict[str, np.ndarray] = {}
    begin = 0.0
    for split, share in shares.items():
        rows[split] = np.flatnonzero((fractions >= begin) & (fractions < begin + share))
        begin += share
    rows["train"] = np.flatnonzero(fractions >= begin)
    return rows


def _fraction(key: str, seed: int) -> float:
    """Turn a key and a seed into a number in [0, 1)."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, salt=str(seed).encode()[:16])
    return int.from_bytes(digest.digest(), "big") / 2**64


def evenly(examples: Sequence[Example], most: int) -> np.ndarray:
    """Choose at most so many images, evenly over their classes, by a hash of their keys.

    Each class gets as many as the next one, as far as it has them. With a higher number, the same images and others.

    Returns:
        Their row numbers, ascending.
    """
    label = np.asarray(labels(examples), int)
    fraction = np.fromiter((_fraction(key, 0) for key in keys(examples)), float, len(label))
    order = np.lexsort((fraction, label))
    first_of_class = np.searchsorted(label[order], label[order])
    place = np.empty(len(label), int)
    place[order] = np.arange(len(label)) - first_of_class
    return np.sort(np.lexsort((fraction, place))[:most])


def keys(examples: Sequence[Example]) -> Iterable[str]:
    """List the key of every example, without making the examples of an index."""
    if isinstance(examples, IndexedImages):
        return examples.keys()
    return (example.key for example in examples)


def take(examples: Sequence[Example], rows: np.ndarray) -> Sequence[Example]:
    """Take some examples, in the order of their row numbers."""
    if isinstance(examples, IndexedImages):
        return examples.take(rows)
    return [examples[row] for row in rows]


def labels(examples: Sequence[Example]) -> Sequence[int]:
    """List the label of every example, without making the examples of an index."""
    if isinstance(examples, IndexedImages):
        return examples.labels.tolist()
    return [example.label for example in examples]


def index_hash(dataset: Dataset) -> str:
    """Hash the key and label of every image, as hex: another image more, fewer or elsewhere is another data set."""
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        examples = dataset.examples(split)
        for key, label in zip(keys(examples), labels(examples), strict=True):
            digest.update(f"{split}\0{key}\0{label}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _refuse_empty_classes(
    classes: Sequence[ClassInfo], train: Sequence[Example], given: Sequence[Example], folder: Path
) -> None:
    """Raise DatasetError for classes without a training image; `given` are those before some were held out."""
    with_images = set(labels(train))
    empty = [info.original_name or info.name for info in classes if info.index not in with_images]
    if empty:
        classes_of_folder = f"{counted_of(len(empty), len(classes), 'class')} in {str(folder)!r}"
        had = set(labels(given))
        all_held_out = any(info.index in had - with_images for info in classes)
        less = ", or hold out less (dataset.val, dataset.test)" if all_held_out else ""
        raise DatasetError(
            f"{classes_of_folder} {agreeing(len(empty), 'has')} no training picture: "
            f"{listed(list(map(repr, empty)), 10)}. Add some, or remove the class{less}"
        )
