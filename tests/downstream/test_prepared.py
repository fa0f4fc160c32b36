"""Validation and test pictures are prepared once, in a file that every process maps, as timm would prepare each."""

import json
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn

from dct_augment import config
from dct_augment.config import DownstreamConfig
from dct_augment.downstream import prepared
from dct_augment.downstream.prediction import accuracy
from dct_augment.downstream.prepared import PixelFiles, PreparedImages, refuse_full_disk
from dct_augment.downstream.transforms import Transforms
from dct_augment.errors import DatasetError, InputError
from dct_augment.images import content
from dct_augment.records import Example
from tests.conftest import speckled

SIZES = [(90, 60), (60, 90), (33, 200), (48, 48), (7, 5), (1, 1)]


def transforms_of(**changes: Any) -> Transforms:
    return Transforms(DownstreamConfig.model_validate({"image_size": 32, **changes}))


def photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng([width, height, seed]).integers(0, 256, (height, width, 3), np.uint8))


def examples_of(count: int, opened: Counter[str] | None = None) -> list[Example]:
    def opening(number: int) -> Image.Image:
        if opened is not None:
            opened[str(number)] += 1
        return photo(SIZES[number % len(SIZES)], number)

    return [Example(str(number), number % 3, partial(opening, number)) for number in range(count)]


def known(example: Example) -> str:
    return content(photo(SIZES[int(example.key) % len(SIZES)], int(example.key)))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("interpolation", "crop"), [("bicubic", 0.95), ("bilinear", 0.875), ("bicubic", 1.0), ("nearest", 0.8)]
)
@pytest.mark.parametrize("size", [[3, 40, 40], [3, 40, 48]])
def test_a_prepared_picture_is_to_the_bit_what_timm_makes_of_it(
    tmp_path: Path, mode: str, interpolation: str, crop: float, size: list[int]
) -> None:
    own = {"input_size": size, "interpolation": interpolation, "crop_pct": crop, "crop_mode": mode}
    own |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": own}))
    transforms = Transforms(DownstreamConfig(model=f"local-dir:{tmp_path}"))
    _compare(transforms, create_transform(**own, is_training=False))


@pytest.mark.parametrize(
    "model", ["test_efficientnet_gn", "resnet50.a1_in1k", "vit_base_patch16_224.augreg_in21k", "convnext_tiny.fb_in1k"]
)
def test_pictures_are_prepared_as_each_model_was_published(model: str) -> None:
    transforms = Transforms(DownstreamConfig(model=model))
    taken = transforms.taken
    own = create_transform(
        (3, *taken.size),
        interpolation=taken.interpolation,
        mean=taken.mean,
        std=taken.std,
        crop_pct=taken.crop_pct,
        is_training=False,
    )
    _compare(transforms, own)


def _compare(transforms: Transforms, own: Callable[[Image.Image], torch.Tensor]) -> None:
    pictures = [Example(str(size), number, partial(photo, size)) for number, size in enumerate(SIZES)]
    images = PixelFiles(None, lambda example: content(example.open())).images(pictures, transforms)
    expected = torch.stack([own(photo(size)) for size in SIZES])
    found = images.batch(slice(0, len(SIZES)))
    assert torch.equal(found, expected)
    assert found.is_contiguous()
    assert torch.equal(torch.stack([transforms.plain(photo(size)) for size in SIZES]), expected)
    assert torch.equal(images.batch(slice(2, 4)), expected[2:4])


def test_a_file_is_made_once_and_each_picture_opened_once_for_it(tmp_path: Path) -> None:
    opened: Counter[str] = Counter()
    examples, transforms = examples_of(40, opened), transforms_of()
    images = [PixelFiles(tmp_path / "pixels", known).images(examples, transforms) for _ in range(2)]
    assert set(opened.values()) == {1}
    assert images[0].labels == tuple(example.label for example in examples)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 1
    assert not list(tmp_path.rglob("*.partial"))
    assert isinstance(images[1]._pixels, np.memmap)


@pytest.mark.slow
def test_many_pictures_are_prepared_by_several_processes_in_their_order(tmp_path: Path) -> None:
    examples = [Example(str(number), 0, partial(speckled, number % 3, number % 7)) for number in range(1_100)]
    transforms, opened = transforms_of(image_size=8), [content(example.open()) for example in examples]
    path = PixelFiles(tmp_path, lambda example: opened[int(example.key)]).make(examples, transforms)
    stored = np.load(path, mmap_mode="r")
    assert stored.shape == (1_100, 8, 8, 3)
    assert all(np.array_equal(stored[n], transforms.pixels(examples[n].open())) for n in (0, 1, 15, 16, 700, 1_099))


