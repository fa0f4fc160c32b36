"""Offers the birds of Pocket as data sets: photographs of rendered classes, in summer and, elsewhere, in winter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
from PIL import Image

from dct_augment.config import PocketDataset, WinterDataset
from dct_augment.datasets.naming import called
from dct_augment.pocket import birds, camera, winter
from dct_augment.prompts import slugs
from dct_augment.records import ClassInfo, Example

COUNTS = {"train": 20, "val": 10, "test": 40}
"""Images per class and split."""

CAMERA = 6  # keeps the camera's randomness apart from the rendering's


@dataclass(frozen=True)
class PocketBirds:
    """Birds as a data set; every image is rendered and photographed from its own seed when first opened.

    `photograph` gives that of a class, a split and a number.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    photograph: Callable[[int, str, int], Image.Image] = field(repr=False)
    notes: tuple[str, ...] = ()

    @cache  # noqa: B019 - one data set per process
    def examples(self, split: str) -> Sequence[Example]:
        """Return the labelled images of `train`, `val` or `test`."""
        return tuple(
            Example(
                f"{split}-{info.slug}-{number:04d}", info.index, partial(self.photograph, info.index, split, number)
            )
            for info in self.classes
            for number in range(COUNTS[split])
        )


@cache
def _in_summer(index: int, split: str, number: int) -> Image.Image:
    rng = np.random.default_rng([CAMERA, birds.SPLITS[split], index, number])
    return camera.photograph(birds.picture(birds.BIRDS[index], split, number), rng)


@cache
def _in_winter(index: int, split: str, number: int) -> Image.Image:
    return winter.photograph(index, split, number)


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
    return PocketBirds("pocket", _called(classes, settings), _in_summer)


def load_winter(settings: WinterDataset | None = None) -> PocketBirds:
    """Load the birds in winter.

    Raises:
        DatasetError: the words of classes cannot be read, or are of one that does not exist.
    """
    classes = tuple(ClassInfo(index, bird.name, bird.name) for index, bird in enumerate(winter.BIRDS))
    return PocketBirds("winter", _called(classes, settings), _in_winter)


def _called(classes: tuple[ClassInfo, ...], settings: PocketDataset | WinterDataset | None) -> tuple[ClassInfo, ...]:
    return called(classes, settings.words) if settings and settings.words else classes
