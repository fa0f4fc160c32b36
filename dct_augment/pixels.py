"""Pictures as tensors, as classifiers and models take them."""

import numpy as np
import torch
from PIL import Image, ImageOps


def square(picture: Image.Image, size: int) -> torch.Tensor:
    """The middle square of a picture as (1, 3, size, size) in [-1, 1]."""
    fitted = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 127.5 - 1
