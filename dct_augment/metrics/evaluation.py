"""All metrics of generated features against real ones, with bootstrap intervals, and warnings where images are few."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dct_augment.intervals import Estimate
from dct_augment.metrics.distances import frechet_distance, kernel_distance
from dct_augment.metrics.diversity import class_diversity
from dct_augment.metrics.neighbourhoods import neighbourhood_scores
from dct_augment.records import Progress, ProgressCallback, StageName, ignore_progress

ENOUGH_FOR_KID = 100
ENOUGH_FOR_NEIGHBOURHOODS = 1000
"""Images of each kind from which there is no warning."""

Distance = Callable[[torch.Tensor, torch.Tensor], float]


@dataclass(frozen=True)
class Metric:
    """A metric with its 95 % interval, and what to beware of, if anything."""

    estimate: Estimate
    warning: str = ""


def evaluate(
    real: torch.Tensor,
    synthetic: torch.Tensor,
    labels: torch.Tensor,
    *,
    k: int,
    resamples: int,
    seed: int,
    on_progress: ProgressCallback = ignore_progress,
) -> dict[str, Metric]:
    """Return all metrics of generated features (M, D) with their labels (M,), against real ones (N, D).

    Those that need more images are left out: `fid` and `kid` need 2 of each kind, `precision`, `recall`, `density` and
    `coverage` k + 1, and `diversity` 2 of one class.

    Args:
        real: Features of real images.
        synthetic: Features of generated images.
        labels: The class of each generated image.
        k: Which nearest neighbour is the end of an image's neighbourhood.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        on_progress: Hears of every resample of a distance, FID first: 2 * `resamples` in all.
    """
    rng = np.random.default_rng(seed)
    fewest = min(len(real), len(synthetic))
    metrics: dict[str, Metric] = {}
    if fewest > 1:
        fid = _distance_estimate(frechet_distance, real, synthetic, resamples, rng, _told(on_progress, "FID", 0, 2))
        kid = _distance_estimate(kernel_distance, real, synthetic, resamples, rng, _told(on_progress, "KID", 1, 2))
        metrics["fid"] = Metric(fid, _fid_warning(fewest, real.shape[1]))
        metrics["kid"] = Metric(kid, _warning(fewest, ENOUGH_FOR_KID))
    if fewest > k:
        for name, scores in neighbourhood_scores(real, synthetic, k).items():
            estimate = _mean_estimate(scores.numpy(), resamples, rng)
            metrics[name] = Metric(estimate, _warning(fewest, ENOUGH_FOR_NEIGHBOURHOODS))
    diversities = class_diversity(synthetic, labels)
    if len(diversities):
        metrics["diversity"] = Metric(_mean_estimate(diversities.numpy(), resamples, rng))
    return metrics


def _told(on_progress: ProgressCallback, name: str, place: int, of: int) -> Callable[[int, int], None]:
    """Make what tells of resample `done` of `total` of one distance, the one at `place` among `of`."""

    def tell(done: int, total: int) -> None:
        note = f"{name}, resample {done} of {total}"
        on_progress(Progress(StageName.METRICS, place * total + done, of * total, note))

    return tell


def _distance_estimate(
    distance: Distance,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    resamples: int,
    rng: np.random.Generator,
    tell: Callable[[int, int], None],
) -> Estimate:
    """A distance with the interval of the bootstrap over both sets.

    Images that are resampled twice make every distance too large. The interval is therefore of the spread of the
    resampled distances around their own mean, laid around the distance itself.
    """
    value = distance(real, synthetic)
    resampled = []
    for done in range(1, resamples + 1):
        resampled_real = _resample(real, rng)
        resampled.append(distance(resampled_real, _resample(synthetic, rng)))
        tell(done, resamples)
    low, high = value + np.quantile(resampled, [0.025, 0.975]) - np.mean(resampled)
    return Estimate(value, float(low), float(high), len(synthetic))


def _resample(features: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """As many rows as there are, with replacement."""
    return features[rng.integers(len(features), size=len(features))]


def _mean_estimate(values: np.ndarray, resamples: int, rng: np.random.Generator) -> Estimate:
    """A mean with its percentile bootstrap interval."""
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def _fid_warning(images: int, width: int) -> str:
    """Say that a covariance of `width` features needs more images; empty if there are enough."""
    enough = 10 * width
    if images >= enough:
        return ""
    return (
        f"{images} images are few for {width} features (from {enough} on it is steady): FID is too large; compare "
        "it only at equal numbers, or use KID"
    )


def _warning(images: int, enough: int) -> str:
    return "" if images >= enough else f"{images} images are few: use at least {enough} of each kind"
