"""Charts of the report's numbers, rendered as inline SVG.

Every chart takes a `chart_id`, which makes its ids unique on the page, and a `label`, which a screen reader says.
Estimates are as in the summary: `{"mean": ..., "ci95": [low, high], "n": ...}`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from dct_augment.report.arm_styles import NEUTRAL, ArmStyle, arm_style
from dct_augment.report.svg import INK, inline_svg, styled_figure

_MINUS = "\u2212"
_WIDTH = 3.8  # inches: on a phone the letters keep about the size of the page's small print
_DASHED = (0, (4, 3))

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class TokenHistory:
    """How one class token was trained: a loss per update, (update, accuracy) of each validation, the plain prompt's."""

    losses: Sequence[float]
    validations: Sequence[tuple[int, float]]
    plain_accuracy: float | None = None


def render_token_history(history: TokenHistory, *, chart_id: str, label: str, highest_loss: float) -> Markup:
    """Render loss (above) and validation accuracy (below) over updates; `highest_loss` is shared by all classes."""
    with styled_figure(chart_id, 2.9, 2.3, left=0.19, right=0.97, top=0.93, bottom=0.17, hspace=0.42) as figure:
        loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
        _plot_losses(loss_axes, history.losses, highest_loss)
        _plot_validations(accuracy_axes, history)
        loss_axes.locator_params(axis="y", nbins=3)
        accuracy_axes.locator_params(axis="x", nbins=5, integer=True)
        return inline_svg(figure, chart_id, label)


def _plot_losses(axes: Axes, losses: Sequence[float], highest_loss: float) -> None:
    axes.plot(range(1, len(losses) + 1), losses, color=NEUTRAL, linewidth=1.2)
    axes.set_ylim(0, highest_loss or 1.0)
    _caption(axes, "loss")


def _plot_validations(axes: Axes, history: TokenHistory) -> None:
    if history.plain_accuracy is not None:
        plain_color = arm_style("plain_prompt").color
        axes.axhline(history.plain_accuracy, color=plain_color, linewidth=1, linestyle=_DASHED)
    updates = [update for update, _ in history.validations]
    accuracies = [accuracy for _, accuracy in history.validations]
    axes.plot(updates, accuracies, color=arm_style("class_token").color, linewidth=1.2, marker="o", markersize=3.5)
    axes.set(ylim=(-0.05, 1.08), yticks=(0, 1), yticklabels=("0 %", "100 %"))
    axes.set_xlim(0, max(len(history.losses), *updates, 1) * 1.03)
    _caption(axes, "validation accuracy")


def _caption(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, pad=3)


def render_arms(
    estimates: Mapping[str, Numbers], trials: Mapping[str, Sequence[float]], *, chart_id: str, label: str
) -> Markup:
    """Render test accuracy per arm: mean with its 95 % interval, and each trial as a dot beneath."""
    lines = []
    for arm, estimate in estimates.items():
        style = arm_style(arm)
        lines.append(_ForestLine(style.title, f"{estimate['mean'] * 100:.1f} %", estimate, style, trials[arm]))
    return _render_forest(lines, chart_id, label, lambda value, _: f"{value * 100:.3g} %")


def render_variants(estimates: Mapping[str, Numbers], *, chart_id: str, label: str) -> Markup:
    """Render an accuracy per variant of a study: mean with its 95 % interval."""
    style = arm_style("class_token")
    lines = [
        _ForestLine(name, f"{estimate['mean'] * 100:.1f} %", estimate, style) for name, estimate in estimates.items()
    ]
    return _render_forest(lines, chart_id, label, lambda value, _: f"{value * 100:.3g} %")


def render_cost(places: Mapping[str, tuple[float, float]], *, chart_id: str, label: str) -> Markup:
    """Render what accuracy costs: evaluations of the denoiser (x) and accuracy in [0, 1] (y) of each variant."""
    style = arm_style("class_token")
    with styled_figure(chart_id, _WIDTH, 2.6, left=0.15, right=0.97, top=0.93, bottom=0.2) as figure:
        axes = figure.subplots()
        for name, (evaluations, accuracy) in places.items():
            axes.plot([evaluations], [accuracy], style.marker, color=style.color, markersize=6, markeredgewidth=0)
            above: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 7), "ha": "center"}
            axes.annotate(name, (evaluations, accuracy), parse_math=False, **above)
        axes.margins(x=0.18, y=0.25)
        axes.set_xlabel("evaluations of the denoiser, a class")
        axes.locator_params(nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g} %")
        axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.6)
        return inline_svg(figure, chart_id, label)


