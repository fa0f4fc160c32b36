"""The columns of the index of tokens: what each can hold, and what a header says that cannot be."""

from collections.abc import Callable, Mapping
from typing import Any

from dct_augment.tokens.certificate import Certificate
from dct_augment.tokens.formats import Token
from dct_augment.wording import in_one_line

_MOST = 2**53  # a larger number is none that was measured


def problem_of(token: Token) -> str:
    """Say what of a token that was trained or imported here cannot be, in spite of its hash; empty if nothing is."""
    if any(not bool(part.any(dim=1).all()) for part in token.parts.values()):
        return "a vector of it is 0"
    if column := wrong(token.metadata):
        return f"its header says {column}: {in_one_line(repr(token.metadata[column]), 60)}"
    return ""


def wrong(metadata: Mapping[str, Any]) -> str:
    """Name a column of the index that cannot hold what metadata say; empty if there is none."""
    return next((key for key, fits in NAMES.items() if key in metadata and not fits(metadata[key])), "")


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    """Tell whether a value is empty, or a number that a column of 64 bits takes."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value is None or isinstance(value, float) or is_whole


def _are_scalars(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_scalar, value))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


NAMES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("token", "class", "slug", "stop_reason", "verdict", "validations", "origin"), _is_text),
    **dict.fromkeys(("homonym", "usable"), _is_flag),
    **dict.fromkeys(("class_index", "group", "updates", "attempts", "unet_evaluations"), _is_scalar),
    **dict.fromkeys(("certificate_images", "gain_level", "mean_pixel_change", "diversity"), _is_scalar),
    **dict.fromkeys(("plain_diversity", "plain_guide_accuracy", "guide_accuracy"), _is_scalar),
    **dict.fromkeys(("gain", "gain_low", "gain_high", "plain_judge_accuracy", "judge_accuracy"), _is_scalar),
    **dict.fromkeys(("judge_gain", "judge_gain_low", "judge_gain_high", "guide_probability"), _is_scalar),
    **dict.fromkeys(("plain_validation_accuracy", "plain_validation_probability", "norm"), _is_scalar),
    "losses": _are_scalars,
    "confused_with": _are_texts,
    "base_model": _is_text,
}
"""The columns of the index, and what each can hold."""


def is_number(value: Any) -> bool:
    """Tell whether a value of a file or a table is a number that something is counted with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST


def number(value: Any) -> float | None:
    """Give what the header of another one's file says if it is a finite number, as a column of the index takes it."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST
    return value if fits else None


def of_certificate(certificate: Certificate | None) -> dict[str, Any]:
    """A certificate as columns; all None where there is none."""
    judge = certificate.judge if certificate else None
    columns: dict[str, Any] = {
        "verdict": str(certificate.verdict) if certificate else None,
        "certificate_images": certificate.guide.gain.count if certificate else None,
        "gain_level": round(certificate.level, 4) if certificate else None,
        "mean_pixel_change": round(certificate.mean_pixel_change, 2) if certificate else None,
        "diversity": certificate.diversity if certificate else None,
        "plain_diversity": certificate.plain_diversity if certificate else None,
        "confused_with": list(certificate.confused_with) if certificate else [],
    }
    for who, prefix, score in (("guide", "", certificate and certificate.guide), ("judge", "judge_", judge)):
        columns[f"plain_{who}_accuracy"] = score.plain if score else None
        columns[f"{who}_accuracy"] = score.token if score else None
        columns[f"{prefix}gain"] = score.gain.mean if score else None
        columns[f"{prefix}gain_low"] = score.gain.low if score else None
        columns[f"{prefix}gain_high"] = score.gain.high if score else None
    return columns
