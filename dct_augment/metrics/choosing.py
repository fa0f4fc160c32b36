"""Chooses which images are measured where there are more than a metric should take."""

from collections.abc import Sequence

import numpy as np


def evenly_by_class(labels: Sequence[int], most: int, seed: int) -> list[int]:
    """Choose at most `most` images, evenly over their classes: their places in `labels`, in order.

    Each class gives its first images, so that kinds of images whose numbers share their noise still do. Where the
    number is not the same for each class, `seed` decides which classes give one more.
    """
    if len(labels) <= most:
        return list(range(len(labels)))
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    given = np.minimum(counts, _largest_level(counts, most))
    more = np.random.default_rng(seed).permutation(np.flatnonzero(counts > given))[: most - given.sum()]
    given[more] += 1
    order = np.argsort(classes, kind="stable")
    ranks = np.empty(len(classes), dtype=int)
    ranks[order] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen: list[int] = np.flatnonzero(ranks < given[classes]).tolist()
    return chosen


def at_random(count: int, most: int, seed: int) -> list[int]:
    """Choose at most `most` of `count` images: their places, in order. Classes keep their shares, but for chance."""
    chosen: list[int] = np.sort(np.random.default_rng(seed).permutation(count)[:most]).tolist()
    return chosen


def _largest_level(counts: np.ndarray, most: int) -> int:
    """Find the largest number of images that every class may give, if it has as many, without more than `most`."""
    level = 0
    while np.minimum(counts, level + 1).sum() <= most:
        level += 1
    return level
