"""A certificate for tests that need some certificate."""

from dct_augment.intervals import Estimate
from dct_augment.records import Verdict
from dct_augment.tokens.certificate import Certificate, Score


def certificate(mean_pixel_change: float = 12.3) -> Certificate:
    """A token with which the guide recognises 75 % of the images, and the judge 70 %; without it 25 %."""
    guide, judge = (Score(0.25, accuracy, Estimate(accuracy - 0.25, 0.1, 0.9, 24)) for accuracy in (0.75, 0.7))
    return Certificate(Verdict.CERTIFIED, guide, judge, 40.0, 50.0, mean_pixel_change)
