"""A tiny vector canvas: shapes in unit coordinates, drawn anti-aliased with Pillow."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Color = tuple[int, int, int]

SUPERSAMPLING = 4


def shade(color: Color, factor: float) -> Color:
    """Darken (factor < 1) or lighten (factor > 1) an RGB color in [0, 255]."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in color)
    return red, green, blue


class Canvas:
    """Draws in [0, 1] x [0, 1] (y downwards) under one similarity transform.

    Every shape passes through a mirror, a rotation about the centre, a scale and a shift, so a
    drawing is written once, facing right, and posed by the caller.
    """

    def __init__(
        self,
        size: int,
        background: Color,
        *,
        mirror: bool = False,
        angle: float = 0.0,
        scale: float = 1.0,
        shift: Point = (0.0, 0.0),
    ) -> None:
        self.size = size
        self._side = size * SUPERSAMPLING
        self._image = Image.new("RGB", (self._side, self._side), background)
        self._draw = ImageDraw.Draw(self._image)
        self._mirror = -1.0 if mirror else 1.0
        self._cos, self._sin = math.cos(angle) * scale, math.sin(angle) * scale
        self._scale, self._shift = scale, shift

    def _map(self, points: Iterable[Point]) -> list[Point]:
        mapped = []
        for x, y in points:
            x, y = x - 0.5, y - 0.5
            x, y = x * self._cos - y * self._sin, x * self._sin + y * self._cos
            x, y = x * self._mirror + 0.5 + self._shift[0], y + 0.5 + self._shift[1]
            mapped.append((x * self._side, y * self._side))
        return mapped

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill the polygon through `points`."""
        self._draw.polygon(self._map(points), fill=color)

    def ellipse(self, center: Point, radii: Point, color: Color, angle: float = 0.0, arc: Point = (0, 360)) -> None:
        """Fill an ellipse turned by `angle` degrees; `arc` (degrees) cuts a chord out of it."""
        turn = math.radians(angle)
        points = []
        for step in np.linspace(math.radians(arc[0]), math.radians(arc[1]), 40):
            x, y = radii[0] * math.cos(step), radii[1] * math.sin(step)
            points.append(
                (
                    center[0] + x * math.cos(turn) - y * math.sin(turn),
                    center[1] + x * math.sin(turn) + y * math.cos(turn),
                )
            )
        self.polygon(points, color)

    def blob(self, points: Sequence[Point], color: Color) -> None:
        """Fill the closed Catmull-Rom curve through `points`: the smooth outlines of animals."""
        smooth: list[Point] = []
        count = len(points)
        for index in range(count):
            p0, p1, p2, p3 = (np.array(points[(index + k - 1) % count]) for k in range(4))
            for t in np.linspace(0, 1, 8, endpoint=False):
                curve = 0.5 * (
                    2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
                )
                smooth.append((float(curve[0]), float(curve[1])))
        self.polygon(smooth, color)

    def line(self, points: Sequence[Point], width: float, color: Color) -> None:
        """Draw an open stroke of `width` (unit coordinates) with round joints."""
        pixels = max(1, round(width * self._side * self._scale))
        mapped = self._map(points)
        self._draw.line(mapped, fill=color, width=pixels, joint="curve")
        for x, y in (mapped[0], mapped[-1]):
            half = pixels / 2
            self._draw.ellipse((x - half, y - half, x + half, y + half), fill=color)

    def finish(self) -> Image.Image:
        """Return the picture, `size` x `size` RGB."""
        return self._image.resize((self.size, self.size), Image.Resampling.BOX)
