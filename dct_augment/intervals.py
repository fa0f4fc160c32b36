"""Means with honest intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval, of 95 % unless said otherwise."""

    mean: float
    low: float
    high: float
    count: int


def estimate_json(estimate: Estimate | None) -> dict[str, Any]:
    """Return `{"mean": ..., "ci95": [low, high], "n": ...}` with four decimals; all None from no observation."""
    if estimate is None or estimate.count == 0:
        return {"mean": None, "ci95": [None, None], "n": 0}
    ends = [_rounded(estimate.low), _rounded(estimate.high)]
    return {"mean": _rounded(estimate.mean), "ci95": ends, "n": estimate.count}


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def mean_t(values: Sequence[float], within: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Return the mean of independent trials with Student's t interval; infinite for fewer than two.

    The interval is cut to the values that are possible (`within`), but never leaves out the mean.
    """
    from scipy.stats import sem, t

    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count)
    low, high = mean, mean
    standard_error = float(sem(values))
    if standard_error:  # t has no interval of width 0
        low, high = map(float, t.interval(0.95, count - 1, loc=mean, scale=standard_error))
    least, most = min(within[0], mean), max(within[1], mean)
    return Estimate(mean, max(low, least), min(high, most), count)


def mean_of_folds(values: Sequence[float], folds: int, within: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Return the mean over the folds of cross-validation with an interval that allows for their overlap.

    The training images of two folds are nearly the same, so their results are not independent, and Student's interval
    is too narrow. Nadeau and Bengio's corrected resampled t (Machine Learning 52, 2003, section 4.2.2): the variance of
    the mean of J values is (1 / J + test / train) s^2, where test / train = 1 / (folds - 1).

    Args:
        values: one of each fold of each repeat.
        folds: of one repeat.
        within: the values that are possible; the interval is cut to them, but never leaves out the mean.
    """
    count, mean = len(values), sum(values) / len(values)
    spread = mean_t(values)
    if count < 2 or spread.low == spread.high:
        return spread if count < 2 else Estimate(mean, mean, mean, count)
    stretch = math.sqrt(1 + count / (folds - 1))
    least, most = min(within[0], mean), max(within[1], mean)
    low, high = mean - stretch * (mean - spread.low), mean + stretch * (spread.high - mean)
    return Estimate(mean, max(low, least), min(high, most), count)


@lru_cache(4096)  # a test comes with each interval, a millisecond; a report asks for thousands, most of them equal
def proportion(right: int, count: int, level: float = 0.95) -> Estimate:
    """Return a share of successes with Wilson's interval of this level (in [0, 1] for any count)."""
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    from scipy.stats import binomtest

    share, interval = right / count, binomtest(right, count).proportion_ci(level, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return Estimate(share, min(low, share), max(high, share), count)  # rounding must not leave the share outside


def wider(estimate: Estimate, other: Estimate) -> Estimate:
    """Return an estimate with the interval of another one of the same value if that is wider; it holds the mean."""
    if other.high - other.low <= estimate.high - estimate.low:
        return estimate
    return Estimate(estimate.mean, min(other.low, estimate.mean), max(other.high, estimate.mean), estimate.count)


def paired_gain(both: int, first: int, second: int, neither: int, level: float = 0.95) -> Estimate:
    """Return the difference of two shares of the same n cases, first minus second, with Newcombe's interval.

    The counts are of cases that both, only the first, only the second, or neither got right. Newcombe 1998
    ("Improved confidence intervals for the difference between binomial proportions based on paired data", method
    10): honest for few cases, and of a positive width even where all cases agree.
    """
    count = both + first + second + neither
    if count == 0:
        return Estimate(math.nan, -1.0, 1.0, 0)
    share_1, share_2 = proportion(both + first, count, level), proportion(both + second, count, level)
    correlation = _paired_correlation(both, first, second, neither)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    gain = share_1.mean - share_2.mean
    low = gain - reach(share_1.mean - share_1.low, share_2.high - share_2.mean)
    high = gain + reach(share_1.high - share_1.mean, share_2.mean - share_2.low)
    return Estimate(gain, max(low, -1.0), min(high, 1.0), count)


def _paired_correlation(both: int, first: int, second: int, neither: int) -> float:
    """Correlation of the two answers on one case; a positive one is corrected for continuity."""
    variances = (both + first) * (second + neither) * (both + second) * (first + neither)
    if not variances:
        return 0.0
    covariance: float = both * neither - first * second
    if covariance > 0:
        covariance = max(covariance - (both + first + second + neither) / 2, 0.0)
    return covariance / math.sqrt(variances)


def sign_test(differences: Sequence[float]) -> float:
    """Return the exact two-sided p-value of the sign test that differences have median 0; ties are left out."""
    from scipy.stats import binomtest

    signs = [difference > 0 for difference in differences if difference]
    return float(binomtest(sum(signs), len(signs)).pvalue) if signs else 1.0


def permutation_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the sign-flip permutation test that differences have mean 0.

    Exact (all 2^n flips) up to 16 differences, and from 100,000 random flips beyond.
    """
    from scipy.stats import permutation_test as permute

    largest = max(map(abs, differences), default=0.0)
    if len(differences) < 2 or not largest:
        return 1.0
    result = permute(
        ([value / largest for value in differences],),
        # Rounded, for means that are equal but for their last digit are ties, 0 most of all.
        lambda values, axis: values.mean(axis).round(12),
        permutation_type="samples",
        n_resamples=100_000,
        rng=0,
    )
    return float(min(1.0, result.pvalue))


def fold_test(differences: Sequence[float], folds: int) -> float:
    """Return the two-sided p-value that the differences of two arms on folds have mean 0.

    The corrected resampled t test of Nadeau and Bengio (2003), see `mean_of_folds`.
    """
    from scipy.stats import sem, t

    count = len(differences)
    if len({round(difference, 12) for difference in differences}) < 2:
        return 1.0  # without any spread nothing says how sure a difference is
    standard_error = float(sem(differences))
    statistic = sum(differences) / count / (standard_error * math.sqrt(1 + count / (folds - 1)))
    return float(2 * t.sf(abs(statistic), count - 1))
