"""Which images lie near images of the other kind: precision, recall, density and coverage.

Precision and recall are of arXiv 1904.06991, section 2; density and coverage of arXiv 2002.09797, section 3.2. All four
are computed as in arXiv 2002.09797: a point on the rim of a ball is not in it.
"""

import torch


def neighbourhood_scores(real: torch.Tensor, synthetic: torch.Tensor, k: int) -> dict[str, torch.Tensor]:
    """Return what each image adds to `precision` (M,), `recall` (N,), `density` (M,), `coverage` (N,): their means.

    Real features are (N, D), generated ones (M, D). A ball around each image reaches to its k-th nearest of its own
    kind. precision: a generated image is in a ball of a real one; recall: a real image is in a ball of a generated one;
    density: in how many balls of real images a generated one is, over k; coverage: a real image has a generated one in
    its ball.

    Raises:
        ValueError: fewer than k + 1 images of a kind.
    """
    if min(len(real), len(synthetic)) <= k:
        raise ValueError(f"{k} nearest neighbours need more than {k} images of each kind")
    real, synthetic = real.double(), synthetic.double()
    between = _distances(real, synthetic)
    real_radii, synthetic_radii = _radii(real, k), _radii(synthetic, k)
    in_real_ball = between < real_radii[:, None]
    in_synthetic_ball = between < synthetic_radii[None]
    return {
        "precision": in_real_ball.any(0).double(),
        "recall": in_synthetic_ball.any(1).double(),
        "density": in_real_ball.sum(0).double() / k,
        "coverage": (between.min(1).values < real_radii).double(),
    }


def _radii(features: torch.Tensor, k: int) -> torch.Tensor:
    """Distance of each row (N, D) to its k-th nearest other row, (N,)."""
    return _distances(features, features).kthvalue(k + 1, 1).values


def _distances(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (N, M) of (N, D) and (M, D).

    Without the rounding of a matrix product, so that a copy of an image is not inside a ball that it ends.
    """
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
