"""Real images by name: one adapter per layout, one function to load, one to split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dct_augment.datasets import digits, pocket
from dct_augment.errors import DatasetError
from dct_augment.records import ClassInfo, Dataset, Example, Split

_ADAPTERS: dict[str, Callable[[], Dataset]] = {"pocket": pocket.load, "digits": digits.load}


def load(name: str) -> Dataset:
    """Load a data set by its adapter's name.

    Raises:
        DatasetError: unknown name.
    """
    if name not in _ADAPTERS:
        raise DatasetError(f"dataset.name {name!r} is unknown; choose one of: {', '.join(sorted(_ADAPTERS))}")
    return _ADAPTERS[name]()


def select(dataset: Dataset, wanted: Sequence[str] | None) -> tuple[ClassInfo, ...]:
    """The classes with these names or slugs, in the data set's order; all of them for None.

    Raises:
        DatasetError: a name that is no class; every unknown one is listed.
    """
    if wanted is None:
        return dataset.classes
    asked = {name.strip().lower() for name in wanted}
    known = {key for info in dataset.classes for key in (info.name.lower(), info.slug)}
    if unknown := sorted(asked - known):
        raise DatasetError(
            f"classes {', '.join(map(repr, unknown))} are not in {dataset.name!r}; it has: "
            + ", ".join(info.name for info in dataset.classes)
        )
    if not asked:
        raise DatasetError(f"no class given; {dataset.name!r} has: " + ", ".join(i.name for i in dataset.classes))
    return tuple(info for info in dataset.classes if {info.name.lower(), info.slug} & asked)


@dataclass(frozen=True)
class Restricted:
    """A data set seen through some of its classes; labels stay what they are."""

    name: str
    classes: tuple[ClassInfo, ...]
    whole: Dataset

    def examples(self, split: str) -> Sequence[Example]:
        """The labelled images of the chosen classes."""
        kept = {info.index for info in self.classes}
        return tuple(example for example in self.whole.examples(split) if example.label in kept)


def few_shot(dataset: Dataset, shots: int, seed: int) -> Split:
    """Draw `shots` training images per class: deterministic, and nested across shots.

    Raises:
        DatasetError: a class with fewer than `shots` training images.
    """
    pool = dataset.examples("train")
    chosen: list[Example] = []
    for info in dataset.classes:
        members = [example for example in pool if example.label == info.index]
        if len(members) < shots:
            raise DatasetError(f"class {info.name!r} has {len(members)} training images, but shots is {shots}")
        order = np.random.default_rng([seed, info.index]).permutation(len(members))
        chosen.extend(members[index] for index in order[:shots])
    return Split(shots, seed, tuple(chosen), tuple(dataset.examples("val")), tuple(dataset.examples("test")))
