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
}
"""Lines of pen strokes, in the unit square; none is a digit."""

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
    """Draw pen strokes as handwriting is: shaken, turned, in the inks and on the papers of the digits."""
    papers, inks = list(handwriting.PAPERS.values()), list(handwriting.INKS.values())
    canvas = Canvas(
        handwriting.SIZE,
        papers[int(random.integers(len(papers)))],
        angle=float(random.normal(0, 0.12)),
        scale=float(random.uniform(0.75, 1.05)),
        shift=(float(random.normal(0, 0.03)), float(random.normal(0, 0.03))),
    )
    ink, width = inks[int(random.integers(len(inks)))], float(random.uniform(0.05, 0.11))
    for line in lines:
        shaken = np.array(line) + random.normal(0, 0.02, (len(line), 2))
        canvas.line([(float(x), float(y)) for x, y in shaken], width, ink)
    return canvas.finish().filter(ImageFilter.GaussianBlur(float(random.uniform(0.3, 1.0))))
