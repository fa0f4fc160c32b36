"""Checks a classifier on real images before it is trusted: wrong labels or preprocessing show at once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from dct_augment.classifiers.classifier import Classifier
from dct_augment.classifiers.label_orders import Answers, explain, needed_right
from dct_augment.errors import ModelError, UnreadableImageError
from dct_augment.images import to_tensor
from dct_augment.records import ClassInfo, Example
from dct_augment.wording import counted

FROM_LABELS = "Are its labels in another order (match, labels), or its inputs of another kind (preprocessing, pooling)?"
FROM_WORDS = "It knows classes by their words alone: say better what the pictures show (dataset.words, templates)."

PER_CLASS, FEWEST, MOST = 4, 40, 200
"""How many images of a class are read, and of all classes together: 40 of few classes, 200 of many."""

_WEAK = 0.7
"""An accuracy below which another order of the labels is looked for."""


@dataclass(frozen=True)
class RealImageCheck:
    """What a classifier recognises of some real images.

    Attributes:
        right: how many images.
        count: of how many.
        warning: that its labels look permuted, and what to set; empty if they do not.
    """

    right: int
    count: int
    warning: str = ""

    @property
    def accuracy(self) -> float:
        """The share of images that it recognises."""
        return self.right / self.count


def check_on_real_images(
    classifier: Classifier,
    classes: Sequence[ClassInfo],
    examples: Iterable[Example],
    name: str,
    hint: str = FROM_LABELS,
) -> RealImageCheck | None:
    """Count which of some real images it recognises, spread evenly over all classes; None if there are none.

    `hint` says what may be wrong with a classifier that fails. Where it fails or is weak, and may have wrong labels,
    more images are read to find out whether its labels are in another order.

    Raises:
        ModelError: its answers may be guesses: guesses are as often right in more than 1 % of the cases (exact binomial
            bound; with few images, half way from chance to all of them).
    """
    chosen = _Chosen(classes, examples)
    look = _Look(classifier, classes)
    for image, label in chosen.first():
        look.at(image, label)
    if not look.places:
        return None
    right, count = int(look.answers.right(look.targets).sum()), len(look.answers)
    needed = needed_right(count, len(classes)) if len(classes) > 1 else 0
    warning = ""
    if len(classes) > 1 and hint == FROM_LABELS and right < max(needed, _WEAK * count):
        for image, label in chosen.second():
            look.at(image, label)
        warning = explain(look.answers, classes, look.targets, classifier.labels) or ""
    if right < needed:
        raise ModelError(
            f"{name} recognises {right} of {counted(count, 'real image')} of {len(classes)} classes; with fewer than "
            f"{needed} it may be guessing, and cannot guide. {_sentence(warning) or hint}"
        )
    return RealImageCheck(right, count, warning)


def spread(count: int) -> Counter[int]:
    """Say how many images are read of each of `count` classes, by place; evenly over all of them."""
    images = min(MOST, max(FEWEST if count > 1 else 0, PER_CLASS * count))
    return Counter(number * count // images for number in range(images))


@dataclass
class _Look:
    """Collects the answers of a classifier, image by image."""

    classifier: Classifier
    classes: Sequence[ClassInfo]
    places: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.targets = self.classifier.targets(self.classes)
        self._place = {info.index: place for place, info in enumerate(self.classes)}

    @torch.no_grad()
    def at(self, image: Image.Image, label: int) -> None:
        self.places.append(self._place[label])
        self.outputs.append(int(self.classifier.logits(to_tensor(image)).argmax(1).item()))

    @property
    def answers(self) -> Answers:
        return Answers(np.array(self.places, dtype=int), np.array(self.outputs, dtype=int))


class _Chosen:
    """The first readable images of each class, as many as it should have; one more of each that has only one."""

    def __init__(self, classes: Sequence[ClassInfo], examples: Iterable[Example]) -> None:
        self._examples = iter(examples)
        self._missing = Counter({classes[place].index: images for place, images in spread(len(classes)).items()})
        self._single = {label for label, images in self._missing.items() if images == 1}
        self._spare: list[Example] = []

    def first(self) -> Iterator[tuple[Image.Image, int]]:
        while self._missing:
            example = next(self._examples, None)
            if example is None:
                return
            if example.label not in self._missing:
                self._keep(example)
            elif image := _opened(example):
                yield image, example.label
                self._missing[example.label] -= 1
                if not self._missing[example.label]:
                    del self._missing[example.label]

    def second(self) -> Iterator[tuple[Image.Image, int]]:
        """Yield an image more of each class that has one, as far as they are there."""
        while self._single and (example := next(self._examples, None)):
            self._keep(example)
        for example in self._spare:
            if image := _opened(example):
                yield image, example.label

    def _keep(self, example: Example) -> None:
        if example.label in self._single:
            self._single.remove(example.label)
            self._spare.append(example)


def _opened(example: Example) -> Image.Image | None:
    try:
        return example.open()
    except UnreadableImageError:
        return None


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
