"""Image classifiers in the Hub's folder layout against their own processors."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from dct_augment import classifiers
from dct_augment.classifiers import transformers_models
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from tests import tiny
from tests.classifiers.small_models import LABELS, MEAN, SHAPES, STD, as_tensor, image_with_an_edge


def vit(**options):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    names = dict(enumerate(LABELS))
    config = transformers.ViTConfig(
        **sizes, image_size=32, patch_size=8, id2label=names, initializer_range=0.5, **options
    )
    return transformers.ViTForImageClassification(config)


def convnext():
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], id2label=dict(enumerate(LABELS)), initializer_range=0.5
    )
    return transformers.ConvNextForImageClassification(config)


def mobilenet():
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.1, image_size=32, id2label=dict(enumerate(LABELS)), initializer_range=0.1
    )
    return transformers.MobileNetV2ForImageClassification(config)


PROCESSORS = {
    "vit": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD)),
    "vit-bicubic": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, resample=3)),
    "convnext": (convnext, lambda kind: kind("ConvNext")(size={"shortest_edge": 32}, crop_pct=0.875)),
    "convnext-384": (convnext, lambda kind: kind("ConvNext")(size={"shortest_edge": 384}, crop_pct=0.875)),
    "mobilenet": (
        mobilenet,
        lambda kind: kind("MobileNetV2")(size={"shortest_edge": 43}, crop_size={"height": 32, "width": 32}),
    ),
    "vit-nearest": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, resample=0)),
    "levit": (vit, lambda kind: kind("Levit")(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})),
    "efficientnet": (vit, lambda kind: kind("EfficientNet")(size={"height": 32, "width": 32})),
}


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize("case", PROCESSORS)
def test_input_and_answer_of_a_transformers_model_are_those_of_its_processor(tmp_path, case, backend):
    torch.manual_seed(3)
    build, settings = PROCESSORS[case]
    model = build().eval()
    processor = settings(lambda name: getattr(transformers, f"{name}ImageProcessor{backend}"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    guide = classifiers.load(str(tmp_path))
    std = torch.tensor(guide.preprocess.std).view(3, 1, 1)
    for shape in SHAPES:
        image = image_with_an_edge(*shape)
        expected = processor(image, return_tensors="pt")["pixel_values"]
        ours = guide.preprocess(as_tensor(image))
        assert ours.shape == expected.shape
        assert ((ours - expected) * std).abs().max() <= 2.01 / 255
        with torch.no_grad():
            assert guide.logits(as_tensor(image)).argmax() == model(expected).logits.argmax()
    assert guide.labels == LABELS
    assert guide.targets(tiny.CLASSES) == (3, 2, 0)


def test_pooling_mean_before_norm_is_what_it_says(tmp_path):
    """The fine-tuned MAE guides of the paper: written out by hand here."""
    torch.manual_seed(4)
    model = vit().eval()
    with torch.no_grad():
        model.vit.layernorm.weight.normal_()
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    member = ClassifierConfig(name=str(tmp_path), pooling="mean_before_norm")
    guide, image = classifiers.load([member]), as_tensor(image_with_an_edge(32, 32))
    before_norm = []
    model.vit.layernorm.register_forward_pre_hook(lambda module, args: before_norm.append(args[0]))
    with torch.no_grad():
        usual = model(guide.preprocess(image)).logits
        mean = before_norm[0][:, 1:].mean(1)
        norm = model.vit.layernorm
        by_hand = torch.nn.functional.layer_norm(mean, mean.shape[-1:], norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(guide.logits(image), model.classifier(by_hand))
    assert (usual - guide.logits(image)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "processor",
    [
        transformers.MobileViTImageProcessor(),  # blue first
        transformers.PerceiverImageProcessor(),  # cuts before it resizes
        transformers.ViTImageProcessor(resample=5),
        transformers.ViltImageProcessor(),
        transformers.Siglip2ImageProcessor(),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused(tmp_path, processor):
    vit().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"preprocessing|processor"):
        classifiers.load(str(tmp_path))


@pytest.mark.parametrize("kind", [{}, {"feature_extractor_type": "ViTFeatureExtractor"}])
def test_an_old_transformers_repository_is_loaded(tmp_path, kind):
    """As the paper's guides are: weights in a .bin, one number for the size, an old processor or none."""
    model = vit().eval()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    settings = {"do_resize": True, "do_normalize": True, "image_mean": MEAN, "image_std": STD, "resample": 2, **kind}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "size": 32}))
    guide, image = classifiers.load(str(tmp_path)), as_tensor(image_with_an_edge(64, 48))
    with torch.no_grad():
        torch.testing.assert_close(guide.logits(image), model(guide.preprocess(image)).logits)
    assert (guide.preprocess.resize, guide.preprocess.interpolation) == ((32, 32), "bilinear")


