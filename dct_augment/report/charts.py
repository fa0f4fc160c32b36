"""Charts as inline SVG: one look for light and dark pages, the same bytes for the same data.

They draw the numbers of a summary: estimates are `{"mean": ..., "ci95": [low, high], "n": ...}`.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is shown everywhere: title, colour, marker, its twin in text, and what its classifier learns from."""

    title: str
    color: str
    marker: str
    glyph: str
    learns: str


# Mid-tones: at least 3:1 against a white and against a near-black page.
ARM_STYLES: Mapping[str, ArmStyle] = {
    "real": ArmStyle("real images", "#8b8f96", "v", "▼", "the few real images, hardly changed"),
    "real+strong_aug": ArmStyle(
        "strong augmentation", "#6b7078", "s", "■", "the few real images, strongly augmented"
    ),
    "plain_prompt": ArmStyle("plain prompts", "#b7791f", "^", "▲", "the same, and images drawn with plain prompts"),
    "textual_inversion": ArmStyle(
        "textual inversion", "#8a63d2", "D", "◆",
        "the same, and images drawn with tokens that rebuild the same few real images",
    ),
    "class_token": ArmStyle(
        "class tokens", "#3b82c4", "o", "●",
        "the same, and images drawn with class tokens, whose guide saw the whole training set",
    ),
    "class_token_few_shot_guide": ArmStyle(
        "few-shot-guide tokens", "#169a7c", "P", "✚",
        "the same, and images drawn with class tokens, whose guide saw the same few real images alone",
    ),
    "class_token_filtered": ArmStyle(
        "filtered tokens", "#c2558a", "X", "✖", "the same, and those class-token images that the guide accepts"
    ),
}  # fmt: skip
"""Arms in the order of the page."""

_UNKNOWN = "#8b8f96"

# Whatever is drawn in this colour takes the colour of the page's text.
_INK = "#010203"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
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
_MINUS = "\u2212"
_WIDTH = 3.8  # inches: on a phone the letters keep about the size of the page's small print

Numbers = Mapping[str, Any]


def arm_style(arm: str) -> ArmStyle:
    """How an arm is shown; one that is not known gets a quiet look."""
    return ARM_STYLES.get(arm, ArmStyle(arm, _UNKNOWN, "o", "●", ""))


@dataclass(frozen=True)
class Training:
    """How one class token was trained: a loss per update, and (update, accuracy) of each validation."""

    losses: Sequence[float]
    validations: Sequence[tuple[int, float]]
    plain: float | None = None


def training(data: Training, *, name: str, label: str, highest_loss: float) -> Markup:
    """Loss (above) and validation accuracy (below) over updates; `highest_loss` is shared by all classes."""
    token, plain = arm_style("class_token").color, arm_style("plain_prompt").color
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(2.9, 2.3))
        figure.subplots_adjust(left=0.19, right=0.97, top=0.93, bottom=0.17, hspace=0.42)
        loss, accuracy = figure.subplots(2, 1, sharex=True)
        loss.plot(range(1, len(data.losses) + 1), data.losses, color=_UNKNOWN, linewidth=1.2)
        loss.set_ylim(0, highest_loss or 1.0)
        _caption(loss, "loss")
        if data.plain is not None:
            accuracy.axhline(data.plain, color=plain, linewidth=1, linestyle=(0, (4, 3)))
        updates, shares = [seen[0] for seen in data.validations], [seen[1] for seen in data.validations]
        accuracy.plot(updates, shares, color=token, linewidth=1.2, marker="o", markersize=3.5)
        accuracy.set(ylim=(-0.05, 1.08), yticks=(0, 1), yticklabels=("0 %", "100 %"))
        accuracy.set_xlim(0, max(len(data.losses), *updates, 1) * 1.03)
        _caption(accuracy, "validation accuracy")
        loss.locator_params(axis="y", nbins=3)
        accuracy.locator_params(axis="x", nbins=5, integer=True)
        return _svg(figure, name, label)


