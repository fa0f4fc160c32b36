"""How different the generated images of one class are from each other."""

import torch
from torch import nn

_BLOCK_ROWS = 1024


def class_diversity(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine distance of two images of one class, of every class that has two; (K,) in [0, 2].

    Features are (M, D), labels (M,). For n unit vectors u_i it is 1 - (||sum u_i||^2 - sum ||u_i||^2) / (n (n - 1)).
    """
    classes, places = labels.unique(return_inverse=True)
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64, device=features.device)
    squares, counts = sums.new_zeros(len(classes)), torch.bincount(places, minlength=len(classes))
    for rows, own in zip(features.split(_BLOCK_ROWS), places.split(_BLOCK_ROWS), strict=True):
        directions = nn.functional.normalize(rows.double(), dim=1)
        sums.index_add_(0, own, directions)
        squares.index_add_(0, own, directions.square().sum(1))
    several = counts > 1
    pairs = (counts * (counts - 1))[several]
    return 1 - (sums[several].square().sum(1) - squares[several]) / pairs
