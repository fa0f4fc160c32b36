"""All metrics together: their bootstrap intervals, and few and strange images."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dct_augment.intervals import estimate_json
from dct_augment.metrics.distances import frechet_distance, kernel_distance
from dct_augment.metrics.diversity import class_diversity
from dct_augment.metrics.evaluation import Metric, evaluate
from dct_augment.records import Progress
from tests.metrics.features import NEIGHBOURS, K, normal, pair
from tests.metrics.test_neighbourhoods import means


def evaluated(real: torch.Tensor, synthetic: torch.Tensor, resamples: int = 40, seed: int = 0) -> dict[str, Metric]:
    labels = torch.arange(len(synthetic)) % 4
    return evaluate(real, synthetic, labels, k=K, resamples=resamples, seed=seed)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(K + 1, 40), st.integers(K + 1, 40))
def test_intervals_hold_the_value_and_are_the_same_for_one_seed(seed, count, synthetic_count):
    real, synthetic = normal(count, 3, seed), normal(synthetic_count, 3, seed + 1)
    metrics = evaluated(real, synthetic, 20, seed)
    assert set(metrics) == {"fid", "kid", "diversity", *NEIGHBOURS}
    estimates = [metric.estimate for metric in metrics.values()]
    assert all(estimate.low <= estimate.mean <= estimate.high for estimate in estimates)
    assert metrics == evaluated(real, synthetic, 20, seed)
    assert metrics != evaluated(real, synthetic, 20, seed + 1)


def test_estimates_are_of_the_values_themselves():
    real, synthetic = pair(60, 50, 4)
    estimated = {name: metric.estimate.mean for name, metric in evaluated(real, synthetic).items()}
    expected = means(real, synthetic) | {
        "fid": frechet_distance(real, synthetic),
        "kid": kernel_distance(real, synthetic),
        "diversity": class_diversity(synthetic, torch.arange(50) % 4).mean().item(),
    }
    assert estimated == pytest.approx(expected)


def test_intervals_are_narrower_with_more_images():
    sets = ((normal(count, 4, seed=1), normal(count, 4, seed=2, shift=0.8)) for count in (40, 640))
    few, many = (evaluated(real, synthetic, resamples=100) for real, synthetic in sets)
    for name in ("fid", "kid", *NEIGHBOURS):
        narrow, wide = (metrics[name].estimate.high - metrics[name].estimate.low for metrics in (many, few))
        assert 0 < narrow < wide / 2, name


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_interval_of_a_distance_is_as_wide_as_fresh_samples_spread(name):
    distance = {"fid": frechet_distance, "kid": kernel_distance}[name]
    fresh = [distance(normal(120, 3, seed), normal(80, 3, 500 + seed, shift=0.5)) for seed in range(200)]
    low, high = np.quantile(fresh, [0.025, 0.975])
    estimate = evaluated(normal(120, 3, 1), normal(80, 3, 2, shift=0.5), 200)[name].estimate
    assert 0.6 < (estimate.high - estimate.low) / (high - low) < 1.6


def test_intervals_tell_a_shifted_distribution_from_the_same():
    real = normal(200, 4, seed=1)
    same, shifted = evaluated(real, normal(150, 4, seed=2)), evaluated(real, normal(150, 4, seed=3, shift=1.0))
    assert same["kid"].estimate.low < 0 < same["kid"].estimate.high
    assert shifted["kid"].estimate.low > same["kid"].estimate.high
    assert shifted["fid"].estimate.low > same["fid"].estimate.high
    for name in NEIGHBOURS:
        assert shifted[name].estimate.high < same[name].estimate.low, name


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (29, {"fid", "kid", *NEIGHBOURS}),
        (30, {"kid", *NEIGHBOURS}),
        (99, {"kid", *NEIGHBOURS}),
        (100, NEIGHBOURS),
        (999, NEIGHBOURS),
        (1000, set()),
    ],
)
def test_few_images_are_warned_of_until_there_are_enough_of_both_kinds(count, expected):
    for real, synthetic in ((count, 1000), (1000, count)):
        metrics = evaluated(*pair(real, synthetic, 3), resamples=2)
        warned = {name: metric.warning for name, metric in metrics.items() if metric.warning}
        assert set(warned) == expected
        assert all(f"{count} images are few" in text for text in warned.values())


def test_warnings_of_few_images_say_how_many_are_enough():
    metrics = evaluated(*pair(20, 20, 3), resamples=2)
    expected = {"fid": "from 30 on", "kid": "at least 100 of each"} | dict.fromkeys(NEIGHBOURS, "at least 1000 of")
    assert all(text in metrics[name].warning for name, text in expected.items())


@pytest.mark.parametrize("swap", [False, True])
def test_few_images_leave_out_the_metrics_that_need_more(swap):
    distances = {"fid", "kid"}
    for count, expected in (
        (0, set()),
        (1, set()),
        (2, distances),
        (K, distances),
        (K + 1, distances | NEIGHBOURS),
    ):
        few, enough = normal(count, 8, seed=1), normal(30, 8, seed=2)
        metrics = evaluated(*((enough, few) if swap else (few, enough)))
        assert set(metrics) - {"diversity"} == expected
        assert all(
            math.isfinite(value) for metric in metrics.values() for value in estimate_json(metric.estimate)["ci95"]
        )


@pytest.mark.parametrize("value", [0.0, 3.3, -1e4])
@pytest.mark.parametrize("counts", [(30, 30), (2, 30), (30, 2)])
def test_metrics_of_equal_features_are_finite(value, counts):
    real, synthetic = (torch.full((count, 5), value) for count in counts)
    metrics = evaluated(real, synthetic)
    for metric in metrics.values():
        estimate = metric.estimate
        assert all(math.isfinite(number) for number in (estimate.mean, estimate.low, estimate.high))
    assert metrics["fid"].estimate.mean == pytest.approx(0, abs=1e-6)


def test_equal_features_are_far_from_varied_ones():
    metrics = evaluated(normal(30, 4, seed=1), torch.full((30, 4), 9.0))
    assert metrics["fid"].estimate.low > 200
    assert metrics["diversity"].estimate.mean == pytest.approx(0, abs=1e-9)
    assert all(metrics[name].estimate.mean == 0 for name in NEIGHBOURS)


def test_every_resample_of_fid_and_every_block_is_told():
    heard: list[Progress] = []
    evaluate(*pair(9, 8, 3), torch.zeros(8), k=K, resamples=3, seed=0, on_progress=heard.append)
    assert [progress.done for progress in heard] == [1, 2, 3, 3, 4, 4, 5, 5, 6]
    assert {progress.total for progress in heard} == {6}
    notes = [heard[0].note, heard[5].note, heard[8].note]
    assert notes == ["FID, resample 1 of 3", "KID, block 3 of 3", "neighbourhoods, part 3 of 3"]


def test_a_device_without_double_precision_is_not_used():
    metrics = evaluate(*pair(9, 8, 3), torch.zeros(8), k=K, resamples=3, seed=0, device="mps")
    assert metrics == evaluate(*pair(9, 8, 3), torch.zeros(8), k=K, resamples=3, seed=0)


def test_images_that_are_alone_in_their_class_have_no_diversity():
    metrics = evaluate(torch.rand(9, 2), torch.rand(9, 2), torch.arange(9), k=K, resamples=5, seed=0)
    assert set(metrics) == {"fid", "kid", *NEIGHBOURS}


def test_features_in_single_precision_are_measured_in_double():
    real, synthetic = (features.float() + 100 for features in pair(40, 30, 4))
    single, double = evaluated(real, synthetic), evaluated(real.double(), synthetic.double())
    assert {name: metric.estimate.mean for name, metric in single.items()} == pytest.approx(
        {name: metric.estimate.mean for name, metric in double.items()}, rel=1e-9
    )
