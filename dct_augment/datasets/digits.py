"""Offers scikit-learn's bundled handwriting as a data set: ink on paper at 64 pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from PIL import Image

from dct_augment.config import DigitsDataset
from dct_augment.datasets.naming import called
from dct_augment.pocket import handwriting
from dct_augment.records import ClassInfo, Example


@dataclass(frozen=True)
class Digits:
    """The handwriting that no Pocket model has seen, as a data set."""

    name: str
    classes: tuple[ClassInfo, ...]
    notes: tuple[str, ...] = ()

    @cache  # noqa: B019 - one data set per process
    def examples(self, split: str) -> Sequence[Example]:
        """Return the labelled writings of `train` (20 per digit), `val` or `test`, each rendered once."""
        labels = handwriting.writings()[1]
        return tuple(
            Example(f"{split}-{index:04d}", int(labels[index]), partial(_page, int(index)))
            for index in handwriting.splits()[split]
        )


@cache
def _page(index: int) -> Image.Image:
    return handwriting.picture(index, 0)


def load(settings: DigitsDataset | None = None) -> Digits:
    """Load the digits.

    Raises:
        DatasetError: the words of classes cannot be read, or are of one that does not exist.
    """
    classes = tuple(ClassInfo(i, name, name) for i, name in enumerate(handwriting.NAMES))
    return Digits("digits", called(classes, settings.words) if settings and settings.words else classes)
