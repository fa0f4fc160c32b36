"""Real images by name: one adapter per layout, one function to load, one to split."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from dct_augment.config import DATASETS, DatasetConfig
from dct_augment.datasets import cub, digits, folder, huggingface, imagenet, inat, pocket, webdataset
from dct_augment.errors import DatasetError
from dct_augment.images import UNREADABLE_IMAGE
from dct_augment.records import ClassInfo, Dataset, Example, Split

_ADAPTERS: dict[str, Callable[..., Dataset]] = {
    "pocket": lambda settings: pocket.load(),
    "digits": lambda settings: digits.load(),
    "folder": folder.load,
    "cub": cub.load,
    "inat": inat.load,
    "imagenet": imagenet.load,
    "huggingface": huggingface.load,
    "webdataset": webdataset.load,
}


def load(settings: "DatasetConfig | str") -> Dataset:
    """Load a data set by its section of the configuration, or a shipped one by its name.

    Raises:
        DatasetError: unknown name, or the data are missing, damaged or in another layout.
    """
    name = settings if isinstance(settings, str) else settings.name
    if isinstance(settings, str) and name not in ("pocket", "digits"):
        known = f"the others ({', '.join(sorted(DATASETS.keys() - {'pocket', 'digits'}))}) need their settings"
        raise DatasetError(f"data set {name!r} is unknown; by name there are: digits, pocket; {known}")
    try:
        return _ADAPTERS[name](settings)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"data set {name!r} cannot be read: {error}") from error


def select(dataset: Dataset, wanted: Sequence[str] | None) -> tuple[ClassInfo, ...]:
    """The classes with these names, slugs or own ids, in the data set's order; all of them for None.

    Raises:
        DatasetError: a name that is no class; every unknown one is listed.
    """
    if wanted is None:
        return dataset.classes
    asked = {name.strip().lower() for name in wanted}
    known = {key for info in dataset.classes for key in _keys(info)}
    if unknown := sorted(asked - known):
        raise DatasetError(
            f"classes {', '.join(map(repr, unknown))} are not in {dataset.name!r}; it has: "
            + ", ".join(info.name for info in dataset.classes[:200])
        )
    if not asked:
        raise DatasetError(f"no class given; {dataset.name!r} has: " + ", ".join(i.name for i in dataset.classes[:200]))
    return tuple(info for info in dataset.classes if _keys(info) & asked)


def _keys(info: ClassInfo) -> set[str]:
    return {info.name.lower(), info.slug, info.source.lower()} - {""}


@dataclass(frozen=True)
class DatasetSubset:
    """A data set seen through some of its classes, and without some pictures; labels stay what they are."""

    name: str
    classes: tuple[ClassInfo, ...]
    whole: Dataset
    without: Mapping[str, Collection[str]]

    def examples(self, split: str) -> Sequence[Example]:
        """The labelled images of the chosen classes, but for those whose key is in `without[split]`."""
        kept, left = {info.index for info in self.classes}, set(self.without.get(split, ()))
        return tuple(e for e in self.whole.examples(split) if e.label in kept and e.key not in left)


def few_shot(dataset: Dataset, shots: int, seed: int, imbalance: float = 1.0) -> Split:
    """Draw `shots` training images per class: deterministic, and nested across shots.

    With `imbalance` above 1 the split is long-tailed: shots fall exponentially over the classes, in their
    order, from `shots` to `shots / imbalance`, one at least. Pictures that cannot be opened are passed over.

    Raises:
        DatasetError: a class with fewer than its shots of readable training images.
    """
    pool = dataset.examples("train")
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels(pool)):
        members[label].append(index)
    chosen: list[Example] = []
    for place, info in enumerate(dataset.classes):
        wanted = _tail(shots, imbalance, place, len(dataset.classes))
        mine = members[info.index]
        order = np.random.default_rng([seed, info.index]).permutation(len(mine))
        drawn = _readable((pool[mine[index]] for index in order), wanted)
        if len(drawn) < wanted:
            unreadable = f", {len(mine) - len(drawn)} of them unreadable" if len(mine) >= wanted else ""
            raise DatasetError(
                f"class {info.name!r} has {len(mine)} training images{unreadable}, but shots is {wanted}"
            )
        chosen.extend(drawn)
    return Split(shots, seed, tuple(chosen), tuple(dataset.examples("val")), tuple(dataset.examples("test")))


def labels(examples: Sequence[Example]) -> Sequence[int]:
    """The label of every example, without making the examples where an index knows them."""
    known: Any = getattr(examples, "labels", None)
    return known.tolist() if known is not None else [example.label for example in examples]


def unreadable(examples: Sequence[Example]) -> list[str]:
    """Keys of the pictures that cannot be opened; this reads them all."""
    return [example.key for example in examples if not _opens(example)]


def _tail(shots: int, imbalance: float, place: int, count: int) -> int:
    return max(1, round(shots * imbalance ** (-place / max(count - 1, 1))))


def _readable(examples: Iterator[Example], count: int) -> list[Example]:
    found: list[Example] = []
    for example in examples:
        if len(found) == count:
            break
        if _opens(example):
            found.append(example)
    return found


def _opens(example: Example) -> bool:
    try:
        cast(Any, example.open()).load()
    except UNREADABLE_IMAGE:
        return False
    return True