def test_transformers_weights_that_are_damaged_unsafe_or_without_a_head_are_refused(tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return print, ("it ran",)

    model = vit()
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    transformers.ViTModel(model.config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lack classifier\.bias, classifier\.weight, so it is not a trained"):
        classifiers.load(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no tensors" * 20)
    with pytest.raises(ModelError, match="cannot be loaded"):
        classifiers.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save({**model.state_dict(), "extra": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="hold more than tensors, which is never run"):
        classifiers.load(str(tmp_path))
    assert "it ran" not in capfd.readouterr().out


def test_remote_code_of_a_transformers_model_is_not_run(tmp_path, monkeypatch):
    vit().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    theirs = {"AutoConfig": "theirs.Config", "AutoModelForImageClassification": "theirs.Model"}
    (tmp_path / "config.json").write_text(json.dumps({**settings, "model_type": "theirs", "auto_map": theirs}))
    (tmp_path / "theirs.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        classifiers.load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_transformers_labels_that_are_not_numbered_from_zero_are_refused(tmp_path):
    vit().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    names = {"1": "a", "2": "b", "3": "c", "4": "d"}
    (tmp_path / "config.json").write_text(json.dumps({**settings, "id2label": names}))
    with pytest.raises(ModelError, match="does not number its 4 labels from 0"):
        classifiers.load(str(tmp_path))


def test_pooling_that_a_transformers_model_does_not_have_is_refused(tmp_path):
    convnext().save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a ConvNextForImageClassification; pooling: mean_before_norm"):
        classifiers.load([ClassifierConfig(name=str(tmp_path), pooling="mean_before_norm")])


def test_placeholder_labels_of_transformers_need_a_file_or_an_order(tmp_path):
    folder = tmp_path / "model"
    model = vit()
    model.config.id2label = {index: f"LABEL_{index}" for index in range(4)}
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    with pytest.raises(ModelError, match="no label names"):
        classifiers.load(str(folder))
    assert classifiers.load([ClassifierConfig(name=str(folder), match="index")]).targets(tiny.CLASSES) == (0, 1, 2)
    (tmp_path / "names.txt").write_text("\n".join(LABELS))
    named = classifiers.load([ClassifierConfig(name=str(folder), labels=tmp_path / "names.txt")])
    assert named.targets(tiny.CLASSES) == (3, 2, 0)


def test_a_transformers_model_is_loaded_from_the_hubs_cache_with_a_revision(tmp_path, monkeypatch):
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--some--vit"
    vit().save_pretrained(repository / "snapshots" / commit)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert classifiers.load([ClassifierConfig(name="some/vit", revision="v2")]).labels == LABELS
    with pytest.raises(ModelError, match="'some/vit' cannot be loaded"):
        classifiers.load([ClassifierConfig(name="some/vit", revision="v3")])


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize("resample", [2, 3])
def test_sharp_corners_are_clipped_between_rows_and_columns(backend, resample):
    """Where bicubic overshoots twice, 8-bit libraries clip twice."""
    processor = getattr(transformers, f"ViTImageProcessor{backend}")(resample=resample)
    spots = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    for shape in ((300, 200), (512, 512), (700, 450)):
        image = Image.fromarray(spots).resize(shape, Image.Resampling.NEAREST)
        expected = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"])
        ours = transformers_models.preprocess(processor, "x")(as_tensor(image))
        assert ((ours - expected) / 2).abs().max() <= 2 / 255
