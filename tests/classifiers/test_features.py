"""Features of classifiers, of timm models, and of the Inception network of FID, all offline."""

import json
import shutil
import socket
import sys
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from dct_augment import classifiers
from dct_augment.classifiers import EnsembleClassifier, Preprocess, SingleClassifier, features
from dct_augment.errors import ModelError
from dct_augment.images import square
from tests import tiny

LABELS = ("Red_Bird", "stone", "kiwi", "Crane")
IMAGES = torch.rand(3, 3, 50, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
"""Of another size than any model here takes."""


def folder():
    return tiny.classifier_folder("test_resnet", LABELS, 32)


def single(model: nn.Module, labels=LABELS) -> SingleClassifier:
    return SingleClassifier(model, Preprocess.square(8, (0.5,) * 3, (0.5,) * 3), labels)


def hooks(classifier: Any) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in classifier._model.modules())


class Odd(nn.Module):
    """Has a linear layer as large as its labels, which `forward` may leave out or shorten."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.head = nn.Linear(3, len(LABELS))
        self._forward = forward

    def forward(self, images):
        return self._forward(self.head, images.mean((2, 3)))


def test_features_of_timm_are_what_its_head_is_given():
    guide = tiny.classifier("test_resnet")
    model = timm.create_model(f"local-dir:{folder()}", pretrained=True).eval()
    with torch.no_grad():
        hidden = model.forward_features(guide.preprocess(IMAGES))
        expected = model.forward_head(hidden, pre_logits=True)
    computed = guide.features(IMAGES)
    torch.testing.assert_close(computed, expected)
    torch.testing.assert_close(model.get_classifier()(computed), guide.logits(IMAGES))
    assert computed.std(0).max() > 1e-3
    assert hooks(guide) == 0


def test_features_of_transformers_are_the_class_token(tmp_path):
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    names = dict(enumerate(LABELS))
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=32, patch_size=8, id2label=names, initializer_range=0.5)
    ).eval()
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    guide = classifiers.load(str(tmp_path))
    with torch.no_grad():
        expected = model.vit(guide.preprocess(IMAGES)).last_hidden_state[:, 0]
    computed = guide.features(IMAGES)
    torch.testing.assert_close(computed, expected)
    torch.testing.assert_close(model.classifier(computed), guide.logits(IMAGES))
    assert computed.std(0).max() > 1e-3
    assert hooks(guide) == 0


def test_features_carry_no_gradient_and_are_float32():
    computed = tiny.classifier("test_resnet").features(IMAGES.clone().requires_grad_())
    assert (computed.requires_grad, computed.dtype, len(computed)) == (False, torch.float32, 3)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda head, colour: colour[:, [0, 1, 2, 0]], "takes no part in its output; set metrics.features"),
        (lambda head, colour: head(colour)[:, :2], r"with 4 labels returned \(3, 2\)"),
    ],
)
def test_features_of_a_model_that_leaves_its_layer_out_are_refused_without_a_hook_behind(forward, message):
    guide = single(Odd(forward))
    with pytest.raises(ModelError, match=message):
        guide.features(IMAGES)
    assert hooks(guide) == 0


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 5), nn.Flatten()),
    ],
)
def test_features_of_a_model_without_a_linear_last_layer_are_refused(model):
    guide = single(model)
    assert guide.logits(IMAGES).shape == (3, 4)
    with pytest.raises(ModelError, match=r"no linear last layer .* set metrics\.features to another one, incep"):
        guide.features(IMAGES)


def test_features_of_several_classifiers_stand_side_by_side():
    members = [tiny.classifier("test_resnet"), single(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))]
    computed = EnsembleClassifier(members, [1, 9], tiny.CLASSES).features(IMAGES)
    assert torch.equal(computed, torch.cat([member.features(IMAGES) for member in members], 1))
    assert computed.shape == (3, 96 + 192)
    without = single(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()))
    with pytest.raises(ModelError, match="no linear last layer"):
        EnsembleClassifier([*members, without], [1, 1, 1], tiny.CLASSES).features(IMAGES)


def test_timm_features_of_a_folder_are_what_its_head_would_be_given():
    computed = features.load(f"local-dir:{folder()}")(IMAGES.clone().requires_grad_())
    torch.testing.assert_close(computed, tiny.classifier("test_resnet").features(IMAGES))
    assert (computed.requires_grad, computed.dtype, computed.shape) == (False, torch.float32, (3, 96))


def test_timm_features_of_an_unknown_name_are_refused_by_name():
    with pytest.raises(ModelError, match=r"metrics\.features 'no_such_net_at_all' cannot be loaded: Unknown.*judge"):
        features.load("no_such_net_at_all")


def test_timm_features_of_a_model_that_is_not_in_the_cache_are_refused_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("hf-hub:nobody/no-such-model", "test_vit"):
        with pytest.raises(ModelError, match=rf"metrics\.features '{name}' cannot be loaded"):
            features.load(name)


@pytest.mark.parametrize(
    "damage",
    [
        {"model.safetensors": b"no tensors" * 20},
        {"model.safetensors": None},
        {"model.safetensors": None, "pytorch_model.bin": b"no tensors" * 20},
        {"config.json": b"{"},
        {"config.json": b"[]"},
        {"config.json": b'{"model_type": "vit"}'},
        {"config.json": None},
    ],
)
def test_timm_features_of_a_damaged_folder_are_refused_by_name(tmp_path, damage):
    net = tmp_path / "net"
    shutil.copytree(folder(), net)
    for name, content in damage.items():
        (net / name).unlink() if content is None else (net / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"metrics\.features 'local-dir:{net}' cannot be loaded: ."):
        features.load(f"local-dir:{net}")


def test_timm_features_of_a_model_with_weights_of_another_are_refused(tmp_path):
    net = tmp_path / "net"
    shutil.copytree(folder(), net)
    settings = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps({**settings, "architecture": "test_vit"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        features.load(f"local-dir:{net}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights for the Inception network of FID, whose layers are called as torchvision's."""
    torch.manual_seed(5)
    net = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    state = net.state_dict()
    for name, weight in state.items():
        if name.endswith("conv.weight"):
            weight.mul_(6**0.5)  # from PyTorch's default to He's: the signal lasts through all layers
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    yield path
    path.unlink()


