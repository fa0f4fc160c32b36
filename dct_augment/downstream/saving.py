"""Writes a trained classifier to a folder."""

from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import save_for_hf
from torch import nn

from dct_augment.config import DownstreamConfig


def save(model: nn.Module, settings: DownstreamConfig, names: list[str], folder: Path) -> None:
    """Write a trained classifier as timm's `local-dir:` takes it, with its label names and preprocessing."""
    side = settings.image_size
    preprocessing = {
        "input_size": (3, side, side),
        "fixed_input_size": False,
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }
    timm_model: Any = model
    timm_model.pretrained_cfg = {
        **timm_model.pretrained_cfg,
        **preprocessing,
        "num_classes": len(names),
        "label_names": names,
    }
    model_config = {"num_classes": len(names), "label_names": names}
    save_for_hf(timm_model, str(folder), model_config=model_config, safe_serialization=True)
