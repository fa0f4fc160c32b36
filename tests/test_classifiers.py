"""Classifiers: the same input as timm's own transform gives, gradients, labels by name, load errors."""

import json
import shutil

import numpy as np
import pytest
import timm
import tiny
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from dct_augment import classifiers, pocket
from dct_augment.classifiers import Preprocess, Single, Voting, check, labels, timm_models
from dct_augment.classifiers.labels import Labels
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo, Example

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
    guide = Single(model, Preprocess.square(size, MEAN, STD), LABELS)
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
    guide = Single(model, Preprocess.square(8, MEAN, STD), LABELS)
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

    guide = Single(Fixed(), Preprocess.square(8, MEAN, STD), LABELS)
    chances = Fixed()(None).exp()
    (first, second) = guide.verdicts(torch.zeros(2, 3, 8, 8), [2, 0])
    assert first == ("stone", pytest.approx(chances[0, 2].item()))
    assert second == ("Red_Bird", pytest.approx(chances[1, 0].item()))


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
        guide = Single(Keep(), Preprocess.square(8, MEAN, STD), ("crane", "kiwi", "Crane "))
        assert guide.targets([ClassInfo(0, "kiwi", "kiwi")]) == (1,)
        with pytest.raises(ModelError, match="no single label for 1 of 1 classes: 'crane' is"):
            guide.targets([ClassInfo(0, "crane", "crane")])

    def test_imagenets_two_cranes_are_told_apart_by_their_ids(self):
        model = timm.create_model("test_resnet")
        names, ids = timm_models._labels(ClassifierConfig(name="test_resnet"), model)
        known = Labels(names, ids)
        bird, machine = (
            ClassInfo(i, "crane", f"crane-{i}", source=wnid) for i, wnid in enumerate(("n02012849", "n03126707"))
        )
        assert known.match([bird, machine]) == (134, 517)
        with pytest.raises(ModelError, match=r"'crane' \(n02012849\) and 'crane' \(n03126707\)"):
            known.match([ClassInfo(0, "crane", "crane")])
        assert known.match([ClassInfo(0, "tank suit", "tank-suit")]) == (639,)

    @pytest.mark.parametrize(
        "label", ["001.Black_footed_Albatross", "black-footed albatross", " Black Footed  Albatross"]
    )
    def test_names_are_compared_without_case_numbers_and_punctuation(self, label):
        assert Labels(("x", label)).match([ClassInfo(0, "black footed albatross", "b")]) == (1,)

    def test_by_index_and_by_file(self, tmp_path):
        known, crane = Labels(LABELS), ClassInfo(1, "crane", "crane-2", source="n1")
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


SHAPES = [(32, 32), (64, 64), (100, 60), (40, 90), (20, 20)]
PROCESSORS = {
    "vit": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD)),
    "vit-bicubic": (vit, lambda kind: kind("ViT")(size={"height": 32, "width": 32}, resample=3)),
    "convnext": (convnext, lambda kind: kind("ConvNext")(size={"shortest_edge": 32}, crop_pct=0.875)),
    "convnext-384": (convnext, lambda kind: kind("ConvNext")(size={"shortest_edge": 384}, crop_pct=0.875)),
    "mobilenet": (mobilenet, lambda kind: kind("MobileNetV2")(
        size={"shortest_edge": 41}, crop_size={"height": 32, "width": 32})),
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
        std = torch.tensor(processor.image_std).view(3, 1, 1)
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


class TestTimm:
    """What timm does in evaluation, and weights from a file."""

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

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth", "wrapped.pth"])
    def test_an_architecture_with_a_checkpoint(self, tmp_path, suffix):
        trained = timm.create_model("test_resnet", num_classes=4).eval()
        path, state = tmp_path / f"best{suffix}", trained.state_dict()
        if suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(
                {"state_dict": {f"module.{k}": v for k, v in state.items()}} if "wrap" in suffix else state, path
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


def test_an_ensemble_averages_probabilities_by_weight_whatever_the_order_of_labels():
    class Swapped(Colour):
        labels = ("blue", "red")

        def forward(self, images):
            return super().forward(images)[:, [2, 0]] / 10

    plain = Preprocess.square(8, (0.5,) * 3, (0.5,) * 3)
    members = [Single(Colour(), plain, Colour.labels), Single(Swapped(), plain, Swapped.labels)]
    guide = Voting(members, [3.0, 1.0], COLOURS)
    images = flat(0.3, 0.2, 0.4).clone().requires_grad_()
    one, two = (member.logits(images).softmax(1)[0] for member in members)
    expected = torch.stack([0.75 * one[2] + 0.25 * two[0], 0.75 * one[0] + 0.25 * two[1], 0.75 * one[1]])
    torch.testing.assert_close(guide.logits(images).softmax(1)[0], expected)
    assert guide.targets(COLOURS) == (0, 1)
    assert guide.labels == ("blue", "red", "(other)")
    guide.logits(images)[0, 0].backward()
    assert images.grad.abs().max() > 0
    assert guide.verdicts(images.detach(), [1])[0][0] == "blue"


class TestCheck:
    """Real images show a wrong order of labels."""

    def examples(self, *colours):
        def file(colour):
            return lambda: Image.new("RGB", (8, 8), colour)

        return [Example(f"{label}-{n}", label, file(colour)) for n in range(6) for label, colour in enumerate(colours)]

    def guide(self):
        return Single(Colour(), Preprocess.square(8, (0.5,) * 3, (0.5,) * 3), Colour.labels)

    def test_right(self):
        assert check(self.guide(), COLOURS, self.examples("blue", "red"), "guide x") == 1.0
        assert check(self.guide(), COLOURS, [], "guide x") is None

    def test_wrong_order(self):
        with pytest.raises(ModelError, match=r"guide x recognises 0% of 8 real images of 2 classes; under 75%"):
            check(self.guide(), COLOURS, self.examples("red", "blue"), "guide x")

    def test_unreadable_images_are_passed_over(self):
        def broken():
            raise OSError("truncated")

        assert check(self.guide(), COLOURS, [Example("b", 0, broken), *self.examples("blue", "red")], "g") == 1.0


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
