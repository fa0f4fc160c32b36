"""Figures as inline SVG: one look for light and dark pages, the same bytes for the same data."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

INK = "#010203"
"""What is plotted in this colour takes the colour of the page's text."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "path.simplify": True,
}


@contextmanager
def styled_figure(chart_id: str, width: float, height: float, **margins: float) -> Iterator[Figure]:
    """Give a figure in the page's look; plot it and take its `inline_svg` inside the `with` block.

    Args:
        chart_id: What makes the ids in the SVG unique on the page.
        width: In inches.
        height: In inches.
        margins: What `Figure.subplots_adjust` takes, in shares of the figure.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": chart_id}):
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(**margins)
        yield figure


def inline_svg(figure: Figure, chart_id: str, label: str) -> Markup:
    """Render the figure as an `<svg>` element that may stand beside others; `label` is what a screen reader says."""
    text = _save(figure)
    text = _strip_global_parts(text)
    text = _label(text, label)
    text = _prefix_ids(text, chart_id)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return Markup(text.replace(INK, "currentColor"))


def _save(figure: Figure) -> str:
    """Return matplotlib's `<svg>` element without the XML declaration above it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].strip()


def _strip_global_parts(text: str) -> str:
    """Remove metadata, comments, and the style sheet, which would apply to the whole page."""
    return re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)


def _label(text: str, label: str) -> str:
    """Write the `<svg>` tag anew: it keeps its view box and gets a label, but no fixed size."""
    view_box = re.search(r'viewBox="[^"]+"', text)
    assert view_box is not None
    tag = f'<svg {view_box[0]} role="img" aria-label="{escape(label)}">'
    return re.sub(r"<svg[^>]*>", lambda _: tag, text, count=1)


def _prefix_ids(text: str, chart_id: str) -> str:
    """Put `chart_id` before every id that is referred to, and remove the others."""
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))

    def prefixed(match: re.Match[str]) -> str:
        return f' id="{chart_id}-{match[1]}"' if match[1] in referred else ""

    text = re.sub(r' id="([^"]+)"', prefixed, text)
    return re.sub(r'(href="#|url\(#)', lambda match: f"{match[1]}{chart_id}-", text)
