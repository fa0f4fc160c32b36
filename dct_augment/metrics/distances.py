"""How far the features of generated images are from those of real ones: Fréchet distance (FID), kernel distance (KID).

Features of any extractor will do; FID and KID are usually of Inception v3. A resample of the bootstrap is how often
each image was drawn: its *weight*. Work is done in blocks, so memory beyond features and weights does not grow with the
number of images. Sums are in float64, on the device of the features.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

Tell = Callable[[int, int], None]
"""Hears how many blocks of how many are done."""

BLOCK_ROWS = 1024
"""Rows of a block: its kernel is 8 MiB in float64."""

_STRIPES = 4
"""Parts of the columns of a scatter matrix, of which those below the diagonal are not computed."""


def ignore_blocks(done: int, total: int) -> None:
    """Do nothing with the number of blocks that are done."""


def feature_mean(features: torch.Tensor) -> torch.Tensor:
    """Return the mean (D,) of features (N, D), in float64 without a copy of all of them."""
    return torch.stack([part.double().sum(0) for part in features.split(BLOCK_ROWS)]).sum(0) / len(features)


def frechet_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians that have the mean and covariance of the features (FID).

    ||m_r - m_s||^2 + Tr(C_r + C_s - 2 (C_r C_s)^(1/2)), arXiv 1706.08500, equation 6. Real features are (N, D),
    generated ones (M, D).
    """
    sides = _WeightedFeatures(real), _WeightedFeatures(synthetic)
    return _distance(sides[0].gaussian(), sides[1].gaussian(), torch.linalg.svdvals)


