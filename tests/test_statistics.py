import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dct_augment.statistics import mean_t, paired_gain, proportion

shares = st.floats(-1, 1, allow_subnormal=False).map(lambda value: round(value, 4))


@given(st.lists(shares, min_size=2, max_size=20).filter(lambda values: len(set(values)) > 1))
def test_mean_t_is_students_interval(values: list[float]) -> None:
    found = mean_t(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert found.count == len(values)


def test_mean_t_of_equal_values_has_no_width() -> None:
    found = mean_t([0.5, 0.5, 0.5])
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_mean_t_of_one_value_says_nothing_about_its_spread() -> None:
    found = mean_t([0.3])
    assert (found.mean, found.low, found.high, found.count) == (0.3, -math.inf, math.inf, 1)


@given(st.integers(1, 2000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_proportion_is_wilsons_interval(case: tuple[int, int]) -> None:
    right, count = case
    found = proportion(right, count)
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_proportion_of_nothing_is_unknown() -> None:
    found = proportion(0, 0)
    assert math.isnan(found.mean)
    assert (found.low, found.high, found.count) == (0.0, 1.0, 0)


def test_as_json_is_rounded_and_plain() -> None:
    assert json.loads(json.dumps(proportion(1, 3).as_json())) == {"mean": 0.3333, "ci95": [0.0615, 0.7923], "n": 3}


def test_a_paired_gain_has_newcombes_interval() -> None:
    """The worked examples of Newcombe 1998, method 10."""
    for counts, expected in (((36, 12, 2, 0), (0.2, 0.0569, 0.3404)), ((1, 1, 7, 12), (-0.2857, -0.5084, -0.0268))):
        found = paired_gain(*counts)
        assert (found.mean, found.low, found.high) == pytest.approx(expected, abs=5e-3)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_paired_gain_lies_in_its_interval_and_turns_with_its_sides(a: int, b: int, c: int, d: int) -> None:
    one, other = paired_gain(a, b, c, d), paired_gain(a, c, b, d)
    if a + b + c + d == 0:
        return
    assert -1 <= one.low <= one.mean + 1e-12
    assert one.mean - 1e-12 <= one.high <= 1
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low), abs=1e-9)
    assert one.low < one.high
