"""Writes what was measured as Markdown tables, ready for RESULTS.md."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.gpu.registry import PARTS, PIECES

Shown = Callable[[Any], str]


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.2f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


_COLUMNS: Mapping[str, tuple[str, Shown]] = {
    "method": ("method", str),
    "pipeline": ("pipeline", str),
    "training": ("training", str),
    "denoiser": ("denoiser", str),
    "model": ("classifier", str),
    "batch": ("batch", str),
    "allowed_bytes": ("GB allowed", _gigabytes),
    "reserved_bytes": ("GB taken from the GPU, at most", _gigabytes),
    "memory": ("model.memory", str),
    "tokens": ("tokens", str),
    "certificates": ("certificates", str),
    "images": ("images", str),
    "limits": ("most images at once", str),
    "seconds": ("seconds", "{:.4g}".format),
    "fastest": ("fastest", "{:.4g}".format),
    "slowest": ("slowest", "{:.4g}".format),
    "rounds": ("rounds", str),
    "peak_bytes": ("GB more than before, at most", _gigabytes),
    "times_as_fast_as_the_paper": ("times as fast as the paper's loop", _ratio),
    "times_as_fast_as_diffusers": ("times as fast as diffusers", _ratio),
    "times_as_fast_as_the_bare_loop": ("times as fast as the bare loop", _ratio),
    "times_as_fast_as_not_compiled": ("times as fast as not compiled", _ratio),
    "seconds_to_compile": ("seconds to compile", str),
    "largest_mean_difference_of_pixels": ("largest mean difference of pixels, of 255", str),
    "cosine_float16": ("cosine, float16", "{:.4f}".format),
    "norm_float16": ("norm / float32's, float16", "{:.4f}".format),
    "cosine_bfloat16": ("cosine, bfloat16", "{:.4f}".format),
    "norm_bfloat16": ("norm / float32's, bfloat16", "{:.4f}".format),
    "note": ("note", str),
}
"""The head of each column, and how its values are shown; a table has those that a row of it has."""


def markdown(result: Mapping[str, Any]) -> Iterator[str]:
    """Write a result line by line: the machine, then a table for each piece that was measured."""
    yield ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    for piece in PIECES:
        measured = result["pieces"].get(piece.name, {})
        if "rows" not in measured:
            continue
        yield f"\n`{piece.name}`: {PARTS[piece.part].what}.\n"
        rows = measured["rows"]
        keys = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows)]
        yield _line(_COLUMNS[key][0] for key in keys)
        yield "|" + "---|" * len(keys)
        for row in rows:
            yield _line("-" if row.get(key) is None else _COLUMNS[key][1](row[key]) for key in keys)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