def arms(estimates: Mapping[str, Numbers], trials: Mapping[str, Sequence[float]], *, name: str, label: str) -> Markup:
    """Test accuracy per arm: mean with its 95 % interval, and each trial as a dot beneath."""
    rows = [
        _Row(arm_style(arm).title, f"{one['mean'] * 100:.1f} %", one, arm_style(arm), trials[arm])
        for arm, one in estimates.items()
    ]
    return _forest(rows, name, label, lambda value, _: f"{value * 100:.3g} %")


def differences(pairs: Sequence[Numbers], *, name: str, label: str) -> Markup:
    """Paired differences of arms in points, with their 95 % intervals and the line of no difference."""
    rows = [
        _Row(
            f"{arm_style(one['arm']).title} {_MINUS} {arm_style(one['baseline']).title}",
            f"{one['mean'] * 100:+.1f}".replace("-", _MINUS),
            one,
            arm_style(one["arm"]),
        )
        for one in pairs
    ]
    return _forest(rows, name, label, lambda value, _: _signed(value), zero=True)


@dataclass(frozen=True)
class _Row:
    """One line of a forest plot: name and value above it, mean and interval on it, single values beneath."""

    title: str
    value: str
    numbers: Numbers
    arm_style: ArmStyle
    singles: Sequence[float] = ()


def _forest(rows: Sequence[_Row], name: str, label: str, tick: Any, *, zero: bool = False) -> Markup:
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        height = 0.52 * len(rows) + 0.42
        figure = Figure(figsize=(_WIDTH, height))
        figure.subplots_adjust(left=0.03, right=0.97, top=1 - 0.02 / height, bottom=0.34 / height)
        axes = figure.subplots()
        for place, row in enumerate(rows):
            if zero:  # in pieces: it would strike through the names
                axes.plot((0, 0), (len(rows) - place - 0.3, len(rows) - place + 0.12), color=_INK, linewidth=0.8)
            _line(axes, len(rows) - place, row)
        axes.set(ylim=(0.55, len(rows) + 0.75), yticks=(), xlim=_range(rows, zero=zero))
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(tick)
        return _svg(figure, name, label)


def _line(axes: Axes, height: float, row: _Row) -> None:
    color, (low, high) = row.arm_style.color, row.numbers["ci95"]
    axes.axhline(height, color=_INK, linewidth=0.4, alpha=0.25)
    axes.plot(
        row.singles, [height - 0.2] * len(row.singles), "o", color=color, markersize=3.5, alpha=0.6, markeredgewidth=0
    )
    if low is not None:
        axes.plot((low, high), (height, height), color=color, linewidth=2.4, solid_capstyle="round")
    axes.plot([row.numbers["mean"]], [height], row.arm_style.marker, color=color, markersize=6, markeredgewidth=0)
    # Names stand above their line, not beside it: a phone has no room to the left. `$` is no formula.
    above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (0, 7)}
    axes.annotate(row.title, (0, height), parse_math=False, **above)
    axes.annotate(row.value, (1, height), ha="right", **above)


def _range(rows: Sequence[_Row], *, zero: bool) -> tuple[float, float]:
    points = [value for row in rows for value in (*row.singles, row.numbers["mean"], *row.numbers["ci95"])]
    known = [value for value in points if value is not None] + [0.0] * zero
    margin = 0.06 * (max(known) - min(known)) or 0.05
    return min(known) - margin, max(known) + margin


