"""Classifiers: the same input as timm's own transform gives, gradients, labels by name, load errors."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from dct_augment import classifiers, pocket
from dct_augment.classifiers import (
    EnsembleClassifier,
    Prediction,
    Preprocess,
    SingleClassifier,
    check_on_real_images,
    labels,
    timm_models,
    transformers_models,
)
from dct_augment.classifiers.labels import Labels
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo, Example
from tests import tiny

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LABELS = ("Red_Bird", "stone", "kiwi", "Crane")


class Keep(torch.nn.Module):
    """Stands in for a network; keeps what it was given."""

    def forward(self, pixels):
        self.seen = pixels
        return pixels.mean((2, 3))[:, [0, 1, 2, 0]]


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
    guide = SingleClassifier(model, Preprocess.square(size, MEAN, STD), LABELS)
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
    guide = SingleClassifier(model, Preprocess.square(8, MEAN, STD), LABELS)
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

    guide = SingleClassifier(Fixed(), Preprocess.square(8, MEAN, STD), LABELS)
    chances = Fixed()(None).exp()
    (first, second) = guide.predictions(torch.zeros(2, 3, 8, 8), [2, 0])
    assert (first.label, first.is_target) == ("stone", False)
    assert (second.label, second.is_target) == ("Red_Bird", True)
    assert first.probability == pytest.approx(chances[0, 2].item())
    assert second.probability == pytest.approx(chances[1, 0].item())


class TestTargets:
    """Labels are found by name, in whatever order and spelling the classifier has them."""

    def test_by_name(self):
        assert tiny.classifier("test_resnet").targets(tiny.CLASSES) == (3, 2, 0)

    def test_all_unmatched_classes_are_listed(self):
        strange = [*tiny.CLASSES, ClassInfo(3, "gull", "gull"), ClassInfo(4, "red brid", "red-brid")]
        with pytest.raises(ModelError, match=r"2 of 5 classes: 'gull'; 'red brid'.*did you mean 'red bird'") as caught:
            tiny.classifier("test_resnet").targets(strange)
        assert "'Red_Bird', 'stone', 'kiwi', 'Crane'" in str(caught.value)

    def test_a_label_that_stands_twice_is_refused(self):
        """ImageNet has two "crane": choosing one in silence would train the wrong bird."""
        guide = SingleClassifier(Keep(), Preprocess.square(8, MEAN, STD), ("crane", "kiwi", "Crane "))
        assert guide.targets([ClassInfo(0, "kiwi", "kiwi")]) == (1,)
        with pytest.raises(ModelError, match="no single label for 1 of 1 classes: 'crane' is"):
            guide.targets([ClassInfo(0, "crane", "crane")])

    def test_imagenets_two_cranes_are_told_apart_by_their_ids(self):
        model = timm.create_model("test_resnet")
        names, ids = timm_models._labels(ClassifierConfig(name="test_resnet"), model)
        known = Labels(names, ids)
        bird, machine = (
            ClassInfo(i, "crane", f"crane-{i}", original_name=wnid) for i, wnid in enumerate(("n02012849", "n03126707"))
        )
        assert known.match([bird, machine]) == (134, 517)
        with pytest.raises(ModelError, match=r"'crane' \(n02012849\) and 'crane' \(n03126707\)"):
            known.match([ClassInfo(0, "crane", "crane")])
        assert known.match([ClassInfo(0, "tank suit", "tank-suit")]) == (639,)

    def test_imagenets_ids_are_known_by_its_names(self):
        """As transformers' ImageNet classifiers carry them: names alone, with two "crane"."""
        names = list(timm.data.ImageNetInfo("imagenet-1k").label_descriptions())
        cranes = [
            ClassInfo(0, "crane", "crane", original_name="n03126707"),
            ClassInfo(1, "crane", "crane-2", original_name="n02012849"),
        ]
        square = Preprocess.square(8, MEAN, STD)
        assert SingleClassifier(Keep(), square, [name.split(",")[0] for name in names]).targets(cranes) == (517, 134)
        with pytest.raises(ModelError, match="no single label for 2 of 2"):
            SingleClassifier(Keep(), square, names[::-1]).targets(cranes)

    def test_two_classes_with_one_label_are_refused(self, tmp_path):
        known = Labels(("crane", "kiwi"))
        cranes = [
            ClassInfo(0, "crane", "crane", original_name="n1"),
            ClassInfo(1, "crane", "crane-2", original_name="n2"),
        ]
        with pytest.raises(ModelError, match=r"'crane' \(n1\) and 'crane' \(n2\) are both 'crane'"):
            known.match(cranes)
        (tmp_path / "match.yaml").write_text("n1: crane\nn2: crane")
        assert known.match(cranes, tmp_path / "match.yaml") == (0, 0)

    @pytest.mark.parametrize(
        "label", ["001.Black_footed_Albatross", "black-footed albatross", " Black Footed  Albatross"]
    )
    def test_names_are_compared_without_case_numbers_and_punctuation(self, label):
        assert Labels(("x", label)).match([ClassInfo(0, "black footed albatross", "b")]) == (1,)

    def test_by_index_and_by_file(self, tmp_path):
        known, crane = Labels(LABELS), ClassInfo(1, "crane", "crane-2", original_name="n1")
        assert known.match([crane], "index") == (1,)
        with pytest.raises(ModelError, match="4 outputs and 1 classes lie beyond: 'gull'"):
            known.match([ClassInfo(4, "gull", "gull")], "index")
        for key, label, found in (("n1", "stone", 1), ("crane-2", 2, 2), ("crane", "red bird", 0)):
            path = tmp_path / "match.yaml"
            path.write_text(json.dumps({key: label}))
            assert known.match([crane], path) == (found,)
        for text, said in (("[1]", "must be a mapping"), ("crane: 9", "no single label"), ("{", "cannot be read")):
            path.write_text(text)
            with pytest.raises(ModelError, match=said):
                known.match([crane], path)


