"""Distances of weighted images against distances of copied ones, as they were computed before: all rows, no blocks."""

import numpy as np
import pytest
import torch

from dct_augment.metrics import distances, neighbourhoods
from dct_augment.metrics.distances import (
    frechet_distance,
    kernel_distance,
    resampled_frechet_distances,
    resampled_kernel_distances,
)
from dct_augment.metrics.diversity import class_diversity
from dct_augment.metrics.evaluation import evaluate
from dct_augment.metrics.neighbourhoods import neighbourhood_scores
from tests.metrics.features import SIZES, K, normal, pair


def frechet_of_rows(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """The formula with whole covariances, and the eigenvalues of their product."""
    real_covariance, synthetic_covariance = (features.T.cov() for features in (real, synthetic))
    gap = real.mean(0) - synthetic.mean(0)
    root = torch.linalg.eigvals(real_covariance @ synthetic_covariance).sqrt().real.sum()
    return float(gap @ gap + real_covariance.trace() + synthetic_covariance.trace() - 2 * root)


def kernel_of_rows(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    def kernel(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return (rows @ columns.T / rows.shape[1] + 1) ** 3

    within = 0.0
    for features in (real, synthetic):
        whole = kernel(features, features)
        within += float(whole.sum() - whole.trace()) / (len(features) * (len(features) - 1))
    return within - 2 * float(kernel(real, synthetic).mean())


def neighbours_of_rows(real: torch.Tensor, synthetic: torch.Tensor, k: int) -> dict[str, torch.Tensor]:
    def distance(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")

    between = distance(real, synthetic)
    real_radii, synthetic_radii = (distance(own, own).kthvalue(k + 1, 1).values for own in (real, synthetic))
    in_real_ball, in_synthetic_ball = between < real_radii[:, None], between < synthetic_radii[None]
    return {
        "precision": in_real_ball.any(0).double(),
        "recall": in_synthetic_ball.any(1).double(),
        "density": in_real_ball.sum(0).double() / k,
        "coverage": (between.min(1).values < real_radii).double(),
    }


def draws(real: int, synthetic: int, resamples: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.integers(real, size=real), rng.integers(synthetic, size=synthetic)) for _ in range(resamples)]


def weights(
    drawn: list[tuple[np.ndarray, np.ndarray]], real: int, synthetic: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    def counted(own: np.ndarray, size: int) -> torch.Tensor:
        return torch.from_numpy(np.bincount(own, minlength=size))

    return [(counted(first, real), counted(second, synthetic)) for first, second in drawn]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that end within the few images of a test."""
    monkeypatch.setattr(distances, "BLOCK_ROWS", 16)
    monkeypatch.setattr(neighbourhoods, "_BLOCK", 500)
    monkeypatch.setattr(neighbourhoods, "_SPARE", 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("real_count", "synthetic_count", "width"), SIZES)
def test_point_estimates_are_those_of_the_formula_without_blocks(
    real_count: int, synthetic_count: int, width: int
) -> None:
    real, synthetic = pair(real_count, synthetic_count, width)
    enough = min(real_count, synthetic_count) > width  # else eigenvalues that are 0 have roots of 1e-8
    expected = frechet_of_rows(real, synthetic)
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-10 if enough else 1e-6)
    assert kernel_distance(real, synthetic) == pytest.approx(kernel_of_rows(real, synthetic), rel=1e-11)
    scores, expected_scores = neighbourhood_scores(real, synthetic, K), neighbours_of_rows(real, synthetic, K)
    assert all(torch.equal(scores[name], expected_scores[name]) for name in expected_scores)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("real_count", "synthetic_count", "width"), SIZES)
def test_distances_of_weighted_images_are_those_of_copies(real_count: int, synthetic_count: int, width: int) -> None:
    real, synthetic = pair(real_count, synthetic_count, width)
    drawn = draws(real_count, synthetic_count, 6)
    copies = [(real[first], synthetic[second]) for first, second in drawn]
    weighted = weights(drawn, real_count, synthetic_count)
    both = [torch.stack(own) for own in zip(*weighted, strict=True)]
    expected = [kernel_of_rows(*pair) for pair in copies]
    assert resampled_kernel_distances(real, synthetic, both[0], both[1]).tolist() == pytest.approx(expected, rel=1e-10)
    expected = [frechet_of_rows(*pair) for pair in copies]
    assert list(resampled_frechet_distances(real, synthetic, weighted)) == pytest.approx(expected, rel=1e-6)


def test_intervals_of_one_seed_are_those_of_copies() -> None:
    real, synthetic = pair(90, 70, 8)
    metrics = evaluate(real, synthetic, torch.zeros(70), k=K, resamples=30, seed=0)
    drawn = draws(90, 70, 60)  # FID takes the first half
    for name, distance, own in (("fid", frechet_of_rows, drawn[:30]), ("kid", kernel_of_rows, drawn[30:])):
        resampled = [distance(real[first], synthetic[second]) for first, second in own]
        low, high = distance(real, synthetic) + np.quantile(resampled, [0.025, 0.975]) - np.mean(resampled)
        estimate = metrics[name].estimate
        assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_frechet_distance_is_exact_where_some_features_are_always_zero() -> None:
    """Units behind a ReLU that never fire: neither covariance has a Cholesky root."""
    real, synthetic = (torch.nn.functional.pad(features, (0, 3)) for features in pair(90, 70, 8))
    assert frechet_distance(real, synthetic) == pytest.approx(frechet_of_rows(*pair(90, 70, 8)), rel=1e-9)
    weighted = weights(draws(90, 70, 2), 90, 70)
    narrow = resampled_frechet_distances(*pair(90, 70, 8), weighted)
    assert list(resampled_frechet_distances(real, synthetic, weighted)) == pytest.approx(list(narrow), rel=1e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_neighbours_are_exact_among_many_copies_whatever_the_offset(offset: float) -> None:
    """Half of the images are copies of three; the rest lies on a grid, so most distances are equal to others."""
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 3, (count, 4)).astype(np.float32) for count in (60, 50)]
    for features in sets:
        features[::2] = features[rng.integers(0, 3, len(features[::2]))]
    real, synthetic = (torch.from_numpy(features) * 0.1 + offset for features in sets)
    scores = neighbourhood_scores(real, synthetic, K)
    expected = neighbours_of_rows(real.double(), synthetic.double(), K)
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


def test_diversity_of_many_classes_is_that_of_each_class_alone() -> None:
    features, labels = normal(3000, 4, seed=5), torch.arange(3000) % 700
    alone = [class_diversity(features[labels == label], labels[labels == label]).item() for label in range(700)]
    assert class_diversity(features, labels).tolist() == pytest.approx(alone, rel=1e-12)
