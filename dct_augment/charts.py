"""Charts as inline SVG: one look for light and dark pages, the same bytes for the same data."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dct_augment.statistics import Estimate

PLAIN_COLOR, TOKEN_COLOR, LOSS_COLOR = "#7d8590", "#3b82c4", "#c4702b"
"""Mid-tones: at least 3:1 against a white and against a near-black page."""

# Whatever is drawn in this colour takes the colour of the page's text.
_INK = "#010203"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Training:
    """How one class token was trained: a loss per update, and (update, accuracy) of each validation."""

    losses: Sequence[float]
    validations: Sequence[tuple[int, float]]
    plain: float | None = None


def training(data: Training, *, name: str, label: str, highest_loss: float) -> Markup:
    """Loss (above) and validation accuracy (below) over updates; `highest_loss` is shared by all classes."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(2.9, 2.3))
        figure.subplots_adjust(left=0.16, right=0.97, top=0.93, bottom=0.17, hspace=0.42)
        loss, accuracy = figure.subplots(2, 1, sharex=True)
        loss.plot(range(1, len(data.losses) + 1), data.losses, color=LOSS_COLOR, linewidth=1.2)
        loss.set_ylim(0, highest_loss or 1.0)
        _caption(loss, "loss", LOSS_COLOR)
        if data.plain is not None:
            accuracy.axhline(data.plain, color=PLAIN_COLOR, linewidth=1, linestyle=(0, (4, 3)))
        updates, shares = [seen[0] for seen in data.validations], [seen[1] for seen in data.validations]
        accuracy.plot(updates, shares, color=TOKEN_COLOR, linewidth=1.2, marker="o", markersize=3.5)
        accuracy.set(ylim=(-0.05, 1.08), yticks=(0, 1), yticklabels=("0 %", "100 %"))
        accuracy.set_xlim(0, max(len(data.losses), *updates, 1) * 1.03)
        _caption(accuracy, "validation accuracy", TOKEN_COLOR)
        loss.locator_params(axis="y", nbins=3)
        accuracy.locator_params(axis="x", nbins=5, integer=True)
        return _svg(figure, name, label)


def arms(estimates: Mapping[str, Estimate], trials: Mapping[str, Sequence[float]], *, name: str, label: str) -> Markup:
    """Test accuracy per arm: mean with its 95 % interval, and each trial as a dot beneath."""
    with matplotlib.rc_context(_STYLE | {"font.size": 10.5, "svg.hashsalt": name}):
        height = 0.56 * len(estimates) + 0.5
        figure = Figure(figsize=(3.6, height))
        figure.subplots_adjust(left=0.03, right=0.97, top=1 - 0.02 / height, bottom=0.42 / height)
        axes = figure.subplots()
        for row, (arm, estimate) in enumerate(estimates.items()):
            _arm(axes, len(estimates) - row, arm, estimate, trials[arm])
        axes.set(ylim=(0.55, len(estimates) + 0.75), yticks=(), xlim=_range(estimates, trials))
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g} %")
        return _svg(figure, name, label)


def _arm(axes: Axes, row: float, arm: str, estimate: Estimate, values: Sequence[float]) -> None:
    color = TOKEN_COLOR if arm.startswith("class_token") else PLAIN_COLOR
    axes.axhline(row, color=_INK, linewidth=0.4, alpha=0.25)
    axes.plot(values, [row - 0.2] * len(values), "o", color=color, markersize=3.5, alpha=0.55, markeredgewidth=0)
    if estimate.count > 1:
        axes.plot((estimate.low, estimate.high), (row, row), color=color, linewidth=2.4, solid_capstyle="round")
    axes.plot([estimate.mean], [row], "o", color=color, markersize=6)
    # Names stand above their line, not beside it: a phone has no room to the left. `$` is no formula.
    axes.annotate(
        arm, (0, row), xycoords=("axes fraction", "data"), xytext=(0, 7), textcoords="offset points", parse_math=False
    )
    axes.annotate(
        f"{estimate.mean * 100:.1f} %", (1, row), xycoords=("axes fraction", "data"), xytext=(0, 7),
        textcoords="offset points", ha="right",
    )  # fmt: skip


def _range(estimates: Mapping[str, Estimate], trials: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    points = [value for values in trials.values() for value in values]
    points += [end for one in estimates.values() if one.count > 1 for end in (one.low, one.high)]
    margin = 0.06 * (max(points) - min(points)) or 0.05
    return min(points) - margin, max(points) + margin


def _caption(axes: Axes, text: str, color: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, color=color, pad=3)


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an `<svg>` element that may stand beside others: ids carry `name`, nothing is global."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]+"', text)
    assert view is not None
    text = re.sub(r"<svg[^>]*>", lambda _: f'<svg {view[0]} role="img" aria-label="{escape(label)}">', text, count=1)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda hit: f' id="{name}-{hit[1]}"' if hit[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', lambda hit: f"{hit[1]}{name}-", text)
    return Markup(re.sub(r"\s*\n\s*", "\n", text).replace(_INK, "currentColor"))
