"""Features that tests of metrics share: correlated normals, of sets of several sizes."""

import math

import numpy as np
import torch

K = 5
"""Which nearest neighbour ends a neighbourhood."""

NEIGHBOURS = {"precision", "recall", "density", "coverage"}
SIZES = [(90, 70, 8), (40, 60, 5), (60, 60, 3), (25, 30, 64), (25, 90, 64), (90, 25, 64)]
"""Real images, generated ones, features: either set larger, both alike, more features than images of both or one."""


def normal(count: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated normal features of one distribution for each width, but for the shift."""
    mix = np.random.default_rng(width).normal(size=(width, width)) / math.sqrt(width)
    return torch.from_numpy(np.random.default_rng(1000 + seed).normal(size=(count, width)) @ mix + shift)


def pair(count: int, synthetic_count: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(count, width, seed=1), 1.2 * normal(synthetic_count, width, seed=2, shift=0.3)
