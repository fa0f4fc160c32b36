"""Precision, recall, density and coverage against their reference implementations, and by hand."""

import numpy as np
import prdc
import pytest
import torch
from torch_fidelity import metric_prc

from dct_augment.metrics.neighbourhoods import neighbourhood_scores
from tests.metrics.features import NEIGHBOURS, SIZES, K, pair


def means(real: torch.Tensor, synthetic: torch.Tensor, k: int = K) -> dict[str, float]:
    return {name: scores.mean().item() for name, scores in neighbourhood_scores(real, synthetic, k).items()}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("sizes", SIZES)
def test_neighbourhood_scores_are_those_of_the_reference_implementation(sizes, k):
    real, synthetic = pair(*sizes)
    expected = prdc.compute_prdc(real.numpy(), synthetic.numpy(), k)
    assert means(real, synthetic, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_neighbourhood_scores_are_those_of_the_reference_where_distances_are_equal(seed):
    """Points of a grid, many of them in both sets and twice."""
    rng = np.random.default_rng(seed)
    real, synthetic = (rng.integers(0, 4, (count, 3)).astype(float) for count in (50, 40))
    expected = prdc.compute_prdc(real, synthetic, 3)
    assert means(torch.from_numpy(real), torch.from_numpy(synthetic), 3) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_precision_and_recall_are_those_of_torch_fidelity(sizes):
    real, synthetic = pair(*sizes)
    theirs = metric_prc.prc_features_to_metric(synthetic, real, prc_neighborhood=3, verbose=False)
    scores = means(real, synthetic, 3)
    assert (scores["precision"], scores["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]))


def test_neighbourhood_scores_of_points_on_a_line_are_those_by_hand():
    """With k + 1 images; the radii are 3, 2, 3, and one generated image lies on the rim of the second ball."""
    real, synthetic = torch.tensor([[0.0], [1], [3]]), torch.tensor([[-1.0], [1.5], [10]])
    scores = {name: parts.tolist() for name, parts in neighbourhood_scores(real, synthetic, 2).items()}
    assert scores == {"precision": [1, 1, 0], "recall": [1, 1, 1], "density": [0.5, 1.5, 0], "coverage": [1, 1, 1]}


@pytest.mark.parametrize("sizes", SIZES)
def test_neighbourhood_scores_of_a_set_to_itself_are_one(sizes):
    """Density too: without its rim, a ball holds its own image and k - 1 others."""
    real, _ = pair(*sizes)
    assert means(real, real.clone()) == pytest.approx(dict.fromkeys(NEIGHBOURS, 1), abs=1e-12)


@pytest.mark.parametrize(("count", "synthetic_count"), [(K, 9), (9, K)])
def test_neighbourhood_scores_of_fewer_than_k_plus_one_images_are_refused(count, synthetic_count):
    with pytest.raises(ValueError, match="5 nearest neighbours need more than 5 images of each kind"):
        neighbourhood_scores(torch.rand(count, 2), torch.rand(synthetic_count, 2), K)
