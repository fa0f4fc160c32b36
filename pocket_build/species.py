"""Draws the pictures that Pocket's backbone learns from: random species and strokes, none of them in a data set.

Each class is a pure function of `SEED`, and each picture of class, split and number.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from PIL import Image, ImageFilter

from dct_augment.pocket import birds, handwriting
from dct_augment.pocket.birds import Species
from dct_augment.pocket.canvas import Canvas, Point

SEED = 31
FAMILIES = ("gull", "woodpecker")
SPECIES_PER_FAMILY = 10
PATTERNS = ("plain", "barred", "spotted", "patched")
PARTS = ("body", "belly", "crown", "wing", "pattern", "beak", "tail")
LEAST_DIFFERENCE = 3
"""In how many parts a random species differs from each of the sixteen birds and from each other one of its family."""


def _arc(center: Point, radii: Point, start: float, end: float) -> tuple[Point, ...]:
    """Points of an ellipse from an angle to another one, in degrees; 0 is to the right, and 90 down."""
    angles = np.radians(np.linspace(start, end, 16))
    return tuple((center[0] + radii[0] * math.cos(angle), center[1] + radii[1] * math.sin(angle)) for angle in angles)


STROKES: dict[str, tuple[tuple[Point, ...], ...]] = {
    "triangle": (((0.5, 0.18), (0.82, 0.8), (0.18, 0.8), (0.5, 0.18)),),
    "square": (((0.22, 0.22), (0.78, 0.22), (0.78, 0.78), (0.22, 0.78), (0.22, 0.22)),),
    "diamond": (((0.5, 0.15), (0.75, 0.5), (0.5, 0.85), (0.25, 0.5), (0.5, 0.15)),),
    "arrow": (((0.18, 0.5), (0.82, 0.5)), ((0.6, 0.3), (0.82, 0.5), (0.6, 0.7))),
    "plus": (((0.5, 0.18), (0.5, 0.82)), ((0.18, 0.5), (0.82, 0.5))),
    "tick": (((0.18, 0.55), (0.4, 0.78), (0.82, 0.22)),),
    "zigzag": (((0.15, 0.62), (0.32, 0.35), (0.5, 0.62), (0.68, 0.35), (0.85, 0.62)),),
    "wave": (tuple((0.12 + 0.76 * t, 0.5 + 0.18 * math.sin(4 * math.pi * t)) for t in np.linspace(0, 1, 25)),),
    "spiral": (
        tuple(
            (0.5 + 0.34 * t * math.cos(5 * math.pi * t), 0.5 + 0.34 * t * math.sin(5 * math.pi * t))
            for t in np.linspace(0.08, 1, 40)
        ),
    ),
    "bars": (((0.3, 0.2), (0.3, 0.8)), ((0.5, 0.2), (0.5, 0.8)), ((0.7, 0.2), (0.7, 0.8))),
    "letter a": (((0.24, 0.82), (0.5, 0.18), (0.76, 0.82)), ((0.34, 0.58), (0.66, 0.58))),
    "letter c": (_arc((0.55, 0.5), (0.28, 0.33), -50, -310),),
    "letter e": (((0.28, 0.5), (0.72, 0.5), *_arc((0.5, 0.5), (0.23, 0.3), 0, -310)),),
    "letter h": (((0.32, 0.15), (0.32, 0.85)), ((0.32, 0.6), *_arc((0.5, 0.6), (0.18, 0.14), -180, 0), (0.68, 0.85))),
    "letter j": (((0.62, 0.18), (0.62, 0.6), *_arc((0.45, 0.62), (0.17, 0.2), 0, 170)),),
    "letter k": (((0.32, 0.15), (0.32, 0.85)), ((0.7, 0.2), (0.34, 0.54), (0.72, 0.85))),
    "letter m": (((0.2, 0.82), (0.26, 0.2), (0.5, 0.66), (0.74, 0.2), (0.8, 0.82)),),
    "letter p": (((0.32, 0.85), (0.32, 0.18), *_arc((0.42, 0.36), (0.26, 0.18), -90, 90), (0.32, 0.54)),),
    "letter u": (((0.28, 0.18), (0.28, 0.55), *_arc((0.5, 0.58), (0.22, 0.24), 180, 0), (0.72, 0.18)),),
    "letter x": (((0.26, 0.2), (0.74, 0.82)), ((0.74, 0.2), (0.26, 0.82))),
    "letter f": (((0.36, 0.85), (0.36, 0.2), (0.72, 0.2)), ((0.36, 0.5), (0.62, 0.5))),
    "letter w": (((0.16, 0.22), (0.34, 0.8), (0.5, 0.4), (0.66, 0.8), (0.84, 0.22)),),
}
"""Lines of pen strokes, in the unit square. None is a digit, nor a letter that looks like one (b, g, l, o, s ...)."""

SPLITS = {"train": 11, "test": 12}
"""First word of the random seed of every picture; none of `birds.SPLITS`."""


def species() -> tuple[Species, ...]:
    """Draw the random species: parts of the renderer's own colours and patterns.

    Raises:
        AssertionError: one is too much like one of the sixteen birds, or like another one.
    """
    random = np.random.default_rng(SEED)
    drawn: list[Species] = []
    for family in FAMILIES:
        kept: list[Species] = []
        while len(kept) < SPECIES_PER_FAMILY:
            one = _random_species(f"{family} {len(kept) + 1}", family, random)
            if all(difference(one, other) >= LEAST_DIFFERENCE for other in (*birds.BIRDS, *kept)):
                kept.append(one)
        drawn += kept
    assert_disjoint(drawn)
    return tuple(drawn)


def _random_species(name: str, family: str, random: np.random.Generator) -> Species:
    colors = list(birds.COLORS)
    body, belly, crown, wing, beak, tail = (colors[int(number)] for number in random.integers(len(colors), size=6))
    pattern = PATTERNS[int(random.integers(len(PATTERNS)))]
    return Species(name, family, body, belly, crown, wing, pattern, beak, tail, ())


def difference(one: Species, other: Species) -> int:
    """Count the parts in which two species differ; all of them if their families do."""
    if one.family != other.family:
        return len(PARTS)
    return sum(getattr(one, part) != getattr(other, part) for part in PARTS)


def assert_disjoint(drawn: Sequence[Species]) -> None:
    """Raise AssertionError if a species is too much like one of Pocket's birds, or like another one of its own kind."""
    pairs = [(one, bird) for one in drawn for bird in birds.BIRDS] + list(combinations(drawn, 2))
    for one, other in pairs:
        if difference(one, other) < LEAST_DIFFERENCE:
            raise AssertionError(f"{one} is too much like {other}")
    if {one.family for one in drawn} & {bird.family for bird in birds.BIRDS if bird.homonym}:
        raise AssertionError("a species has the shape of a homonym")


