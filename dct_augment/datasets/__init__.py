"""Loads real images by name: one adapter per layout, one function to load, one to split."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np

from dct_augment.config import DATASETS, AnyDataset, DatasetConfig, DatasetOnDisk, HuggingFaceDataset
from dct_augment.datasets import (
    cifar,
    cub,
    digits,
    folder,
    huggingface,
    imagenet,
    inat,
    manifest,
    pocket,
    stores,
    torchvision_layouts,
    webdataset,
)
from dct_augment.datasets.looking import look
from dct_augment.datasets.overview import Overview
from dct_augment.datasets.splits import evenly, keys, labels, take
from dct_augment.errors import DatasetError, UnreadableImageError
from dct_augment.records import ClassInfo, Dataset, Example, Split
from dct_augment.wording import did_you_mean, reason_of

__all__ = ["DatasetSubset", "Overview", "few_shot", "load", "look", "select", "used"]

_SHIPPED = ("digits", "pocket", "winter")
_ADAPTERS: dict[str, Callable[..., Dataset]] = {
    "pocket": pocket.load,
    "winter": pocket.load_winter,
    "digits": digits.load,
    "folder": folder.load,
    "manifest": manifest.load,
    "cub": cub.load,
    "inat": inat.load,
    "imagenet": imagenet.load,
    "huggingface": huggingface.load,
    "webdataset": webdataset.load,
    **dict.fromkeys(torchvision_layouts.NAMES, torchvision_layouts.load),
    **dict.fromkeys(cifar.NAMES, cifar.load),
}


def load(settings: "DatasetConfig | str") -> Dataset:
    """Load a data set by its section of the configuration, or a shipped one by its name.

    Args:
        settings: `config.dataset` of a loaded configuration; or `pocket`, `winter` or `digits`, which need no settings.

    Returns:
        The data set: its `name`, its `classes`, and `examples("train")`, `"val"` and `"test"`. Images are opened on
        demand.

    Raises:
        DatasetError: unknown name, or the data are missing, damaged or in another layout.

    Examples:
        >>> import dct_augment
        >>> birds = dct_augment.load_dataset("pocket")
        >>> len(birds.classes)
        16
        >>> birds.examples("train")[0].open().size
        (64, 64)
    """
    name = settings if isinstance(settings, str) else settings.name
    if isinstance(settings, str) and name not in _SHIPPED:
        on_disk = ", ".join(sorted(DATASETS.keys() - set(_SHIPPED)))
        raise DatasetError(
            f"data set {name!r} is unknown; by name there are: {', '.join(_SHIPPED)}; the others ({on_disk}) need "
            "their settings"
        )
    try:
        return _ADAPTERS[name](None if isinstance(settings, str) else stores.located(settings))
    except OSError as error:
        place = f": {str(error.filename)!r}" if error.filename is not None else ""
        raise DatasetError(f"data set {name!r} cannot be read{place}: {reason_of(error)}") from error
    except UnicodeError as error:
        raise DatasetError(f"data set {name!r} cannot be read: {error}") from error


def needs_download(settings: DatasetConfig) -> bool:
    """Tell whether a data set would be downloaded when it is loaded. Nothing is downloaded to find out."""
    return isinstance(settings, HuggingFaceDataset) and huggingface.needs_download(settings)


def select(dataset: Dataset, names: Sequence[str] | None) -> tuple[ClassInfo, ...]:
    """Select the classes with these names, slugs or own ids, in the data set's order; all of them for None.

    Raises:
        DatasetError: a name that is no class; every unknown one is listed.
    """
    if names is None:
        return dataset.classes
    available = ", ".join(info.name for info in dataset.classes[:200])
    requested = {unicodedata.normalize("NFC", name.strip().lower()) for name in names}
    if not requested:
        raise DatasetError(f"no class given; {dataset.name!r} has: {available}")
    existing = {spelling for info in dataset.classes for spelling in info.spellings}
    if unknown := sorted(requested - existing):
        named = ", ".join(f"{name!r}{did_you_mean(name, existing)}" for name in unknown)
        more = " ..." if len(dataset.classes) > 200 else ""
        raise DatasetError(f"classes {named} are not in {dataset.name!r}; it has: {available}{more}")
    return tuple(info for info in dataset.classes if requested.intersection(info.spellings))


@dataclass(frozen=True)
class DatasetSubset:
    """A data set with some of its classes, and without the images whose keys are in the set `without[split]`.

    Labels stay what they are. `most_val` is how many val images there are at most, evenly over the classes.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    dataset: Dataset
    without: Mapping[str, AbstractSet[str]]
    most_val: int | None = None
    _splits: dict[str, Sequence[Example]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks of the whole data set, and how many val images are used."""
        there, used = len(self._of_classes("val")), len(self._spread("val"))
        if there == used:
            return self.dataset.notes
        most = f"{used:,} of {there:,} val images are used, evenly over the classes (dataset.val_images)"
        return (*self.dataset.notes, most)

    def examples(self, split: str) -> Sequence[Example]:
        """Return the labelled images of `train`, `val` or `test`."""
        if split not in self._splits:
            self._splits[split] = self._left(split)
        return self._splits[split]

    def _left(self, split: str) -> Sequence[Example]:
        """Take away the images whose keys are in `without`."""
        examples, without = self._spread(split), self.without.get(split, ())
        if not without:
            return examples
        return take(examples, np.flatnonzero([key not in without for key in keys(examples)]))

    def _spread(self, split: str) -> Sequence[Example]:
        """Take as many images of the chosen classes as there may be: before others are left out, for stability."""
        examples = self._of_classes(split)
        if split != "val" or self.most_val is None or len(examples) <= self.most_val:
            return examples
        return take(examples, evenly(examples, self.most_val))

    def _of_classes(self, split: str) -> Sequence[Example]:
        examples = self.dataset.examples(split)
        if self.classes == self.dataset.classes:
            return examples
        return take(examples, np.flatnonzero(np.isin(labels(examples), [info.index for info in self.classes])))


def used(
    dataset: Dataset, settings: AnyDataset, without: Mapping[str, AbstractSet[str]] = MappingProxyType({})
) -> Dataset:
    """Give what a run uses of a data set: its chosen classes, and no more val images than it validates on.

    Args:
        dataset: what `load_dataset` returned.
        settings: its section of the configuration.
        without: keys of images to leave out of each split, as a look found them.

    Raises:
        DatasetError: a chosen class is unknown.
    """
    most_val = settings.val_images if isinstance(settings, DatasetOnDisk) else None
    subset = DatasetSubset(dataset.name, select(dataset, settings.classes), dataset, without, most_val)
    is_whole = subset.classes == dataset.classes and not any(without.values())
    return dataset if is_whole and subset.examples("val") is dataset.examples("val") else subset


def few_shot(dataset: Dataset, shots: int | Literal["all"], seed: int, imbalance: float = 1.0) -> Split:
    """Choose `shots` training images per class: deterministic, and nested across shots.

    A class with fewer gives what it has; the split's `fewer` counts them. Images that cannot be opened are passed over.

    With `imbalance` above 1 the split is long-tailed: shots fall exponentially over the classes, in their order, from
    `shots` to `shots / imbalance`, one at least.

    Args:
        dataset: what `load_dataset` returns.
        shots: training images per class, at most; or `all`.
        seed: the few-shot seed; the same seed chooses the same images on every machine.
        imbalance: how many times more images the first class has than the last.

    Returns:
        The few-shot split: `train` with at most `shots` images per class, `val` and `test` as they are.

    Raises:
        DatasetError: a class without a readable training image.

    Examples:
        >>> import dct_augment
        >>> split = dct_augment.few_shot(dct_augment.load_dataset("pocket"), shots=5, seed=0)
        >>> len(split.train)
        80
    """
    shots = most_images(dataset) if shots == "all" else shots
    pool = dataset.examples("train")
    rows_of_class: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels(pool)):
        rows_of_class[label].append(row)
    train: list[Example] = []
    fewer: dict[str, int] = {}
    for place, info in enumerate(dataset.classes):
        class_shots = _tail(shots, imbalance, place, len(dataset.classes))
        rows = rows_of_class[info.index]
        order = np.random.default_rng([seed, info.index]).permutation(len(rows))
        examples = _readable((pool[rows[number]] for number in order), class_shots)
        if not examples:
            unreadable = f": none of {len(rows)} can be read" if rows else ""
            raise DatasetError(f"class {info.name!r} has no training image{unreadable}. Add some, or leave it out")
        if len(examples) < class_shots:
            fewer[info.name] = len(examples)
        train.extend(examples)
    return Split(shots, seed, tuple(train), tuple(dataset.examples("val")), tuple(dataset.examples("test")), fewer)


def most_images(dataset: Dataset) -> int:
    """Count the training images of the class that has most, read or unreadable; at least 1."""
    chosen = {info.index for info in dataset.classes}
    counts = Counter(label for label in labels(dataset.examples("train")) if label in chosen)
    return max(counts.values(), default=1)


def _tail(shots: int, imbalance: float, place: int, count: int) -> int:
    """Compute the shots of the class at a place among `count`: shots * imbalance^(-place / (count - 1))."""
    return max(1, round(shots * imbalance ** (-place / max(count - 1, 1))))


def _readable(examples: Iterator[Example], count: int) -> list[Example]:
    """Take the first `count` examples that open, and open no more."""
    readable: list[Example] = []
    for example in examples:
        if len(readable) == count:
            break
        if _opens(example):
            readable.append(example)
    return readable


def _opens(example: Example) -> bool:
    try:
        example.open()
    except UnreadableImageError:
        return False
    return True
