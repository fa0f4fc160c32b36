"""The draws of real images that every arm runs on: few-shot draws with one test, or the folds of cross-validation."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dct_augment.config import BenchmarkConfig
from dct_augment.datasets import few_shot
from dct_augment.datasets.folds import fold_split
from dct_augment.records import Dataset, Example, Split


def draw_title(settings: BenchmarkConfig, number: int) -> str:
    """Name a draw for a person: its few-shot seed, or its fold."""
    if settings.protocol != "cross_validation":
        return f"seed {number}"
    repeat, fold = divmod(number, settings.folds)
    return f"fold {fold + 1} of {settings.folds}" + (f", repeat {repeat + 1}" if repeat else "")


@dataclass(frozen=True)
class Draws:
    """What a trial trains and tests on.

    Args:
        dataset: the images that can be read and are not left out.
        settings: with a protocol that is known, not `auto`.
        copies: sets of keys of training images that show one picture; they are always in one fold.
    """

    dataset: Dataset
    settings: BenchmarkConfig
    copies: Sequence[AbstractSet[str]] = ()

    @property
    def shared_test(self) -> bool:
        """Whether all draws have the same test."""
        return self.settings.protocol != "cross_validation"

    @property
    def tested(self) -> Sequence[Example]:
        """All images that any draw tests."""
        return self.dataset.examples("test" if self.shared_test else "train")

    @property
    def held_out(self) -> tuple[Sequence[Example], Sequence[Example]]:
        """All images that draws validate on, and all that they test."""
        return self.dataset.examples("val"), self.tested

    def split(self, shots: int, number: int) -> Split:
        """Return the images of one draw.

        Args:
            shots: training images per class, at most; a fold takes all that it has.
            number: of the draw, one of `settings.draws`.

        Raises:
            DatasetError: a class has too few images.
        """
        if not self.shared_test:
            repeat, fold = divmod(number, self.settings.folds)
            return fold_split(self.dataset, self.settings.folds, repeat, fold, self.copies)
        return few_shot(self.dataset, shots, number, self.settings.imbalance)

    def test(self, number: int) -> tuple[Example, ...]:
        """Return the test images of one draw; none is opened for it."""
        if not self.shared_test:
            return self.split(0, number).test
        return tuple(self.tested)
