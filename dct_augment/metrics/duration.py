"""Says how long the metrics of so many features take here, from a part of the work on random ones."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from dct_augment.metrics.distances import (
    BLOCK_ROWS,
    add_products,
    frechet_distance,
    resampled_frechet_distances,
    resampled_kernel_distances,
)
from dct_augment.metrics.evaluation import draw_weights
from dct_augment.metrics.neighbourhoods import neighbourhood_scores

_NEIGHBOURS = 2048
"""Images of each kind whose neighbourhoods are measured at most."""

_DRAWN_NOT_ONCE = 1 - np.exp(-1)
"""The share of images that a resample draws another number of times than once."""


def metric_seconds(real: int, synthetic: int, width: int, *, k: int, resamples: int, device: str) -> float:
    """Measure a part of `evaluate`, and multiply: about its seconds for one kind of images.

    Args:
        real: number of real images, N.
        synthetic: number of generated images, M.
        width: length of a feature vector, D.
        k: of the nearest neighbour.
        resamples: of the bootstrap.
        device: torch device.
    """
    if min(real, synthetic) < 2:
        return 0.0
    make = partial(_features, width=width, device=device)
    seconds = _frechet_seconds(real, synthetic, width, resamples, make)
    seconds += _kernel_seconds(real, synthetic, resamples, make)
    if min(real, synthetic) > k:
        seconds += _neighbourhood_seconds(real, synthetic, k, make)
    return seconds


def _features(count: int, *, width: int, device: str) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count)).to(device)


def _frechet_seconds(
    real: int, synthetic: int, width: int, resamples: int, make: Callable[[int], torch.Tensor]
) -> float:
    """Time the distance and a resample of at most 2 D images of each kind; the products of more rows come on top."""
    sides = (make(min(real, 2 * width)), make(min(synthetic, 2 * width)))
    drawn = draw_weights(len(sides[0]), len(sides[1]), 2, np.random.default_rng(0), sides[0].device)
    once = _timed(lambda: frechet_distance(*sides))
    distances = resampled_frechet_distances(*sides, drawn)
    first, second = (_timed(lambda: next(distances)) for _ in range(2))
    further = sum(count - len(side) for count, side in zip((real, synthetic), sides, strict=True))
    if not further:
        return once + first + second * (resamples - 1)
    rows, scatter = make(BLOCK_ROWS), torch.zeros(width, width, dtype=torch.float64, device=sides[0].device)
    of_row = _timed(lambda: add_products(scatter, rows, rows)) / BLOCK_ROWS
    of_sums = _timed(lambda: add_products(scatter, rows.double(), rows.double())) / BLOCK_ROWS
    more = further * (2 * of_sums + resamples * _DRAWN_NOT_ONCE * of_row)
    return float(once + first + second * (resamples - 1) + more)


def _kernel_seconds(real: int, synthetic: int, resamples: int, make: Callable[[int], torch.Tensor]) -> float:
    """Time the kernel matrix of a block of each kind, for one resample and for all of them."""
    first, second = (make(min(count, BLOCK_ROWS)) for count in (real, synthetic))
    ones = [torch.ones(resamples, len(side), dtype=torch.int16, device=side.device) for side in (first, second)]
    of_all = _timed(lambda: resampled_kernel_distances(first, second, ones[0], ones[1]))
    of_one = _timed(lambda: resampled_kernel_distances(first, second, ones[0][:1], ones[1][:1]))
    return (of_one + of_all) * _block_pairs(real, synthetic) / _block_pairs(len(first), len(second))


def _block_pairs(real: int, synthetic: int) -> float:
    """Count the blocks of the three kernel matrices; of those within a kind, half are computed."""
    first, second = (max(count / BLOCK_ROWS, 1) for count in (real, synthetic))
    return first * (first + 1) / 2 + second * (second + 1) / 2 + first * second


def _neighbourhood_seconds(real: int, synthetic: int, k: int, make: Callable[[int], torch.Tensor]) -> float:
    first, second = (make(max(min(count, _NEIGHBOURS), k + 1)) for count in (real, synthetic))
    seconds = _timed(lambda: neighbourhood_scores(first, second, k))
    return seconds * _pairs(real, synthetic) / _pairs(len(first), len(second))


def _pairs(real: int, synthetic: int) -> int:
    return real**2 + synthetic**2 + real * synthetic


def _timed(work: Callable[[], object]) -> float:
    """Time some work, to its end on a GPU."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
