"""What fresh images, with a token and without it, say of the token."""

import pytest
import torch

from dct_augment.records import Verdict
from dct_augment.tokens.certificate import Certificate, Certification, PairedTest, Recognised, diversity

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def of_24(plain_right: int, token_right: int) -> Recognised:
    """So many of 24 images are recognised with the plain prompt, and with the token."""
    numbers = torch.arange(24)
    return Recognised.count(numbers < plain_right, numbers < token_right)


def certify(plain_right: int, token_right: int, token_images: torch.Tensor | None = None) -> Certificate:
    """The certificate of one look, when so many of 24 images are recognised."""
    certification = Certification(PairedTest(24, 1), 0.5)
    token_images = IMAGES.flip(0) if token_images is None else token_images
    certification.add(IMAGES, token_images, of_24(plain_right, token_right), None)
    assert certification.next_pairs == 0
    return certification.certificate()


def verdict(plain_right: int, token_right: int, token_images: torch.Tensor | None = None) -> Verdict:
    return certify(plain_right, token_right, token_images).verdict


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


def test_a_single_look_has_95_percent_intervals_and_three_have_wider_ones():
    one, three = (of_24(6, 12).score(PairedTest(24, looks).level).gain for looks in (1, 3))
    assert of_24(6, 12).score().gain == one
    assert (three.low, three.high) < (one.low, three.high)
    assert three.high > one.high


def test_looks_double_the_pairs_while_nothing_is_decided_and_end():
    test = PairedTest(24, 3)
    for pairs in (24, 24, 48):
        assert test.next_pairs == pairs
        test.add(Recognised(pairs // 2, 1, 0, pairs // 2 - 1))  # a gain that no look can show
    assert (test.pairs, test.next_pairs) == (96, 0)


@pytest.mark.parametrize(("plain_right", "token_right"), [(4, 20), (20, 4), (12, 12), (12, 11)])
def test_a_clear_gain_a_loss_and_no_gain_at_all_are_decided_at_the_first_look(plain_right, token_right):
    test = PairedTest(24, 3)
    test.add(of_24(plain_right, token_right))
    assert test.next_pairs == 0


@pytest.mark.parametrize("spoiled", [IMAGES[:1] + 0.1 * IMAGES, torch.full_like(IMAGES, torch.inf)])
def test_collapsed_images_and_images_that_are_not_finite_are_looked_at_once(spoiled):
    certification = Certification(PairedTest(24, 3), 0.5)
    assert certification.next_pairs == 24
    certification.add(IMAGES, spoiled, of_24(6, 9), None)
    assert certification.next_pairs == 0


def test_a_certificate_is_of_the_pairs_of_all_looks():
    certification = Certification(PairedTest(24, 3), 0.5)
    for level in (0.0, 0.2):
        judge = of_24(0, 24) if level else of_24(0, 0)
        certification.add(IMAGES, IMAGES + level, of_24(6, 11), judge)
    made = certification.certificate()
    assert (made.guide.plain, made.guide.token, made.guide.gain.count) == (0.25, pytest.approx(11 / 24), 48)
    assert made.judge is not None
    assert (made.judge.plain, made.judge.token) == (0.0, 0.5)
    assert made.mean_pixel_change == pytest.approx(0.1 * 127.5, rel=1e-4)
    assert made.level == pytest.approx(1 - 0.05 / 3)


def share_certified(plain: torch.Tensor, token: torch.Tensor) -> tuple[float, float]:
    """How many of these classes (N, 96) are certified in up to three looks, and how many are called worse."""
    certified, worse = 0, 0
    cases = torch.stack([plain & token, token & ~plain, plain & ~token, ~plain & ~token], 1)
    looks = {0: cases[..., :24].sum(2), 24: cases[..., 24:48].sum(2), 48: cases[..., 48:].sum(2)}
    counts = {pairs: look.tolist() for pairs, look in looks.items()}
    for number in range(len(plain)):
        test = PairedTest(24, 3)
        while test.next_pairs:
            test.add(Recognised(*counts[test.pairs][number]))
        gain = test.score().gain
        certified, worse = certified + (gain.low > 0), worse + (gain.high < 0)
    return certified / len(plain), worse / len(plain)


@pytest.mark.parametrize("alike", [0.0, 0.6])
def test_tokens_without_gain_are_called_significant_in_5_percent_of_the_cases_at_most(alike):
    """Also where plain prompt and token agree on most noises."""
    random = torch.Generator().manual_seed(11)
    plain = torch.rand(4000, 96, generator=random)
    fresh, shared = torch.rand(4000, 96, generator=random), torch.rand(4000, 96, generator=random) < alike
    certified, worse = share_certified(plain < 0.53, torch.where(shared, plain, fresh) < 0.53)
    assert 0.001 < certified <= 0.025
    assert certified + worse <= 0.05


def test_a_gain_from_53_to_89_percent_is_certified_nearly_always_though_one_look_misses_it_often():
    random = torch.Generator().manual_seed(12)
    plain, token = torch.rand(1000, 96, generator=random) < 0.53, torch.rand(1000, 96, generator=random) < 0.89
    assert share_certified(plain, token)[0] >= 0.95
    pairs = zip(plain[:, :24], token[:, :24], strict=True)
    at_once = [Recognised.count(*pair).score().gain.low > 0 for pair in pairs]
    assert sum(at_once) / len(at_once) < 0.9
