"""Whether the probabilities of a classifier are what they say: temperature, calibration error, reliability."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dct_augment.errors import InputError

BINS = 15
"""Bins of equal width, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv 1706.04599)."""

LOWEST, HIGHEST = 0.05, 20.0
"""Between these a temperature is looked for."""


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers whose confidence lies in (low, high]: how many, their mean confidence, and the share that is right.

    Both means are NaN for a bin without answers.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Compute probabilities (N, K) of logits (N, K), each row divided by the temperature first."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def temperature(logits: np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Find the temperature T at which probabilities fit the right classes best: those of softmax(logits / T).

    Minimises the mean of -sum_k t_k log p_k (Guo et al. 2017, section 4.2). t is 1 - 1 / (N + 2) for the right class,
    and the rest is shared by the others, as in Platt 1999 ("Probabilistic outputs for support vector machines"): N
    right answers do not prove that the next one is right, too. Without this a classifier that makes no error among a
    few images would become infinitely sure.

    Args:
        logits: (N, K), of images that had no part in training; or (H, N, K) of H heads, whose probabilities are
            averaged.
        labels: (N,), the right class of each, 0..K-1.

    Returns:
        A number between `LOWEST` and `HIGHEST`; 1 where the fit is the same at all of them.

    Raises:
        InputError: no logits, other shapes, or values that are not finite.
    """
    from scipy.optimize import minimize_scalar

    heads = np.asarray(logits, np.float64)
    heads = heads if heads.ndim == 3 else heads[None]
    for head in heads:
        _, labels = _checked(head, labels)
    targets = _smoothed(np.asarray(labels), heads.shape[2])

    def loss(log_temperature: float) -> float:
        return float(-(targets * _log_mean_softmax(heads / np.exp(log_temperature))).sum(1).mean())

    bounds = (float(np.log(LOWEST)), float(np.log(HIGHEST)))
    # For one head the loss is convex in 1 / T, so it has one valley in log T.
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    best = float(found.x) if found.fun < loss(0.0) else 0.0
    return float(np.exp(best))


def _smoothed(labels: np.ndarray, classes: int) -> np.ndarray:
    """Make the targets (N, K) of `temperature`."""
    rest = 1 / (len(labels) + 2)
    targets = np.full((len(labels), classes), rest / max(classes - 1, 1))
    targets[np.arange(len(labels)), labels] = 1 - rest
    return targets


def _log_mean_softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the logarithm (N, K) of the mean softmax of heads (H, N, K)."""
    shifted = logits - logits.max(2, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(2, keepdims=True))
    highest = log_softmax.max(0)
    mean: np.ndarray = highest + np.log(np.exp(log_softmax - highest).mean(0))
    return mean


def reliability(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int = BINS
) -> list[ReliabilityBin]:
    """Sort answers by confidence, the highest probability, into bins of equal width.

    Args:
        probabilities: (N, K), each row with the sum 1.
        labels: (N,), the right class of each, 0..K-1.
        bins: how many bins cover 0..1.

    Raises:
        InputError: no probabilities, other shapes, or values outside of 0..1.
    """
    probabilities, labels = _checked(probabilities, labels)
    if probabilities.min() < 0 or probabilities.max() > 1 + 1e-6:
        raise InputError(f"probabilities must lie in 0..1, not {probabilities.min():g}..{probabilities.max():g}")
    confidence = probabilities.max(1).clip(0, 1)
    right = probabilities.argmax(1) == labels
    places = np.ceil(confidence * bins).astype(int).clip(1, bins) - 1
    table = []
    for place in range(bins):
        members = places == place
        count = int(members.sum())
        mean_confidence = float(confidence[members].mean()) if count else float("nan")
        accuracy = float(right[members].mean()) if count else float("nan")
        table.append(ReliabilityBin(place / bins, (place + 1) / bins, count, mean_confidence, accuracy))
    return table


def expected_calibration_error(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int = BINS
) -> float:
    """Compute the mean distance of confidence and accuracy over the bins, by their number of answers.

    Sum over bins of count / N * |accuracy - confidence|: Guo et al. 2017, equation 3. It depends on the number of
    bins, and of few answers it is too high even for a classifier that is calibrated.

    Raises:
        InputError: as `reliability`.
    """
    table = [row for row in reliability(probabilities, labels, bins) if row.count]
    count = sum(row.count for row in table)
    return sum(row.count / count * abs(row.accuracy - row.confidence) for row in table)


def _checked(values: np.ndarray, labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values (N, K) as float64 and labels (N,) as int.

    Raises:
        InputError: they do not fit together.
    """
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    if values.ndim != 2 or labels.shape != values.shape[:1] or not values.size:
        raise InputError(
            f"values {values.shape} and labels {labels.shape} must be (N, K) and (N,), with N of 1 or more"
        )
    if not np.isfinite(values).all():
        raise InputError("values must be finite; a classifier gave NaN or infinity")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise InputError(f"labels {labels.min()}..{labels.max()} must lie in 0..{values.shape[1] - 1}")
    return values, labels.astype(int)
