"""Means with honest intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int


NOTHING = Estimate(math.nan, -math.inf, math.inf, 0)
"""The estimate from no observation."""


def estimate(value: Estimate | None) -> dict[str, Any]:
    """`{"mean": ..., "ci95": [low, high], "n": ...}`; all unknown from no observation."""
    known = NOTHING if value is None or value.count == 0 else value
    mean, low, high = (round(end, 4) if math.isfinite(end) else None for end in (known.mean, known.low, known.high))
    return {"mean": mean, "ci95": [low, high], "n": known.count}


def mean_t(values: Sequence[float], within: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Mean of independent trials, with Student's t interval, cut to what is possible; infinite for fewer than two."""
    from scipy.stats import sem, t

    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count)
    low, high = mean, mean
    if spread := float(sem(values)):  # t has no interval of width 0
        low, high = map(float, t.interval(0.95, count - 1, loc=mean, scale=spread))
    return Estimate(mean, max(low, min(within[0], mean)), min(high, max(within[1], mean)), count)


@lru_cache(4096)  # a test comes with each interval, a millisecond; a report asks for thousands, most of them equal
def proportion(right: int, count: int) -> Estimate:
    """A share of successes, with Wilson's interval (in [0, 1] for any count)."""
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    from scipy.stats import binomtest

    share, interval = right / count, binomtest(right, count).proportion_ci(0.95, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return Estimate(share, min(low, share), max(high, share), count)  # rounding must not leave the share outside


def paired_gain(both: int, first: int, second: int, neither: int) -> Estimate:
    """Difference of two shares seen on the same n cases, first minus second, with Newcombe's interval.

    The counts are of cases that both, only the first, only the second, or neither got right. Newcombe 1998
    ("Improved confidence intervals for the difference between binomial proportions based on paired data", method
    10): honest for few cases, and of a positive width even where all cases agree.
    """
    count = both + first + second + neither
    if count == 0:
        return Estimate(math.nan, -1.0, 1.0, 0)
    one, two = proportion(both + first, count), proportion(both + second, count)
    gap = one.mean - two.mean
    spread = (both + first) * (second + neither) * (both + second) * (first + neither)
    correlation = 0.0
    if spread:
        excess = both * neither - first * second
        correlation = (max(excess - count / 2, 0.0) if excess > 0 else excess) / math.sqrt(spread)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    low = gap - reach(one.mean - one.low, two.high - two.mean)
    high = gap + reach(one.high - one.mean, two.mean - two.low)
    return Estimate(gap, max(low, -1.0), min(high, 1.0), count)


def sign_test(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of the sign test that differences have median 0; ties are left out."""
    from scipy.stats import binomtest

    signs = [difference > 0 for difference in differences if difference]
    return float(binomtest(sum(signs), len(signs)).pvalue) if signs else 1.0


def permutation_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of the sign-flip permutation test that differences have mean 0.

    Exact (all 2^n flips) up to 16 differences, and from 100,000 random flips beyond.
    """
    from scipy.stats import permutation_test as permute

    largest = max(map(abs, differences), default=0.0)
    if len(differences) < 2 or not largest:
        return 1.0
    # Rounded, for means that are equal but for their last digit are ties, 0 most of all.
    found = permute(
        ([value / largest for value in differences],), lambda values, axis: values.mean(axis).round(12),
        permutation_type="samples", n_resamples=100_000, rng=0,
    )  # fmt: skip
    return float(min(1.0, found.pvalue))
