"""Real images show a wrong order of labels."""

import numpy as np
import pytest
import torch
from PIL import Image

from dct_augment.classifiers import FROM_WORDS, Preprocess, RealImageCheck, SingleClassifier, check_on_real_images
from dct_augment.errors import ModelError, UnreadableImageError
from dct_augment.records import ClassInfo, Example
from tests.classifiers.small_models import COLOURS, MeanColour


def examples(*colours):
    def file(colour):
        return lambda: Image.new("RGB", (8, 8), colour)

    return [Example(f"{label}-{n}", label, file(colour)) for n in range(6) for label, colour in enumerate(colours)]


def guide():
    return SingleClassifier(MeanColour(), Preprocess.square(8, (0.5,) * 3, (0.5,) * 3), MeanColour.labels)


def test_a_guide_that_recognises_real_images_passes_the_check():
    check = check_on_real_images(guide(), COLOURS, examples("blue", "red"), "guide x")
    assert check == RealImageCheck(right=12, count=12)
    assert check.accuracy == 1.0
    assert check_on_real_images(guide(), COLOURS, [], "guide x") is None


def test_a_guide_with_labels_in_the_wrong_order_fails_the_check():
    said = (
        r"guide x recognises 0 of 12 real images of 2 classes; with fewer than 9 it may be guessing, and cannot guide"
    )
    with pytest.raises(ModelError, match=said):
        check_on_real_images(guide(), COLOURS, examples("red", "blue"), "guide x")


def test_a_failing_check_says_what_may_be_wrong_with_this_kind_of_classifier():
    with pytest.raises(ModelError, match=r"Are its labels in another order \(match, labels\)"):
        check_on_real_images(guide(), COLOURS, examples("green", "green"), "guide x")
    with pytest.raises(ModelError, match=r"by their words alone: say better what the pictures show \(dataset.words"):
        check_on_real_images(guide(), COLOURS, examples("red", "blue"), "guide x", FROM_WORDS)


def test_the_check_opens_few_images_of_a_class_and_no_more():
    opened = []

    def examples():
        for number in range(10**6):
            yield Example(str(number), number % 2, lambda: opened.append(1) or Image.new("RGB", (8, 8), "blue"))

    assert check_on_real_images(guide(), COLOURS[:1], examples(), "g") == RealImageCheck(4, 4)
    assert len(opened) == 4


def test_a_guide_whose_labels_are_permuted_is_told_the_order_that_fits():
    with pytest.raises(
        ModelError, match=r"100% of the answers fit another order of its labels: its outputs are in alpha"
    ):
        check_on_real_images(guide(), COLOURS, examples("red", "blue"), "guide x")


SHADES = [ClassInfo(index, f"shade {index}", f"s{index}") for index in range(250)]


class Shades(torch.nn.Module):
    """Recognises 250 greys, and answers with the label at the place that `order` gives."""

    def __init__(self, order):
        super().__init__()
        self.order = torch.as_tensor(order)

    def forward(self, images):
        shade = (127.5 * (images.mean((1, 2, 3)) + 1)).round().long()
        return torch.nn.functional.one_hot(self.order[shade], 250).float()


def shades_guide(order):
    preprocess = Preprocess.square(8, (0.5,) * 3, (0.5,) * 3)
    return SingleClassifier(Shades(order), preprocess, [info.name for info in SHADES])


def shades(opened, images=2):
    """Pictures sorted by class, as most data sets have them."""

    def file(shade):
        return lambda: opened.append(shade) or Image.new("RGB", (8, 8), (shade,) * 3)

    return [Example(f"{shade}-{number}", shade, file(shade)) for shade in range(250) for number in range(images)]


def test_many_classes_are_all_within_reach_of_the_check():
    """200 pictures of 250 classes: the last classes are looked at as the first are."""
    opened: list[int] = []
    assert check_on_real_images(shades_guide(range(250)), SHADES, shades(opened), "g") == RealImageCheck(200, 200)
    assert len(set(opened)) == 200
    assert sum(shade >= 125 for shade in opened) == 100


def test_a_guide_that_fails_is_shown_a_second_picture_of_each_class():
    opened: list[int] = []
    order = np.random.default_rng(0).permutation(250)
    with pytest.raises(ModelError, match=r"100% of the answers fit another order of its labels: 'shade 0' is output"):
        check_on_real_images(shades_guide(order), SHADES, shades(opened), "g")
    assert sorted(opened) == sorted(2 * sorted(set(opened)))
    assert len(opened) == 400


def test_a_guide_is_warned_of_whose_labels_are_half_wrong():
    order = [*range(125), *range(126, 250), 125]
    check = check_on_real_images(shades_guide(order), SHADES, shades([]), "g")
    assert check.right == 100
    assert "of the answers fit another order of its labels" in check.warning


def test_a_guide_of_words_is_asked_for_no_order():
    order = np.random.default_rng(0).permutation(250)
    opened: list[int] = []
    with pytest.raises(ModelError, match=r"dataset.words"):
        check_on_real_images(shades_guide(order), SHADES, shades(opened), "g", FROM_WORDS)
    assert len(opened) == 200


def test_the_check_passes_over_unreadable_images():
    def broken():
        raise UnreadableImageError("truncated")

    assert check_on_real_images(guide(), COLOURS, [Example("b", 0, broken), *examples("blue", "red")], "g")
