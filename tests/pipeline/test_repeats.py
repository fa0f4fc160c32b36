"""What a second run repeats: on a CPU every byte, on a GPU the plan, the noise, and the images but for rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dct_augment import SyntheticImages, config
from dct_augment.pipeline.run import Run
from dct_augment.tokens import formats
from tests.made_files import made_files
from tests.small import SMALL

pytestmark = pytest.mark.slow

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_second_run_repeats_the_first(device: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    settings = [*SMALL, f"device={device}", "generation.per_class=4"]
    first, second = (
        Run(config.load("digits", settings, classes=["one", "seven"], output=tmp_path / name)) for name in ("a", "b")
    )
    first.generate()
    second.train()
    trained = [[formats.read(run.tokens.file(info))[0] for info in run.classes] for run in (first, second)]
    for one, other in zip(*trained, strict=True):  # the first updates: training magnifies what rounding changes
        assert one.metadata["losses"][:1] == pytest.approx(other.metadata["losses"][:1], rel=1e-3)
    if device == "cuda":  # images of the same tokens
        pairs = zip(trained[0], second.classes, strict=True)
        second.import_tokens([(token, info) for token, info in pairs], replace=True)
    second.generate()
    if device == "cpu":
        assert made_files(first.config.root) == made_files(second.config.root)
    images, repeated = (SyntheticImages(run.config.root / "shards") for run in (first, second))
    assert len(images) == len(repeated) == 8
    for place in range(8):
        (image, label), (again, label_again) = images[place], repeated[place]
        assert label == label_again
        assert np.abs(np.asarray(image, float) - np.asarray(again, float)).mean() < 1