class TestLabelFiles:
    """Names in output order, in three formats."""

    @pytest.mark.parametrize(
        ("name", "text"),
        [("a.txt", "crane\n\nkiwi \n"), ("a.json", '["crane", "kiwi"]'), ("a.yaml", "1: kiwi\n0: crane")],
    )
    def test_formats(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        assert labels.read(tmp_path / name, 2) == ("crane", "kiwi")
        with pytest.raises(ModelError, match="names 2 labels, but the classifier has 3 outputs"):
            labels.read(tmp_path / name, 3)

    @pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.yaml", "a: b"), ("a.yaml", "5"), ("b.txt", None)])
    def test_errors(self, tmp_path, name, text):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ModelError, match="labels: "):
            labels.read(tmp_path / name)


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


SHAPES = [(32, 32), (64, 64), (100, 60), (40, 90), (20, 20), (200, 301)]
PROCESSORS = {
    "vit": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD)),
    "vit-bicubic": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, resample=3)),
    "convnext": (convnext, lambda kind: kind("ConvNext")(size={"shortest_edge": 32}, crop_pct=0.875)),
    "convnext-384": (convnext, lambda kind: kind("ConvNext")(size={"shortest_edge": 384}, crop_pct=0.875)),
    "mobilenet": (mobilenet, lambda kind: kind("MobileNetV2")(
        size={"shortest_edge": 43}, crop_size={"height": 32, "width": 32})),
    "vit-nearest": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, resample=0)),
    "levit": (vit, lambda kind: kind("Levit")(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})),
    "efficientnet": (vit, lambda kind: kind("EfficientNet")(size={"height": 32, "width": 32})),
}  # fmt: skip


