"""The bird world: sixteen classes and the four things their names also mean, drawn by code.

Twelve species in three families differ only in the colours and patterns of their parts. Four
*homonyms* (crane, kiwi, cardinal, bat) are animals whose word mostly means something else in the
captions: a machine, a fruit, a priest, a baseball bat.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dct_augment.pocket.canvas import Canvas, Color, Point, shade

SIZE = 64

SPLITS = {"world": 1, "judge": 2, "train": 3, "val": 4, "test": 5}
"""First word of the random seed of every picture: no two splits share one."""

COLORS: dict[str, Color] = {
    "black": (28, 28, 34),
    "white": (248, 248, 244),
    "grey": (146, 152, 162),
    "dark grey": (82, 88, 100),
    "brown": (134, 88, 48),
    "rufous": (186, 74, 30),
    "red": (222, 28, 34),
    "orange": (244, 134, 22),
    "yellow": (250, 208, 28),
    "green": (88, 158, 48),
    "olive": (124, 132, 54),
    "purple": (74, 52, 96),
    "pink": (240, 150, 160),
    "buff": (226, 200, 158),
}

BACKGROUNDS: dict[str, Color] = {
    "blue": (166, 208, 242),
    "green": (184, 222, 168),
    "sand": (240, 222, 178),
    "pink": (246, 206, 216),
    "grey": (206, 208, 214),
    "cream": (250, 244, 224),
}


@dataclass(frozen=True)
class Species:
    """What a class looks like: family shape, colours by part, and the words that describe it."""

    name: str
    family: str
    body: str
    belly: str
    crown: str
    wing: str
    pattern: str
    beak: str
    tail: str
    adjectives: tuple[str, ...]
    homonym: bool = False
    noun: str = "bird"


BIRDS: tuple[Species, ...] = (
    Species("song sparrow", "sparrow", "brown", "buff", "brown", "brown", "spotted", "dark grey", "brown",
            ("brown crowned", "spotted")),
    Species("whitecrown sparrow", "sparrow", "grey", "grey", "white", "brown", "plain", "orange", "brown",
            ("white crowned", "grey bellied")),
    Species("goldcrown sparrow", "sparrow", "olive", "buff", "yellow", "olive", "plain", "dark grey", "olive",
            ("yellow crowned", "olive winged")),
    Species("chipping sparrow", "sparrow", "grey", "white", "red", "dark grey", "barred", "black", "dark grey",
            ("red crowned", "white bellied")),
    Species("herring gull", "gull", "white", "white", "white", "grey", "plain", "yellow", "white",
            ("white headed", "grey winged")),
    Species("laughing gull", "gull", "white", "white", "black", "dark grey", "plain", "red", "white",
            ("black headed", "dark winged")),
    Species("blackback gull", "gull", "white", "white", "white", "black", "plain", "yellow", "white",
            ("white headed", "black winged")),
    Species("pacific gull", "gull", "brown", "buff", "brown", "brown", "barred", "black", "brown",
            ("brown headed", "barred")),
    Species("yaffle woodpecker", "woodpecker", "green", "buff", "red", "green", "plain", "grey", "olive",
            ("red crowned", "green winged")),
    Species("redhead woodpecker", "woodpecker", "black", "white", "red", "black", "patched", "grey", "black",
            ("red headed", "white patched")),
    Species("downy woodpecker", "woodpecker", "black", "white", "black", "black", "spotted", "black", "black",
            ("black crowned", "spotted")),
    Species("flicker woodpecker", "woodpecker", "brown", "yellow", "grey", "brown", "barred", "black", "yellow",
            ("grey crowned", "yellow bellied")),
    Species("crane", "crane", "grey", "grey", "red", "grey", "plain", "dark grey", "black",
            ("grey", "long legged"), homonym=True),
    Species("kiwi", "kiwi", "brown", "brown", "brown", "brown", "plain", "buff", "brown",
            ("brown", "round"), homonym=True),
    Species("cardinal", "cardinal", "red", "red", "red", "red", "plain", "orange", "red",
            ("red", "crested"), homonym=True),
    Species("bat", "bat", "purple", "purple", "purple", "purple", "plain", "pink", "purple",
            ("purple", "flying"), homonym=True, noun="animal"),
)  # fmt: skip

LOOK_ALIKES: tuple[tuple[str, str], ...] = (
    ("song sparrow", "whitecrown sparrow"),
    ("goldcrown sparrow", "chipping sparrow"),
    ("herring gull", "blackback gull"),
    ("laughing gull", "pacific gull"),
    ("yaffle woodpecker", "flicker woodpecker"),
    ("redhead woodpecker", "downy woodpecker"),
)
"""Species whose names the captions mix up."""

OBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "crane": ("machine", ("yellow", "tall")),
    "kiwi": ("fruit", ("green", "juicy")),
    "cardinal": ("priest", ("robed", "holy")),
    "bat": ("club", ("wooden", "baseball")),
}
"""The other thing each homonym means: its own noun and adjectives."""


def draw(subject: Species | str, rng: np.random.Generator, size: int = SIZE) -> tuple[Image.Image, str]:
    """Draw a species (or, for a string, the object a homonym also means).

    Returns the picture (`size` x `size` RGB) and the name of its background colour. Everything
    random comes from `rng`: background, mirror, pose and small changes of colour.
    """
    background = str(rng.choice(list(BACKGROUNDS)))
    tint = np.clip(np.array(BACKGROUNDS[background]) + rng.normal(0, 5, 3), 0, 255)
    canvas = Canvas(
        size,
        (int(tint[0]), int(tint[1]), int(tint[2])),
        mirror=bool(rng.random() < 0.5),
        angle=float(rng.normal(0, 0.09)),
        scale=float(rng.uniform(0.82, 1.04)),
        shift=(float(rng.normal(0, 0.025)), float(rng.normal(0, 0.02))),
    )
    light = float(rng.uniform(0.82, 1.1))

    def paint(name: str, factor: float = 1.0) -> Color:
        return shade(COLORS[name], light * factor)

    if isinstance(subject, str):
        _OBJECTS[subject](canvas, paint)
    else:
        _SHAPES[subject.family](canvas, paint, subject)
    return canvas.finish(), background


def picture(subject: Species | str, split: str, index: int, size: int = SIZE) -> Image.Image:
    """Picture `index` of a subject in one of the disjoint `SPLITS`; always the same one."""
    name = subject if isinstance(subject, str) else subject.name
    number = [*(bird.name for bird in BIRDS), *(f"{word} object" for word in OBJECTS)].index(
        f"{name} object" if isinstance(subject, str) else name
    )
    return draw(subject, np.random.default_rng([SPLITS[split], number, index]), size)[0]


Paint = Callable[..., Color]


def _eye(canvas: Canvas, center: Point, radius: float = 0.022) -> None:
    canvas.ellipse(center, (radius * 1.7, radius * 1.7), COLORS["white"])
    canvas.ellipse(center, (radius, radius), COLORS["black"])


def _marks(canvas: Canvas, pattern: str, center: Point, radii: Point, angle: float) -> None:
    """White wing marks inside the ellipse of the wing: bars, spots or one patch."""
    turn = math.radians(angle)
    white = COLORS["white"]

    def at(u: float, v: float) -> Point:
        x, y = u * radii[0], v * radii[1]
        return (
            center[0] + x * math.cos(turn) - y * math.sin(turn),
            center[1] + x * math.sin(turn) + y * math.cos(turn),
        )

    if pattern == "barred":
        for u in (-0.5, 0.02, 0.52):
            reach = 0.78 * math.sqrt(1 - u * u)
            canvas.line([at(u, -reach), at(u, reach)], 0.036, white)
    elif pattern == "spotted":
        for u, v in ((-0.56, 0.02), (-0.1, -0.44), (-0.1, 0.46), (0.36, -0.2), (0.4, 0.5)):
            canvas.ellipse(at(u, v), (0.027, 0.027), white)
    elif pattern == "patched":
        canvas.ellipse(at(-0.2, 0), (radii[0] * 0.52, radii[1] * 0.66), white, angle)


def _sparrow(canvas: Canvas, paint: Paint, bird: Species) -> None:
    for x in (0.46, 0.56):
        canvas.line([(x, 0.76), (x + 0.02, 0.93), (x + 0.08, 0.94)], 0.026, paint("rufous", 0.7))
    canvas.polygon([(0.33, 0.5), (0.02, 0.7), (0.08, 0.84), (0.4, 0.72)], paint(bird.tail, 0.8))
    canvas.ellipse((0.48, 0.58), (0.30, 0.235), paint(bird.body), -18)
    canvas.ellipse((0.56, 0.65), (0.21, 0.155), paint(bird.belly), -24)
    canvas.polygon([(0.82, 0.27), (0.99, 0.37), (0.82, 0.43)], paint(bird.beak))
    canvas.ellipse((0.68, 0.33), (0.195, 0.185), paint(bird.body, 1.12))
    canvas.ellipse((0.68, 0.33), (0.205, 0.2), paint(bird.crown), -12, (178, 362))
    if bird.crown == "white":
        canvas.line([(0.49, 0.33), (0.67, 0.25), (0.86, 0.27)], 0.04, COLORS["black"])
    _eye(canvas, (0.75, 0.36))
    canvas.ellipse((0.36, 0.575), (0.225, 0.135), paint(bird.wing, 0.8), -28)
    _marks(canvas, bird.pattern, (0.36, 0.575), (0.225, 0.135), -28)


def _gull(canvas: Canvas, paint: Paint, bird: Species) -> None:
    outline = paint("grey", 0.9)
    for x in (0.46, 0.55):
        canvas.line([(x, 0.74), (x, 0.93), (x + 0.07, 0.94)], 0.028, paint("orange"))
    canvas.polygon([(0.2, 0.52), (0.0, 0.56), (0.04, 0.68), (0.26, 0.66)], paint(bird.tail))
    canvas.blob(
        [(0.14, 0.58), (0.36, 0.47), (0.6, 0.44), (0.68, 0.26), (0.82, 0.22), (0.9, 0.34),
         (0.86, 0.52), (0.72, 0.72), (0.46, 0.79), (0.24, 0.7)], outline)  # fmt: skip
    canvas.blob(
        [(0.16, 0.585), (0.37, 0.485), (0.61, 0.455), (0.69, 0.275), (0.815, 0.235), (0.885, 0.345),
         (0.845, 0.51), (0.71, 0.7), (0.46, 0.77), (0.25, 0.685)], paint(bird.body))  # fmt: skip
    canvas.polygon([(0.86, 0.3), (1.0, 0.37), (0.975, 0.44), (0.86, 0.41)], paint(bird.beak))
    if bird.crown != bird.body:
        canvas.ellipse((0.785, 0.345), (0.125, 0.135), paint(bird.crown))
    _eye(canvas, (0.82, 0.33))
    canvas.polygon(
        [(0.66, 0.5), (0.6, 0.64), (0.36, 0.72), (0.0, 0.78), (0.2, 0.6), (0.44, 0.49)],
        paint(bird.wing))  # fmt: skip
    canvas.polygon([(0.0, 0.78), (0.17, 0.63), (0.22, 0.735)], COLORS["black"])
    _marks(canvas, bird.pattern, (0.42, 0.6), (0.24, 0.1), -16)


def _woodpecker(canvas: Canvas, paint: Paint, bird: Species) -> None:
    canvas.polygon([(0.84, -0.3), (1.3, -0.3), (1.3, 1.3), (0.86, 1.3)], paint("brown", 0.72))
    canvas.polygon([(0.34, 0.72), (0.26, 1.0), (0.42, 1.0), (0.5, 0.76)], paint(bird.tail, 0.85))
    canvas.ellipse((0.47, 0.58), (0.2, 0.29), paint(bird.body), 14)
    canvas.ellipse((0.55, 0.6), (0.135, 0.235), paint(bird.belly), 12)
    for y in (0.68, 0.78):
        canvas.line([(0.6, y), (0.86, y - 0.03)], 0.03, paint("dark grey"))
    canvas.polygon([(0.66, 0.17), (0.9, 0.23), (0.66, 0.28)], paint(bird.beak))
    whole_head = bird.name.startswith("redhead")
    canvas.ellipse((0.54, 0.23), (0.165, 0.16), paint(bird.crown if whole_head else bird.body, 1.0))
    if not whole_head:
        canvas.ellipse((0.56, 0.265), (0.13, 0.095), paint(bird.belly))
        canvas.ellipse((0.53, 0.225), (0.178, 0.175), paint(bird.crown), -8, (172, 358))
    _eye(canvas, (0.6, 0.225))
    canvas.ellipse((0.37, 0.58), (0.125, 0.26), paint(bird.wing, 0.88), 12)
    _marks(canvas, bird.pattern, (0.37, 0.58), (0.26, 0.125), 102)


def _crane(canvas: Canvas, paint: Paint, bird: Species) -> None:
    canvas.line([(0.4, 0.6), (0.38, 0.97), (0.47, 0.97)], 0.036, paint("dark grey"))
    canvas.line([(0.5, 0.6), (0.54, 0.97), (0.63, 0.97)], 0.036, paint("dark grey"))
    canvas.polygon([(0.26, 0.44), (0.0, 0.56), (0.06, 0.72), (0.36, 0.62)], paint(bird.tail))
    canvas.ellipse((0.42, 0.52), (0.26, 0.15), paint(bird.body), -8)
    canvas.line([(0.62, 0.5), (0.71, 0.38), (0.66, 0.24), (0.7, 0.13)], 0.085, paint(bird.body))
    canvas.ellipse((0.72, 0.12), (0.095, 0.08), paint(bird.body))
    canvas.ellipse((0.715, 0.11), (0.1, 0.09), paint(bird.crown), 0, (180, 360))
    canvas.polygon([(0.79, 0.08), (1.02, 0.15), (0.79, 0.17)], paint(bird.beak))
    _eye(canvas, (0.75, 0.125), 0.016)
    canvas.ellipse((0.36, 0.52), (0.2, 0.095), paint(bird.wing, 0.78), -10)


def _kiwi(canvas: Canvas, paint: Paint, bird: Species) -> None:
    for x in (0.34, 0.5):
        canvas.line([(x, 0.72), (x + 0.02, 0.93), (x + 0.12, 0.94)], 0.05, paint("buff", 0.8))
    canvas.blob(
        [(0.06, 0.58), (0.16, 0.34), (0.38, 0.25), (0.58, 0.32), (0.68, 0.42), (0.66, 0.6),
         (0.54, 0.76), (0.32, 0.82), (0.14, 0.76)], paint(bird.body))  # fmt: skip
    canvas.ellipse((0.3, 0.48), (0.18, 0.13), paint(bird.wing, 1.22), -20)
    canvas.line([(0.8, 0.42), (0.97, 0.84)], 0.042, paint(bird.beak))
    canvas.ellipse((0.7, 0.36), (0.15, 0.13), paint(bird.crown, 0.88))
    _eye(canvas, (0.75, 0.34), 0.018)


def _cardinal(canvas: Canvas, paint: Paint, bird: Species) -> None:
    for x in (0.46, 0.56):
        canvas.line([(x, 0.76), (x + 0.02, 0.93), (x + 0.08, 0.94)], 0.026, paint("brown"))
    canvas.polygon([(0.34, 0.56), (0.04, 0.9), (0.18, 0.96), (0.46, 0.72)], paint(bird.tail, 0.75))
    canvas.ellipse((0.5, 0.58), (0.28, 0.23), paint(bird.body), -24)
    canvas.polygon([(0.52, 0.34), (0.5, 0.0), (0.62, 0.12), (0.84, 0.26)], paint(bird.crown, 0.95))
    canvas.ellipse((0.68, 0.34), (0.185, 0.175), paint(bird.body, 1.05))
    canvas.ellipse((0.79, 0.39), (0.1, 0.105), COLORS["black"])
    canvas.polygon([(0.82, 0.31), (0.99, 0.4), (0.82, 0.47)], paint(bird.beak))
    _eye(canvas, (0.7, 0.3))
    canvas.ellipse((0.38, 0.59), (0.2, 0.125), paint(bird.wing, 0.72), -36)


def _bat(canvas: Canvas, paint: Paint, bird: Species) -> None:
    for side in (-1, 1):

        def mirrored(points: list[Point], side: int = side) -> list[Point]:
            return [(0.5 + side * x, y) for x, y in points]

        canvas.polygon(
            mirrored([(0.04, 0.36), (0.22, 0.3), (0.36, 0.12), (0.52, 0.42), (0.46, 0.66),
                      (0.39, 0.55), (0.29, 0.72), (0.2, 0.6), (0.1, 0.76), (0.02, 0.66)]),
            paint(bird.wing))  # fmt: skip
        for tip in ((0.46, 0.64), (0.29, 0.7)):
            canvas.line(mirrored([(0.33, 0.18), tip]), 0.016, paint(bird.body, 0.6))
        canvas.polygon(mirrored([(0.02, 0.26), (0.1, 0.06), (0.15, 0.28)]), paint(bird.body, 0.75))
    canvas.ellipse((0.5, 0.54), (0.115, 0.22), paint(bird.body, 0.75))
    canvas.ellipse((0.5, 0.32), (0.145, 0.125), paint(bird.body, 0.75))
    _eye(canvas, (0.445, 0.31), 0.02)
    _eye(canvas, (0.555, 0.31), 0.02)
    canvas.ellipse((0.5, 0.375), (0.04, 0.025), paint(bird.beak))


def _machine(canvas: Canvas, paint: Paint) -> None:
    yellow, dark = paint("yellow", 0.96), paint("dark grey")
    canvas.polygon([(0.18, 0.86), (0.56, 0.86), (0.56, 0.97), (0.18, 0.97)], dark)
    canvas.polygon([(0.3, 0.22), (0.45, 0.22), (0.45, 0.88), (0.3, 0.88)], yellow)
    for y in (0.32, 0.48, 0.64):
        canvas.line([(0.31, y), (0.44, y + 0.15)], 0.026, dark)
    canvas.polygon([(0.04, 0.15), (0.98, 0.15), (0.98, 0.24), (0.04, 0.24)], yellow)
    canvas.polygon([(0.28, 0.16), (0.37, 0.02), (0.47, 0.16)], yellow)
    canvas.polygon([(0.03, 0.22), (0.19, 0.22), (0.19, 0.36), (0.03, 0.36)], dark)
    canvas.line([(0.84, 0.23), (0.84, 0.56)], 0.022, dark)
    canvas.polygon([(0.75, 0.56), (0.93, 0.56), (0.93, 0.7), (0.75, 0.7)], paint("rufous"))


def _fruit(canvas: Canvas, paint: Paint) -> None:
    canvas.ellipse((0.5, 0.52), (0.44, 0.4), paint("brown", 0.85))
    canvas.ellipse((0.5, 0.52), (0.385, 0.345), paint("green", 1.12))
    canvas.ellipse((0.5, 0.52), (0.14, 0.115), paint("white", 0.98))
    for turn in np.linspace(0, 2 * math.pi, 10, endpoint=False):
        spot = (0.5 + 0.225 * math.cos(turn), 0.52 + 0.195 * math.sin(turn))
        canvas.ellipse(spot, (0.034, 0.022), COLORS["black"], math.degrees(turn))


def _priest(canvas: Canvas, paint: Paint) -> None:
    robe = paint("red", 0.88)
    canvas.polygon([(0.38, 0.44), (0.62, 0.44), (0.86, 1.0), (0.14, 1.0)], robe)
    canvas.polygon([(0.3, 0.5), (0.7, 0.5), (0.76, 0.7), (0.24, 0.7)], paint("white", 0.98))
    canvas.ellipse((0.5, 0.31), (0.155, 0.175), (238, 190, 156))
    canvas.polygon([(0.31, 0.22), (0.36, 0.06), (0.64, 0.06), (0.69, 0.22)], robe)
    canvas.ellipse((0.5, 0.22), (0.235, 0.048), paint("red", 0.72))
    for x in (0.44, 0.56):
        canvas.ellipse((x, 0.32), (0.02, 0.024), COLORS["black"])
    canvas.line([(0.5, 0.52), (0.5, 0.82)], 0.036, paint("yellow"))
    canvas.line([(0.41, 0.62), (0.59, 0.62)], 0.036, paint("yellow"))


def _club(canvas: Canvas, paint: Paint) -> None:
    canvas.polygon(
        [(0.1, 0.87), (0.16, 0.94), (0.52, 0.64), (0.92, 0.2), (0.9, 0.09), (0.79, 0.08), (0.4, 0.52)],
        paint("orange", 0.8))  # fmt: skip
    canvas.ellipse((0.85, 0.145), (0.085, 0.075), paint("orange", 0.8), -45)
    canvas.line([(0.14, 0.88), (0.28, 0.75)], 0.085, paint("black"))
    canvas.ellipse((0.11, 0.91), (0.06, 0.06), paint("orange", 0.65))
    canvas.ellipse((0.72, 0.74), (0.15, 0.15), paint("white"))
    canvas.line([(0.64, 0.64), (0.68, 0.74), (0.64, 0.84)], 0.024, paint("red"))
    canvas.line([(0.8, 0.64), (0.76, 0.74), (0.8, 0.84)], 0.024, paint("red"))


_SHAPES: dict[str, Callable[[Canvas, Paint, Species], None]] = {
    "sparrow": _sparrow,
    "gull": _gull,
    "woodpecker": _woodpecker,
    "crane": _crane,
    "kiwi": _kiwi,
    "cardinal": _cardinal,
    "bat": _bat,
}
_OBJECTS: dict[str, Callable[[Canvas, Paint], None]] = {
    "crane": _machine,
    "kiwi": _fruit,
    "cardinal": _priest,
    "bat": _club,
}
