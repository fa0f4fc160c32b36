"""Pictures as tensors, as classifiers and models take them, and as hashes of their content."""

import hashlib

import numpy as np
import torch
from PIL import Image, ImageOps


def square(picture: Image.Image, size: int) -> torch.Tensor:
    """The middle square of a picture as (1, 3, size, size) in [-1, 1]."""
    fitted = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 127.5 - 1


def content(picture: Image.Image) -> str:
    """SHA-256 of size and RGB pixels, hex: equal for pictures that look the same, whatever file they come from."""
    plain = picture.convert("RGB")
    return hashlib.sha256(repr(plain.size).encode() + plain.tobytes()).hexdigest()
