"""Values as strict JSON can say them: what is unknown or not finite is None."""

import math
from collections.abc import Mapping
from typing import Any

from dct_augment.statistics import Estimate

NOTHING = Estimate(math.nan, -math.inf, math.inf, 0)
"""The estimate from no observation."""


def estimate(value: Estimate | None) -> dict[str, Any]:
    """`{"mean": ..., "ci95": [low, high], "n": ...}`; all unknown from no observation."""
    known = NOTHING if value is None or value.count == 0 else value
    return dict(strict(known.as_json()))


def strict(value: Any) -> Any:
    """The value with estimates as mappings, numpy's numbers as Python's, and None for what JSON cannot say."""
    if isinstance(value, Estimate):
        return estimate(value)
    if isinstance(value, Mapping):
        return {str(key): strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    if hasattr(value, "tolist"):
        return strict(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
