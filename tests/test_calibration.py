"""Temperature and calibration error have the values of the paper's definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dct_augment import calibration
from dct_augment.errors import InputError


def answers(confidences: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two classes: the first is taken each time, so confidently, and is right or not."""
    probabilities = np.array([[confidence, 1 - confidence] for confidence in confidences])
    return probabilities, np.array([0 if hit else 1 for hit in right])


def test_the_calibration_error_is_the_weighted_distance_of_confidence_and_accuracy() -> None:
    probabilities, labels = answers([0.9, 0.92, 0.6, 0.61], [True, False, True, True])
    # 0.9 and 0.92 lie in (13/15, 14/15], 0.6 in (8/15, 9/15], 0.61 in (9/15, 10/15].
    expected = 2 / 4 * abs(0.5 - 0.91) + 1 / 4 * (1 - 0.6) + 1 / 4 * (1 - 0.61)
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(expected)
    # In two bins all four are in (0.5, 1].
    expected = abs(0.75 - (0.9 + 0.92 + 0.6 + 0.61) / 4)
    assert calibration.expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(expected)


def test_the_reliability_table_has_every_bin_and_every_answer() -> None:
    probabilities, labels = answers([1.0, 0.5, 0.7, 0.75], [True, False, True, False])
    table = calibration.reliability(probabilities, labels, bins=4)
    assert [(row.low, row.high, row.count) for row in table] == [
        (0, 0.25, 0),
        (0.25, 0.5, 1),
        (0.5, 0.75, 2),
        (0.75, 1, 1),
    ]
    assert math.isnan(table[0].accuracy)
    assert (table[2].confidence, table[2].accuracy) == (pytest.approx(0.725), 0.5)
    assert (table[3].confidence, table[3].accuracy) == (1.0, 1.0)


def test_answers_that_are_as_right_as_they_are_sure_have_no_error() -> None:
    probabilities, labels = answers([0.75] * 4, [True, True, True, False])
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(0)


def test_the_temperature_undoes_a_scale() -> None:
    """Labels drawn from softmax(z) make 1 the best temperature of z, and 3 that of 3 z."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    labels = np.array([rng.choice(5, p=row) for row in calibration.softmax(logits)])
    assert calibration.temperature(logits, labels) == pytest.approx(1, abs=0.03)
    assert calibration.temperature(3 * logits, labels) == pytest.approx(
        3 * calibration.temperature(logits, labels), rel=1e-3
    )


def test_the_temperature_of_two_answers_is_the_one_of_the_formula() -> None:
    """Logits (1, 0), right three times in four, each right answer taken for 5/6: 1 / (1 + exp(-1 / T)) = 2/3."""
    logits = np.array([[1.0, 0.0]] * 4)
    assert calibration.temperature(logits, [0, 0, 0, 1]) == pytest.approx(1 / math.log(2), rel=1e-4)


@pytest.mark.parametrize("count", [4, 30])
@pytest.mark.parametrize("heads", [None, 3])
def test_answers_without_an_error_are_as_sure_as_their_number(count: int, heads: int | None) -> None:
    """Logits (1, -1), and (count + 1) / (count + 2) for the right class; heads that are alike are as one."""
    logits = np.tile([1.0, -1.0], (count, 1) if heads is None else (heads, count, 1))
    assert calibration.temperature(logits, [0] * count) == pytest.approx(2 / math.log(count + 1), rel=1e-3)


def test_the_probabilities_of_heads_are_averaged() -> None:
    """Logits (1, 0) and (0, 0), right once in one, taken for 2/3: softmax(1 / T) is 5/6, so T = 1 / log 5."""
    logits = np.array([[[1.0, 0.0]], [[0.0, 0.0]]])
    assert calibration.temperature(logits, [0]) == pytest.approx(1 / math.log(5), rel=1e-4)
    assert calibration.temperature(logits[:1], [0]) == pytest.approx(1 / math.log(2), rel=1e-4)


def test_the_temperature_stays_within_bounds_and_is_1_where_it_makes_no_difference() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert calibration.temperature(logits / 99, [0, 1]) == pytest.approx(calibration.LOWEST, rel=1e-3)
    assert calibration.temperature(logits, [1, 0]) == pytest.approx(calibration.HIGHEST, rel=1e-3)
    assert calibration.temperature(np.zeros((3, 2)), [0, 1, 1]) == 1
    assert calibration.temperature(np.array([[900.0, 0.0], [0.0, 900.0]] * 3), [0, 1, 0, 0, 0, 1]) < math.inf


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 40), st.floats(0.1, 10))
def test_no_other_temperature_is_likelier(seed: int, classes: int, count: int, other: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(count, classes)) * 3, rng.integers(0, classes, count)
    targets = np.full((count, classes), 1 / (count + 2) / (classes - 1))
    targets[np.arange(count), labels] = 1 - 1 / (count + 2)

    def loss(temperature: float) -> float:
        log_probabilities = np.log(calibration.softmax(logits, temperature) + 1e-300)
        return float(-(targets * log_probabilities).sum(1).mean())

    assert loss(calibration.temperature(logits, labels)) <= loss(other) + 1e-6


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "with N of 1 or more"),
        (np.zeros((2, 3)), [0], r"\(N, K\) and \(N,\)"),
        (np.zeros(3), [0, 1, 2], r"\(N, K\) and \(N,\)"),
        (np.full((1, 2), np.nan), [0], "must be finite"),
        (np.zeros((2, 3)), [0, 3], r"0\.\.3 must lie in 0\.\.2"),
        (np.zeros((2, 3)), [-1, 0], r"-1\.\.0 must lie in 0\.\.2"),
    ],
)
def test_values_and_labels_that_do_not_fit_are_refused(values: np.ndarray, labels: list[int], message: str) -> None:
    for function in (calibration.temperature, calibration.expected_calibration_error):
        with pytest.raises(InputError, match=message):
            function(values, labels)


def test_logits_are_no_probabilities() -> None:
    with pytest.raises(InputError, match=r"must lie in 0\.\.1, not -2\.\.3"):
        calibration.reliability(np.array([[3.0, -2.0]]), [0])
