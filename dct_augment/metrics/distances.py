"""Metrics of generated images against real ones, in the space of any feature extractor, with 95 % intervals.

Fréchet distance (FID, arXiv 1706.08500) and kernel distance (KID, arXiv 1801.01401) with torchmetrics; precision and
recall (arXiv 1904.06991), density and coverage, all as in arXiv 2002.09797. Features are (N, D), float64 in all sums.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dct_augment.intervals import Estimate

Statistic = Callable[[torch.Tensor, torch.Tensor], float]


@dataclass(frozen=True)
class Metric:
    """A metric with its 95 % interval, and what to beware of, if anything."""

    estimate: Estimate
    warning: str = ""


class _Known(nn.Module):
    """Stands for the network in torchmetrics where features are known already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Squared Fréchet distance of the Gaussians with mean and covariance of two sets of features (N, D), (M, D)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Known(real.shape[1])).set_dtype(torch.float64)
    return _updated(metric, real, synthetic)


def kernel_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3; may be below 0."""
    from torchmetrics.image.kid import poly_kernel

    # Not torchmetrics' poly_mmd, which counts both sets as if they were as large as the first.
    real, synthetic = real.double(), synthetic.double()
    within = 0.0
    for kernel in (poly_kernel(real, real), poly_kernel(synthetic, synthetic)):
        within += float(kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1))
    return within - 2 * float(poly_kernel(real, synthetic).mean())


def neighbourhoods(real: torch.Tensor, synthetic: torch.Tensor, k: int) -> dict[str, torch.Tensor]:
    """What each image adds to `precision` (M,), `recall` (N,), `density` (M,) and `coverage` (N,): their means.

    A ball around each image reaches to its k-th nearest of its own kind. precision: a generated image is in a ball of
    a real one; recall: a real one in a ball of a generated one; density: in how many balls of real ones, over k;
    coverage: a real one has a generated one in its ball.

    Raises:
        ValueError: fewer than k + 1 images of a kind.
    """
    if min(len(real), len(synthetic)) <= k:
        raise ValueError(f"{k} nearest neighbours need more than {k} images of each kind")
    real, synthetic = real.double(), synthetic.double()
    between = _distances(real, synthetic)
    radius_real, radius_synthetic = (_radii(one, k) for one in (real, synthetic))
    inside = between < radius_real[:, None]
    return {
        "precision": inside.any(0).double(),
        "recall": (between < radius_synthetic[None]).any(1).double(),
        "density": inside.sum(0).double() / k,
        "coverage": (between.min(1).values < radius_real).double(),
    }


def _radii(features: torch.Tensor, k: int) -> torch.Tensor:
    """Distance of each row to its k-th nearest other one."""
    return _distances(features, features).kthvalue(k + 1, 1).values


def _distances(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Without the rounding of a matrix product, so that a copy of an image is not inside a ball that it ends."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def diversity(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cosine distance of two images of one class, of every class that has two; (K,) in [0, 2]."""
    directions = nn.functional.normalize(features.double(), dim=1)
    found = []
    for label in labels.unique():
        mine = directions[labels == label]
        if (count := len(mine)) > 1:
            similar = (mine.sum(0).square().sum() - mine.square().sum()) / (count * (count - 1))
            found.append(1 - similar)
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)


def compare(
    real: torch.Tensor, synthetic: torch.Tensor, labels: torch.Tensor, *, k: int, resamples: int, seed: int
) -> dict[str, Metric]:
    """All metrics of generated features (M, D) with their labels (M,), against real ones (N, D).

    Those that need more images are left out: the distances 2 of each kind, the neighbourhoods k + 1, and diversity 2
    of one class.
    """
    rng = np.random.default_rng(seed)
    least, found = min(len(real), len(synthetic)), {}
    if least > 1:
        fid, kid = (_distance(one, real, synthetic, resamples, rng) for one in (frechet_distance, kernel_distance))
        found = {"fid": Metric(fid, _few_for_fid(real, synthetic)), "kid": Metric(kid, _few(real, synthetic, 100))}
    if least > k:
        for name, parts in neighbourhoods(real, synthetic, k).items():
            found[name] = Metric(_mean(parts.numpy(), resamples, rng), _few(real, synthetic, 1000))
    spread = diversity(synthetic, labels)
    if len(spread):
        found["diversity"] = Metric(_mean(spread.numpy(), resamples, rng))
    return found


def _distance(
    statistic: Statistic, real: torch.Tensor, synthetic: torch.Tensor, resamples: int, rng: np.random.Generator
) -> Estimate:
    """A distance with the interval of the bootstrap over both sets.

    Images drawn twice make every resampled distance too large; the interval is of their spread around their own mean,
    laid around the distance itself.
    """
    value = statistic(real, synthetic)
    drawn = np.array([statistic(*(one[rng.integers(len(one), size=len(one))] for one in (real, synthetic)))
                      for _ in range(resamples)])  # fmt: skip
    low, high = value + np.quantile(drawn, [0.025, 0.975]) - drawn.mean()
    return Estimate(value, float(low), float(high), len(synthetic))


def _mean(parts: np.ndarray, resamples: int, rng: np.random.Generator) -> Estimate:
    """A mean with its percentile bootstrap interval."""
    means = [parts[rng.integers(len(parts), size=len(parts))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(parts.mean()), float(low), float(high), len(parts))


def _few_for_fid(real: torch.Tensor, synthetic: torch.Tensor) -> str:
    least, width = min(len(real), len(synthetic)), real.shape[1]
    if least >= 10 * width:
        return ""
    return (
        f"{least} images are few for {width} features (from {10 * width} on it is steady): FID is too large; compare "
        "it only at equal numbers, or use KID"
    )


def _few(real: torch.Tensor, synthetic: torch.Tensor, wanted: int) -> str:
    least = min(len(real), len(synthetic))
    return "" if least >= wanted else f"{least} images are few: use at least {wanted} of each kind"


def _updated(metric: nn.Module, real: torch.Tensor, synthetic: torch.Tensor) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of its own buffers
        for features, is_real in ((real, True), (synthetic, False)):
            metric.update(features.double(), real=is_real)  # type: ignore[operator]
        return float(metric.compute())  # type: ignore[operator]