def curves(
    arms: Mapping[str, Sequence[Numbers]],
    by: str,
    *,
    axis: str,
    name: str,
    label: str,
    reference: Numbers | None = None,
) -> Markup:
    """Test accuracy of each arm against `by`, with 95 % bands; `reference` is a level line with its band."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, 2.9))
        figure.subplots_adjust(left=0.15, right=0.97, top=0.96, bottom=0.15)
        axes = figure.subplots()
        if reference is not None and reference["mean"] is not None:
            _level(axes, reference)
        for arm, points in arms.items():
            _curve(axes, points, by, arm_style(arm))
        places = sorted({point[by] for points in arms.values() for point in points})
        if by == "shots":
            axes.set_xscale("log")
            axes.set_xticks(places, [str(place) for place in places])
            axes.minorticks_off()
        axes.set_ylim(*_heights([point for points in arms.values() for point in points]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g} %")
        axes.set_xlabel(axis)
        return _svg(figure, name, label)


def _curve(axes: Axes, points: Sequence[Numbers], by: str, shown: ArmStyle) -> None:
    places = [point[by] for point in points]
    axes.plot(
        places, [point["mean"] for point in points], color=shown.color, marker=shown.marker, linewidth=1.4,
        markersize=4.5, markeredgewidth=0,
    )  # fmt: skip
    sure = [point for point in points if point["ci95"][0] is not None]
    if len(sure) == 1:
        axes.plot([sure[0][by]] * 2, sure[0]["ci95"], color=shown.color, linewidth=1, alpha=0.6)
    elif sure:
        low, high = ([point["ci95"][end] for point in sure] for end in (0, 1))
        axes.fill_between([point[by] for point in sure], low, high, color=shown.color, alpha=0.16, linewidth=0)


def _level(axes: Axes, reference: Numbers) -> None:
    shown = arm_style("real+strong_aug")
    axes.axhline(reference["mean"], color=shown.color, linewidth=1.2, linestyle=(0, (4, 3)))
    if reference["ci95"][0] is not None:
        axes.axhspan(*reference["ci95"], color=shown.color, alpha=0.12, linewidth=0)


def _heights(points: Sequence[Numbers]) -> tuple[float, float]:
    """Limits that show every mean, and of the bands what is near: two seeds can give a band of any width."""
    means = [point["mean"] for point in points]
    ends = [end for point in points for end in point["ci95"] if end is not None]
    room = max(max(means) - min(means), 0.05)
    low, high = min([*means, *ends]), max([*means, *ends])
    return max(low, min(means) - room, 0.0) - 0.03 * room, min(high, max(means) + room, 1.0) + 0.03 * room


def gains(rows: Mapping[str, tuple[float, float]], *, name: str, label: str) -> Markup:
    """Recognised shares of each class, from the plain prompt to the class token, in the order given."""
    plain, token = arm_style("plain_prompt"), arm_style("class_token")
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        height = 0.3 * len(rows) + 0.36
        figure = Figure(figsize=(_WIDTH, height))
        figure.subplots_adjust(left=0.36, right=0.96, top=1 - 0.02 / height, bottom=0.3 / height)
        axes = figure.subplots()
        for place, (before, after) in enumerate(rows.values()):
            row = len(rows) - place
            axes.plot((before, after), (row, row), color=(token if after >= before else plain).color, linewidth=1.6)
            axes.plot([before], [row], plain.marker, color=plain.color, markersize=6, markeredgewidth=0)
            axes.plot([after], [row], token.marker, color=token.color, markersize=6, markeredgewidth=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(0.4, len(rows) + 0.6), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f} %")
        axes.set_yticks(range(len(rows), 0, -1), [_short(title) for title in rows], parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=_INK, alpha=0.15, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        return _svg(figure, name, label)


def many_gains(values: Sequence[float], *, name: str, label: str) -> Markup:
    """The gain of each of many classes as a bar without a name, in the order given."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, 2.4))
        figure.subplots_adjust(left=0.13, right=0.97, top=0.96, bottom=0.16)
        axes = figure.subplots()
        places = range(1, len(values) + 1)
        colors = {sign: arm_style(arm).color for sign, arm in ((1, "class_token"), (-1, "plain_prompt"))}
        for sign, color in colors.items():
            tops = [value if value * sign > 0 else 0 for value in values]
            axes.fill_between(places, tops, step="mid", color=color, alpha=0.85, linewidth=0)
        axes.axhline(0, color=_INK, linewidth=0.8)
        axes.set_xlim(0.5, len(values) + 0.5)
        axes.set_xlabel("classes, by their gain")
        axes.yaxis.set_major_formatter(lambda value, _: _signed(value))
        return _svg(figure, name, label)


def _signed(difference: float) -> str:
    """In points, as an axis says it."""
    return f"{difference * 100:+.3g}".replace("-", _MINUS) if round(difference, 6) else "0"


def _short(title: str) -> str:
    return title if len(title) <= 24 else title[:23] + "…"


def _caption(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, pad=3)


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
