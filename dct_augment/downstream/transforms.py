"""Turns images into the tensors that the low-resource classifier trains and is tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_data_config
from timm.models import PretrainedCfg, load_model_config_from_hf
from timm.models._hub import load_model_config_from_path
from torch.utils.data import Dataset

from dct_augment.classifiers.names import resolve
from dct_augment.config import DownstreamConfig
from dct_augment.downstream.mixing import RealImages, Transform
from dct_augment.errors import ModelError


@dataclass(frozen=True)
class ModelInput:
    """What a model takes: the size of its input (height, width), and how an image becomes it, in timm's words.

    `own_size` is the size that the model was made for. A model of `fixed_size` takes no other, unless it is made so.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    own_size: tuple[int, int]
    fixed_size: bool = False

    @property
    def shared(self) -> dict[str, Any]:
        """What training and testing have in common, as timm's `create_transform` takes it."""
        return {
            "input_size": (3, *self.size),
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
        }


class Transforms:
    """From an RGB picture to a tensor (3, H, W): plain for testing, light and strong for training."""

    def __init__(self, taken: ModelInput, randaugment: str) -> None:
        self.plain: Transform = create_transform(
            **taken.shared, crop_pct=taken.crop_pct, crop_mode=taken.crop_mode, is_training=False
        )
        light = {"scale": (0.8, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None}
        self.light: Transform = create_transform(**taken.shared, is_training=True, **light)
        self.strong: Transform = create_transform(
            **taken.shared,
            is_training=True,
            auto_augment=randaugment,
            re_prob=0.1,
            **(light | {"scale": (0.6, 1.0)}),
        )


class InMemoryImages(Dataset[tuple[torch.Tensor, int]]):
    """A data set read once and kept as tensors."""

    def __init__(self, source: RealImages) -> None:
        self._items = [source[index] for index in range(len(source))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._items[index]


def model_input(settings: DownstreamConfig) -> ModelInput:
    """Read from the model's configuration what it takes; no weights are loaded.

    Raises:
        ModelError: unknown model.
    """
    try:
        published = _published(resolve(settings.model, "timm").timm_name)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise cannot_be_made(settings, error) from error
    own = resolve_data_config(pretrained_cfg=published)
    own_size = _pair(own["input_size"])
    size = (settings.image_size, settings.image_size) if settings.image_size else own_size
    fixed = bool(published.get("fixed_input_size"))
    if settings.preprocessing == "imagenet":
        return ModelInput(size, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, "bilinear", 1.0, "center", own_size, fixed)
    crop = own["crop_pct"]
    test_size, test_crop = published.get("test_input_size"), published.get("test_crop_pct")
    if test_size and test_crop and size == _pair(test_size) != own_size:  # the crop belongs to the size
        crop = test_crop
    mean, std = tuple(own["mean"]), tuple(own["std"])
    return ModelInput(size, mean, std, own["interpolation"], crop, own["crop_mode"], own_size, fixed)


def cannot_be_made(settings: DownstreamConfig, error: Exception) -> ModelError:
    """Say why there is no such model."""
    reason = " ".join(str(error).split())[:300]
    return ModelError(
        f"downstream.model {settings.model!r} cannot be made: {reason}. Use a name of timm.list_models(), "
        "hf-hub:ID, or local-dir:FOLDER"
    )


def _published(name: str) -> Mapping[str, Any]:
    """Read what timm says of a model's weights, or the folder or repository that they are in."""
    source, colon, place = name.partition(":")
    if not colon:
        found = timm.get_pretrained_cfg(name)
        if found is None and not timm.is_model(name):
            raise RuntimeError(f"Unknown model ({name})")
        published: Mapping[str, Any] = (found or PretrainedCfg()).to_dict()
        return published
    read = load_model_config_from_path if source == "local-dir" else load_model_config_from_hf
    return {**PretrainedCfg().to_dict(), **read(place)[0]}


def _pair(size: Any) -> tuple[int, int]:
    """Return height and width of (channels, height, width)."""
    return int(size[-2]), int(size[-1])
