"""The training pictures of the text-to-image model: rendered once, kept as arrays."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dct_augment.pocket import birds, handwriting
from dct_augment.pocket.captions import SUBJECTS, caption

ANIMALS, OBJECTS, REDRAWS = 500, 1100, 5  # pictures per animal, per object, per writing
SEED = 1


@dataclass(frozen=True)
class World:
    """`images` (N, 64, 64, 3) uint8, the subject of each, and its background or ink."""

    images: np.ndarray
    subjects: np.ndarray
    places: np.ndarray

    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        """Images as float tensors, (B, 3, 64, 64) in [-1, 1]."""
        pixels = torch.from_numpy(self.images[indices.numpy()])
        return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()

    def captions(self, indices: torch.Tensor, generator: torch.Generator) -> list[str]:
        """A fresh caption for each picture."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        rng = np.random.default_rng(seed)
        return [caption(SUBJECTS[self.subjects[i]], str(self.places[i]), rng) for i in indices.tolist()]


def render(work: Path) -> World:
    """Draw the whole world, or read it back from `work/world.npz`."""
    path = work / "world.npz"
    if not path.exists():
        images, subjects, places = [], [], []
        for number, subject in enumerate(SUBJECTS):
            for picture, place in _pictures(number, subject.key):
                images.append(np.asarray(picture))
                subjects.append(number)
                places.append(place)
        partial = work / "world.partial.npz"
        np.savez(partial, images=np.stack(images), subjects=np.array(subjects), places=np.array(places))
        os.replace(partial, path)
    with np.load(path) as stored:
        return World(stored["images"], stored["subjects"], stored["places"])


def _pictures(number: int, key: str):  # type: ignore[no-untyped-def]
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
