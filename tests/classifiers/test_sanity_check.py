"""Real images show a wrong order of labels."""

import pytest
from PIL import Image

from dct_augment.classifiers import FROM_WORDS, Preprocess, SingleClassifier, check_on_real_images
from dct_augment.errors import ModelError, UnreadableImageError
from dct_augment.records import Example
from tests.classifiers.small_models import COLOURS, MeanColour


def examples(*colours):
    def file(colour):
        return lambda: Image.new("RGB", (8, 8), colour)

    return [Example(f"{label}-{n}", label, file(colour)) for n in range(6) for label, colour in enumerate(colours)]


def guide():
    return SingleClassifier(MeanColour(), Preprocess.square(8, (0.5,) * 3, (0.5,) * 3), MeanColour.labels)


def test_a_guide_that_recognises_real_images_passes_the_check():
    assert check_on_real_images(guide(), COLOURS, examples("blue", "red"), "guide x") == 1.0
    assert check_on_real_images(guide(), COLOURS, [], "guide x") is None


def test_a_guide_with_labels_in_the_wrong_order_fails_the_check():
    with pytest.raises(ModelError, match=r"guide x recognises 0% of 8 real images of 2 classes; under 75%"):
        check_on_real_images(guide(), COLOURS, examples("red", "blue"), "guide x")


def test_a_failing_check_says_what_may_be_wrong_with_this_kind_of_classifier():
    with pytest.raises(ModelError, match=r"Are its labels in another order \(match, labels\)"):
        check_on_real_images(guide(), COLOURS, examples("red", "blue"), "guide x")
    with pytest.raises(ModelError, match=r"by their words alone: say better what the pictures show \(dataset.words"):
        check_on_real_images(guide(), COLOURS, examples("red", "blue"), "guide x", FROM_WORDS)


def test_the_check_opens_few_images_of_a_class_and_no_more():
    opened = []

    def examples():
        for number in range(10**6):
            yield Example(str(number), number % 2, lambda: opened.append(1) or Image.new("RGB", (8, 8), "blue"))

    assert check_on_real_images(guide(), COLOURS[:1], examples(), "g") == 1.0
    assert len(opened) == 4


def test_the_check_passes_over_unreadable_images():
    def broken():
        raise UnreadableImageError("truncated")

    assert check_on_real_images(guide(), COLOURS, [Example("b", 0, broken), *examples("blue", "red")], "g") == 1.0
