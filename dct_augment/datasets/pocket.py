"""Pocket birds: photographs of sixteen drawn classes, twelve fine-grained and four homonyms."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from dct_augment.pocket import birds, camera
from dct_augment.prompts import slugs
from dct_augment.records import ClassInfo, Example

COUNTS = {"train": 20, "val": 10, "test": 40}
"""Pictures per class and split."""

CAMERA = 6  # keeps the camera's randomness apart from the drawing's


@dataclass(frozen=True)
class PocketBirds:
    """The birds as a data set; every picture is drawn and photographed from its own seed when first opened."""

    name: str
    classes: tuple[ClassInfo, ...]

    @cache  # noqa: B019 - one data set per process
    def examples(self, split: str) -> Sequence[Example]:
        """The labelled pictures of `train`, `val` or `test`."""
        return tuple(
            Example(f"{split}-{info.slug}-{number:04d}", info.index, partial(_photograph, info.index, split, number))
            for info in self.classes
            for number in range(COUNTS[split])
        )


@cache
def _photograph(index: int, split: str, number: int) -> Image.Image:
    rng = np.random.default_rng([CAMERA, birds.SPLITS[split], index, number])
    return camera.photograph(birds.picture(birds.BIRDS[index], split, number), rng)


def load() -> PocketBirds:
    """The birds."""
    names = [bird.name for bird in birds.BIRDS]
    infos = zip(names, slugs(names), birds.BIRDS, strict=True)
    return PocketBirds(
        "pocket", tuple(ClassInfo(i, name, slug, bird.homonym) for i, (name, slug, bird) in enumerate(infos))
    )
