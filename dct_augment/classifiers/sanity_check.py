"""Checks a classifier on real images before it is trusted: wrong labels or preprocessing show at once."""

from collections.abc import Iterable, Sequence

import torch
from PIL import Image

from dct_augment.classifiers.classifier import Classifier
from dct_augment.errors import ModelError, UnreadableImageError
from dct_augment.images import to_tensor
from dct_augment.records import ClassInfo, Example

FROM_LABELS = "Are its labels in another order (match, labels), or its inputs of another kind (preprocessing, pooling)?"
FROM_WORDS = "It knows classes by their words alone: say better what the pictures show (dataset.words, templates)."

PER_CLASS, MOST = 4, 200
"""How many images of a class are read, and of all classes together."""


def check_on_real_images(
    classifier: Classifier,
    classes: Sequence[ClassInfo],
    examples: Iterable[Example],
    name: str,
    hint: str = FROM_LABELS,
) -> float | None:
    """Measure accuracy on a few real images of each class; None if there are none.

    `hint` says what may be wrong with a classifier that fails.

    Raises:
        ModelError: it is no better than three times chance (or half way from chance to 1, for few classes).
    """
    images = _choose(classes, examples)
    if not images:
        return None
    targets = dict(zip((info.index for info in classes), classifier.targets(classes), strict=True))
    right = 0
    with torch.no_grad():
        for image, label in images:
            right += int(classifier.logits(to_tensor(image)).argmax(1).item() == targets[label])
    accuracy, chance = right / len(images), 1 / len(classes)
    needed = min(3 * chance, (1 + chance) / 2)
    if len(classes) > 1 and accuracy < needed:
        raise ModelError(
            f"{name} recognises {accuracy:.0%} of {len(images)} real images of {len(classes)} classes; under "
            f"{needed:.0%} it cannot guide. {hint}"
        )
    return accuracy


def _choose(classes: Sequence[ClassInfo], examples: Iterable[Example]) -> list[tuple[Image.Image, int]]:
    """Open the first readable images of each class, with their labels."""
    most = min(PER_CLASS, max(1, MOST // max(len(classes), 1)))
    missing = {info.index: most for info in classes[:MOST]}
    images = []
    for example in examples:
        if not missing:
            break
        if example.label not in missing:
            continue
        try:
            images.append((example.open(), example.label))
        except UnreadableImageError:
            continue
        missing[example.label] -= 1
        if not missing[example.label]:
            del missing[example.label]
    return images
