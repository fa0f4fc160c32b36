import subprocess
import sys

import numpy as np
import torch
from PIL import Image

from dct_augment.images import to_pixels, to_tensor


def test_every_8_bit_value_comes_back_from_its_tensor() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(Image.fromarray(values))
    assert (tensor.shape, tensor.dtype) == ((1, 3, 16, 16), torch.float32)
    assert (tensor.min().item(), tensor.max().item()) == (-1, 1)
    assert torch.equal(to_pixels(tensor)[0].permute(1, 2, 0), torch.from_numpy(values))


def test_values_outside_the_range_are_cut_when_they_become_pixels() -> None:
    images = torch.tensor([-torch.inf, -1.2, -1.0, 0.0, 1.0, 1.2, torch.inf])
    assert to_pixels(images).tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_data_sets_are_read_without_torch() -> None:
    code = "import sys, dct_augment.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
