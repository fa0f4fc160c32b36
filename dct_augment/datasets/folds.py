"""Divides training images into folds for cross-validation; copies of one picture are always in one fold."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from dct_augment.datasets.splits import keys, labels, take
from dct_augment.errors import DatasetError
from dct_augment.records import ClassInfo, Dataset, Example, Split
from dct_augment.wording import counted


def fold_split(dataset: Dataset, folds: int, repeat: int, fold: int, copies: Iterable[AbstractSet[str]] = ()) -> Split:
    """Split the training images into those of one fold, which are the test, and the rest.

    Stratified: the images of a class are dealt out evenly over the folds, in another order for each repeat. The
    validation split is that of the data set.

    Args:
        dataset: the images that can be read and are not left out.
        folds: how many there are; a class with fewer photos is in the test of as many folds as it has photos.
        repeat: decides the order, from 0.
        fold: which one is the test, from 0.
        copies: sets of keys of training images that show one picture.

    Raises:
        DatasetError: a class has fewer than two different photos.
    """
    images = dataset.examples("train")
    places = _places(dataset.classes, labels(images), _pictures(list(keys(images)), copies), folds, repeat)
    train, test = (tuple(take(images, np.flatnonzero(chosen))) for chosen in (places != fold, places == fold))
    return Split(_most_of_a_class(train), repeat * folds + fold, train, tuple(dataset.examples("val")), test)


def _places(
    classes: Sequence[ClassInfo], image_labels: Sequence[int], pictures: Sequence[int], folds: int, repeat: int
) -> np.ndarray:
    """Give the fold of each image. A picture that is in several classes is dealt out with the first of them."""
    pictures_of: dict[int, dict[int, None]] = defaultdict(dict)
    for label, picture in zip(image_labels, pictures, strict=True):
        pictures_of[label][picture] = None
    fold_of: dict[int, int] = {}
    for info in classes:
        of_class = list(pictures_of[info.index])
        if len(of_class) < 2:
            different = counted(len(of_class), "different photo")
            raise DatasetError(
                f"class {info.name!r} has {different}; cross-validation needs two, as one cannot both train a "
                "classifier and test it. Add another one, or leave the class out with dataset.classes"
            )
        generator = np.random.default_rng([repeat, info.index])
        first = int(generator.integers(folds))  # which folds get one more is not the same in every class
        new = [of_class[number] for number in generator.permutation(len(of_class)) if of_class[number] not in fold_of]
        fold_of |= {picture: (first + place) % folds for place, picture in enumerate(new)}
    return np.array([fold_of.get(picture, -1) for picture in pictures])


def _pictures(image_keys: Sequence[str], copies: Iterable[AbstractSet[str]]) -> list[int]:
    """Number the pictures that the images show: copies have one number."""
    numbers = {key: number for number, key in enumerate(image_keys)}
    shown = dict(numbers)
    for group in copies:
        members = [key for key in group if key in shown]
        first = min((shown[key] for key in members), default=0)
        shown |= dict.fromkeys(members, first)
    return [shown[key] for key in image_keys]


def _most_of_a_class(examples: Sequence[Example]) -> int:
    """Count the images of the class that has most."""
    return int(np.bincount([example.label for example in examples]).max()) if examples else 0
