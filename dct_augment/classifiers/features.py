"""Loads feature extractors, in whose features generated images are compared with real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from dct_augment.classifiers import backbones
from dct_augment.errors import ModelError
from dct_augment.images import to_pixels
from dct_augment.wording import in_one_line

Extractor = Callable[[torch.Tensor], torch.Tensor]
"""Images (B, 3, H, W) in [-1, 1] to features (B, D), float32."""


def load(name: str, device: str = "cpu", weights: Path | None = None) -> Extractor:
    """Load a feature extractor by name: `inception` (that of FID), or any timm model without its last layer.

    Raises:
        ModelError: unknown name, missing package or file, or no network.
    """
    return _inception(device, weights) if name == "inception" else _timm(name, device)


def _timm(name: str, device: str) -> Extractor:
    backbone = backbones.load(name, setting="metrics.features", instead="judge, guide, inception, ", device=device)

    @torch.no_grad()
    def extract(images: torch.Tensor) -> torch.Tensor:
        return backbone(images.to(device)).float().cpu()

    return extract


def _inception(device: str, weights: Path | None) -> Extractor:
    """Load the Inception network that FID was published with, through torch-fidelity: its 2,048 pooled features."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ModelError(
            "metrics.features inception needs the package torch-fidelity: pip install 'dct-augment[inception]'"
        ) from error
    try:
        path = str(weights) if weights else None
        if path:
            torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run what it finds in a file
        model: Any = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    except Exception as error:  # whatever a damaged file or a network raises
        reason = in_one_line(error, 200)
        file = f"weights {path!r}" if path else "weights"
        raise ModelError(
            f"metrics.features inception: its {file} cannot be read: {reason}. They are downloaded once; without a "
            "network give metrics.inception_weights, or use judge or guide"
        ) from error
    model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def extract(images: torch.Tensor) -> torch.Tensor:
        pixels = to_pixels(images).to(device)
        return cast(torch.Tensor, model(pixels)[0]).float().cpu()

    return extract
