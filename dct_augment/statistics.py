"""Means with honest intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int

    def as_json(self) -> dict[str, object]:
        """`{"mean": ..., "ci95": [low, high], "n": ...}`."""
        return {"mean": round(self.mean, 4), "ci95": [round(self.low, 4), round(self.high, 4)], "n": self.count}


def mean_t(values: Sequence[float]) -> Estimate:
    """Mean of independent trials, with Student's t interval; infinite for fewer than two."""
    from scipy.stats import t

    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    reach = float(t.ppf(0.975, count - 1)) * spread
    return Estimate(mean, mean - reach, mean + reach, count)


def proportion(right: int, count: int) -> Estimate:
    """A share of successes, with Wilson's interval (in [0, 1] for any count)."""
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    z, share = 1.959964, right / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low, high = max(0.0, center - reach), min(1.0, center + reach)
    return Estimate(share, min(low, share), max(high, share), count)  # rounding must not leave the share outside
