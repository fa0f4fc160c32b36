import json
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dct_augment.intervals import (
    estimate_json,
    fold_test,
    mean_of_folds,
    mean_t,
    paired_gain,
    permutation_test,
    proportion,
    sign_test,
)

shares = st.floats(-1, 1, allow_subnormal=False).map(lambda value: round(value, 4))


@given(st.lists(shares, min_size=2, max_size=20).filter(lambda values: len(set(values)) > 1))
def test_mean_t_is_students_interval(values: list[float]) -> None:
    estimate = mean_t(values)
    mean, count = sum(values) / len(values), len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    reach = stats.t.ppf(0.975, count - 1) * spread
    assert (estimate.low, estimate.high) == pytest.approx((mean - reach, mean + reach), abs=1e-9)
    assert estimate.count == len(values)


def test_mean_t_of_equal_values_has_no_width() -> None:
    estimate = mean_t([0.5, 0.5, 0.5])
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_mean_t_interval_ends_where_values_must() -> None:
    shares = mean_t([0.9, 1.0], (0, 1))
    assert shares.mean == pytest.approx(0.95)
    assert shares.high == 1.0
    assert shares.low == mean_t([0.9, 1.0]).low
    assert mean_t([0.1, 0.0], (0, 1)).low == 0.0
    assert mean_t([2.0, 3.0], (0, 1)).high == 2.5  # never without the mean


def test_mean_t_of_one_value_has_an_infinite_interval() -> None:
    estimate = mean_t([0.3])
    assert (estimate.mean, estimate.low, estimate.high, estimate.count) == (0.3, -math.inf, math.inf, 1)


