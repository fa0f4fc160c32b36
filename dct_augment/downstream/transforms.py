"""Turns images into the tensors that the low-resource classifier trains and is tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_data_config
from timm.models import PretrainedCfg, load_model_config_from_hf
from timm.models._hub import load_model_config_from_path
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, resized_crop

from dct_augment.classifiers.names import refuse_trained, resolve
from dct_augment.config import MAGNITUDES, DownstreamConfig
from dct_augment.downstream.mixing import RealImages, Transform
from dct_augment.errors import ModelError
from dct_augment.wording import in_one_line, what_loads_from_the_hub


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


class Transforms:
    """From an RGB picture to a tensor (3, H, W): plain for testing, light and strong for training.

    `plain` is timm's own and draws nothing. The others are torchvision's, which draw from torch's generator alone;
    timm's draw from `random` and NumPy, and so do other threads: the event loop of Dask, the client of Prefect. `side`
    is the longer side of the tensors.
    """

    def __init__(self, settings: DownstreamConfig) -> None:
        taken = model_input(settings)
        self.side = max(taken.size)
        self.plain: Transform = create_transform(
            (3, *taken.size),
            is_training=False,
            interpolation=taken.interpolation,
            mean=taken.mean,
            std=taken.std,
            crop_pct=taken.crop_pct,
            crop_mode=taken.crop_mode,
        )
        normalised = _Normalised(taken)
        self.light: Transform = v2.Compose([_SquareCrop(taken, 0.8), normalised])
        augment = v2.RandAugment(
            settings.randaugment_operations,
            settings.randaugment_magnitude,
            MAGNITUDES,
            interpolation="bilinear",  # Pillow rotates with nearest, bilinear and bicubic alone
            fill=[round(255 * mean) for mean in taken.mean],  # 0 once normalised, as what is erased
        )
        self.strong: Transform = v2.Compose([_SquareCrop(taken, 0.6), augment, normalised, v2.RandomErasing(p=0.1)])


class _Normalised:
    """From an RGB picture to a tensor (3, H, W), (x / 255 - mean) / std.

    In two operations: torchvision's three transforms take twice as long as the crop.
    """

    def __init__(self, taken: ModelInput) -> None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (taken.mean, taken.std))
        self._scale, self._shift = 1 / (255 * std), mean / std

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = pil_to_tensor(image)
        return pixels.mul(self._scale).sub_(self._shift)


class _SquareCrop:
    """Cut a square out of a picture, anywhere, and resize it to the model's input.

    Its area is a share of that of the largest square in the picture, uniform from `least_area` to 1. RandomResizedCrop
    takes shares of the whole picture, so that on photos of 3:2 no square fits, and it falls back to the middle.
    """

    def __init__(self, taken: ModelInput, least_area: float) -> None:
        self._least_area, self._size = least_area, taken.size
        self._interpolation = v2.InterpolationMode(taken.interpolation)

    def __call__(self, image: Image.Image) -> Image.Image:
        shorter = min(image.size)
        area = self._least_area + (1 - self._least_area) * torch.rand(()).item()
        side = max(round(area**0.5 * shorter), 1)
        left, top = (int(torch.randint(length - side + 1, ())) for length in image.size)
        cropped: Image.Image = resized_crop(image, top, left, side, side, list(self._size), self._interpolation)
        return cropped


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
        resolved = resolve(settings.model, "timm")
        if settings.pretrained:
            refuse_trained(resolved, "downstream.model")
        published = _published(resolved.timm_name)
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
    reason = in_one_line(error)
    return ModelError(
        f"downstream.model {settings.model!r} cannot be made: {reason}. Use pocket/backbone, which is shipped, a name "
        f"of timm.list_models(), hf-hub:ID, or local-dir:FOLDER; {what_loads_from_the_hub()}"
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
