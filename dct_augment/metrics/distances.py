"""How far the features of generated images are from those of real ones: Fréchet distance (FID), kernel distance (KID).

Features of any extractor will do; FID and KID are usually of Inception v3. All sums are in float64.
"""

import warnings

import torch
from torch import nn


def frechet_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians that have the mean and covariance of the features (FID).

    ||m_r - m_s||^2 + Tr(C_r + C_s - 2 (C_r C_s)^(1/2)), arXiv 1706.08500, equation 6; computed by torchmetrics. Real
    features are (N, D), generated ones (M, D).
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_FeaturesThemselves(real.shape[1])).set_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of its own buffers
        metric.update(real.double(), real=True)
        metric.update(synthetic.double(), real=False)
        return float(metric.compute())


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
