"""Turns images into tensors and back, and hashes their content. torch is imported when first needed."""

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch

UNREADABLE_IMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error)
"""What Pillow raises for truncated and malformed image files."""


def to_tensor(image: Image.Image) -> "torch.Tensor":
    """Convert an image to a tensor (1, 3, H, W) in [-1, 1]: x = v / 127.5 - 1 for 8-bit values v."""
    import torch

    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(images: "torch.Tensor") -> "torch.Tensor":
    """Convert images (B, 3, H, W) in [-1, 1] to 8-bit values: v = round(127.5 (x + 1)). What lies outside is cut."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte()


def square(image: Image.Image, size: int) -> "torch.Tensor":
    """Convert the middle square of an image to a tensor (1, 3, size, size) in [-1, 1]."""
    return to_tensor(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))


def content(image: Image.Image) -> str:
    """Hash size and RGB pixels with SHA-256, as hex: equal for images that look the same, whatever their file."""
    plain = image.convert("RGB")
    return hashlib.sha256(repr(plain.size).encode() + plain.tobytes()).hexdigest()