class TestTransformers:
    """Image classifiers in the Hub's folder layout against their own processors."""

    @pytest.mark.parametrize("backend", ["", "Pil"])
    @pytest.mark.parametrize("case", PROCESSORS)
    def test_input_and_answer_are_the_processors(self, tmp_path, case, backend):
        torch.manual_seed(3)
        build, settings = PROCESSORS[case]
        model = build().eval()
        processor = settings(lambda name: getattr(transformers, f"{name}ImageProcessor{backend}"))
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        guide = classifiers.load(str(tmp_path))
        std = torch.tensor(guide.preprocess.std).view(3, 1, 1)
        for shape in SHAPES:
            image = picture(*shape)
            expected = processor(image, return_tensors="pt")["pixel_values"]
            ours = guide.preprocess(as_images(image))
            assert ours.shape == expected.shape
            assert ((ours - expected) * std).abs().max() <= 2.01 / 255
            with torch.no_grad():
                assert guide.logits(as_images(image)).argmax() == model(expected).logits.argmax()
        assert guide.labels == LABELS
        assert guide.targets(tiny.CLASSES) == (3, 2, 0)

    def test_mean_of_patches_before_the_norm(self, tmp_path):
        """The fine-tuned MAE guides of the paper: written out by hand here."""
        torch.manual_seed(4)
        model = vit().eval()
        with torch.no_grad():
            model.vit.layernorm.weight.normal_()
        model.save_pretrained(tmp_path)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        member = ClassifierConfig(name=str(tmp_path), pooling="mean_before_norm")
        guide, image = classifiers.load([member]), as_images(picture(32, 32))
        kept = []
        model.vit.layernorm.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        with torch.no_grad():
            usual = model(guide.preprocess(image)).logits
            mean = kept[0][:, 1:].mean(1)
            norm = model.vit.layernorm
            by_hand = torch.nn.functional.layer_norm(mean, mean.shape[-1:], norm.weight, norm.bias, norm.eps)
            torch.testing.assert_close(guide.logits(image), model.classifier(by_hand))
        assert (usual - guide.logits(image)).abs().max() > 1e-3

    @pytest.mark.parametrize("processor", [
        transformers.MobileViTImageProcessor(),  # blue first
        transformers.PerceiverImageProcessor(),  # cuts before it resizes
        transformers.ViTImageProcessor(resample=5),
        transformers.ViltImageProcessor(),
        transformers.Siglip2ImageProcessor(),
    ])  # fmt: skip
    def test_preprocessing_that_cannot_be_followed_is_refused(self, tmp_path, processor):
        vit().save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"preprocessing|processor"):
            classifiers.load(str(tmp_path))

    @pytest.mark.parametrize("kind", [{}, {"feature_extractor_type": "ViTFeatureExtractor"}])
    def test_a_repository_of_old(self, tmp_path, kind):
        """As the paper's guides are: weights in a .bin, one number for the size, an old processor or none."""
        model = vit().eval()
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        facts = {"do_resize": True, "do_normalize": True, "image_mean": MEAN, "image_std": STD, "resample": 2, **kind}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**facts, "size": 32}))
        guide, image = classifiers.load(str(tmp_path)), as_images(picture(64, 48))
        with torch.no_grad():
            torch.testing.assert_close(guide.logits(image), model(guide.preprocess(image)).logits)
        assert (guide.preprocess.resize, guide.preprocess.interpolation) == ((32, 32), "bilinear")

    def test_weights_that_are_damaged_unsafe_or_without_a_head(self, tmp_path, capfd):
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

    def test_remote_code_is_not_run(self, tmp_path, monkeypatch):
        vit().save_pretrained(tmp_path)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        facts = json.loads((tmp_path / "config.json").read_text())
        theirs = {"AutoConfig": "theirs.Config", "AutoModelForImageClassification": "theirs.Model"}
        (tmp_path / "config.json").write_text(json.dumps({**facts, "model_type": "theirs", "auto_map": theirs}))
        (tmp_path / "theirs.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
        )
        with pytest.raises(ModelError, match="cannot be loaded"):
            classifiers.load(str(tmp_path))
        assert not (tmp_path / "ran").exists()

    def test_labels_that_are_not_numbered_from_zero(self, tmp_path):
        vit().save_pretrained(tmp_path)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        facts = json.loads((tmp_path / "config.json").read_text())
        names = {"1": "a", "2": "b", "3": "c", "4": "d"}
        (tmp_path / "config.json").write_text(json.dumps({**facts, "id2label": names}))
        with pytest.raises(ModelError, match="does not number its 4 labels from 0"):
            classifiers.load(str(tmp_path))

    def test_pooling_of_another_kind_of_model_is_refused(self, tmp_path):
        convnext().save_pretrained(tmp_path)
        transformers.ConvNextImageProcessor().save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="is a ConvNextForImageClassification; pooling: mean_before_norm"):
            classifiers.load([ClassifierConfig(name=str(tmp_path), pooling="mean_before_norm")])

    def test_placeholder_labels_need_a_file_or_an_order(self, tmp_path):
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

    def test_from_the_hubs_cache_with_revision(self, tmp_path, monkeypatch):
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
        ours = transformers_models.preprocess(processor, "x")(as_images(image))
        assert ((ours - expected) / 2).abs().max() <= 2 / 255