@given(st.integers(1, 2000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_proportion_is_wilsons_interval(case: tuple[int, int]) -> None:
    right, count = case
    estimate = proportion(right, count)
    z, share = 1.959964, right / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    assert (estimate.low, estimate.high) == pytest.approx((center - reach, center + reach), abs=1e-6)
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1


def test_proportion_of_nothing_is_unknown() -> None:
    estimate = proportion(0, 0)
    assert math.isnan(estimate.mean)
    assert (estimate.low, estimate.high, estimate.count) == (0.0, 1.0, 0)


def test_estimate_json_is_rounded_and_plain() -> None:
    assert json.loads(json.dumps(estimate_json(proportion(1, 3)))) == {"mean": 0.3333, "ci95": [0.0615, 0.7923], "n": 3}


def test_a_paired_gain_has_newcombes_interval() -> None:
    """The worked examples of Newcombe 1998, method 10."""
    for counts, expected in (((36, 12, 2, 0), (0.2, 0.0569, 0.3404)), ((1, 1, 7, 12), (-0.2857, -0.5084, -0.0268))):
        estimate = paired_gain(*counts)
        assert (estimate.mean, estimate.low, estimate.high) == pytest.approx(expected, abs=5e-3)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_paired_gain_lies_in_its_interval_and_changes_sign_with_its_sides(a: int, b: int, c: int, d: int) -> None:
    gain, swapped = paired_gain(a, b, c, d), paired_gain(a, c, b, d)
    if a + b + c + d == 0:
        return
    assert -1 <= gain.low <= gain.mean + 1e-12
    assert gain.mean - 1e-12 <= gain.high <= 1
    assert (gain.mean, gain.low, gain.high) == pytest.approx((-swapped.mean, -swapped.high, -swapped.low), abs=1e-9)
    assert gain.low < gain.high


def flips_as_far(values: Sequence[int]) -> float:
    """The share of all 2^n sign flips whose sum is at least as far from 0, in whole numbers."""
    sums = [abs(sum(map(int.__mul__, signs, values))) for signs in product((1, -1), repeat=len(values))]
    return float(Fraction(sum(flipped >= abs(sum(values)) for flipped in sums), len(sums)))


differences = st.lists(st.integers(-6, 6), max_size=9)


@given(differences, st.sampled_from([1, 40, 1e-9, 1e9]))
def test_the_permutation_test_counts_all_sign_flips(values: list[int], scale: float) -> None:
    """Also where many flips have one mean, as with accuracies on few images, and that mean is 0."""
    assert permutation_test([value / scale for value in values]) == pytest.approx(flips_as_far(values))


@given(differences)
def test_the_sign_test_counts_all_sign_flips_but_of_ties(values: list[int]) -> None:
    signs = [1 if value > 0 else -1 for value in values if value]
    assert sign_test([value / 40 for value in values]) == pytest.approx(flips_as_far(signs))


def test_sign_and_permutation_tests_of_worked_examples() -> None:
    """Five gains: 2 of 32 flips are as far. One loss among them: 12 of 32 signs, and its size counts too."""
    assert sign_test([1, 2, 3, 4, 5]) == permutation_test([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    assert sign_test([-1, 2, 3, 4, 5]) == sign_test([1, 2, 3, 4, -5]) == pytest.approx(12 / 32)
    assert permutation_test([-1, 2, 3, 4, 5]) == pytest.approx(4 / 32)
    assert permutation_test([1, 2, 3, 4, -5]) == pytest.approx(20 / 32)


@pytest.mark.parametrize("values", [[], [0.3], [0.0], [0.0, 0.0], [0.0] * 20, [0.5, -0.5]])
def test_differences_of_no_information_have_a_p_value_of_one(values: list[float]) -> None:
    assert permutation_test(values) == 1
    assert sign_test(values) == 1


@pytest.mark.parametrize("right", [(4, -1, 1, 2, -5, -1, 0), (1, 2, -1, 5, -5, -2)])
def test_permutation_test_of_a_mean_of_zero_but_for_rounding_has_a_p_value_of_one(right: tuple[int, ...]) -> None:
    """Differences of accuracies on 40 images."""
    assert sum(right) == 0 != sum(number / 40 for number in right)
    assert permutation_test([number / 40 for number in right]) == 1


def test_ties_leave_the_sign_test_as_it_is() -> None:
    assert sign_test([0.0, 0.2, 0.0, 0.1, 0.3, 0.4]) == sign_test([0.2, 0.1, 0.3, 0.4]) == pytest.approx(2 / 16)


def test_the_permutation_test_of_many_differences_is_the_same_every_time() -> None:
    """Beyond 16: near the normal approximation, never 0, and the same every time."""
    values = [0.01 * ((7 * number) % 11 - 3) for number in range(24)]
    z = sum(values) / math.sqrt(sum(value * value for value in values))
    p_value = permutation_test(values)
    assert p_value == pytest.approx(2 * stats.norm.sf(z), abs=0.01)
    assert p_value == permutation_test(values)
    assert 0 < permutation_test([1.0] * 24) < 1e-4


def test_the_interval_of_folds_is_that_of_nadeau_and_bengio() -> None:
    values, folds = [0.6, 0.8, 0.7, 0.9, 0.5], 5
    estimate = mean_of_folds(values, folds)
    spread = np.std(values, ddof=1) * math.sqrt(1 / 5 + 1 / (folds - 1))
    half = stats.t.ppf(0.975, 4) * spread
    assert (estimate.mean, estimate.count) == (pytest.approx(0.7), 5)
    assert (estimate.low, estimate.high) == (pytest.approx(0.7 - half), pytest.approx(0.7 + half))
    assert mean_of_folds(values, folds, (0, 0.8)).high == 0.8


def test_the_test_of_folds_is_at_five_per_cent_where_its_interval_ends_at_zero() -> None:
    values = np.array([0.6, 0.8, 0.7, 0.9, 0.5])
    at_the_end = values - mean_of_folds(values.tolist(), 5).low
    assert fold_test(at_the_end.tolist(), 5) == pytest.approx(0.05)
    assert fold_test([0.1, 0.1, 0.1], 3) == 1.0


def test_equal_folds_have_an_interval_of_width_zero() -> None:
    estimate = mean_of_folds([0.5, 0.5, 0.5], 3)
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0.5, 0.5)