def render_differences(pairs: Sequence[Numbers], *, chart_id: str, label: str) -> Markup:
    """Render paired differences of arms in points, with their 95 % intervals and the line of no difference."""
    lines = []
    for pair in pairs:
        arm, baseline = arm_style(pair["arm"]), arm_style(pair["baseline"])
        title = f"{arm.title} {_MINUS} {baseline.title}"
        points = f"{pair['mean'] * 100:+.1f}".replace("-", _MINUS)
        lines.append(_ForestLine(title, points, pair, arm))
    return _render_forest(lines, chart_id, label, lambda value, _: _axis_points(value), zero_line=True)


@dataclass(frozen=True)
class _ForestLine:
    """One line of a forest plot: title and value above it, mean and interval on it, single trials beneath."""

    title: str
    value: str
    estimate: Numbers
    style: ArmStyle
    trials: Sequence[float] = ()


def _render_forest(
    lines: Sequence[_ForestLine],
    chart_id: str,
    label: str,
    tick_label: Callable[[float, Any], str],
    *,
    zero_line: bool = False,
) -> Markup:
    height = 0.52 * len(lines) + 0.42
    with styled_figure(
        chart_id, _WIDTH, height, left=0.03, right=0.97, top=1 - 0.02 / height, bottom=0.34 / height
    ) as figure:
        axes = figure.subplots()
        for place, line in enumerate(lines):
            line_y = len(lines) - place
            if zero_line:  # in pieces: it would strike through the names
                axes.plot((0, 0), (line_y - 0.3, line_y + 0.12), color=INK, linewidth=0.8)
            _plot_forest_line(axes, line_y, line)
        axes.set(ylim=(0.55, len(lines) + 0.75), yticks=(), xlim=_forest_range(lines, with_zero=zero_line))
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(tick_label)
        return inline_svg(figure, chart_id, label)


def _plot_forest_line(axes: Axes, line_y: float, line: _ForestLine) -> None:
    color = line.style.color
    low, high = line.estimate["ci95"]
    axes.axhline(line_y, color=INK, linewidth=0.4, alpha=0.25)
    trials_y = [line_y - 0.2] * len(line.trials)
    axes.plot(line.trials, trials_y, "o", color=color, markersize=3.5, alpha=0.6, markeredgewidth=0)
    if low is not None:
        axes.plot((low, high), (line_y, line_y), color=color, linewidth=2.4, solid_capstyle="round")
    axes.plot([line.estimate["mean"]], [line_y], line.style.marker, color=color, markersize=6, markeredgewidth=0)
    # Names stand above their line, not beside it: a phone has no room to the left. `$` is no formula.
    above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (0, 7)}
    axes.annotate(line.title, (0, line_y), parse_math=False, **above)
    axes.annotate(line.value, (1, line_y), ha="right", **above)


def _forest_range(lines: Sequence[_ForestLine], *, with_zero: bool) -> tuple[float, float]:
    """Limits of the axis that show every trial, mean and interval."""
    values: list[float] = [0.0] if with_zero else []
    for line in lines:
        values += line.trials
        values.append(line.estimate["mean"])
        values += [end for end in line.estimate["ci95"] if end is not None]
    margin = 0.06 * (max(values) - min(values)) or 0.05
    return min(values) - margin, max(values) + margin


def render_curves(
    arms: Mapping[str, Sequence[Numbers]],
    setting: str,
    *,
    axis_title: str,
    chart_id: str,
    label: str,
    reference: Numbers | None = None,
) -> Markup:
    """Render test accuracy of each arm over a setting, with 95 % bands; `reference` is a level line with its band.

    Args:
        arms: By arm, an estimate for each value of the setting, which it holds under the setting's name.
        setting: `shots` or `per_class`.
        axis_title: What the setting is called on the page.
        chart_id: What makes the ids in the SVG unique on the page.
        label: What a screen reader says.
        reference: The estimate of an arm that does not depend on the setting.
    """
    estimates = [estimate for curve in arms.values() for estimate in curve]
    with styled_figure(chart_id, _WIDTH, 2.9, left=0.15, right=0.97, top=0.96, bottom=0.15) as figure:
        axes = figure.subplots()
        if reference is not None and reference["mean"] is not None:
            _plot_reference(axes, reference)
        for arm, curve in arms.items():
            _plot_curve(axes, curve, setting, arm_style(arm))
        if setting == "shots":
            values = sorted({estimate[setting] for estimate in estimates})
            axes.set_xscale("log")
            axes.set_xticks(values, [str(value) for value in values])
            axes.minorticks_off()
        axes.set_ylim(*_accuracy_range(estimates))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g} %")
        axes.set_xlabel(axis_title)
        return inline_svg(figure, chart_id, label)


