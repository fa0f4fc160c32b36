"""Classifiers: the same input as timm's own transform gives, gradients, labels by name, load errors."""

import json
import shutil

import numpy as np
import pytest
import timm
import tiny
import torch
from PIL import Image

from dct_augment import classifiers, pocket
from dct_augment.classifiers import Classifier
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LABELS = ("Red_Bird", "stone", "kiwi", "Crane")


class Keep(torch.nn.Module):
    """Stands in for a network; keeps what it was given."""

    def forward(self, pixels):
        self.seen = pixels
        return pixels.mean((2, 3))


def picture(height: int, width: int) -> Image.Image:
    """Soft colours beside a white bar, at whose edge interpolation overshoots."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([127 + 100 * np.sin(9 * x), 40 + 150 * y, 90 + 60 * np.cos(5 * x * y)], -1)
    pixels[:, : width // 3] = 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def as_images(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("source", [32, 64, 100, 20])
@pytest.mark.parametrize("size", [32, 48])
def test_input_is_what_timm_gives(source, size):
    model, image = Keep(), picture(source, source)
    guide = Classifier(model, size=size, mean=MEAN, std=STD, labels=LABELS)
    guide.logits(as_images(image))
    transform = timm.data.create_transform(
        (3, size, size), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=1.0, is_training=False
    )
    std = torch.tensor(STD).view(3, 1, 1)
    difference = (model.seen[0] - transform(image)) * std
    assert model.seen.shape == (1, 3, size, size)
    assert difference.abs().max() <= 2 / 255


def test_images_outside_the_range_are_read_as_they_will_be_saved():
    model = Keep()
    guide = Classifier(model, size=8, mean=MEAN, std=STD, labels=LABELS)
    wild = torch.tensor([-3.0, 0.0, 1.7]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    guide.logits(wild)
    expected = (torch.tensor([0.0, 0.5, 1.0]) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(model.seen[0, :, 0, 0], expected)


def test_loaded_logits_are_timms_own():
    guide = tiny.classifier("test_resnet")
    folder = tiny.classifier_folder("test_resnet", LABELS, 32)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    pixels = timm.data.create_transform(**config, is_training=False)(picture(32, 32))[None]
    with torch.no_grad():
        expected = model(pixels)
        torch.testing.assert_close(guide.logits(as_images(picture(32, 32))), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01
    assert guide.labels == LABELS


def test_gradient_reaches_the_images_and_nothing_else():
    guide = tiny.classifier("test_resnet")
    images = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8).requires_grad_()
    guide.logits(images)[:, 1].sum().backward()
    assert images.grad.flatten(1).abs().amax(1).min() > 0
    assert all(not weight.requires_grad and weight.grad is None for weight in guide._model.parameters())
    assert not any(module.training for module in guide._model.modules())


def test_an_image_is_judged_the_same_in_any_batch():
    guide = tiny.classifier("test_resnet")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    alone = torch.cat([guide.logits(image[None]) for image in images])
    torch.testing.assert_close(guide.logits(images), alone, atol=1e-4, rtol=1e-4)


def test_verdicts_name_the_best_label_and_the_chance_of_the_wanted_one():
    class Fixed(torch.nn.Module):
        def forward(self, pixels):
            return torch.tensor([[0.0, 3.0, 1.0, 0.0], [2.0, 0.0, 0.0, 0.0]]).log_softmax(1)

    guide = Classifier(Fixed(), size=8, mean=MEAN, std=STD, labels=LABELS)
    chances = Fixed()(None).exp()
    (first, second) = guide.verdicts(torch.zeros(2, 3, 8, 8), [2, 0])
    assert first == ("stone", pytest.approx(chances[0, 2].item()))
    assert second == ("Red_Bird", pytest.approx(chances[1, 0].item()))


class TestTargets:
    """Labels are found by name, in whatever order and spelling the classifier has them."""

    def test_by_name(self):
        assert tiny.classifier("test_resnet").targets(tiny.CLASSES) == (3, 2, 0)

    def test_all_unmatched_classes_are_listed(self):
        strange = [*tiny.CLASSES, ClassInfo(3, "gull", "gull"), ClassInfo(4, "wren", "wren")]
        with pytest.raises(ModelError, match="2 of 5 classes: 'gull', 'wren'") as caught:
            tiny.classifier("test_resnet").targets(strange)
        assert "Red_Bird, stone, kiwi, Crane" in str(caught.value)

    def test_a_label_that_stands_twice_is_refused(self):
        """ImageNet has two "crane": choosing one in silence would train the wrong bird."""
        guide = Classifier(Keep(), size=8, mean=MEAN, std=STD, labels=("crane", "kiwi", "Crane "))
        assert guide.targets([ClassInfo(0, "kiwi", "kiwi")]) == (1,)
        with pytest.raises(ModelError, match="no single label for 1 of 1 classes: 'crane'"):
            guide.targets([ClassInfo(0, "crane", "crane")])


class TestLoadErrors:
    """Each names the classifier and what is wrong."""

    def test_unknown_pocket_name(self):
        with pytest.raises(ModelError, match="'pocket/bird-guide' does not exist") as caught:
            classifiers.load("pocket/bird-guide")
        assert all(f"pocket/{name}" in str(caught.value) for name in pocket.CLASSIFIERS)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(ModelError, match=r"no config\.json in .*nothing"):
            classifiers.load(f"local-dir:{tmp_path / 'nothing'}")

    def test_unknown_architecture(self):
        with pytest.raises(ModelError, match="'no_such_net_at_all' cannot be loaded"):
            classifiers.load("no_such_net_at_all")

    def test_config_that_is_not_json(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(ModelError, match="cannot be loaded"):
            classifiers.load(f"local-dir:{tmp_path}")

    def test_no_weights(self, tmp_path):
        folder = tmp_path / "net"
        shutil.copytree(tiny.classifier_folder("test_resnet", LABELS, 32), folder)
        for weights in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
            weights.unlink()
        with pytest.raises(ModelError, match="cannot be loaded"):
            classifiers.load(f"local-dir:{folder}")

    def test_no_label_names(self):
        folder = tiny.classifier_folder("test_resnet", None)
        assert "label_names" not in json.dumps(json.loads((folder / "config.json").read_text()))
        with pytest.raises(ModelError, match="carries no label_names"):
            classifiers.load(f"local-dir:{folder}")