@pytest.mark.parametrize(("setting", "said"), [
    ({"pooling": "mean_before_norm"}, "pooling: mean_before_norm has no effect on a classifier of timm"),
    ({"library": "transformers", "checkpoint": "x.pth"}, "checkpoint: x.pth has no effect on .* transformers"),
    ({"library": "function", "revision": "v2"}, "revision: v2 has no effect on a classifier of function"),
    ({"revision": "v2"}, "is not on the Hub, so it has no revision 'v2'"),
])  # fmt: skip
def test_a_setting_without_effect_is_refused(setting, said):
    folder = tiny.classifier_folder("test_resnet", LABELS, 32)
    with pytest.raises(ModelError, match=said):
        classifiers.load([ClassifierConfig(name=f"local-dir:{folder}", **setting)])


class TestTimm:
    """What timm does in evaluation, and weights from a file."""

    @pytest.mark.parametrize("name", ["timm/test_resnet.r160_in1k", "hf_hub:timm/test_resnet.r160_in1k",
                                      "test_resnet.r160_in1k"])  # fmt: skip
    def test_from_the_hubs_cache_with_revision(self, tmp_path, monkeypatch, name):
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
    def test_a_transform_that_cannot_be_followed_is_refused(self, tmp_path, data):
        folder = tmp_path / "net"
        shutil.copytree(tiny.classifier_folder("test_resnet", LABELS, 32), folder)
        facts = json.loads((folder / "config.json").read_text())
        facts["pretrained_cfg"] = {**facts["pretrained_cfg"], "crop_pct": 0.8, **data}
        (folder / "config.json").write_text(json.dumps(facts))
        with pytest.raises(ModelError, match=r"does more than resize, crop and normalise|preprocessing fails"):
            classifiers.load(f"local-dir:{folder}")

    def test_damaged_weights_and_too_few_label_names(self, tmp_path):
        folder = tmp_path / "net"
        shutil.copytree(tiny.classifier_folder("test_resnet", LABELS, 32), folder)
        facts = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**facts, "label_names": ["a", "b"]}))
        with pytest.raises(ModelError, match=r"has 2 label_names .* but 4 outputs"):
            classifiers.load(f"local-dir:{folder}")
        for weights in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
            weights.write_bytes(b"no tensors" * 20)
        with pytest.raises(ModelError, match="cannot be loaded"):
            classifiers.load(f"local-dir:{folder}")

    @pytest.mark.parametrize("data", [
        {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bilinear"},
        {"input_size": (3, 32, 32), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
        {"input_size": (3, 48, 48), "crop_pct": 1.0, "interpolation": "bicubic"},
    ])  # fmt: skip
    def test_input_is_timms(self, data):
        model = timm.create_model("test_resnet")
        model.pretrained_cfg = {**model.pretrained_cfg, **data, "mean": MEAN, "std": STD}
        preprocess = timm_models.preprocess(model)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
        for shape in SHAPES:
            difference = preprocess(as_images(picture(*shape)))[0] - transform(picture(*shape))
            assert (difference * torch.tensor(STD).view(3, 1, 1)).abs().max() <= 2.01 / 255

    def test_checkpoints_of_other_kinds(self, tmp_path):
        torch.save([torch.zeros(2)], tmp_path / "list.pth")
        torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
        for name, said in (("list.pth", "holds a list, not a state dict"), ("vit.pth", "has no classifier")):
            with pytest.raises(ModelError, match=said):
                classifiers.load([ClassifierConfig(name="test_resnet", checkpoint=tmp_path / name)])
        distilled = "deit_tiny_distilled_patch16_224"
        torch.save(timm.create_model(distilled, num_classes=4).state_dict(), tmp_path / "deit.pth")
        member = ClassifierConfig(name=distilled, checkpoint=tmp_path / "deit.pth", match="index")
        assert len(classifiers.load([member]).labels) == 4

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth", "wrapped.pth"])
    def test_an_architecture_with_a_checkpoint(self, tmp_path, suffix):
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
        for broken, said in ((tmp_path / "none.pth", "does not exist"), (tmp_path / "names.json", "cannot be")):
            with pytest.raises(ModelError, match=said):
                classifiers.load([ClassifierConfig(name="test_resnet", checkpoint=broken)])


class Colour(torch.nn.Module):
    """Knows red, green and blue."""

    labels = ("red", "green", "blue")

    def forward(self, images):
        assert images.min() >= -1
        return 20 * images.mean((2, 3))


def test_a_function_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_guide.py").write_text(
        "import torch\n\ndef build():\n    net = torch.nn.Flatten()\n    net.labels = ['a'] * 12\n    return net\n"
        "def wrong():\n    return 5\ndef bare():\n    return torch.nn.Flatten()\n"
    )
    guide = classifiers.load([ClassifierConfig(name="my_guide:build", library="function")])
    assert guide.logits(torch.full((1, 3, 2, 2), 0.25)).tolist() == [[0.25] * 12]
    with pytest.raises(ModelError, match="say so with library: function"):
        classifiers.load("my_guide:build")
    wrong = {
        "my_guide:wrong": "returned int",
        "my_guide:bare": "no attribute `labels`",
        "my_guide:none": "AttributeError",
        "nothing:at": "ModuleNotFoundError",
        "x": "module:function",
    }
    for name, said in wrong.items():
        with pytest.raises(ModelError, match=said):
            classifiers.load([ClassifierConfig(name=name, library="function")])


COLOURS = [ClassInfo(0, "blue", "blue"), ClassInfo(1, "red", "red")]


def flat(*colour: float) -> torch.Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 8, 8)


