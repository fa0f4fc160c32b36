"""The certificate of a class token: what fresh images, with it and without it, say of its worth.

Both kinds are generated from the same noise, which no training and no validation has used. The guide decides; the
judge, which had no part in the training, only measures.
"""

from dataclasses import astuple, dataclass, field

import torch

from dct_augment.intervals import Estimate, paired_gain
from dct_augment.records import Verdict

ERROR_RATE = 0.05
"""How often a token without any gain or loss is called certified or worse, over all looks together, at most."""


@dataclass(frozen=True)
class Score:
    """What one classifier makes of n pairs of images: its accuracy with the plain prompt, with the token, the gain."""

    plain: float
    token: float
    gain: Estimate


@dataclass(frozen=True)
class Certificate:
    """Verdict and measurements of one token.

    `level` is that of the intervals of the gains; it is above 95 % if more than one look was allowed (`PairedTest`).
    `mean_pixel_change` is the mean absolute difference of the pairs in [0, 255]; diversities are mean root-mean-square
    distances of two images of one kind in the first look, in [0, 255]. `confused_with` are slugs of other classes: the
    most probable ones of images with the token, by the guide.
    """

    verdict: Verdict
    guide: Score
    judge: Score | None
    diversity: float
    plain_diversity: float
    mean_pixel_change: float
    level: float = 0.95
    confused_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recognised:
    """In how many pairs of images a classifier recognises both, only that with the token, only the plain one, none."""

    both: int = 0
    only_token: int = 0
    only_plain: int = 0
    neither: int = 0

    @classmethod
    def count(cls, plain: torch.Tensor, token: torch.Tensor) -> "Recognised":
        """Count the noises that are recognised, both (n,) bool."""
        cases = (plain & token, token & ~plain, plain & ~token, ~plain & ~token)
        return cls(*(int(case.sum()) for case in cases))

    def __add__(self, other: "Recognised") -> "Recognised":
        """Join the pairs of two looks."""
        return Recognised(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return self.both + self.only_token + self.only_plain + self.neither

    def score(self, level: float = 0.95) -> Score:
        """Compare both kinds, with an interval of this level around the gain."""
        gain = paired_gain(self.both, self.only_token, self.only_plain, self.neither, level)
        return Score((self.both + self.only_plain) / self.pairs, (self.both + self.only_token) / self.pairs, gain)


@dataclass
class PairedTest:
    """Tests whether a token helps, on as few pairs of images as it takes: a group-sequential test.

    The first look is at `first` pairs. While nothing is decided, as many pairs again as there are follow, for `looks`
    looks at most. It is decided when the interval of the gain excludes 0, or when no gain is seen: to give up then can
    only lower the error.

    Several looks are several chances to be wrong. So every interval has the level 1 - 0.05 / looks (Bonferroni): over
    all looks together, a token without gain or loss is called significant in 5 % of the cases at most, two-sided, and
    certified in half of these. The bound holds for looks of any size. It costs little: for three looks the normal
    quantile is 2.39, where the constant of Pocock (Biometrika 64, 1977) is 2.29 for looks of equal size.
    """

    first: int
    looks: int
    recognised: Recognised = Recognised()

    @property
    def level(self) -> float:
        """The level of each interval."""
        return 1 - ERROR_RATE / self.looks

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return self.recognised.pairs

    @property
    def next_pairs(self) -> int:
        """How many pairs the next look adds; 0 if it is decided, or the looks are used up."""
        if not self.pairs:
            return self.first
        used_up = self.pairs >= self.first * 2 ** (self.looks - 1)
        gain = self.score().gain
        return 0 if used_up or gain.low > 0 or gain.mean <= 0 else self.pairs

    def add(self, recognised: Recognised) -> None:
        """Take in the pairs of one look."""
        self.recognised += recognised

    def score(self) -> Score:
        """Compare all pairs of all looks."""
        return self.recognised.score(self.level)


@dataclass
class Certification:
    """The certificate of a token while its images are made, look by look; no image is kept."""

    test: PairedTest
    min_diversity_ratio: float
    _diversity: float = 0.0
    _plain_diversity: float = 0.0
    _finite: bool = True
    _pixel_changes: list[float] = field(default_factory=list)
    _judged: Recognised = Recognised()

    @property
    def next_pairs(self) -> int:
        """How many pairs the next look adds; 0 if the verdict is there."""
        return 0 if self.test.pairs and (self._collapsed or not self._finite) else self.test.next_pairs

    def add(self, plain: torch.Tensor, token: torch.Tensor, guide: Recognised, judge: Recognised | None) -> None:
        """Take in one look: images (n, 3, H, W) in [-1, 1] with the plain prompt and with the token, and who sees what.

        The diversity is that of the first look.
        """
        if not self.test.pairs:
            self._diversity, self._plain_diversity = diversity(token), diversity(plain)
        self._finite = self._finite and bool(token.isfinite().all())
        self._pixel_changes += ((token - plain).abs().flatten(1).mean(1) * 127.5).tolist()
        self.test.add(guide)
        if judge is not None:
            self._judged += judge

    @property
    def _collapsed(self) -> bool:
        return self._diversity < self.min_diversity_ratio * self._plain_diversity

    def certificate(self) -> Certificate:
        """Judge the token.

        worse: the guide recognises fewer images, significantly, or they are not finite. collapsed: the images have
        less than `min_diversity_ratio` of the diversity that plain ones have. certified: the guide recognises more
        images, significantly. no_gain: otherwise. What is significant, `PairedTest` says.
        """
        guide = self.test.score()
        if guide.gain.high < 0 or not self._finite:
            verdict = Verdict.WORSE
        elif self._collapsed:
            verdict = Verdict.COLLAPSED
        else:
            verdict = Verdict.CERTIFIED if guide.gain.low > 0 else Verdict.NO_GAIN
        judge = self._judged.score(self.test.level) if self._judged.pairs else None
        change = sum(self._pixel_changes) / len(self._pixel_changes)
        return Certificate(verdict, guide, judge, self._diversity, self._plain_diversity, change, self.test.level)


def diversity(images: torch.Tensor) -> float:
    """Mean root-mean-square distance of two of the images (n, 3, H, W) in [-1, 1], in grey levels of [0, 255]."""
    flat = images.flatten(1)
    return (torch.pdist(flat) / flat.shape[1] ** 0.5).mean().item() * 127.5
