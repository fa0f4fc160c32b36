"""Which images lie near images of the other kind: precision, recall, density and coverage.

Precision and recall are of arXiv 1904.06991, section 2; density and coverage of arXiv 2002.09797, section 3.2. All four
are computed as in arXiv 2002.09797: a point on the rim of a ball is not in it.

Distances come from matrix products in float32, in blocks. Where their rounding could decide, the distance is computed
anew in float64 from the difference of the features, so the scores are exact: a copy of an image is never inside a ball
that it ends.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from dct_augment.metrics.distances import Tell, feature_mean, ignore_blocks

_BLOCK = 2**22
"""Numbers of the largest block: 16 MiB in float32."""

_COLUMNS = 1024
"""Columns of a matrix product."""

_SPARE = 8
"""How many more neighbours than k are looked at anew, so that rounding loses none."""


def neighbourhood_scores(
    real: torch.Tensor, synthetic: torch.Tensor, k: int, tell: Tell = ignore_blocks
) -> dict[str, torch.Tensor]:
    """Return what each image adds to `precision` (M,), `recall` (N,), `density` (M,), `coverage` (N,): their means.

    Real features are (N, D), generated ones (M, D). A ball around each image reaches to its k-th nearest of its own
    kind. precision: a generated image is in a ball of a real one; recall: a real image is in a ball of a generated one;
    density: in how many balls of real images a generated one is, over k; coverage: a real image has a generated one in
    its ball. `tell` hears of every third of the work.

    Raises:
        ValueError: fewer than k + 1 images of a kind.
    """
    if min(len(real), len(synthetic)) <= k:
        raise ValueError(f"{k} nearest neighbours need more than {k} images of each kind")
    pairs = _Pairs(real, synthetic, feature_mean(real))
    radii = []
    for done, features in enumerate((real, synthetic), 1):
        radii.append(_Pairs(features, features, pairs.centre).radii(k))
        tell(done, 3)
    scores = _scores(pairs, radii[0], radii[1], k)
    tell(3, 3)
    return scores


def _scores(
    pairs: "_Pairs", real_radii: torch.Tensor, synthetic_radii: torch.Tensor, k: int
) -> dict[str, torch.Tensor]:
    balls = torch.zeros(len(pairs.columns), dtype=torch.float64, device=real_radii.device)
    recall, coverage = [], []
    for begin, end in pairs.blocks():
        in_real, in_synthetic = pairs.inside(begin, end, real_radii[begin:end, None], synthetic_radii[None])
        balls += in_real.sum(0)
        coverage.append(in_real.any(1))
        recall.append(in_synthetic.any(1))
    return {
        "precision": (balls > 0).double(),
        "recall": torch.cat(recall).double(),
        "density": balls / k,
        "coverage": torch.cat(coverage).double(),
    }


@dataclass(frozen=True)
class _Pairs:
    """Distances of all rows (N, D) to all columns (M, D), a block of rows at a time; `centre` (D,) is near to both."""

    rows: torch.Tensor
    columns: torch.Tensor
    centre: torch.Tensor

    def blocks(self, others: int = 0) -> list[tuple[int, int]]:
        """Divide the rows so that a block, and `others` features of each row, are small."""
        of_row = max(len(self.columns), others * self.rows.shape[1], 1)
        size = max(_BLOCK // of_row, 1)
        return [(begin, min(begin + size, len(self.rows))) for begin in range(0, len(self.rows), size)]

    def radii(self, k: int) -> torch.Tensor:
        """Find the distance of each row to its k-th nearest other column, (N,); rows and columns are the same."""
        looked_at = min(k + 1 + _SPARE, len(self.columns))
        radii = []
        for begin, end in self.blocks(looked_at):
            nearest = self._squared(begin, end).topk(looked_at, largest=False)
            candidates = _exact(self.rows[begin:end, None], self.columns[nearest.indices])[:, 0]
            found = candidates.kthvalue(k + 1).values
            gap = nearest.values[:, -1] - nearest.values[:, k]
            unsure = (gap <= 2 * self._margin).nonzero().flatten() + begin
            if len(unsure) and looked_at < len(self.columns):  # so many at one distance that another may be nearer
                found[unsure - begin] = self._exact_rows(unsure).kthvalue(k + 1).values
            radii.append(found)
        return torch.cat(radii)

    def inside(
        self, begin: int, end: int, row_radii: torch.Tensor, column_radii: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell which pairs (B, M) are closer than the radius of the row (B, 1), and of the column (1, M)."""
        squared = self._squared(begin, end)
        unsure = torch.zeros_like(squared, dtype=torch.bool)
        inside = []
        for radii in (row_radii, column_radii):
            beyond = squared - radii.square().to(squared.dtype)
            unsure |= beyond.abs() <= self._margin
            inside.append(beyond < 0)
        if int(unsure.sum()) > unsure.numel() // 8:
            distances = self._exact_rows(torch.arange(begin, end, device=squared.device))
            return distances < row_radii, distances < column_radii
        for part in unsure.nonzero().split(max(_BLOCK // self.rows.shape[1], 1)):
            row, column = part.T
            distances = _exact(self.rows[begin + row, None], self.columns[column, None])[:, 0, 0]
            inside[0][row, column] = distances < row_radii[row, 0]
            inside[1][row, column] = distances < column_radii[0, column]
        return inside[0], inside[1]

    def _squared(self, begin: int, end: int) -> torch.Tensor:
        """Compute squared distances (B, M) of matrix products; each is off by `_margin` at most."""
        rows = self._centred(self.rows[begin:end])
        squared = self._norms(self.rows[begin:end])[:, None] + self._column_norms
        for first in range(0, len(self.columns), _COLUMNS):
            part = slice(first, first + _COLUMNS)
            squared[:, part].addmm_(rows, self._centred(self.columns[part]).T, alpha=-2)
        return squared

    @cached_property
    def _margin(self) -> float:
        """The most that rounding can change a squared distance or radius: 2 x.y is a sum of D products."""
        largest = max(float(self._norms(self.rows).max()), float(self._column_norms.max()))
        return 2 * (self.rows.shape[1] + 16) * torch.finfo(self._precision).eps * largest

    @cached_property
    def _precision(self) -> torch.dtype:
        """float32, unless products of it are rounded more than that (TensorFloat32), which no bound here allows for."""
        return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64

    def _centred(self, features: torch.Tensor) -> torch.Tensor:
        return (features.double() - self.centre).to(self._precision)

    @cached_property
    def _column_norms(self) -> torch.Tensor:
        return self._norms(self.columns)

    def _norms(self, features: torch.Tensor) -> torch.Tensor:
        norms = [(part.double() - self.centre).square().sum(1) for part in features.split(_COLUMNS)]
        return torch.cat(norms).to(self._precision)

    def _exact_rows(self, rows: torch.Tensor) -> torch.Tensor:
        chosen = self.rows[rows]
        return torch.cat([_exact(chosen, part) for part in self.columns.split(_COLUMNS)], 1)


def _exact(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (..., N, M) of (..., N, D) and (..., M, D), without the rounding of a matrix product."""
    return torch.cdist(rows.double(), columns.double(), compute_mode="donot_use_mm_for_euclid_dist")