def _plot_curve(axes: Axes, curve: Sequence[Numbers], setting: str, style: ArmStyle) -> None:
    axes.plot(
        [estimate[setting] for estimate in curve],
        [estimate["mean"] for estimate in curve],
        color=style.color,
        marker=style.marker,
        linewidth=1.4,
        markersize=4.5,
        markeredgewidth=0,
    )
    with_interval = [estimate for estimate in curve if estimate["ci95"][0] is not None]
    values = [estimate[setting] for estimate in with_interval]
    if len(with_interval) == 1:
        axes.plot(values * 2, with_interval[0]["ci95"], color=style.color, linewidth=1, alpha=0.6)
    elif with_interval:
        low = [estimate["ci95"][0] for estimate in with_interval]
        high = [estimate["ci95"][1] for estimate in with_interval]
        axes.fill_between(values, low, high, color=style.color, alpha=0.16, linewidth=0)


def _plot_reference(axes: Axes, reference: Numbers) -> None:
    color = arm_style("real+strong_aug").color
    axes.axhline(reference["mean"], color=color, linewidth=1.2, linestyle=_DASHED)
    if reference["ci95"][0] is not None:
        axes.axhspan(*reference["ci95"], color=color, alpha=0.12, linewidth=0)


def _accuracy_range(estimates: Sequence[Numbers]) -> tuple[float, float]:
    """Limits that show every mean, and of the bands what is near: two seeds can give a band of any width."""
    means = [estimate["mean"] for estimate in estimates]
    ends = [end for estimate in estimates for end in estimate["ci95"] if end is not None]
    room = max(max(means) - min(means), 0.05)
    low = max(min([*means, *ends]), min(means) - room, 0.0)
    high = min(max([*means, *ends]), max(means) + room, 1.0)
    return low - 0.03 * room, high + 0.03 * room


def render_gains(shares: Mapping[str, tuple[float, float]], *, chart_id: str, label: str) -> Markup:
    """Render the recognised share of each class, from plain prompt to class token, in the order given."""
    plain, token = arm_style("plain_prompt"), arm_style("class_token")
    height = 0.3 * len(shares) + 0.36
    with styled_figure(
        chart_id, _WIDTH, height, left=0.36, right=0.96, top=1 - 0.02 / height, bottom=0.3 / height
    ) as figure:
        axes = figure.subplots()
        for place, (plain_share, token_share) in enumerate(shares.values()):
            line_y = len(shares) - place
            better = token if token_share >= plain_share else plain
            axes.plot((plain_share, token_share), (line_y, line_y), color=better.color, linewidth=1.6)
            axes.plot([plain_share], [line_y], plain.marker, color=plain.color, markersize=6, markeredgewidth=0)
            axes.plot([token_share], [line_y], token.marker, color=token.color, markersize=6, markeredgewidth=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(0.4, len(shares) + 0.6), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f} %")
        axes.set_yticks(range(len(shares), 0, -1), [_shorten(name) for name in shares], parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        return inline_svg(figure, chart_id, label)


def _shorten(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def render_unnamed_gains(gains: Sequence[float], *, chart_id: str, label: str) -> Markup:
    """Render the gain of each of many classes as a bar without a name, in the order given."""
    with styled_figure(chart_id, _WIDTH, 2.4, left=0.13, right=0.97, top=0.96, bottom=0.16) as figure:
        axes = figure.subplots()
        places = range(1, len(gains) + 1)
        for arm, bars in (
            ("class_token", [max(gain, 0) for gain in gains]),
            ("plain_prompt", [min(gain, 0) for gain in gains]),
        ):
            axes.fill_between(places, bars, step="mid", color=arm_style(arm).color, alpha=0.85, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlim(0.5, len(gains) + 0.5)
        axes.set_xlabel("classes, by their gain")
        axes.yaxis.set_major_formatter(lambda value, _: _axis_points(value))
        return inline_svg(figure, chart_id, label)


def _axis_points(difference: float) -> str:
    """Write a difference in points, as short as an axis needs it."""
    return f"{difference * 100:+.3g}".replace("-", _MINUS) if round(difference, 6) else "0"
