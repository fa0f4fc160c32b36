"""A classifier gets its images as its model is published for: size, mean, deviation, interpolation and crop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from dct_augment.config import DownstreamConfig
from dct_augment.downstream import training
from dct_augment.downstream.transforms import Transforms, model_input
from dct_augment.errors import ModelError
from tests.random_generators import random_states

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def settings(**changes: Any) -> DownstreamConfig:
    return DownstreamConfig.model_validate(changes)


def picture(width: int = 90, height: int = 60) -> Image.Image:
    spots = np.random.default_rng(3).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.NEAREST)


@pytest.mark.parametrize(
    ("model", "size", "mean", "std", "interpolation", "crop"),
    [
        ("test_efficientnet_gn", 160, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.95),
        ("resnet50.a1_in1k", 224, *IMAGENET, "bicubic", 0.95),
        ("vit_small_patch14_dinov2.lvd142m", 518, *IMAGENET, "bicubic", 1.0),
        ("vit_base_patch16_224.augreg_in21k", 224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_the_models_own_preprocessing_is_taken_with_and_without_its_weights(
    model: str, size: int, mean: Any, std: Any, interpolation: str, crop: float, pretrained: bool
) -> None:
    taken = model_input(settings(model=model, pretrained=pretrained))
    assert (taken.size, taken.own_size) == ((size, size), (size, size))
    assert (taken.mean, taken.std, taken.interpolation, taken.crop_pct) == (mean, std, interpolation, crop)
    assert taken.fixed_size == model.startswith("vit")


def test_what_is_read_without_a_model_is_what_timm_says_of_the_model() -> None:
    for name in ("test_efficientnet", "test_vit", "test_convnext", "test_resnet"):
        taken, own = model_input(settings(model=name)), timm.data.resolve_model_data_config(timm.create_model(name))
        found = ((3, *taken.size), taken.mean, taken.std, taken.interpolation, taken.crop_pct, taken.crop_mode)
        assert found == tuple(
            own[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        )


def test_the_whole_picture_is_tested_at_the_size_for_which_that_is_published() -> None:
    assert model_input(settings(model="resnet50.a1_in1k", image_size=288)).crop_pct == 1.0
    assert model_input(settings(model="resnet50.a1_in1k", image_size=256)).crop_pct == 0.95


def test_imagenets_preprocessing_is_tested_with_nothing_cut() -> None:
    transforms, image = Transforms(settings(image_size=48, preprocessing="imagenet")), picture()
    assert torch.equal(transforms.plain(image), create_transform(48, crop_pct=1.0)(image))


def test_the_models_own_preprocessing_is_that_of_timm_in_testing_and_normalises_alike_in_training() -> None:
    transforms, image = Transforms(settings(model="test_efficientnet_gn", image_size=64)), picture()
    own = timm.data.resolve_model_data_config(timm.create_model("test_efficientnet_gn")) | {"input_size": (3, 64, 64)}
    assert torch.equal(transforms.plain(image), create_transform(**own, is_training=False)(image))
    grey = Image.new("RGB", (80, 80), (191, 191, 191))
    for transform in (transforms.plain, transforms.light):
        torch.testing.assert_close(transform(grey), torch.full((3, 64, 64), (191 / 255 - 0.5) / 0.5))


INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (90, 60), (48, 48)])
def test_a_picture_of_any_size_becomes_the_input_of_the_model(
    tmp_path: Path, interpolation: str, size: tuple[int, int]
) -> None:
    pretrained = {"input_size": [3, 40, 48], "interpolation": interpolation, "std": [0.5, 0.25, 0.2]}
    config = {"architecture": "test_resnet", "pretrained_cfg": pretrained}
    (tmp_path / "config.json").write_text(json.dumps(config))
    transforms = Transforms(settings(model=f"local-dir:{tmp_path}", randaugment_operations=5))
    for transform in (transforms.plain, transforms.light, transforms.strong):
        for _ in range(4):
            tensor = transform(picture(*size))
            assert type(tensor) is torch.Tensor
            assert (tensor.shape, tensor.dtype) == ((3, 40, 48), torch.float32)
            assert tensor.isfinite().all()


def test_every_operation_works_at_every_magnitude_and_leaves_pixels_in_their_range() -> None:
    image = picture()
    for magnitude in (0, 20, 30):
        strong = Transforms(settings(image_size=32, randaugment_operations=40, randaugment_magnitude=magnitude)).strong
        pixels = torch.stack([strong(image) for _ in range(5)]) * 0.5 + 0.5
        assert -1e-5 < pixels.min() < pixels.max() < 1 + 1e-5


def test_what_is_moved_in_and_what_is_erased_is_the_mean_of_the_model() -> None:
    torch.manual_seed(0)
    white = Image.new("RGB", (64, 64), "white")
    strong: Any = Transforms(settings(image_size=64, preprocessing="imagenet")).strong
    augment, erase = strong.transforms[1], strong.transforms[-1]
    moved = augment._apply_image_or_video_transform(white, "TranslateX", 20.0, augment.interpolation, augment._fill)
    assert moved.getpixel((0, 30)) == tuple(round(255 * mean) for mean in IMAGENET[0])
    erased = torch.stack([erase(torch.ones(3, 64, 64)) for _ in range(400)])
    shares = (erased == 0).float().mean((1, 2, 3))
    assert 0.05 < (shares > 0).float().mean() < 0.17  # one in ten
    assert 0.015 < shares[shares > 0].min() < shares.max() < 0.34
    assert set(erased.unique().tolist()) == {0.0, 1.0}


def test_light_shows_at_least_80_percent_and_changes_no_colour() -> None:
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (100, 1, 3)))
    light = Transforms(settings(image_size=100, preprocessing="imagenet")).light
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    for _ in range(20):
        shown = (light(ramp) * std + mean) * 255
        assert shown[0, 0, -1] - shown[0, 0, 0] > 87  # sqrt(0.8) of 100 columns, less the edges
        torch.testing.assert_close(shown[0], shown[2])


def test_training_draws_from_torch_alone_and_testing_draws_nothing() -> None:
    transforms, image = Transforms(settings(image_size=32)), picture(80, 80)
    before = random_states()
    transforms.plain(image)
    assert random_states() == before
    for transform in (transforms.light, transforms.strong):
        drawn = []
        for _ in range(2):
            torch.manual_seed(5)
            drawn.append(torch.stack([transform(image) for _ in range(20)]))
        assert torch.equal(*drawn)
        assert not torch.equal(drawn[0][0], drawn[0][1])
    assert random_states()[1:] == before[1:]


def test_a_folder_says_what_its_model_takes(tmp_path: Path) -> None:
    config = {
        "architecture": "test_resnet",
        "pretrained_cfg": {
            "input_size": [3, 40, 40],
            "mean": [0.1, 0.2, 0.3],
            "crop_pct": 0.8,
            "interpolation": "bilinear",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    taken = model_input(settings(model=f"local-dir:{tmp_path}"))
    assert (taken.size, taken.mean, taken.std) == ((40, 40), (0.1, 0.2, 0.3), IMAGENET[1])
    assert (taken.crop_pct, taken.interpolation) == (0.8, "bilinear")


@pytest.mark.parametrize("name", ["resnet5O", "resnet50.no_such_tag", "local-dir:/nowhere"])
def test_an_unknown_model_is_one_message(name: str) -> None:
    with pytest.raises(ModelError, match=f"downstream.model '{name}' cannot be made"):
        model_input(settings(model=name))


@pytest.mark.parametrize("size", [32, 96, 160])
def test_a_model_of_fixed_size_is_made_for_another_one(size: int) -> None:
    model: Any = training.create(settings(model="test_vit", image_size=size), 3)
    assert model.training
    with torch.no_grad():
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 8), ("test_vit", 1), ("inception_v3", 32)])
def test_a_size_that_a_model_cannot_take_is_one_message(name: str, size: int) -> None:
    with pytest.raises(
        ModelError, match=rf"downstream.image_size {size}: '{name}' cannot take .* its own, (160 x 160|299 x 299)"
    ):
        training.create(settings(model=name, image_size=size), 3)


def test_another_size_changes_no_weight_of_a_model_that_takes_any() -> None:
    states = []
    for size in (48, None):
        torch.manual_seed(0)
        states.append(training.create(settings(image_size=size), 3).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (40, 160)])
@pytest.mark.parametrize("strong", [False, True])
def test_a_crop_is_anywhere_in_a_photo_that_is_no_square(width: int, height: int, strong: bool) -> None:
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[:] = (
        np.linspace(0, 255, max(width, height))
        .astype(np.uint8)[: width if width > height else height]
        .reshape((1, width, 1) if width > height else (height, 1, 1))
    )
    transforms = Transforms(settings(image_size=16, preprocessing="imagenet", randaugment_magnitude=0))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        transform = transforms.strong if strong else transforms.light
        means = torch.stack([transform(Image.fromarray(ramp)).mean() for _ in range(60)])
    assert means.max() - means.min() > 0.3  # the middle alone would have one value
