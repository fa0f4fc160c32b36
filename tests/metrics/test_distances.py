"""Metrics against their reference implementations on the same features; their intervals; few and strange images."""

import math
from itertools import combinations, permutations, product

import numpy as np
import prdc
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity import metric_fid, metric_kid, metric_prc

from dct_augment.intervals import estimate
from dct_augment.metrics import distances

K = 5
NEIGHBOURS = {"precision", "recall", "density", "coverage"}
SIZES = [(90, 70, 8), (40, 60, 5), (60, 60, 3), (25, 30, 64)]
"""Real images, generated ones, features: either set larger, both alike, more features than images."""


def normal(count: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated normal features of one distribution for each width, but for the shift."""
    mix = np.random.default_rng(width).normal(size=(width, width)) / math.sqrt(width)
    return torch.from_numpy(np.random.default_rng(1000 + seed).normal(size=(count, width)) @ mix + shift)


def pair(count: int, others: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(count, width, seed=1), 1.2 * normal(others, width, seed=2, shift=0.3)


def compare(real: torch.Tensor, synthetic: torch.Tensor, resamples: int = 40, seed: int = 0):
    labels = torch.arange(len(synthetic)) % 4
    return distances.compare(real, synthetic, labels, k=K, resamples=resamples, seed=seed)


def means(real: torch.Tensor, synthetic: torch.Tensor, k: int = K) -> dict[str, float]:
    return {name: parts.mean().item() for name, parts in distances.neighbourhoods(real, synthetic, k).items()}


class TestFrechetDistance:
    """FID."""

    @pytest.mark.parametrize("sizes", SIZES)
    def test_is_that_of_torch_fidelity_and_of_the_matrix_square_root(self, sizes):
        real, synthetic = pair(*sizes)
        found = distances.frechet_distance(real, synthetic)
        one, other = (metric_fid.fid_features_to_statistics(features) for features in (real, synthetic))
        theirs = metric_fid.fid_statistics_to_metric(one, other, verbose=False)[metric_fid.KEY_METRIC_FID]
        assert found == pytest.approx(theirs, rel=1e-6)
        root = scipy.linalg.sqrtm(one["sigma"] @ other["sigma"]).real
        gap = one["mu"] - other["mu"]
        assert found == pytest.approx(gap @ gap + np.trace(one["sigma"] + other["sigma"] - 2 * root), rel=1e-6)

    def test_of_normals_along_one_axis_is_by_hand(self):
        """Means 0 and 3, deviations 1 and 2 (of two points each): 3^2 + (1 - 2)^2."""
        real, synthetic = torch.tensor([[-1.0], [1.0]]) / math.sqrt(2), torch.tensor([[-2.0], [2.0]]) / math.sqrt(2)
        assert distances.frechet_distance(real, synthetic + 3) == pytest.approx(10, abs=1e-6)

    @pytest.mark.parametrize("sizes", SIZES)
    def test_of_a_set_to_itself_is_nothing(self, sizes):
        real, _ = pair(*sizes)
        assert abs(distances.frechet_distance(real, real)) < 1e-6 * real.var(0).sum()


class TestKernelDistance:
    """KID."""

    def test_is_that_of_torch_fidelity_for_sets_of_one_size(self):
        real, synthetic = pair(60, 60, 8)
        theirs = metric_kid.kid_features_to_metric(real, synthetic, kid_subsets=1, kid_subset_size=60, verbose=False)
        assert distances.kernel_distance(real, synthetic) == pytest.approx(theirs[metric_kid.KEY_METRIC_KID_MEAN])

    @pytest.mark.parametrize("sizes", [(7, 12, 3), (12, 7, 3), (9, 9, 20)])
    def test_is_the_mean_kernel_of_pairs_written_out(self, sizes):
        real, synthetic = (features.tolist() for features in pair(*sizes))

        def mean(pairs) -> float:
            return np.mean([(sum(a * b for a, b in zip(x, y, strict=True)) / sizes[2] + 1) ** 3 for x, y in pairs])

        within = mean(permutations(real, 2)) + mean(permutations(synthetic, 2))
        expected = within - 2 * mean(product(real, synthetic))
        assert distances.kernel_distance(torch.tensor(real), torch.tensor(synthetic)) == pytest.approx(
            expected, rel=1e-4
        )

    def test_is_the_same_from_either_side(self):
        real, synthetic = pair(40, 70, 8)
        swapped = distances.kernel_distance(synthetic, real)
        assert distances.kernel_distance(real, synthetic) == pytest.approx(swapped, rel=1e-9)

    def test_is_without_bias_whatever_the_sizes(self):
        draws = [distances.kernel_distance(normal(20, 4, seed), normal(60, 4, 500 + seed)) for seed in range(300)]
        assert abs(np.mean(draws)) < 3 * np.std(draws) / math.sqrt(len(draws))


class TestNeighbourhoods:
    """Precision, recall, density, coverage."""

    @pytest.mark.parametrize("k", [1, 3, 5])
    @pytest.mark.parametrize("sizes", SIZES)
    def test_are_those_of_the_reference_implementation(self, sizes, k):
        real, synthetic = pair(*sizes)
        expected = prdc.compute_prdc(real.numpy(), synthetic.numpy(), k)
        assert means(real, synthetic, k) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("seed", range(4))
    def test_are_those_of_the_reference_where_distances_are_equal(self, seed):
        """Points of a grid, many of them in both sets and twice."""
        rng = np.random.default_rng(seed)
        real, synthetic = (rng.integers(0, 4, (count, 3)).astype(float) for count in (50, 40))
        expected = prdc.compute_prdc(real, synthetic, 3)
        assert means(torch.from_numpy(real), torch.from_numpy(synthetic), 3) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("sizes", SIZES)
    def test_precision_and_recall_are_those_of_torch_fidelity(self, sizes):
        real, synthetic = pair(*sizes)
        theirs = metric_prc.prc_features_to_metric(synthetic, real, prc_neighborhood=3, verbose=False)
        found = means(real, synthetic, 3)
        assert (found["precision"], found["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]))

    def test_on_a_line_are_by_hand(self):
        """With k + 1 images; the radii are 3, 2, 3, and one generated image lies on the rim of the second ball."""
        real, synthetic = torch.tensor([[0.0], [1], [3]]), torch.tensor([[-1.0], [1.5], [10]])
        found = {name: parts.tolist() for name, parts in distances.neighbourhoods(real, synthetic, 2).items()}
        assert found == {"precision": [1, 1, 0], "recall": [1, 1, 1], "density": [0.5, 1.5, 0], "coverage": [1, 1, 1]}

    @pytest.mark.parametrize("sizes", SIZES)
    def test_of_a_set_to_itself_are_one(self, sizes):
        """Density too: without its rim, a ball holds its own image and k - 1 others."""
        real, _ = pair(*sizes)
        assert means(real, real.clone()) == pytest.approx(dict.fromkeys(NEIGHBOURS, 1), abs=1e-12)

    @pytest.mark.parametrize(("count", "others"), [(K, 9), (9, K)])
    def test_of_fewer_than_k_plus_one_images_are_refused(self, count, others):
        with pytest.raises(ValueError, match="5 nearest neighbours need more than 5 images of each kind"):
            distances.neighbourhoods(torch.rand(count, 2), torch.rand(others, 2), K)


class TestDiversity:
    """Mean cosine distance within a class."""

    def test_is_the_mean_over_pairs_written_out(self):
        features, labels = normal(12, 4, seed=3), torch.tensor([7, 7, 7, 2, 2, 7, 2, 7, 2, 9, 7, 2])
        expected = []
        for label in (2, 7):  # 9 has one image
            mine = features[labels == label]
            similar = [torch.cosine_similarity(a, b, 0).item() for a, b in combinations(mine, 2)]
            expected.append(1 - np.mean(similar))
        assert distances.diversity(features, labels).tolist() == pytest.approx(expected)

    def test_of_equal_opposite_and_empty_features(self):
        one = torch.ones(2, 3)
        for features, expected in ((one, 0), (torch.stack([one[0], -one[0]]), 2), (torch.zeros(2, 3), 1)):
            assert distances.diversity(features, torch.zeros(2)).tolist() == pytest.approx([expected], abs=1e-9)

    def test_of_one_image_of_each_class_is_left_out(self):
        assert distances.diversity(torch.rand(3, 2), torch.arange(3)).shape == (0,)
        found = distances.compare(torch.rand(9, 2), torch.rand(9, 2), torch.arange(9), k=K, resamples=5, seed=0)
        assert set(found) == {"fid", "kid", *NEIGHBOURS}


class TestIntervals:
    """Of the bootstrap."""

    @settings(max_examples=15)
    @given(st.integers(0, 10**6), st.integers(K + 1, 40), st.integers(K + 1, 40))
    def test_hold_the_value_and_come_again_with_the_seed(self, seed, count, others):
        real, synthetic = normal(count, 3, seed), normal(others, 3, seed + 1)
        found = compare(real, synthetic, 20, seed)
        assert set(found) == {"fid", "kid", "diversity", *NEIGHBOURS}
        assert all(one.estimate.low <= one.estimate.mean <= one.estimate.high for one in found.values())
        assert found == compare(real, synthetic, 20, seed)
        assert found != compare(real, synthetic, 20, seed + 1)

    def test_are_of_the_values_themselves(self):
        real, synthetic = pair(60, 50, 4)
        found = {name: one.estimate.mean for name, one in compare(real, synthetic).items()}
        expected = means(real, synthetic) | {
            "fid": distances.frechet_distance(real, synthetic),
            "kid": distances.kernel_distance(real, synthetic),
            "diversity": distances.diversity(synthetic, torch.arange(50) % 4).mean().item(),
        }
        assert found == pytest.approx(expected)

    def test_are_narrower_with_more_images(self):
        draws = ((normal(count, 4, seed=1), normal(count, 4, seed=2, shift=0.8)) for count in (40, 640))
        few, many = (compare(real, synthetic, resamples=100) for real, synthetic in draws)
        for name in ("fid", "kid", *NEIGHBOURS):
            narrow, wide = (one[name].estimate.high - one[name].estimate.low for one in (many, few))
            assert 0 < narrow < wide / 2, name

    @pytest.mark.parametrize("name", ["fid", "kid"])
    def test_of_a_distance_are_as_wide_as_fresh_draws_spread(self, name):
        statistic = {"fid": distances.frechet_distance, "kid": distances.kernel_distance}[name]
        fresh = [statistic(normal(120, 3, seed), normal(80, 3, 500 + seed, shift=0.5)) for seed in range(200)]
        low, high = np.quantile(fresh, [0.025, 0.975])
        found = compare(normal(120, 3, 1), normal(80, 3, 2, shift=0.5), 200)[name].estimate
        assert 0.6 < (found.high - found.low) / (high - low) < 1.6

    def test_tell_a_shifted_distribution_from_the_same(self):
        real = normal(200, 4, seed=1)
        same, shifted = compare(real, normal(150, 4, seed=2)), compare(real, normal(150, 4, seed=3, shift=1.0))
        assert same["kid"].estimate.low < 0 < same["kid"].estimate.high
        assert shifted["kid"].estimate.low > same["kid"].estimate.high
        assert shifted["fid"].estimate.low > same["fid"].estimate.high
        for name in NEIGHBOURS:
            assert shifted[name].estimate.high < same[name].estimate.low, name


class TestFewImages:
    """Warnings, and what is left out."""

    @pytest.mark.parametrize("few", [
        (29, {"fid", "kid", *NEIGHBOURS}), (30, {"kid", *NEIGHBOURS}),
        (99, {"kid", *NEIGHBOURS}), (100, NEIGHBOURS), (999, NEIGHBOURS), (1000, set()),
    ])  # fmt: skip
    def test_are_warned_of_until_there_are_enough_of_both_kinds(self, few):
        count, expected = few
        for sizes in ((count, 1000), (1000, count)):
            found = compare(*pair(*sizes, 3), resamples=2)
            warned = {name: one.warning for name, one in found.items() if one.warning}
            assert set(warned) == expected
            assert all(f"{count} images are few" in text for text in warned.values())

    def test_warnings_say_how_many_are_enough(self):
        found = compare(*pair(20, 20, 3), resamples=2)
        wanted = {"fid": "from 30 on", "kid": "at least 100 of each"} | dict.fromkeys(NEIGHBOURS, "at least 1000 of")
        assert all(text in found[name].warning for name, text in wanted.items())

    @pytest.mark.parametrize("swap", [False, True])
    def test_leave_out_what_needs_more(self, swap):
        distances = {"fid", "kid"}
        for count, expected in (
            (0, set()),
            (1, set()),
            (2, distances),
            (K, distances),
            (K + 1, distances | NEIGHBOURS),
        ):
            few, enough = normal(count, 8, seed=1), normal(30, 8, seed=2)
            found = compare(*((enough, few) if swap else (few, enough)))
            assert set(found) - {"diversity"} == expected
            assert all(math.isfinite(value) for one in found.values() for value in estimate(one.estimate)["ci95"])

    @pytest.mark.parametrize("value", [0.0, 3.3, -1e4])
    @pytest.mark.parametrize("counts", [(30, 30), (2, 30), (30, 2)])
    def test_of_one_and_the_same_features_give_finite_numbers(self, value, counts):
        found = compare(*(torch.full((count, 5), value) for count in counts))
        for one in found.values():
            assert all(math.isfinite(number) for number in (one.estimate.mean, one.estimate.low, one.estimate.high))
        assert found["fid"].estimate.mean == pytest.approx(0, abs=1e-6)

    def test_of_one_and_the_same_features_are_far_from_others(self):
        found = compare(normal(30, 4, seed=1), torch.full((30, 4), 9.0))
        assert found["fid"].estimate.low > 200
        assert found["diversity"].estimate.mean == pytest.approx(0, abs=1e-9)
        assert all(found[name].estimate.mean == 0 for name in NEIGHBOURS)


def test_features_in_single_precision_are_measured_in_double():
    real, synthetic = (features.float() + 100 for features in pair(40, 30, 4))
    single, double = compare(real, synthetic), compare(real.double(), synthetic.double())
    assert {name: one.estimate.mean for name, one in single.items()} == pytest.approx(
        {name: one.estimate.mean for name, one in double.items()}, rel=1e-9
    )
