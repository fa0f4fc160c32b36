"""The draws of real images that every arm runs on: few-shot draws with one test, or the folds of cross-validation."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dct_augment.config import BenchmarkConfig
from dct_augment.datasets import few_shot
from dct_augment.datasets.folds import fold_split
from dct_augment.records import Dataset, Split


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

    def split(self, shots: int, number: int) -> Split:
        """Return the images of one draw.

        Args:
            shots: training images per class, at most; a fold takes all that it has.
            number: of the draw, one of `settings.draws`.

        Raises:
            DatasetError: a class has too few images.
        """
        if self.settings.protocol == "cross_validation":
            repeat, fold = divmod(number, self.settings.folds)
            return fold_split(self.dataset, self.settings.folds, repeat, fold, self.copies)
        return few_shot(self.dataset, shots, number, self.settings.imbalance)

    def title(self, number: int) -> str:
        """Name a draw for a person."""
        if self.settings.protocol == "cross_validation":
            repeat, fold = divmod(number, self.settings.folds)
            return f"fold {fold + 1} of {self.settings.folds}" + (f", repeat {repeat + 1}" if repeat else "")
        return f"seed {number}"
