"""How far the features of generated images are from those of real ones: Fréchet distance (FID), kernel distance (KID).

Features of any extractor will do; FID and KID are usually of Inception v3. All sums are in float64.
"""

import math
import warnings

import torch
from torch import nn


def frechet_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians that have the mean and covariance of the features (FID).

    ||m_r - m_s||^2 + Tr(C_r + C_s - 2 (C_r C_s)^(1/2)), arXiv 1706.08500, equation 6. Real features are (N, D),
    generated ones (M, D). With at least D of each it is computed by torchmetrics, and else without any D x D matrix.
    """
    if min(len(real), len(synthetic)) < real.shape[1]:
        return _frechet_distance_of_few(real.double(), synthetic.double())
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_FeaturesThemselves(real.shape[1])).set_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of its own buffers
        metric.update(real.double(), real=True)
        metric.update(synthetic.double(), real=False)
        return float(metric.compute())


def _frechet_distance_of_few(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Compute the Fréchet distance of features (N, D) and (M, D) where N or M is less than D.

    With centred rows A, B over the root of their number less one, C_r = A^T A and C_s = B^T B, and the eigenvalues of
    C_r C_s that are not 0 are the squared singular values of A B^T (N, M): Tr (C_r C_s)^(1/2) is their sum.
    """
    gap = real.mean(0) - synthetic.mean(0)
    rows, columns = ((features - features.mean(0)) / math.sqrt(len(features) - 1) for features in (real, synthetic))
    root = torch.linalg.svdvals(rows @ columns.T).sum()
    return float(gap @ gap + rows.square().sum() + columns.square().sum() - 2 * root)


class _FeaturesThemselves(nn.Module):
    """Takes the place of torchmetrics' network where features are already there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def kernel_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of the features (KID); it may be below 0.

    mean_(i != j) k(r_i, r_j) + mean_(i != j) k(s_i, s_j) - 2 mean_(i, j) k(r_i, s_j) with k(x, y) = (x.y / D + 1)^3,
    arXiv 1801.01401, section 4. Real features are (N, D), generated ones (M, D).
    """
    from torchmetrics.image.kid import poly_kernel

    # Not torchmetrics' poly_mmd, which counts both sets as if they were as large as the first.
    real, synthetic = real.double(), synthetic.double()
    within = 0.0
    for kernel in (poly_kernel(real, real), poly_kernel(synthetic, synthetic)):
        within += float(kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1))
    return within - 2 * float(poly_kernel(real, synthetic).mean())
