"""Prepares images for SigLIP 2 in its NaFlex form, differentiably: as many patches as fit, in the image's own shape."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.classifiers.transformers_models import interpolation, normalization
from dct_augment.errors import ModelError


@dataclass(frozen=True)
class NaFlexPreprocess(Preprocess):
    """Resize to the largest whole number of patches, at most `most_patches`, that keeps the shape; normalise."""

    patch_size: int = 16
    most_patches: int = 256

    def _size(self, height: int, width: int) -> tuple[int, int]:
        target_height, target_width = get_image_size_for_max_num_patches(
            height, width, self.patch_size, self.most_patches
        )
        return target_height, target_width


def checked_preprocess(processor: Any, name: str) -> Preprocess:
    """Make a NaFlex processor differentiable, and compare the result with the processor itself.

    Raises:
        ModelError: the processor does something that cannot be followed.
    """
    try:
        mean, std = normalization(processor)
        steps = NaFlexPreprocess(
            mean,
            std,
            interpolation=interpolation(processor),
            patch_size=processor.patch_size,
            most_patches=processor.max_num_patches,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(
            f"classifier {name!r}: its {type(processor).__name__} does not cut images into patches; give another one"
        ) from error

    def reference(image: Image.Image) -> torch.Tensor:
        inputs = processor(image, return_tensors="pt")
        height, width = inputs["spatial_shapes"][0].tolist()
        return image_of_patches(inputs["pixel_values"][0], height, width)

    return steps.same_as(reference, name)


def patches(pixels: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """Cut pixels (B, 3, h, w) into patches (B, N, size * size * 3), row by row, as the image encoder takes them.

    The processor pads to its largest number of patches and masks the padding; here none is needed, as all images of a
    batch have one shape.
    """
    count, channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    cut = pixels.reshape(count, channels, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
    values = cut.reshape(count, rows * columns, size * size * channels)
    return {
        "pixel_values": values,
        "pixel_attention_mask": torch.ones(values.shape[:2], dtype=torch.int32, device=pixels.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * count, device=pixels.device),
    }


def image_of_patches(values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Put patches (N, size * size * 3) of one image together again, (3, h, w); padding after them is left out."""
    size = round((values.shape[1] / 3) ** 0.5)
    grid = values[: rows * columns].reshape(rows, columns, size, size, 3).permute(4, 0, 2, 1, 3)
    return grid.reshape(3, rows * size, columns * size)
