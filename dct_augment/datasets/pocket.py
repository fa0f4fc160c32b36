"""Pocket birds: sixteen drawn classes, twelve of them fine-grained, four of them homonyms."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from dct_augment.pocket import birds
from dct_augment.prompts import slugs
from dct_augment.records import ClassInfo, Example

COUNTS = {"train": 20, "val": 10, "test": 40}
"""Pictures per class and split."""


@dataclass(frozen=True)
class PocketBirds:
    """The birds as a data set; every picture is drawn from its own seed when it is opened."""

    name: str
    classes: tuple[ClassInfo, ...]

    @cache  # noqa: B019 - one data set per process
    def examples(self, split: str) -> Sequence[Example]:
        """The labelled pictures of `train`, `val` or `test`."""
        return tuple(
            Example(f"{split}-{info.slug}-{number:04d}", info.index, partial(birds.picture, bird, split, number))
            for info, bird in zip(self.classes, birds.BIRDS, strict=True)
            for number in range(COUNTS[split])
        )


def load() -> PocketBirds:
    """The birds."""
    names = [bird.name for bird in birds.BIRDS]
    infos = zip(names, slugs(names), birds.BIRDS, strict=True)
    return PocketBirds(
        "pocket", tuple(ClassInfo(i, name, slug, bird.homonym) for i, (name, slug, bird) in enumerate(infos))
    )