def test_inception_features_of_pictures_are_those_of_torch_fidelity(weights):
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    noise[0, :16, :16, 0] = np.arange(256).reshape(16, 16)  # every value comes back
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(weights))
    expected = theirs(torch.from_numpy(noise).permute(0, 3, 1, 2))[0]
    images = torch.cat([square(Image.fromarray(picture), 40) for picture in noise])
    computed = features.load("inception", weights=weights)(images)
    torch.testing.assert_close(computed, expected, rtol=0, atol=0)
    assert computed.shape == (2, 2048)
    assert (computed[0] - computed[1]).abs().max() > 1e-3


@pytest.mark.parametrize("content", [None, b"", b"hello world", b"a", "cut", [1, 2], {"conv": torch.zeros(1)}])
def test_inception_features_with_a_missing_or_damaged_file_is_refused_by_name(weights, tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "cut":
        content = weights.read_bytes()[:100_000]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=rf"its weights '{path}' cannot be read: .*metrics\.inception_weights"):
        features.load("inception", weights=path)


def test_inception_features_with_a_file_that_holds_a_program_does_not_run_it(tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return print, ("it ran",)

    torch.save({"fc.bias": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        features.load("inception", weights=tmp_path / "weights.pth")
    assert "it ran" not in capfd.readouterr().out


def test_inception_features_without_network_needs_the_weights_of_an_earlier_download(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request._opener", None)  # it knows the proxies of its first use
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and no one listens
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"its weights cannot be read: .*refused.*metrics\.inception_weights"):
            features.load("inception")
        cache = tmp_path / "hub" / "checkpoints"
        cache.mkdir(parents=True, exist_ok=True)
        (cache / URL_INCEPTION_V3.rpartition("/")[2]).symlink_to(weights)
        assert callable(features.load("inception"))


def test_inception_features_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ModelError, match=r"pip install 'dct-augment\[inception\]'"):
        features.load("inception")
