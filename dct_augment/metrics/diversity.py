"""How different the generated images of one class are from each other."""

import torch
from torch import nn


def class_diversity(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine distance of two images of one class, of every class that has two; (K,) in [0, 2].

    Features are (M, D), labels (M,). For n unit vectors u_i it is 1 - (||sum u_i||^2 - sum ||u_i||^2) / (n (n - 1)).
    """
    directions = nn.functional.normalize(features.double(), dim=1)
    diversities = []
    for label in labels.unique():
        vectors = directions[labels == label]
        count = len(vectors)
        if count > 1:
            similarity = (vectors.sum(0).square().sum() - vectors.square().sum()) / (count * (count - 1))
            diversities.append(1 - similarity)
    return torch.stack(diversities) if diversities else torch.zeros(0, dtype=torch.float64)
