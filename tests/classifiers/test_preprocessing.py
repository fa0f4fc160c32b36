"""Preprocessing gives what timm's own transform gives."""

import pytest
import timm
import torch

from dct_augment.classifiers import Preprocess, SingleClassifier
from tests.classifiers.small_models import LABELS, MEAN, STD, RecordingNetwork, as_tensor, image_with_an_edge


@pytest.mark.parametrize("source", [32, 64, 100, 20])
@pytest.mark.parametrize("size", [32, 48])
def test_the_input_of_a_square_preprocessing_is_what_timm_gives(source, size):
    model, image = RecordingNetwork(), image_with_an_edge(source, source)
    guide = SingleClassifier(model, Preprocess.square(size, MEAN, STD), LABELS)
    guide.logits(as_tensor(image))
    transform = timm.data.create_transform(
        (3, size, size), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=1.0, is_training=False
    )
    std = torch.tensor(STD).view(3, 1, 1)
    difference = (model.pixels[0] - transform(image)) * std
    assert model.pixels.shape == (1, 3, size, size)
    assert difference.abs().max() <= 2 / 255
