"""Mean cosine distance within a class."""

from itertools import combinations

import numpy as np
import pytest
import torch

from dct_augment.metrics.diversity import class_diversity
from tests.metrics.features import normal


def test_diversity_is_the_mean_over_pairs_written_out():
    features, labels = normal(12, 4, seed=3), torch.tensor([7, 7, 7, 2, 2, 7, 2, 7, 2, 9, 7, 2])
    expected = []
    for label in (2, 7):  # 9 has one image
        vectors = features[labels == label]
        similar = [torch.cosine_similarity(a, b, 0).item() for a, b in combinations(vectors, 2)]
        expected.append(1 - np.mean(similar))
    assert class_diversity(features, labels).tolist() == pytest.approx(expected)


def test_diversity_of_equal_opposite_and_empty_features():
    equal = torch.ones(2, 3)
    for features, expected in ((equal, 0), (torch.stack([equal[0], -equal[0]]), 2), (torch.zeros(2, 3), 1)):
        assert class_diversity(features, torch.zeros(2)).tolist() == pytest.approx([expected], abs=1e-9)


def test_diversity_leaves_out_classes_of_one_image():
    assert class_diversity(torch.rand(3, 2), torch.arange(3)).shape == (0,)
