"""Turns images into the tensors that the low-resource classifier trains and is tested on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import timm
import torch
import torchvision
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_data_config
from timm.models import PretrainedCfg, load_model_config_from_hf
from timm.models._hub import load_model_config_from_path
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import pil_to_tensor, resized_crop

from dct_augment.classifiers.names import refuse_trained, resolve
from dct_augment.config import MAGNITUDES, DownstreamConfig
from dct_augment.downstream.mixing import Transform
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

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn pixels (B, 3, H, W) of 0 .. 255 into what the model takes: (x / 255 - mean) / std, float32."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std)


class Pixels:
    """From an RGB picture to pixels (H, W, 3), uint8: resized and cut as timm does it for testing; draws nothing."""

    def __init__(self, taken: ModelInput) -> None:
        self._taken = taken
        self._transform: Callable[[Image.Image], torch.Tensor] = create_transform(
            (3, *taken.size),
            is_training=False,
            interpolation=taken.interpolation,
            mean=taken.mean,
            crop_pct=taken.crop_pct,
            crop_mode=taken.crop_mode,
            normalize=False,
        )

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Make the pixels of a picture."""
        pixels: np.ndarray = self._transform(image).permute(1, 2, 0).numpy()
        return pixels

    @property
    def made_by(self) -> tuple[Any, ...]:
        """All that decides the pixels of a picture: settings, and versions of what resizes it."""
        taken = self._taken
        border = taken.mean if taken.crop_mode == "border" else ()
        settings = (taken.size, taken.interpolation, taken.crop_pct, taken.crop_mode, border)
        return (*settings, PIL.__version__, torchvision.__version__, timm.__version__)


class Transforms:
    """From an RGB picture to a tensor (3, H, W): plain for testing, light and strong for training.

    `plain` is what timm does, to the bit, and draws nothing: `pixels`, then `taken.normalise`. The others are
    torchvision's, which draw from torch's generator alone; timm's draw from `random` and NumPy, and so do other
    threads: the event loop of Dask, the client of Prefect. `side` is the longer side of the tensors.
    """

    def __init__(self, settings: DownstreamConfig) -> None:
        self.taken = taken = model_input(settings)
        self.side = max(taken.size)
        self.pixels = Pixels(taken)
        normalised = _Normalised(taken)
        self.light: Transform = v2.Compose([_SquareCrop(taken, 0.8), normalised])
        augment = v2.RandAugment(
            settings.randaugment_operations,
            settings.randaugment_magnitude,
            MAGNITUDES,
            interpolation=InterpolationMode.BILINEAR,  # Pillow rotates with nearest, bilinear and bicubic alone
            fill=[round(255 * mean) for mean in taken.mean],  # 0 once normalised, as what is erased
        )
        self.strong: Transform = v2.Compose([_SquareCrop(taken, 0.6), augment, normalised, v2.RandomErasing(p=0.1)])

    def plain(self, image: Image.Image) -> torch.Tensor:
        """Make a picture what the model takes, as in testing."""
        pixels = torch.from_numpy(self.pixels(image)).permute(2, 0, 1).contiguous()
        return self.taken.normalise(pixels[None])[0]


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
