"""Classifiers of timm do what timm does in evaluation, and take weights from a file."""

import json
import os
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file

from dct_augment import classifiers
from dct_augment.classifiers import timm_models
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from tests import tiny
from tests.classifiers.small_models import LABELS, MEAN, SHAPES, STD, as_tensor, image_with_an_edge


def test_the_logits_of_a_loaded_timm_model_are_timms_own():
    guide = tiny.classifier("test_resnet")
    folder = tiny.classifier_folder("test_resnet", LABELS, 32)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    pixels = timm.data.create_transform(**config, is_training=False)(image_with_an_edge(32, 32))[None]
    with torch.no_grad():
        expected = model(pixels)
        torch.testing.assert_close(guide.logits(as_tensor(image_with_an_edge(32, 32))), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01
    assert guide.labels == LABELS


@pytest.mark.parametrize(
    "name", ["timm/test_resnet.r160_in1k", "hf_hub:timm/test_resnet.r160_in1k", "test_resnet.r160_in1k"]
)
def test_a_timm_model_is_loaded_from_the_hubs_cache_with_a_revision(tmp_path, monkeypatch, name):
    """`owner/name` says in its config.json that it is timm's; timm's own names have a repository each."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    shutil.copytree(tiny.classifier_folder("test_resnet", LABELS, 32), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert classifiers.load([ClassifierConfig(name=name, revision="v2")]).labels == LABELS
    with pytest.raises(ModelError, match="cannot be loaded"):
        classifiers.load([ClassifierConfig(name=name, revision="v3")])


@pytest.mark.parametrize("data", [{"crop_mode": "border"}, {"interpolation": "hamming"}])
def test_a_timm_transform_that_cannot_be_followed_is_refused(tmp_path, data):
    folder = tmp_path / "net"
    shutil.copytree(tiny.classifier_folder("test_resnet", LABELS, 32), folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["pretrained_cfg"] = {**settings["pretrained_cfg"], "crop_pct": 0.8, **data}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"does more than resize, crop and normalise|preprocessing fails"):
        classifiers.load(f"local-dir:{folder}")


def test_damaged_timm_weights_and_too_few_label_names_are_refused(tmp_path):
    folder = tmp_path / "net"
    shutil.copytree(tiny.classifier_folder("test_resnet", LABELS, 32), folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "label_names": ["a", "b"]}))
    with pytest.raises(ModelError, match=r"has 2 label_names .* but 4 outputs"):
        classifiers.load(f"local-dir:{folder}")
    for weights in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
        weights.write_bytes(b"no tensors" * 20)
    with pytest.raises(ModelError, match="cannot be loaded"):
        classifiers.load(f"local-dir:{folder}")


@pytest.mark.parametrize(
    "data",
    [
        {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bilinear"},
        {"input_size": (3, 32, 32), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
        {"input_size": (3, 48, 48), "crop_pct": 1.0, "interpolation": "bicubic"},
    ],
)
def test_the_preprocessing_of_a_timm_model_is_timms_own(data):
    model = timm.create_model("test_resnet")
    model.pretrained_cfg = {**model.pretrained_cfg, **data, "mean": MEAN, "std": STD}
    preprocess = timm_models.preprocess(model)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    for shape in SHAPES:
        difference = preprocess(as_tensor(image_with_an_edge(*shape)))[0] - transform(image_with_an_edge(*shape))
        assert (difference * torch.tensor(STD).view(3, 1, 1)).abs().max() <= 2.01 / 255


def test_a_checkpoint_must_be_a_state_dict_with_the_architectures_classifier(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    for name, message in (
        ("list.pth", "holds a list, not a state dict"),
        ("vit.pth", "has no classifier"),
        ("gone.pth", "does not exist; give the path of its weights"),
        ("pipe.pth", "is no file; give the path of its weights"),
    ):
        with pytest.raises(ModelError, match=message):
            classifiers.load([ClassifierConfig(name="test_resnet", checkpoint=tmp_path / name)])
    distilled = "deit_tiny_distilled_patch16_224"
    torch.save(timm.create_model(distilled, num_classes=4).state_dict(), tmp_path / "deit.pth")
    member = ClassifierConfig(name=distilled, checkpoint=tmp_path / "deit.pth", match="index")
    assert len(classifiers.load([member]).labels) == 4


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "wrapped.pth"])
def test_a_timm_architecture_takes_its_weights_from_a_checkpoint(tmp_path, suffix):
    trained = timm.create_model("test_resnet", num_classes=4).eval()
    path, state = tmp_path / f"best{suffix}", trained.state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}} if "wrap" in suffix else state,
            path,
        )
    (tmp_path / "names.json").write_text(json.dumps(LABELS))
    member = ClassifierConfig(name="test_resnet", checkpoint=path, labels=tmp_path / "names.json")
    guide = classifiers.load([member])
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(guide.logits(images), trained(guide.preprocess(images)))
    for broken, message in ((tmp_path / "none.pth", "does not exist"), (tmp_path / "names.json", "cannot be")):
        with pytest.raises(ModelError, match=message):
            classifiers.load([ClassifierConfig(name="test_resnet", checkpoint=broken)])


def test_a_checkpoint_is_prepared_for_as_its_user_says(tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=4).state_dict(), weights)
    own = ClassifierConfig(name="test_resnet", checkpoint=weights, match="index")
    given = {"input_size": 48, "mean": MEAN, "std": STD, "interpolation": "bilinear"}
    said = ClassifierConfig(name="test_resnet", checkpoint=weights, match="index", **given)
    remarks: list[str] = []
    preprocess = classifiers.load([said], on_remark=remarks.append).preprocess
    assert (preprocess.crop, tuple(preprocess.mean), tuple(preprocess.std)) == ((48, 48), MEAN, STD)
    assert preprocess.interpolation == "bilinear"
    classifiers.load([own], on_remark=remarks.append)
    assert "input 48 x 48 pixels" in remarks[0]
    assert remarks[0].endswith("bilinear), mean 0.4 0.5 0.6, std 0.2 0.25 0.3")
    assert remarks[1].endswith("set what differs: input_size, mean, std, interpolation")


def test_a_vision_transformer_of_a_checkpoint_is_made_for_the_size_of_its_input(tmp_path):
    weights = tmp_path / "vit.pth"
    torch.save(timm.create_model("test_vit", num_classes=4, img_size=64).state_dict(), weights)
    guide = classifiers.load([ClassifierConfig(name="test_vit", checkpoint=weights, match="index", input_size=64)])
    assert guide.logits(torch.zeros(1, 3, 30, 30)).shape == (1, 4)


def test_preprocessing_is_refused_where_the_classifier_carries_its_own():
    folder = tiny.classifier_folder("test_resnet", LABELS, 32)
    with pytest.raises(ModelError, match="input_size has no effect on a classifier that carries its preprocessing"):
        classifiers.load([ClassifierConfig(name=f"local-dir:{folder}", input_size=48)])


def test_an_unknown_timm_architecture_is_refused_by_name():
    with pytest.raises(ModelError, match="'no_such_net_at_all' cannot be loaded"):
        classifiers.load("no_such_net_at_all")


def test_a_timm_folder_whose_config_is_not_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        classifiers.load(f"local-dir:{tmp_path}")


def test_a_timm_folder_without_weights_is_refused(tmp_path):
    folder = tmp_path / "net"
    shutil.copytree(tiny.classifier_folder("test_resnet", LABELS, 32), folder)
    for weights in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
        weights.unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        classifiers.load(f"local-dir:{folder}")


def test_a_timm_folder_without_label_names_is_refused():
    folder = tiny.classifier_folder("test_resnet", None)
    assert "label_names" not in json.dumps(json.loads((folder / "config.json").read_text()))
    with pytest.raises(ModelError, match="carries no label_names"):
        classifiers.load(f"local-dir:{folder}")
