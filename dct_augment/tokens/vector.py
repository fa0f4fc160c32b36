"""The parameter that training changes: one vector, in a part for each text encoder; and the gradient of an update."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import torch

from dct_augment.diffusion import WordNorms, split_by_encoder


class TokenVector:
    """A class token (n, D), kept as one leaf tensor (n, d) per text encoder, whose words measure its steps."""

    def __init__(self, start: torch.Tensor, word_norms: Sequence[WordNorms]) -> None:
        self._widths = [words.width for words in word_norms]
        self.parts = [part.clone().requires_grad_(True) for part in split_by_encoder(start, self._widths)]

    @property
    def value(self) -> torch.Tensor:
        """The token as it is now, (n, D), differentiable."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, 1)

    @property
    def gradient(self) -> torch.Tensor | None:
        """The gradient (n, D) that `backward` left; None if there is none."""
        gradients = [part.grad for part in self.parts if part.grad is not None]
        return torch.cat(gradients, 1) if gradients else None

    def take(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Take a gradient (n, d) for each part, as `backward` would leave it."""
        for part, gradient in zip(self.parts, gradients, strict=True):
            part.grad = gradient

    def largest_norm(self) -> float:
        """The norm of the longest of its n vectors."""
        return self.value.detach().norm(dim=1).max().item()

    @torch.no_grad()
    def set(self, value: torch.Tensor) -> None:
        """Take another value (n, D), in place."""
        for part, saved in zip(self.parts, split_by_encoder(value, self._widths), strict=True):
            part.copy_(saved)


@dataclass
class Gathered:
    """What the images of one update gave for one token: its mean loss, and the gradients (n, d) of its parts.

    Both are sums over batches, whose losses are weighted by their share of the images. A part that no gradient has
    reached has None.
    """

    losses: list[torch.Tensor] = field(default_factory=list)
    gradients: list[torch.Tensor | None] = field(default_factory=list)

    def add(self, loss: torch.Tensor, gradients: Sequence[torch.Tensor | None]) -> None:
        """Take in what a batch gave: its share of the loss, a scalar, and of the gradients."""
        self.losses.append(loss.detach())
        if not self.gradients:
            self.gradients = [None] * len(gradients)
        pairs = zip(self.gradients, gradients, strict=True)
        self.gradients = [one if two is None else two if one is None else one + two for one, two in pairs]

    @property
    def loss(self) -> float:
        """The mean loss of all images."""
        return torch.stack(self.losses).sum().item()


ImageOf = tuple[int, int]
"""The place of a class among those that are updated at once, and of one image among its own."""


def images_of(counts: Sequence[int]) -> list[ImageOf]:
    """List the images of all classes, class by class."""
    return [(place, row) for place, count in enumerate(counts) for row in range(count)]


def by_class(images: Sequence[ImageOf]) -> Iterator[tuple[int, list[int]]]:
    """Group images of classes: the place of each class, and its rows."""
    for place, group in groupby(images, key=itemgetter(0)):
        yield place, [row for _, row in group]