def labels() -> tuple[str, ...]:
    """The names of all classes, in order."""
    return (*(one.name for one in species()), *STROKES)


def pictures(split: str, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 64, 64, 3) uint8 of all classes, and their labels (N,)."""
    images, truth = [], []
    subjects: list[Species | str] = [*species(), *STROKES]
    for label, subject in enumerate(subjects):
        for number in range(per_class):
            random = np.random.default_rng([SPLITS[split], SEED, label, number])
            picture = _strokes(STROKES[subject], random) if isinstance(subject, str) else birds.draw(subject, random)[0]
            images.append(np.asarray(picture))
            truth.append(label)
    return np.stack(images), np.array(truth)


def _strokes(lines: Sequence[Sequence[Point]], random: np.random.Generator) -> Image.Image:
    """Draw pen strokes as handwriting is: shaken, slanted, in the inks and on the papers of the digits."""
    papers, inks = list(handwriting.PAPERS.values()), list(handwriting.INKS.values())
    canvas = Canvas(
        handwriting.SIZE,
        papers[int(random.integers(len(papers)))],
        angle=float(random.normal(0, 0.12)),
        scale=float(random.uniform(0.75, 1.05)),
        shift=(float(random.normal(0, 0.03)), float(random.normal(0, 0.03))),
    )
    ink, width = inks[int(random.integers(len(inks)))], float(random.uniform(0.05, 0.11))
    stretch, slant = float(random.uniform(0.75, 1.2)), float(random.normal(0, 0.15))
    for line in lines:
        points = np.array(line) + random.normal(0, 0.035 / math.sqrt(len(line)), (len(line), 2))
        across = 0.5 + stretch * (points[:, 0] - 0.5) + slant * (points[:, 1] - 0.5)
        canvas.line([(float(x), float(y)) for x, y in zip(across, points[:, 1], strict=True)], width, ink)
    return canvas.finish().filter(ImageFilter.GaussianBlur(float(random.uniform(0.3, 1.0))))
