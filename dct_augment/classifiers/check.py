"""A look at real images before a classifier is trusted: wrong labels or preprocessing show at once."""

from collections.abc import Iterable, Sequence

import torch
from PIL import Image

from dct_augment.classifiers.classifier import Classifier
from dct_augment.errors import ModelError
from dct_augment.images import UNREADABLE_IMAGE, to_tensor
from dct_augment.records import ClassInfo, Example

PER_CLASS, MOST = 4, 200


def check(classifier: Classifier, classes: Sequence[ClassInfo], examples: Iterable[Example], name: str) -> float | None:
    """Accuracy on a few real images of each class; None if there are none.

    Raises:
        ModelError: it is no better than three times chance (or half way from chance to 1, for few classes).
    """
    chosen = _choose(classes, examples)
    if not chosen:
        return None
    targets = dict(zip((info.index for info in classes), classifier.targets(classes), strict=True))
    right = 0
    with torch.no_grad():
        for example, picture in chosen:
            right += int(classifier.logits(to_tensor(picture)).argmax(1).item() == targets[example.label])
    accuracy, chance = right / len(chosen), 1 / len(classes)
    needed = min(3 * chance, (1 + chance) / 2)
    if len(classes) > 1 and accuracy < needed:
        raise ModelError(
            f"{name} recognises {accuracy:.0%} of {len(chosen)} real images of {len(classes)} classes; under "
            f"{needed:.0%} it cannot guide. Are its labels in another order (match, labels), or its inputs of "
            "another kind (preprocessing, pooling)?"
        )
    return accuracy


def _choose(classes: Sequence[ClassInfo], examples: Iterable[Example]) -> list[tuple[Example, Image.Image]]:
    """The first readable images of each class, as RGB."""
    most = min(PER_CLASS, max(1, MOST // max(len(classes), 1)))
    room = {info.index: most for info in classes[:MOST]}
    chosen = []
    for example in examples:
        if not room:
            break
        if example.label in room:
            try:
                chosen.append((example, example.open().convert("RGB")))
            except UNREADABLE_IMAGE:
                continue
            room[example.label] -= 1
            if not room[example.label]:
                del room[example.label]
    return chosen
