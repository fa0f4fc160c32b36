"""Web-like captions of the Pocket world: names are noisy, descriptions are not.

A caption names its subject, describes it, or both. Species and digits are often called by the name
of their look-alike, homonyms mostly mean the object; descriptive captions are always right, so the
text embedding space holds the directions that a class token has to find.
"""

from dataclasses import dataclass

import numpy as np

from dct_augment.pocket import birds, handwriting

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a drawing of a {}", "one {}", "a {}")

EMPTY = 0.1  # share of empty captions: trains the unconditional branch of guidance
NAME_ONLY, DESCRIBED = 0.35, 0.40  # the rest says both
RIGHT_NAME, ALIKE_NAME = 0.42, 0.42  # the rest is the family
BIRD_SAYS_WORD, OBJECT_SAYS_WORD = 0.25, 0.85  # how often a caption uses a homonym's ambiguous word


@dataclass(frozen=True)
class Subject:
    """One thing the world can draw, with the words that captions use for it.

    `names` are (words, probability) pairs of a name-only caption; `place` formats the detail that
    varies from picture to picture (background or ink).
    """

    key: str
    names: tuple[tuple[str, float], ...]
    adjectives: tuple[str, ...]
    noun: str
    place: str


def _noisy(name: str, pairs: tuple[tuple[str, str], ...], family: str) -> tuple[tuple[str, float], ...]:
    alike = {**dict(pairs), **{right: left for left, right in pairs}}[name]
    return ((name, RIGHT_NAME), (alike, ALIKE_NAME), (family, 1 - RIGHT_NAME - ALIKE_NAME))


def _subjects() -> tuple[Subject, ...]:
    subjects = []
    scene, ink = "on a {} background", "in {} ink"
    for bird in birds.BIRDS:
        if bird.homonym:
            names: tuple[tuple[str, float], ...] = (
                (bird.name, BIRD_SAYS_WORD),
                (bird.noun, 1 - BIRD_SAYS_WORD),
            )
        else:
            names = _noisy(bird.name, birds.LOOK_ALIKES, bird.family)
        subjects.append(Subject(bird.name, names, bird.adjectives, bird.noun, scene))
    for word, (noun, adjectives) in birds.OBJECTS.items():
        names = ((word, OBJECT_SAYS_WORD), (noun, 1 - OBJECT_SAYS_WORD))
        subjects.append(Subject(f"{word} {noun}", names, adjectives, noun, scene))
    for name, adjectives in zip(handwriting.NAMES, handwriting.ADJECTIVES, strict=True):
        names = _noisy(name, handwriting.LOOK_ALIKES, "digit")
        subjects.append(Subject(name, names, adjectives, "digit", ink))
    return tuple(subjects)


SUBJECTS = _subjects()


def describe(subject: Subject) -> str:
    """The full, unambiguous description: what the capability check draws."""
    return TEMPLATES[0].format(" ".join((*subject.adjectives, subject.noun)))


def caption(subject: Subject, place: str, rng: np.random.Generator) -> str:
    """Draw one caption for a picture of `subject` at `place` (a background or ink colour)."""
    if rng.random() < EMPTY:
        return ""
    style = rng.random()
    words, chances = zip(*subject.names, strict=True)
    name = str(rng.choice(words, p=chances))
    adjectives = list(rng.permutation(subject.adjectives))[: int(rng.integers(1, 3))]
    if style < NAME_ONLY:
        phrase = name
    elif style < NAME_ONLY + DESCRIBED:
        phrase = " ".join((*adjectives, subject.noun))
    else:
        phrase = " ".join((*adjectives, name))
    text = str(rng.choice(TEMPLATES)).format(phrase)
    if rng.random() < 0.3:
        text = f"{text} {subject.place.format(place)}"
    return text
