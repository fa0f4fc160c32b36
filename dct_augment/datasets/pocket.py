"""Offers the Pocket birds as a data set: photographs of sixteen rendered classes, four of them homonyms."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from dct_augment.config import PocketDataset
from dct_augment.datasets.naming import called
from dct_augment.pocket import birds, camera
from dct_augment.prompts import slugs
from dct_augment.records import ClassInfo, Example

COUNTS = {"train": 20, "val": 10, "test": 40}
"""Images per class and split."""

CAMERA = 6  # keeps the camera's randomness apart from the rendering's


@dataclass(frozen=True)
class PocketBirds:
    """The birds as a data set; every image is rendered and photographed from its own seed when first opened."""

    name: str
    classes: tuple[ClassInfo, ...]
    notes: tuple[str, ...] = ()

    @cache  # noqa: B019 - one data set per process
    def examples(self, split: str) -> Sequence[Example]:
        """Return the labelled images of `train`, `val` or `test`."""
        return tuple(
            Example(f"{split}-{info.slug}-{number:04d}", info.index, partial(_photograph, info.index, split, number))
            for info in self.classes
            for number in range(COUNTS[split])
        )


@cache
def _photograph(index: int, split: str, number: int) -> Image.Image:
    rng = np.random.default_rng([CAMERA, birds.SPLITS[split], index, number])
    return camera.photograph(birds.picture(birds.BIRDS[index], split, number), rng)


def load(settings: PocketDataset | None = None) -> PocketBirds:
    """Load the birds.

    Raises:
        DatasetError: the words of classes cannot be read, or are of one that does not exist.
    """
    short_names = slugs(bird.name for bird in birds.BIRDS)
    classes = tuple(
        ClassInfo(index, bird.name, slug, bird.homonym)
        for index, (bird, slug) in enumerate(zip(birds.BIRDS, short_names, strict=True))
    )
    return PocketBirds("pocket", called(classes, settings.words) if settings and settings.words else classes)