class Given(torch.nn.Module):
    """Answers with fixed logits, the same for every image, that depend on the image all the same."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits * (1 + images.mean((1, 2, 3)))[:, None]


def single(model: torch.nn.Module, *labels: str) -> SingleClassifier:
    return SingleClassifier(model, Preprocess.square(8, (0.0,) * 3, (1.0,) * 3), labels)


class TestVoting:
    """Probabilities are averaged by weight, whatever the labels of the members and their order."""

    NAMES = ("blue", "red", "green", "Dark_Grey", "dark grey")
    BLACK = -torch.ones(1, 3, 8, 8)

    @settings(max_examples=40)
    @given(st.lists(
        st.tuples(
            st.permutations(NAMES), st.integers(0, 3), st.floats(0.1, 9),
            st.lists(st.floats(-5, 5, width=32), min_size=5, max_size=5),
        ), min_size=1, max_size=3,
    ))  # fmt: skip
    def test_mixture(self, drawn):
        votes = []
        for order, dropped, weight, logits in drawn:
            kept = [name for name in order if name in ("blue", "red") or self.NAMES.index(name) > dropped + 1]
            votes.append((kept, weight, logits[: len(kept)]))
        members = [single(Given(*logits), *kept) for kept, _, logits in votes]
        guide = EnsembleClassifier(members, [weight for _, weight, _ in votes], COLOURS)
        chances = guide.logits(self.BLACK).exp()[0]
        total = sum(weight for _, weight, _ in votes)
        for name in ("blue", "red", "green"):
            expected = sum(
                weight / total * torch.tensor(logits).softmax(0)[kept.index(name)].item()
                for kept, weight, logits in votes if name in kept
            )  # fmt: skip
            found = chances[guide.labels.index(name)].item() if name in guide.labels else 0.0
            assert found == pytest.approx(expected, abs=1e-5)
        assert chances.sum().item() == pytest.approx(1, abs=1e-5)
        assert guide.labels[:2] == ("blue", "red")
        assert guide.targets(COLOURS[::-1]) == (1, 0)
        assert chances.shape == (len(guide.labels),)

    def test_many_unlikely_labels_do_not_outvote_the_likeliest(self):
        """Together they are likelier than the target, which every member has first all the same."""
        member = single(Given(3.0, *[0.0] * 999), "blue", *(f"label {n}" for n in range(999)))
        guide = EnsembleClassifier([member, member], [1, 1], COLOURS[:1])
        (prediction,) = guide.predictions(self.BLACK, [0])
        (alone,) = member.predictions(self.BLACK, [0])
        assert prediction == Prediction("blue", True, pytest.approx(alone.probability))

    def test_a_hopeless_target_still_has_a_gradient(self):
        """Its probability is too small for float32; the guide must pull all the same, as one classifier does."""
        member, pulls = single(Given(0.0, 300.0), "blue", "red"), []
        for guide in (member, EnsembleClassifier([member, member], [1, 2], COLOURS)):
            images = (self.BLACK / 2).requires_grad_()
            torch.nn.functional.cross_entropy(guide.logits(images), torch.tensor([0])).backward()
            pulls.append(images.grad)
        assert pulls[0].abs().max() > 0.1
        torch.testing.assert_close(*pulls)

    def test_errors(self):
        members = [single(Given(1.0, 2.0), "blue", "red")] * 2
        with pytest.raises(ModelError, match=r"give load\(members, classes\)"):
            EnsembleClassifier(members, [1, 1], [])
        with pytest.raises(ModelError, match=r"other classes, without \['gull'\]"):
            EnsembleClassifier(members, [1, 1], COLOURS).targets([ClassInfo(7, "gull", "gull")])
        with pytest.raises(ModelError, match="no single label for 1 of 2 classes: 'red'"):
            EnsembleClassifier([members[0], single(Given(1.0), "blue")], [1, 1], COLOURS)


def test_outputs_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(ModelError, match=r"with 2 labels returned \(1, 3\) for 1 images, not \(1, 2\)"):
        single(Colour(), "blue", "red").logits(flat(0.1, 0.2, 0.3))
    model = torch.nn.Module()
    model.forward = lambda images: (images,)
    with pytest.raises(ModelError, match="returned tuple"):
        single(model, "blue", "red").logits(flat(0.1, 0.2, 0.3))


class TestCheck:
    """Real images show a wrong order of labels."""

    def examples(self, *colours):
        def file(colour):
            return lambda: Image.new("RGB", (8, 8), colour)

        return [Example(f"{label}-{n}", label, file(colour)) for n in range(6) for label, colour in enumerate(colours)]

    def guide(self):
        return SingleClassifier(Colour(), Preprocess.square(8, (0.5,) * 3, (0.5,) * 3), Colour.labels)

    def test_right(self):
        assert check_on_real_images(self.guide(), COLOURS, self.examples("blue", "red"), "guide x") == 1.0
        assert check_on_real_images(self.guide(), COLOURS, [], "guide x") is None

    def test_wrong_order(self):
        with pytest.raises(ModelError, match=r"guide x recognises 0% of 8 real images of 2 classes; under 75%"):
            check_on_real_images(self.guide(), COLOURS, self.examples("red", "blue"), "guide x")

    def test_few_images_a_class_and_no_more_are_opened(self):
        opened = []

        def examples():
            for number in range(10**6):
                yield Example(str(number), number % 2, lambda: opened.append(1) or Image.new("RGB", (8, 8), "blue"))

        one = COLOURS[:1]
        assert check_on_real_images(self.guide(), one, examples(), "g") == 1.0
        assert len(opened) == 4

    def test_unreadable_images_are_passed_over(self):
        def broken():
            raise OSError("truncated")

        assert (
            check_on_real_images(self.guide(), COLOURS, [Example("b", 0, broken), *self.examples("blue", "red")], "g")
            == 1.0
        )


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
