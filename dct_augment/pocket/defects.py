"""Metal parts with one flaw each, as a camera over a work bench sees them: ten kinds of defect, drawn by code.

A part is a plate, a washer, a bracket or a nut, with drilled holes, engraved lines and the marks of the brush: all of
that is clutter, the flaw alone is the class. Five pairs of kinds differ in little: the light on a dent and on a
blister, the edge of a burr and of a chip.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dct_augment.pocket import camera
from dct_augment.pocket.canvas import Canvas, Color, Point, shade

SIZE = 64

SPLITS = {"world": 41, "judge": 42, "train": 43, "val": 44, "test": 45}
"""First word of the random seed of every picture; none of those of other subjects."""

METALS: dict[str, Color] = {
    "steel": (152, 160, 172),
    "brass": (206, 176, 96),
    "copper": (204, 132, 96),
    "aluminium": (208, 212, 216),
    "iron": (112, 112, 120),
}

BENCHES: tuple[Color, ...] = ((52, 58, 66), (38, 66, 74), (70, 62, 56), (230, 232, 228))


@dataclass(frozen=True)
class Defect:
    """A class: its name, and the words that describe it and name no class."""

    name: str
    adjectives: tuple[str, ...]


DEFECTS: tuple[Defect, ...] = (
    Defect("scratch", ("straight", "shiny")),
    Defect("crack", ("jagged", "branching")),
    Defect("dent", ("sunken", "hollow")),
    Defect("blister", ("raised", "swollen")),
    Defect("porosity", ("speckled", "many holed")),
    Defect("pit", ("deep", "round")),
    Defect("stain", ("smeared", "dull")),
    Defect("rust", ("orange", "flaky")),
    Defect("burr", ("spiky", "ragged edged")),
    Defect("chip", ("notched", "broken edged")),
)

NAMES = tuple(defect.name for defect in DEFECTS)

LOOK_ALIKES: tuple[tuple[str, str], ...] = (
    ("scratch", "crack"),
    ("dent", "blister"),
    ("porosity", "pit"),
    ("stain", "rust"),
    ("burr", "chip"),
)
"""Kinds whose names the captions mix up."""


@dataclass(frozen=True)
class _Part:
    """What a flaw is drawn on: the metal, the bench, a free place (x, y) of the surface, and a place of the edge.

    `outwards` is the direction in which the part ends there, in radians.
    """

    metal: Color
    bench: Color
    place: Point
    edge: Point
    outwards: float


def draw(name: str, rng: np.random.Generator, size: int = SIZE) -> tuple[Image.Image, str]:
    """Draw a part with one flaw.

    Returns the picture (`size` x `size` RGB) and the name of its metal. Everything random comes from `rng`: metal,
    shape, clutter, pose, light, and the flaw's place and form.
    """
    metal = str(rng.choice(list(METALS)))
    tint = shade(METALS[metal], float(rng.uniform(0.86, 1.12)))
    bench = shade(BENCHES[int(rng.integers(len(BENCHES)))], float(rng.uniform(0.85, 1.1)))
    canvas = Canvas(
        size,
        bench,
        mirror=bool(rng.random() < 0.5),
        angle=float(rng.normal(0, 0.16)),
        scale=float(rng.uniform(0.88, 1.06)),
        shift=(float(rng.normal(0, 0.02)), float(rng.normal(0, 0.02))),
    )
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    part, marks = shape(canvas, tint, bench, rng), _brushed(size, rng)
    light = _FLAWS[name](canvas, part, rng)  # last, so that the same part is drawn with any flaw
    pixels = np.asarray(canvas.finish(), dtype=np.float32) * marks[..., None]
    if light is not None:
        pixels *= light(size)[..., None]
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8)), metal


def picture(name: str, split: str, index: int) -> Image.Image:
    """Picture `index` of a kind in one of the disjoint `SPLITS`; always the same one."""
    return draw(name, np.random.default_rng([SPLITS[split], NAMES.index(name), index]))[0]


def photograph(name: str, split: str, index: int) -> Image.Image:
    """The same part, photographed on a work bench."""
    random = np.random.default_rng([SPLITS[split], NAMES.index(name), index, 1])
    return camera.photograph_on_a_bench(picture(name, split, index), random)


def _brushed(size: int, rng: np.random.Generator) -> np.ndarray:
    """The marks of a brush across the picture, (H, W) around 1."""
    angle = float(rng.uniform(0, math.pi))
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    across = x * math.cos(angle) + y * math.sin(angle)
    waves = sum(np.sin(across * rng.uniform(9, 26) + rng.uniform(0, 7)) for _ in range(3))
    ramp = 1 + float(rng.uniform(-0.08, 0.08)) * x + float(rng.uniform(-0.1, 0.02)) * y
    marks: np.ndarray = (ramp + float(rng.uniform(0.004, 0.016)) * waves).astype(np.float32)
    return marks


# ---- parts


def _slab(canvas: Canvas, outline: list[Point], metal: Color) -> None:
    """A flat piece: its shadow, its side and its face."""
    canvas.polygon([(x + 0.02, y + 0.03) for x, y in outline], (24, 24, 28))
    canvas.polygon(outline, shade(metal, 1.22))
    middle = (sum(x for x, _ in outline) / len(outline), sum(y for _, y in outline) / len(outline))
    canvas.polygon([(x + (middle[0] - x) * 0.05, y + (middle[1] - y) * 0.05) for x, y in outline], metal)


def _hole(canvas: Canvas, center: Point, radius: float, metal: Color, bench: Color) -> None:
    """A drilled hole, through which the bench is seen: wide, with a bright rim, unlike a pit."""
    canvas.ellipse(center, (radius * 1.22, radius * 1.22), shade(metal, 1.25))
    canvas.ellipse(center, (radius, radius), shade(bench, 0.8))


def _circle(center: Point, radius: float, count: int = 40, start: float = 0.0) -> list[Point]:
    angles = [start + 2 * math.pi * number / count for number in range(count)]
    return [(center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)) for angle in angles]


def _plate(canvas: Canvas, metal: Color, bench: Color, rng: np.random.Generator) -> _Part:
    half = float(rng.uniform(0.3, 0.36))
    outline = [(0.12, 0.5 - half), (0.88, 0.5 - half), (0.88, 0.5 + half), (0.12, 0.5 + half)]
    _slab(canvas, outline, metal)
    for x in (0.2, 0.8):
        if rng.random() < 0.7:
            _hole(canvas, (x, 0.5 - half + 0.09), 0.035, metal, bench)
        if rng.random() < 0.7:
            _hole(canvas, (x, 0.5 + half - 0.09), 0.035, metal, bench)
    if rng.random() < 0.5:
        y = 0.5 + half - 0.08
        canvas.line([(0.32, y), (0.68, y)], 0.012, shade(metal, 0.72))
    place = (float(rng.uniform(0.38, 0.62)), float(rng.uniform(0.4, 0.56)))
    up = rng.random() < 0.5
    edge = (float(rng.uniform(0.36, 0.64)), 0.5 - half if up else 0.5 + half)
    return _Part(metal, bench, place, edge, -math.pi / 2 if up else math.pi / 2)


def _washer(canvas: Canvas, metal: Color, bench: Color, rng: np.random.Generator) -> _Part:
    radius = float(rng.uniform(0.38, 0.42))
    _slab(canvas, _circle((0.5, 0.5), radius), metal)
    if rng.random() < 0.5:
        canvas.ellipse((0.5, 0.5), (radius * 0.86, radius * 0.86), shade(metal, 0.93))
        canvas.ellipse((0.5, 0.5), (radius * 0.8, radius * 0.8), metal)
    _hole(canvas, (0.5, 0.5), 0.1, metal, bench)
    angle = float(rng.uniform(0, 2 * math.pi))
    place = (0.5 + 0.25 * math.cos(angle), 0.5 + 0.25 * math.sin(angle))
    side = float(rng.uniform(0, 2 * math.pi))
    edge = (0.5 + radius * math.cos(side), 0.5 + radius * math.sin(side))
    return _Part(metal, bench, place, edge, side)


def _bracket(canvas: Canvas, metal: Color, bench: Color, rng: np.random.Generator) -> _Part:
    outline = [(0.12, 0.14), (0.5, 0.14), (0.5, 0.5), (0.88, 0.5), (0.88, 0.88), (0.12, 0.88)]
    _slab(canvas, outline, metal)
    canvas.line([(0.14, 0.5), (0.5, 0.86)], 0.01, shade(metal, 0.86))
    for center in ((0.24, 0.24), (0.77, 0.77)):
        if rng.random() < 0.8:
            _hole(canvas, center, 0.04, metal, bench)
    place = (float(rng.uniform(0.28, 0.42)), float(rng.uniform(0.56, 0.7)))
    if rng.random() < 0.5:
        return _Part(metal, bench, place, (0.12, float(rng.uniform(0.4, 0.7))), math.pi)
    return _Part(metal, bench, place, (float(rng.uniform(0.3, 0.6)), 0.88), math.pi / 2)


def _nut(canvas: Canvas, metal: Color, bench: Color, rng: np.random.Generator) -> _Part:
    radius, turn = float(rng.uniform(0.4, 0.45)), float(rng.uniform(0, math.pi / 3))
    _slab(canvas, _circle((0.5, 0.5), radius, 6, turn), metal)
    canvas.ellipse((0.5, 0.5), (0.15, 0.15), shade(metal, 0.8))
    _hole(canvas, (0.5, 0.5), 0.1, metal, bench)
    side = turn + math.pi / 6 + math.pi / 3 * int(rng.integers(6))
    reach = radius * math.cos(math.pi / 6)
    angle = side + math.pi / 3 * int(rng.integers(1, 5))
    place = (0.5 + 0.26 * math.cos(angle), 0.5 + 0.26 * math.sin(angle))
    edge = (0.5 + reach * math.cos(side), 0.5 + reach * math.sin(side))
    return _Part(metal, bench, place, edge, side)


_SHAPES: tuple[Callable[[Canvas, Color, Color, np.random.Generator], _Part], ...] = (_plate, _washer, _bracket, _nut)


# ---- flaws: each is drawn on the canvas; those of light alone return how bright the picture is, (H, W)

_Light = Callable[[int], np.ndarray]


def _along(start: Point, angle: float, length: float) -> Point:
    return start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)


def _scratch(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    angle = float(rng.uniform(0, math.pi))
    for _ in range(int(rng.integers(1, 3))):
        middle = (part.place[0] + float(rng.normal(0, 0.02)), part.place[1] + float(rng.normal(0, 0.02)))
        reach, turn = float(rng.uniform(0.16, 0.22)), angle + float(rng.normal(0, 0.1))
        ends = [_along(middle, turn, -reach), _along(middle, turn, reach)]
        canvas.line([(x + 0.018, y + 0.018) for x, y in ends], 0.024, shade(part.metal, 0.55))
        canvas.line(ends, 0.03, shade(part.metal, 1.9))


def _crack(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    angle, dark = float(rng.uniform(0, math.pi)), shade(part.metal, 0.26)
    at = _along(part.place, angle, -0.2)
    points = [at]
    for _ in range(6):
        at = _along(at, angle + float(rng.uniform(-0.9, 0.9)), 0.075)
        points.append(at)
    canvas.line(points, 0.034, dark)
    fork = points[3]
    for turn in (0.9, -0.9):
        canvas.line([fork, _along(fork, angle + turn + float(rng.normal(0, 0.15)), 0.13)], 0.026, dark)


def _lit(canvas: Canvas, part: _Part, rng: np.random.Generator, sunken: bool) -> _Light:
    """A round place that the light from above falls into, or onto."""
    (center,) = canvas.mapped([part.place])
    radius, depth = float(rng.uniform(0.1, 0.135)), float(rng.uniform(0.75, 1.1)) * (1 if sunken else -1)
    stretch = float(rng.uniform(0.85, 1.15))

    def light(size: int) -> np.ndarray:
        y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
        across, down = (x - center[0]) / radius * stretch, (y - center[1]) / radius / stretch
        inside = np.clip(1.25 - np.hypot(across, down), 0, 1)
        brightness: np.ndarray = (1 + depth * 1.6 * down * np.minimum(inside, 0.6)).astype(np.float32)
        return brightness

    return light


def _dent(canvas: Canvas, part: _Part, rng: np.random.Generator) -> _Light:
    return _lit(canvas, part, rng, sunken=True)


def _blister(canvas: Canvas, part: _Part, rng: np.random.Generator) -> _Light:
    return _lit(canvas, part, rng, sunken=False)


def _porosity(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    turn = float(rng.uniform(0, math.pi))
    for number in range(7):  # one amid six: apart, so that none looks like a crack
        angle, reach = turn + math.pi / 3 * number, 0.0 if number == 6 else float(rng.uniform(0.095, 0.125))
        center = _along(part.place, angle + float(rng.normal(0, 0.12)), reach)
        radius = float(rng.uniform(0.026, 0.036))
        canvas.ellipse(center, (radius, radius), shade(part.metal, 0.3))


def _pit(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    radius = float(rng.uniform(0.05, 0.068))
    canvas.ellipse(part.place, (radius * 1.3, radius * 1.2), shade(part.metal, 0.7), float(rng.uniform(0, 90)))
    canvas.ellipse(part.place, (radius, radius * 0.9), shade(part.metal, 0.2), float(rng.uniform(0, 90)))


def _patch(canvas: Canvas, part: _Part, rng: np.random.Generator, color: Color, reach: float) -> None:
    angles = [2 * math.pi * number / 9 for number in range(9)]
    points = [_along(part.place, angle, reach * float(rng.uniform(0.6, 1.25))) for angle in angles]
    canvas.blob(points, color)


def _mixed(metal: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(one * (1 - share) + two * share) for one, two in zip(metal, other, strict=True))
    return red, green, blue


def _stain(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    dull = (62, 60, 72)
    _patch(canvas, part, rng, _mixed(part.metal, dull, 0.36), 0.145)
    _patch(canvas, part, rng, _mixed(part.metal, dull, 0.52), 0.09)


def _rust(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    orange = (176, 78, 24)
    _patch(canvas, part, rng, _mixed(part.metal, orange, 0.62), 0.135)
    for _ in range(6):
        x, y = part.place[0] + float(rng.normal(0, 0.07)), part.place[1] + float(rng.normal(0, 0.07))
        canvas.ellipse((x, y), (0.025, 0.02), _mixed(part.metal, (126, 46, 14), 0.85))


def _burr(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    along = part.outwards + math.pi / 2
    for number in range(4):
        foot = _along(part.edge, along, (number - 1.5) * 0.075)
        left, right = _along(foot, along, -0.042), _along(foot, along, 0.042)
        tip = _along(foot, part.outwards + float(rng.normal(0, 0.25)), float(rng.uniform(0.08, 0.14)))
        inner = _along(foot, part.outwards, -0.05)
        canvas.polygon([left, tip, right, inner], shade(part.metal, float(rng.uniform(1.25, 1.6))))


def _chip(canvas: Canvas, part: _Part, rng: np.random.Generator) -> None:
    along = part.outwards + math.pi / 2
    out = _along(part.edge, part.outwards, 0.05)
    wide, deep = float(rng.uniform(0.09, 0.12)), float(rng.uniform(0.09, 0.12))
    bottom = _along(part.edge, part.outwards + math.pi, deep)

    def notch(more: float) -> list[Point]:
        low = _along(bottom, part.outwards + math.pi, more)
        return [
            _along(out, along, -wide - more),
            _along(low, along, -wide * 0.35),
            _along(low, along, wide * 0.3),
            _along(out, along, wide + more),
        ]

    canvas.polygon(notch(0.03), shade(part.metal, 0.56))
    canvas.polygon(notch(0.0), part.bench)


_FLAWS: dict[str, Callable[[Canvas, _Part, np.random.Generator], _Light | None]] = {
    "scratch": _scratch,
    "crack": _crack,
    "dent": _dent,
    "blister": _blister,
    "porosity": _porosity,
    "pit": _pit,
    "stain": _stain,
    "rust": _rust,
    "burr": _burr,
    "chip": _chip,
}