def resampled_frechet_distances(
    real: torch.Tensor, synthetic: torch.Tensor, resamples: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> Iterator[float]:
    """Yield the Fréchet distance of each resample: weights (N,) of real features (N, D), and (M,) of generated ones."""
    sides = _WeightedFeatures(real), _WeightedFeatures(synthetic)
    for real_weights, synthetic_weights in resamples:
        yield _distance(sides[0].gaussian(real_weights), sides[1].gaussian(synthetic_weights), _singular_values)


@dataclass(frozen=True)
class _Gaussian:
    """A mean (D,), and a root R (r, D) of a covariance: R^T R."""

    mean: torch.Tensor
    root: torch.Tensor


def _distance(real: _Gaussian, synthetic: _Gaussian, singular_values: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Compute the squared Fréchet distance.

    With C_r = R^T R and C_s = S^T S, the eigenvalues of C_r C_s that are not 0 are the squared singular values of
    R S^T: Tr (C_r C_s)^(1/2) is the sum of these.
    """
    gap = real.mean - synthetic.mean
    traces = real.root.square().sum() + synthetic.root.square().sum()
    return float(gap @ gap + traces - 2 * singular_values(real.root @ synthetic.root.T).sum())


def _singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """Compute singular values as roots of eigenvalues: faster on a GPU, exact to 1e-8 of the largest."""
    narrow = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(narrow @ narrow.T).clamp(min=0).sqrt()


class _WeightedFeatures:
    """Features (N, D) whose mean and covariance are wanted for many weights.

    Of a resample, only the images that were not drawn just once are summed, and added to the sums of all images. What
    they add is small, so its products may be in float32: the covariance is exact to about 1e-9 all the same.
    """

    def __init__(self, features: torch.Tensor) -> None:
        self._features = features
        self._centre = feature_mean(features).to(features.dtype)

    def gaussian(self, weights: torch.Tensor | None = None) -> _Gaussian:
        """Take the mean and covariance of features that count `weights` (N,) times; once if not given."""
        if weights is None:
            weights = torch.ones(len(self._features), dtype=torch.int16, device=self._features.device)
        drawn = weights.nonzero().flatten()
        if len(drawn) <= self._features.shape[1]:
            return self._gaussian_of_few(drawn, weights[drawn].double())
        return self._gaussian_of_many(weights)

    def _gaussian_of_few(self, drawn: torch.Tensor, weights: torch.Tensor) -> _Gaussian:
        """Compute without any D x D matrix: the weighted rows themselves are a root."""
        count = len(self._features)
        rows = self._features[drawn].double() - self._centre.double()
        mean = weights @ rows / count
        return _Gaussian(self._centre + mean, (rows - mean) * (weights / (count - 1)).sqrt()[:, None])

    def _gaussian_of_many(self, weights: torch.Tensor) -> _Gaussian:
        count = len(self._features)
        total, scatter = (sums.clone() for sums in self._sums)
        changed = (weights != 1).nonzero().flatten()
        for part in changed.split(BLOCK_ROWS):
            rows = (self._features[part] - self._centre).float()
            weighted = rows * (weights[part] - 1)[:, None]
            total += weighted.sum(0, dtype=torch.float64)
            add_products(scatter, rows, weighted)
        mean = total / count
        return _Gaussian(self._centre + mean, _root((scatter - count * mean.outer(mean)) / (count - 1)))

    @cached_property
    def _sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum (D,) and scatter matrix (D, D), its upper triangle, of all features minus the centre, in float64."""
        width = self._features.shape[1]
        total, scatter = (self._centre.new_zeros(shape, dtype=torch.float64) for shape in ((width,), (width, width)))
        for part in self._features.split(BLOCK_ROWS):
            rows = part.double() - self._centre.double()
            total += rows.sum(0)
            add_products(scatter, rows, rows)
        return total, scatter


def add_products(scatter: torch.Tensor, rows: torch.Tensor, others: torch.Tensor) -> None:
    """Add rows^T others to the upper triangle of a symmetric matrix; what is below it holds nothing of use."""
    width = len(scatter)
    step = -(-width // _STRIPES)
    for begin in range(0, width, step):
        scatter[begin : begin + step, begin:] += rows[:, begin : begin + step].T @ others[:, begin:]


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """Compute R with R^T R = C of the upper triangle of C: Cholesky's, or of eigenvectors if C has no full rank."""
    root, failed = torch.linalg.cholesky_ex(covariance, upper=True)
    if not failed:
        return root
    values, vectors = torch.linalg.eigh(covariance, UPLO="U")
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return values[kept].sqrt()[:, None] * vectors[:, kept].T


def kernel_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of the features (KID); it may be below 0.

    mean_(i != j) k(r_i, r_j) + mean_(i != j) k(s_i, s_j) - 2 mean_(i, j) k(r_i, s_j) with k(x, y) = (x.y / D + 1)^3,
    arXiv 1801.01401, section 4. Real features are (N, D), generated ones (M, D).
    """
    once = [torch.ones(1, len(features), dtype=torch.int16, device=real.device) for features in (real, synthetic)]
    return float(resampled_kernel_distances(real, synthetic, once[0], once[1]))


def resampled_kernel_distances(
    real: torch.Tensor,
    synthetic: torch.Tensor,
    real_weights: torch.Tensor,
    synthetic_weights: torch.Tensor,
    tell: Tell = ignore_blocks,
) -> torch.Tensor:
    """Return the kernel distance (R,) of each of R resamples, of one kernel matrix that is never whole in memory.

    With weights w, the sum of k over the pairs of a resample is w^T K w - sum_i w_i k(x_i, x_i).

    Args:
        real: features (N, D) of real images.
        synthetic: features (M, D) of generated images.
        real_weights: how often each real image was drawn, (R, N).
        synthetic_weights: how often each generated image was drawn, (R, M).
        tell: hears of every block of rows.
    """
    sides = (real, real_weights), (synthetic, synthetic_weights)
    sums = (_sums_within(*sides[0]), _sums_within(*sides[1]), _sums_between(*sides[0], *sides[1]))
    pairs = (len(real) * (len(real) - 1), len(synthetic) * (len(synthetic) - 1), -len(real) * len(synthetic) / 2)
    blocks = [len(_starts(features)) for features in (real, synthetic, real)]
    distances, done = torch.zeros(len(real_weights), dtype=torch.float64, device=real.device), 0
    for parts, count in zip(sums, pairs, strict=True):
        for part in parts:
            distances += part / count
            done += 1
            tell(done, sum(blocks))
    return distances


def _sums_within(features: torch.Tensor, weights: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield, for each block of rows, its part (R,) of the sum of the kernel over all pairs of two draws."""
    starts = _starts(features)
    for place, begin in enumerate(starts):
        rows, own = _block(features, weights, begin)
        kernel = _kernel(rows, rows)
        total = ((own @ kernel) * own).sum(1) - own @ kernel.diagonal()
        for other in starts[place + 1 :]:
            columns, theirs = _block(features, weights, other)
            total += 2 * ((own @ _kernel(rows, columns)) * theirs).sum(1)
        yield total


def _sums_between(
    real: torch.Tensor, real_weights: torch.Tensor, synthetic: torch.Tensor, synthetic_weights: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yield, for each block of real rows, its part (R,) of the sum of the kernel over all pairs of both kinds."""
    for begin in _starts(real):
        rows, own = _block(real, real_weights, begin)
        total = own.new_zeros(len(own))
        for other in _starts(synthetic):
            columns, theirs = _block(synthetic, synthetic_weights, other)
            total += ((own @ _kernel(rows, columns)) * theirs).sum(1)
        yield total


def _starts(features: torch.Tensor) -> range:
    return range(0, len(features), BLOCK_ROWS)


def _block(features: torch.Tensor, weights: torch.Tensor, begin: int) -> tuple[torch.Tensor, torch.Tensor]:
    end = begin + BLOCK_ROWS
    return features[begin:end].double(), weights[:, begin:end].double()


def _kernel(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Compute (x.y / D + 1)^3 of rows (N, D) and columns (M, D), (N, M)."""
    base = (rows @ columns.T).div_(rows.shape[1]).add_(1)
    return base * base * base
