"""The memory of a training is estimated well enough to say how many trials run side by side."""

from typing import Any

import pytest

from dct_augment.config import DownstreamConfig
from dct_augment.downstream import memory
from dct_augment.downstream.memory import bytes_of_training
from dct_augment.errors import ModelError
from tests.random_generators import random_states

GB = 10**9


def estimate(pictures: int = 0, **changes: Any) -> float:
    settings = DownstreamConfig.model_validate(changes)
    return (bytes_of_training(settings, 200, pictures) - memory._BYTES_OF_A_PROCESS) / GB


@pytest.mark.parametrize(
    ("model", "size", "batch", "train", "measured"),
    [
        ("resnet18", 160, 16, "fine_tune", 0.89),
        ("resnet50", 160, 8, "fine_tune", 1.61),
        ("convnext_tiny", 128, 4, "fine_tune", 1.11),
        ("vit_tiny_patch16_224", 224, 8, "fine_tune", 0.81),
        ("test_efficientnet_gn", 160, 32, "fine_tune", 0.54),
        ("resnet18", 160, 16, "linear_probe", 0.57),
    ],
)
def test_the_estimate_is_near_what_was_measured(model: str, size: int, batch: int, train: str, measured: float) -> None:
    """Measured: growth of the resident set over two steps and an answer to 128 images, on one thread."""
    estimated = estimate(model=model, image_size=size, batch_size=batch, train=train)
    assert 0.8 * measured < estimated < 1.5 * measured


def test_it_grows_with_the_batch_and_the_readers_and_with_pictures_up_to_a_limit() -> None:
    assert estimate(batch_size=512) > 3 * estimate(batch_size=32)
    assert estimate(workers=2) - estimate() == pytest.approx(0.6)
    few, many, more = (estimate(pictures, image_size=224) for pictures in (100, 10**5, 10**7))
    assert few < many == more < few + 1.1


def test_it_builds_no_weights_and_draws_nothing() -> None:
    before = random_states()
    estimate(model="vit_base_patch16_224", image_size=96)  # made for another size than its own
    assert random_states() == before
    with pytest.raises(ModelError, match="no_such_model"):
        estimate(model="no_such_model")


def test_a_model_that_cannot_be_tried_is_counted_by_its_pictures_alone() -> None:
    assert estimate(model="test_vit", image_size=1) == 0
