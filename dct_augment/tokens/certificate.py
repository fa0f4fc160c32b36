"""The certificate of a class token: what fresh images, with it and without it, say of its worth.

Both kinds are generated from the same noise, which no training and no validation has used. The guide decides; the
judge, which had no part in the training, only measures.
"""

from dataclasses import dataclass

import torch

from dct_augment.intervals import Estimate, paired_gain
from dct_augment.records import Verdict


@dataclass(frozen=True)
class Score:
    """What one classifier makes of n pairs of images: its accuracy with the plain prompt, with the token, the gain."""

    plain: float
    token: float
    gain: Estimate


@dataclass(frozen=True)
class Certificate:
    """Verdict and measurements of one token.

    `mean_pixel_change` is the mean absolute difference of the pairs in [0, 255]; diversities are mean root-mean-square
    distances of two images of one kind, in [0, 255].
    """

    verdict: Verdict
    guide: Score
    judge: Score | None
    diversity: float
    plain_diversity: float
    mean_pixel_change: float


def score(plain: torch.Tensor, token: torch.Tensor) -> Score:
    """Compare which of the same noises were recognised, both (n,) bool."""
    counts = [int(cases.sum()) for cases in (plain & token, token & ~plain, plain & ~token, ~plain & ~token)]
    return Score(plain.float().mean().item(), token.float().mean().item(), paired_gain(*counts))


def diversity(images: torch.Tensor) -> float:
    """Mean root-mean-square distance of two of the images (n, 3, H, W) in [-1, 1], in grey levels of [0, 255]."""
    flat = images.flatten(1)
    return (torch.pdist(flat) / flat.shape[1] ** 0.5).mean().item() * 127.5


def certify(
    plain: torch.Tensor, token: torch.Tensor, guide: Score, judge: Score | None, least_diversity: float
) -> Certificate:
    """Judge a token by images (n, 3, H, W) in [-1, 1] with the plain prompt and with the token, from the same noise.

    worse: the guide recognises fewer images, significantly (95 % interval), or they are not finite. collapsed: the
    images have less than `least_diversity` of the diversity that plain ones have. certified: the guide recognises
    more images, significantly. no_gain: otherwise.
    """
    spread, plain_spread = diversity(token), diversity(plain)
    if guide.gain.high < 0 or not bool(token.isfinite().all()):
        verdict = Verdict.WORSE
    elif spread < least_diversity * plain_spread:
        verdict = Verdict.COLLAPSED
    else:
        verdict = Verdict.CERTIFIED if guide.gain.low > 0 else Verdict.NO_GAIN
    mean_pixel_change = (token - plain).abs().mean().item() * 127.5
    return Certificate(verdict, guide, judge, spread, plain_spread, mean_pixel_change)
