"""Chooses the training photo that each generated image starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dct_augment.config import seed_from


@dataclass(frozen=True)
class StartChoice:
    """Chooses the start image of each image, and its strength; a pure function of seed, class and number.

    Args:
        keys: of the training photos of each class, by slug, in order.
        any_class: whether an image may start from a photo of another class.
        strengths: in turn by image number.
    """

    keys: Mapping[str, Sequence[str]]
    any_class: bool
    strengths: Sequence[float]

    def key(self, seed: int, slug: str, number: int) -> str:
        """Choose the photo of an image: those of its class as often as each other, or one of any class.

        Any class is as likely as another, and any photo of it.
        """
        if self.any_class:
            slugs = [other for other, keys in self.keys.items() if keys]
            of_class = self.keys[slugs[seed_from("start class", seed, slug, number) % len(slugs)]]
            return of_class[seed_from("start photo", seed, slug, number) % len(of_class)]
        keys = self.keys[slug]
        again, place = divmod(number, len(keys))
        order = sorted(range(len(keys)), key=lambda index: seed_from("start order", seed, slug, again, index))
        return keys[order[place]]

    def strength(self, number: int) -> float:
        """Give the strength of an image by its number."""
        return self.strengths[number % len(self.strengths)]
