"""All metrics of generated features against real ones, with bootstrap intervals, and warnings where images are few."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dct_augment.intervals import Estimate
from dct_augment.metrics.distances import (
    frechet_distance,
    kernel_distance,
    resampled_frechet_distances,
    resampled_kernel_distances,
)
from dct_augment.metrics.diversity import class_diversity
from dct_augment.metrics.neighbourhoods import neighbourhood_scores
from dct_augment.records import Progress, ProgressCallback, StageName, ignore_progress

ENOUGH_FOR_KID = 100
ENOUGH_FOR_NEIGHBOURHOODS = 1000
"""Images of each kind from which there is no warning."""

Weights = tuple[torch.Tensor, torch.Tensor]
"""How often a resample has each real image (N,), and each generated one (M,)."""


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
    device: str = "cpu",
    on_progress: ProgressCallback = ignore_progress,
) -> dict[str, Metric]:
    """Return all metrics of generated features (M, D) with their labels (M,), against real ones (N, D).

    Those that need more images are left out: `fid` and `kid` need 2 of each kind, `precision`, `recall`, `density` and
    `coverage` k + 1, and `diversity` 2 of one class.

    The neighbourhoods are found once; the bootstrap is over the images that are in them or not. Neighbourhoods of a
    resample would be too small: an image that is drawn twice is its own nearest neighbour, at distance 0. The interval
    is therefore that of the share of images in these balls, and leaves out how the balls vary.

    Args:
        real: Features of real images.
        synthetic: Features of generated images.
        labels: The class of each generated image.
        k: Which nearest neighbour is the end of an image's neighbourhood.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        device: Where distances are computed; one without float64 (`mps`) is not used.
        on_progress: Hears of every resample of FID, and of the blocks of KID and of the neighbourhoods; a total of
            2 * `resamples`.
    """
    rng, device = np.random.default_rng(seed), _with_double_precision(device)
    real, synthetic, labels = real.to(device), synthetic.to(device), labels.to(device)
    fewest = min(len(real), len(synthetic))
    metrics: dict[str, Metric] = {}
    told = _Told(on_progress, resamples)
    if fewest > 1:
        metrics["fid"] = Metric(
            _frechet_estimate(real, synthetic, resamples, rng, told), _fid_warning(fewest, real.shape[1])
        )
        kid = _kernel_estimate(real, synthetic, resamples, rng, told)
        metrics["kid"] = Metric(kid, _warning(fewest, ENOUGH_FOR_KID))
    if fewest > k:
        tell = told.part("neighbourhoods, part", 0.75, 0.25)
        for name, scores in neighbourhood_scores(real, synthetic, k, tell).items():
            estimate = _mean_estimate(scores.cpu().numpy(), resamples, rng)
            metrics[name] = Metric(estimate, _warning(fewest, ENOUGH_FOR_NEIGHBOURHOODS))
    diversities = class_diversity(synthetic, labels)
    if len(diversities):
        metrics["diversity"] = Metric(_mean_estimate(diversities.cpu().numpy(), resamples, rng))
    return metrics


def _with_double_precision(device: str) -> str:
    return "cpu" if torch.device(device).type == "mps" else device


@dataclass(frozen=True)
class _Told:
    """Tells of the progress of all metrics; FID is half of it."""

    on_progress: ProgressCallback
    resamples: int

    def part(self, name: str, begin: float, share: float) -> Callable[[int, int], None]:
        """Make what tells of step `done` of `total` of a part of the work, which is this share of it all."""
        size = 2 * self.resamples

        def tell(done: int, total: int) -> None:
            reached = int(size * (begin + share * done / total))
            self.on_progress(Progress(StageName.METRICS, reached, size, f"{name} {done} of {total}"))

        return tell


def _frechet_estimate(
    real: torch.Tensor, synthetic: torch.Tensor, resamples: int, rng: np.random.Generator, told: _Told
) -> Estimate:
    tell, resampled = told.part("FID, resample", 0, 0.5), []
    weights = draw_weights(len(real), len(synthetic), resamples, rng, real.device)
    for distance in resampled_frechet_distances(real, synthetic, weights):
        resampled.append(distance)
        tell(len(resampled), resamples)
    return _distance_estimate(frechet_distance(real, synthetic), np.array(resampled), len(synthetic))


def _kernel_estimate(
    real: torch.Tensor, synthetic: torch.Tensor, resamples: int, rng: np.random.Generator, told: _Told
) -> Estimate:
    weights = draw_weights(len(real), len(synthetic), resamples, rng, real.device)
    both = [torch.stack(own) for own in zip(*weights, strict=True)]
    tell = told.part("KID, block", 0.5, 0.25)
    resampled = resampled_kernel_distances(real, synthetic, both[0], both[1], tell)
    return _distance_estimate(kernel_distance(real, synthetic), resampled.cpu().numpy(), len(synthetic))


def _distance_estimate(value: float, resampled: np.ndarray, count: int) -> Estimate:
    """Give a distance the interval of the bootstrap over both sets.

    Images that are resampled twice make every distance too large. The interval is therefore of the spread of the
    resampled distances around their own mean, laid around the distance itself.
    """
    low, high = value + np.quantile(resampled, [0.025, 0.975]) - np.mean(resampled)
    return Estimate(value, float(low), float(high), count)


def draw_weights(
    real: int, synthetic: int, resamples: int, rng: np.random.Generator, device: torch.device
) -> Iterator[Weights]:
    """Yield how often each image is drawn in each resample: as many draws as there are images, with replacement."""
    for _ in range(resamples):
        drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for count in (real, synthetic))
        first, second = (torch.from_numpy(weights.astype(np.int16)).to(device) for weights in drawn)
        yield first, second


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