def test_some_pictures_of_a_file_keep_their_order_and_take_their_own_labels(tmp_path: Path) -> None:
    examples, transforms = examples_of(12), transforms_of()
    files = PixelFiles(tmp_path, known)
    some = [Example(examples[row].key, 7, examples[row].open) for row in (9, 2, 5)]
    images = files.images(some, transforms, among=examples)
    assert images.labels == (7, 7, 7)
    expected = torch.stack([transforms.plain(example.open()) for example in some])
    assert torch.equal(images.batch(slice(0, 3)), expected)
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_other_pictures_or_another_input_are_another_file_and_what_is_not_needed_goes(tmp_path: Path) -> None:
    examples, files = examples_of(6), PixelFiles(tmp_path, known)
    first = files.make(examples, transforms_of())
    others = [
        files.make(examples[:5], transforms_of()),
        files.make(examples[::-1], transforms_of()),
        files.make(examples, transforms_of(image_size=40)),
        files.make(examples, transforms_of(preprocessing="imagenet")),
        PixelFiles(tmp_path, lambda example: content(example.open())).make(
            [*examples[:5], Example("5", 0, partial(photo, (9, 9)))], transforms_of()
        ),
    ]
    assert len({first, *others}) == 6
    assert files.make(examples, transforms_of(steps=9, learning_rate=1)) == first  # what comes after is another matter
    files.keep_only({first})
    assert list(tmp_path.glob("*.npy")) == [first]


def test_a_picture_that_is_not_what_it_was_is_refused_and_no_file_is_left(tmp_path: Path) -> None:
    examples = [*examples_of(3), Example("3", 0, partial(photo, (8, 8), 99))]
    with pytest.raises(DatasetError, match=r"image '3' has changed since the run began; start the command again"):
        PixelFiles(tmp_path, known).make(examples, transforms_of())
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_temporary_folder_goes_with_its_files() -> None:
    files = PixelFiles(None, known)
    path = files.make(examples_of(3), transforms_of())
    assert path.is_file()
    del files
    assert not path.parent.exists()


def test_a_disk_that_is_too_small_is_told_before_a_picture_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * 10**9)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: usage)
    taken = transforms_of(image_size=224).taken
    folder = tmp_path / "runs" / "imagenet" / "pixels"
    message = (
        r"^55,000 prepared pictures of 224 x 224 pixels for validation and test need 8\.3 GB in '.*imagenet/pixels', "
        r"and 2\.0 GB are free there\. Free some, set output to a folder on a larger disk, or lower downstream\.image_s"
    )
    with pytest.raises(InputError, match=message):
        refuse_full_disk(folder, [(50_000, taken), (5_000, taken)])
    refuse_full_disk(folder, [(50_000, taken), (5_000, taken)], present=7 * 10**9)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    with pytest.raises(InputError, match="prepared pictures of 32 x 32 pixels"):
        PixelFiles(folder, known).make(examples_of(3), transforms_of())
    assert not folder.exists()


class _Mean(nn.Module):
    """Answers with the mean of each channel: no weights, and little memory."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def _peak(folder: Path, count: int) -> int:
    """Measure the most memory of Python and NumPy while pictures are prepared and answered."""
    transforms = transforms_of(image_size=64)
    # One picture under many keys: what a data set itself keeps of each is not measured.
    examples = [Example(str(number), 0, partial(speckled, 0, 1)) for number in range(count)]
    hashed = content(speckled(0, 1))
    tracemalloc.start()
    try:
        images = PixelFiles(folder, lambda example: hashed).images(examples, transforms)
        accuracy(_Mean(), images)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    few, many = _peak(tmp_path / "few", 130), _peak(tmp_path / "many", 390)
    assert (many - few) / 260 < 1_000  # bytes for each picture, whose pixels are 12,288: its key, place and label


def test_a_file_of_many_pictures_maps_no_private_memory(tmp_path: Path) -> None:
    path = tmp_path / "zeros.npy"
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (4_000, 64, 64, 3))
    del pixels
    before = _private_bytes()
    images = PreparedImages(path, range(4_000), [0] * 4_000, transforms_of(image_size=64).taken)
    for first in range(0, 4_000, 100):
        images.batch(slice(first, first + 100))
    assert _private_bytes() - before < 20 * 2**20  # of 49 MB, and 197 MB as float32


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def test_the_number_of_reading_processes_is_no_part_of_a_results_identity() -> None:
    identities = [
        config.load("pocket", [f"downstream.workers={number}"]).identity(part)
        for number in ("null", 0, 4)
        for part in ("benchmark", "arms")
    ]
    assert identities[:2] == identities[2:4] == identities[4:]
    assert "workers" not in identities[0]["downstream"]
