"""The training pictures of the text-to-image models: rendered once, kept as arrays."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dct_augment.pocket import birds, defects, handwriting
from dct_augment.pocket.captions import DEFECTS, SUBJECTS, Subject, caption

ANIMALS, OBJECTS, REDRAWS = 500, 1100, 5  # pictures per animal, per object, per writing
FLAWED = 1500  # pictures per kind of defect
SEED = 1


Picture = tuple[Image.Image, str]


@dataclass(frozen=True)
class World:
    """`images` (N, 64, 64, 3) uint8, the number in `vocabulary` of each, and its background, ink or metal."""

    images: np.ndarray
    subjects: np.ndarray
    places: np.ndarray
    vocabulary: tuple[Subject, ...]

    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        """Images as float tensors, (B, 3, 64, 64) in [-1, 1]."""
        pixels = torch.from_numpy(self.images[indices.numpy()])
        return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()

    def captions(self, indices: torch.Tensor, generator: torch.Generator) -> list[str]:
        """A fresh caption for each picture."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        rng = np.random.default_rng(seed)
        return [caption(self.vocabulary[self.subjects[i]], str(self.places[i]), rng) for i in indices.tolist()]


def render(work: Path) -> World:
    """Draw the world of birds and digits, or read it back from `work/world.npz`."""
    return _kept(
        work / "world.npz", SUBJECTS, ((number, _pictures(number, s.key)) for number, s in enumerate(SUBJECTS))
    )


def render_defects(work: Path) -> World:
    """Draw the world of defects, or read it back from `work/defects.npz`."""
    return _kept(work / "defects.npz", DEFECTS, ((number, _flawed(s.key)) for number, s in enumerate(DEFECTS)))


def _kept(path: Path, vocabulary: tuple[Subject, ...], drawn: Iterable[tuple[int, Iterator[Picture]]]) -> World:
    if not path.exists():
        images, subjects, places = [], [], []
        for number, pictures in drawn:
            for picture, place in pictures:
                images.append(np.asarray(picture))
                subjects.append(number)
                places.append(place)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, images=np.stack(images), subjects=np.array(subjects), places=np.array(places))
        os.replace(partial, path)
    with np.load(path) as stored:
        return World(stored["images"], stored["subjects"], stored["places"], vocabulary)


def _flawed(name: str) -> Iterator[Picture]:
    seed = defects.SPLITS["world"], defects.NAMES.index(name)
    for copy in range(FLAWED):
        yield defects.draw(name, np.random.default_rng([*seed, copy]))


def _pictures(number: int, key: str) -> Iterator[Picture]:
    animals = {bird.name: bird for bird in birds.BIRDS}
    if key in handwriting.NAMES:
        digits = handwriting.writings()[1]
        for index in handwriting.splits()["world"]:
            if digits[index] == handwriting.NAMES.index(key):
                for copy in range(REDRAWS):
                    yield handwriting.draw(int(index), np.random.default_rng([SEED, int(index), copy]))
    else:
        subject = animals.get(key) or key.split()[0]
        for copy in range(ANIMALS if key in animals else OBJECTS):
            yield birds.draw(subject, np.random.default_rng([SEED, number, copy]))
