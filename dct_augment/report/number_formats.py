"""Numbers as the page writes them: with real minus signs, thin spaces, and a dash for what is unknown."""

from collections.abc import Sequence

_DASH, _MINUS, _THIN_SPACE = "\u2013", "\u2212", "\u202f"


def format_percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] in percent."""
    return _DASH if share is None else f"{share * 100:.{digits}f}{_THIN_SPACE}%"


def format_points(difference: float | None) -> str:
    """Write a difference of two shares in percentage points, with its sign."""
    return _DASH if difference is None else f"{difference * 100:+.1f}".replace("-", _MINUS)


def format_number(value: float | None, digits: int) -> str:
    """Write a number with so many decimals."""
    return _DASH if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def format_p_value(value: float | None) -> str:
    """Write a p-value, the smaller the more decimals."""
    if value is None:
        return _DASH
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}"


def format_interval(ends: Sequence[float | None], *, signed: bool = False, digits: int | None = None) -> str:
    """Write an interval of shares in percent; `signed`: of differences in points; with `digits`: of plain numbers."""
    low, high = ends
    if low is None or high is None:
        return _DASH
    if digits is not None:
        return f"{format_number(low, digits)} to {format_number(high, digits)}"
    if signed:
        return f"{format_points(low)} to {format_points(high)}"
    return f"{low * 100:.1f}{_DASH}{high * 100:.1f}{_THIN_SPACE}%"
