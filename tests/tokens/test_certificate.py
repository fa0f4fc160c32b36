"""What fresh images, with a token and without it, say of the token."""

import pytest
import torch

from dct_augment.records import Verdict
from dct_augment.tokens.certificate import certify, diversity, score

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def verdict(plain_right: int, token_right: int, token_images: torch.Tensor | None = None) -> Verdict:
    """The verdict when so many of 24 images are recognised with the plain prompt, and with the token."""
    numbers = torch.arange(24)
    guide = score(numbers < plain_right, numbers < token_right)
    token_images = IMAGES.flip(0) if token_images is None else token_images
    return certify(IMAGES, token_images, guide, None, 0.5).verdict


def test_a_token_is_certified_only_for_a_significant_gain():
    assert verdict(6, 20) is Verdict.CERTIFIED
    assert verdict(6, 7) is Verdict.NO_GAIN
    assert verdict(24, 24) is Verdict.NO_GAIN


def test_a_token_with_which_fewer_images_are_recognised_is_worse():
    assert verdict(20, 6) is Verdict.WORSE


def test_a_token_whose_images_are_alike_is_collapsed():
    assert verdict(6, 20, IMAGES[:1] + 0.1 * IMAGES) is Verdict.COLLAPSED


def test_a_token_whose_images_are_not_finite_is_worse():
    assert verdict(6, 20, torch.full_like(IMAGES, torch.nan)) is Verdict.WORSE


def test_diversity_is_the_mean_distance_of_two_images_in_grey_levels():
    images = torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 1.0)])
    assert diversity(images) == pytest.approx((127.5 + 127.5 + 255) / 3)
