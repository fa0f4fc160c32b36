"""FID and KID against their reference implementations on the same features."""

import math
from itertools import permutations, product

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity import metric_fid, metric_kid

from dct_augment.metrics import distances
from dct_augment.metrics.distances import frechet_distance, kernel_distance
from tests.metrics.features import SIZES, normal, pair


@pytest.mark.parametrize("sizes", SIZES)
def test_frechet_distance_is_that_of_torch_fidelity_and_of_the_matrix_square_root(sizes):
    real, synthetic = pair(*sizes)
    distance = frechet_distance(real, synthetic)
    real_statistics, synthetic_statistics = (
        metric_fid.fid_features_to_statistics(features) for features in (real, synthetic)
    )
    theirs = metric_fid.fid_statistics_to_metric(real_statistics, synthetic_statistics, verbose=False)[
        metric_fid.KEY_METRIC_FID
    ]
    assert distance == pytest.approx(theirs, rel=1e-6)
    real_sigma, synthetic_sigma = real_statistics["sigma"], synthetic_statistics["sigma"]
    root = scipy.linalg.sqrtm(real_sigma @ synthetic_sigma).real
    gap = real_statistics["mu"] - synthetic_statistics["mu"]
    expected = gap @ gap + np.trace(real_sigma + synthetic_sigma - 2 * root)
    assert distance == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_many_features_of_few_images_needs_no_root_of_their_covariance(monkeypatch):
    """2,048 features are those of a ResNet-50; a root of such a covariance takes seconds for each of 201 distances."""
    monkeypatch.delattr(distances, "_root")
    real, synthetic = torch.randn(60, 2048) + 1, torch.randn(40, 2048)
    assert frechet_distance(real, synthetic) > 2048


def test_frechet_distance_of_normals_along_one_axis_is_that_by_hand():
    """Means 0 and 3, deviations 1 and 2 (of two points each): 3^2 + (1 - 2)^2."""
    real, synthetic = torch.tensor([[-1.0], [1.0]]) / math.sqrt(2), torch.tensor([[-2.0], [2.0]]) / math.sqrt(2)
    assert frechet_distance(real, synthetic + 3) == pytest.approx(10, abs=1e-6)


@pytest.mark.parametrize("sizes", SIZES)
def test_frechet_distance_of_a_set_to_itself_is_zero(sizes):
    real, _ = pair(*sizes)
    assert abs(frechet_distance(real, real)) < 1e-6 * real.var(0).sum()


def test_kernel_distance_is_that_of_torch_fidelity_for_sets_of_one_size():
    real, synthetic = pair(60, 60, 8)
    theirs = metric_kid.kid_features_to_metric(real, synthetic, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert kernel_distance(real, synthetic) == pytest.approx(theirs[metric_kid.KEY_METRIC_KID_MEAN])


@pytest.mark.parametrize("sizes", [(7, 12, 3), (12, 7, 3), (9, 9, 20)])
def test_kernel_distance_is_the_mean_kernel_of_pairs_written_out(sizes):
    real, synthetic = (features.tolist() for features in pair(*sizes))

    def mean(pairs) -> float:
        return np.mean([(sum(a * b for a, b in zip(x, y, strict=True)) / sizes[2] + 1) ** 3 for x, y in pairs])

    within = mean(permutations(real, 2)) + mean(permutations(synthetic, 2))
    expected = within - 2 * mean(product(real, synthetic))
    assert kernel_distance(torch.tensor(real), torch.tensor(synthetic)) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_is_symmetric():
    real, synthetic = pair(40, 70, 8)
    swapped = kernel_distance(synthetic, real)
    assert kernel_distance(real, synthetic) == pytest.approx(swapped, rel=1e-9)


def test_kernel_distance_has_no_bias_whatever_the_sizes():
    distances = [kernel_distance(normal(20, 4, seed), normal(60, 4, 500 + seed)) for seed in range(300)]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / math.sqrt(len(distances))
