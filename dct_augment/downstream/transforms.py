"""Turns images into the tensors that the low-resource classifier trains and is tested on."""

import torch
from timm.data import create_transform
from torch.utils.data import Dataset

from dct_augment.downstream.mixing import RealImages, Transform


class Transforms:
    """From an RGB picture to a tensor (3, H, W): plain for testing, light and strong for training."""

    def __init__(self, size: int, randaugment: str) -> None:
        self.plain: Transform = create_transform(size, crop_pct=1.0)
        light = {"scale": (0.8, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None}
        self.light: Transform = create_transform(size, is_training=True, **light)
        self.strong: Transform = create_transform(
            size, is_training=True, auto_augment=randaugment, re_prob=0.1, **(light | {"scale": (0.6, 1.0)})
        )


class InMemoryImages(Dataset[tuple[torch.Tensor, int]]):
    """A data set read once and kept as tensors."""

    def __init__(self, source: RealImages) -> None:
        self._items = [source[index] for index in range(len(source))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._items[index]
