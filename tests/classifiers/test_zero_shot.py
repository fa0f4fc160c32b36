"""Classifiers of class names against transformers' own processors, models and pipeline, on tiny CLIP and SigLIP."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from dct_augment.classifiers import EnsembleClassifier, Preprocess, class_prompts, naflex, zero_shot
from dct_augment.config import ZeroShotClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo
from tests import tiny
from tests.classifiers import zero_shot_models
from tests.classifiers.small_models import SHAPES, as_tensor, image_with_an_edge
from tests.classifiers.zero_shot_models import BIRDS, KINDS, SIDE

TEMPLATE = "a photo of a {class}"
PROMPTS = ["a photo of a crane", "a photo of a red bird", "a photo of a kiwi"]


def named(*names: str) -> tuple[ClassInfo, ...]:
    return tuple(
        ClassInfo(index, name, f"class-{index}", original_name=f"n{index}") for index, name in enumerate(names)
    )


def load(path: Path | str, classes: tuple[ClassInfo, ...] = BIRDS, **settings: Any) -> Any:
    return zero_shot.load(ZeroShotClassifierConfig(model=str(path), **settings), classes, "cpu")


def theirs(kind: str) -> tuple[Any, Any]:
    """The model and the processor as transformers loads them."""
    folder = zero_shot_models.folder(kind)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoProcessor.from_pretrained(folder)


def their_inputs(kind: str, processor: Any, image: Image.Image, prompts: list[str]) -> Any:
    padding: Any = True if kind == "clip" else "max_length"
    # Siglip2Processor says 256 patches of 16 pixels, as all published models have, whatever its image processor says.
    sizes = {"patch_size": 8, "max_num_patches": 16} if kind == "siglip2" else {}
    return processor(text=prompts, images=image, padding=padding, return_tensors="pt", **sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers_own_processor_and_model(kind: str) -> None:
    model, processor = theirs(kind)
    guide = load(zero_shot_models.folder(kind))
    # 24 x 40 pixels are 15 patches of the 16 that NaFlex may have: its processor pads, and masks the padding.
    for height, width in [(SIDE, SIDE), *([(24, 40)] if kind == "siglip2" else [])]:
        image = image_with_an_edge(height, width)
        with torch.no_grad():
            expected = model(**their_inputs(kind, processor, image, PROMPTS)).logits_per_image
            logits = guide.logits(as_tensor(image))
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
        assert expected.std() > 0.5  # the classes are far apart, so that the comparison means something
    assert guide.labels == ("crane", "red bird", "kiwi")


@pytest.mark.parametrize("kind", KINDS)
def test_input_is_that_of_the_processor_at_every_shape(kind: str) -> None:
    _, processor = theirs(kind)
    guide = load(zero_shot_models.folder(kind))
    std = torch.tensor(guide.preprocess.std).view(3, 1, 1)
    for shape in SHAPES:
        image = image_with_an_edge(*shape)
        inputs = processor.image_processor(image, return_tensors="pt")
        expected = inputs["pixel_values"]
        if kind == "siglip2":
            expected = naflex.image_of_patches(expected[0], *inputs["spatial_shapes"][0].tolist())[None]
        ours = guide.preprocess(as_tensor(image))
        assert ours.shape == expected.shape
        assert ((ours - expected) * std).abs().max() <= 2.01 / 255


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_those_of_the_zero_shot_pipeline(kind: str) -> None:
    image = image_with_an_edge(SIDE, SIDE)
    pipeline = transformers.pipeline("zero-shot-image-classification", model=str(zero_shot_models.folder(kind)))
    names = [info.name for info in BIRDS]
    answers = pipeline(image, candidate_labels=names, hypothesis_template="a photo of a {}")
    scores = {answer["label"]: answer["score"] for answer in answers}
    with torch.no_grad():
        logits = load(zero_shot_models.folder(kind)).logits(as_tensor(image))[0]
    probabilities = logits.softmax(0) if kind == "clip" else logits.sigmoid()
    assert probabilities.tolist() == pytest.approx([scores[name] for name in names], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_several_templates_are_normalised_averaged_and_normalised_again(kind: str) -> None:
    """Radford et al. 2021, section 3.1.4, written out with transformers' own calls."""
    templates = (TEMPLATE, "{class}", "a drawing of a {class} by the water")
    model, processor = theirs(kind)
    image = image_with_an_edge(SIDE, SIDE)
    rows = []
    with torch.no_grad():
        for info in BIRDS:
            prompts = [template.replace("{class}", info.name) for template in templates]
            inputs = their_inputs(kind, processor, image, prompts)
            outputs = model(**inputs)
            rows.append(outputs.text_embeds.mean(0))
        weights = functional.normalize(torch.stack(rows), dim=-1)
        bias = 0 if kind == "clip" else model.logit_bias
        expected = outputs.image_embeds @ weights.T * model.logit_scale.exp() + bias
        logits = load(zero_shot_models.folder(kind), templates=templates).logits(as_tensor(image))
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
    one = load(zero_shot_models.folder(kind)).logits(as_tensor(image))
    assert (one - logits).abs().max() > 0.05


def test_many_prompts_are_read_in_parts_that_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = as_tensor(image_with_an_edge(SIDE, SIDE))
    for kind in KINDS:
        whole = load(zero_shot_models.folder(kind), templates=(TEMPLATE, "{class}")).logits(pixels)
        monkeypatch.setattr(zero_shot, "_PROMPTS_AT_ONCE", 4)
        parts = load(zero_shot_models.folder(kind), templates=(TEMPLATE, "{class}")).logits(pixels)
        monkeypatch.undo()
        torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_to_pixels_is_that_of_transformers_own_model(kind: str) -> None:
    """Pixels of [-1, 1] are halved and divided by the deviation, and nothing else where no size changes."""
    model, processor = theirs(kind)
    guide = load(zero_shot_models.folder(kind))
    image = image_with_an_edge(SIDE, SIDE).point(lambda value: 20 + 0.8 * value)  # black and white are clamped
    inputs = their_inputs(kind, processor, image, PROMPTS)
    inputs["pixel_values"].requires_grad_()
    (model(**inputs).logits_per_image.softmax(1)[0, 1]).backward()
    gradient = inputs["pixel_values"].grad
    if kind == "siglip2":
        gradient = naflex.image_of_patches(gradient[0], *inputs["spatial_shapes"][0].tolist())[None]
    pixels = as_tensor(image).requires_grad_()
    guide.logits(pixels).softmax(1)[0, 1].backward()
    expected = gradient / torch.tensor(guide.preprocess.std).view(1, 3, 1, 1) / 2
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(pixels.grad, expected, atol=2e-3 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_through_resizing_is_the_slope_of_the_logits(kind: str) -> None:
    guide = load(zero_shot_models.folder(kind))
    network = guide._model.double()
    pixels = (0.7 * as_tensor(image_with_an_edge(50, 44)).double()).requires_grad_()
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(network(guide.preprocess(pixels))[0, 2], pixels)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = (network(guide.preprocess(pixels + sign * step * direction))[0, 2] for sign in (1, -1))
    slope = ((ahead - behind) / (2 * step)).item()
    assert abs(slope) > 1e-3
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_features_are_the_embeddings_of_the_images() -> None:
    for kind in KINDS:
        model, processor = theirs(kind)
        image = image_with_an_edge(SIDE, SIDE)
        with torch.no_grad():
            expected = model(**their_inputs(kind, processor, image, PROMPTS)).image_embeds
        torch.testing.assert_close(load(zero_shot_models.folder(kind)).features(as_tensor(image)), expected)


def test_classes_find_their_label_by_name_in_any_order() -> None:
    guide = load(zero_shot_models.folder("clip"))
    assert guide.targets(BIRDS[::-1]) == (2, 1, 0)
    assert guide.targets(BIRDS[1:2]) == (1,)
    with pytest.raises(ModelError, match=r"made of other classes, without \['gull'\]"):
        guide.targets(named("gull"))


@given(st.lists(st.text("ab1. _-,+", min_size=1, max_size=5), min_size=1, max_size=6, unique=True), st.randoms())
def test_every_class_finds_its_own_label_however_it_is_spelled(names: list[str], random: Random) -> None:
    steps = Preprocess.square(8, (0.0,) * 3, (1.0,) * 3)
    guide = zero_shot.ZeroShotClassifier(torch.nn.Identity(), steps, names)
    order = random.sample(range(len(names)), len(names))
    assert guide.targets([named(*names)[index] for index in order]) == tuple(order)


def test_the_text_encoder_is_set_free_after_loading() -> None:
    guide = load(zero_shot_models.folder("clip"))
    assert not [name for name, _ in guide._model.named_parameters() if "text_model" in name]


def test_an_ensemble_with_a_pretrained_classifier_averages_their_probabilities() -> None:
    alone, pretrained = load(zero_shot_models.folder("clip")), tiny.classifier("test_resnet")
    classes = tiny.CLASSES  # crane, kiwi, red bird: in another order than the labels of both
    judge = EnsembleClassifier([alone, pretrained], [1, 3], classes)
    pixels = as_tensor(image_with_an_edge(SIDE, SIDE))
    with torch.no_grad():
        parts = [member.logits(pixels).softmax(1)[0] for member in (alone, pretrained)]
        probabilities = judge.logits(pixels).exp()[0]
    for place, info in enumerate(classes):
        expected = [part[member.targets([info])[0]] for part, member in zip(parts, (alone, pretrained), strict=True)]
        assert probabilities[place].item() == pytest.approx((0.25 * expected[0] + 0.75 * expected[1]).item(), abs=1e-5)
    assert judge.targets(classes) == (0, 1, 2)
    assert judge.features(pixels).shape[0] == 1
    images = pixels.clone().requires_grad_()
    judge.logits(images)[0, 0].backward()
    assert images.grad.abs().max() > 0


def test_siglip_reads_its_prompts_in_lower_case_whatever_its_tokenizer(tmp_path: Path) -> None:
    """SigLIP 2 was trained so, but many of its repositories name Gemma's tokenizer, which keeps capitals."""
    folder = tmp_path / "model"
    shutil.copytree(zero_shot_models.folder("siglip2"), folder)
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    path.write_text(json.dumps(settings))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="<pad>", model_max_length=64)
    assert tokenizer("A").input_ids != tokenizer("a").input_ids
    small, large = (class_prompts.PromptReader(tokenizer, 64, "siglip").ids([word]) for word in ("kiwi", "KIWI"))
    assert small == large


def test_a_model_that_is_neither_clip_nor_siglip_is_refused(tmp_path: Path) -> None:
    settings = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    transformers.ViTForImageClassification(settings).save_pretrained(tmp_path / "vit")
    tiny.clip(tiny.tokenizer(), 16).save_pretrained(tmp_path / "text")
    timm_folder = tiny.classifier_folder("test_resnet", ("a", "b"), 32)
    for folder, what in (
        (tmp_path / "vit", "ViTForImageClassification"),
        (tmp_path / "text", "CLIPTextModel"),
        (timm_folder, "test_resnet"),
    ):
        with pytest.raises(ModelError, match=f"is neither CLIP nor SigLIP, but: {what}"):
            load(folder)


def test_a_folder_without_a_model_and_a_revision_of_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json in "):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"no config\.json in '/none'"):
        load("/none")
    with pytest.raises(ModelError, match="has no revision 'v2'; remove the revision"):
        load(zero_shot_models.folder("clip"), revision="v2")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded: "):
        load(tmp_path)


def test_a_zero_shot_model_is_loaded_from_the_hubs_cache_with_a_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--some--clip"
    shutil.copytree(zero_shot_models.folder("siglip"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pixels = as_tensor(image_with_an_edge(SIDE, SIDE))
    cached = load("some/clip", revision="v2")
    torch.testing.assert_close(cached.logits(pixels), load(zero_shot_models.folder("siglip")).logits(pixels))
    for revision in ("v3", None):
        with pytest.raises(ModelError, match=r"zero_shot model 'some/clip' cannot be loaded: .*without a network only"):
            load("some/clip", revision=revision)


def test_damaged_unsafe_and_incomplete_weights_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return print, ("it ran",)

    folder = tmp_path / "model"
    shutil.copytree(zero_shot_models.folder("clip"), folder)
    tiny.clip(tiny.tokenizer(), 16).save_pretrained(tmp_path / "text")
    shutil.copy(tmp_path / "text" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"its weights lack .*, so it is not a trained CLIPModel"):
        load(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors" * 20)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale": torch.zeros(()), "extra": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="hold more than tensors, which is never run"):
        load(folder)
    assert "it ran" not in capfd.readouterr().out


def test_a_folder_that_lacks_its_processor_or_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    bare, other = tmp_path / "bare", tmp_path / "other"
    zero_shot_models.model("clip", tiny.tokenizer()).save_pretrained(bare)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(bare)
    shutil.copytree(zero_shot_models.folder("clip"), other)
    zero_shot_models.model("clip", tiny.tokenizer(), image_size=48).save_pretrained(other)
    with pytest.raises(ModelError, match=r"its parts do not fit together: .*48"):
        load(other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_name_that_would_be_cut_is_named_with_what_it_would_lose(kind: str) -> None:
    long = "crane " * 80 + "by the water"
    with pytest.raises(ModelError, match=r"reads: 'a photo of a crane .* would lose '.*by the water'\. Shorten"):
        load(zero_shot_models.folder(kind), named("kiwi", long))


def test_a_name_of_exactly_the_room_is_read_and_one_more_piece_is_not() -> None:
    """The tiny tokenizer has a piece for each word of its corpus; start and end take two places."""
    fits = " ".join(["crane"] * (tiny.LENGTH - 2))
    load(zero_shot_models.folder("clip"), named(fits), templates=("{class}",))
    with pytest.raises(ModelError, match=f"the {tiny.LENGTH} pieces .* would lose 'kiwi'"):
        load(zero_shot_models.folder("clip"), named(f"{fits} kiwi"), templates=("{class}",))


@pytest.mark.parametrize("field", ["{token}", "{context}", "{place}", "{}"])
def test_an_unknown_field_in_a_template_is_refused(field: str) -> None:
    with pytest.raises(ModelError, match=r"template .* has the unknown field .*; only \{class\} is filled"):
        load("some/model", templates=(f"a {{class}} in {field}",))


def test_classes_that_one_name_or_one_reading_makes_alike_are_refused() -> None:
    with pytest.raises(ModelError, match=r"have the same: 'crane' \(n0\) and 'Crane' \(n2\)\. Give each words"):
        load("some/model", named("crane", "kiwi", "Crane"))
    with pytest.raises(ModelError, match=r"reads these classes as the same, .*: '鹤' \(n1\) and '鹬' \(n2\)"):
        load(zero_shot_models.folder("siglip"), named("crane", "鹤", "鹬"))
    load(zero_shot_models.folder("clip"), named("crane", "鹤", "鹬"))  # CLIP knows every byte
    with pytest.raises(ModelError, match="give the classes of a data set"):
        load(zero_shot_models.folder("clip"), ())


def test_prompts_are_checked_without_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(zero_shot_models.folder("siglip"), folder)
    (folder / "model.safetensors").unlink()
    member = ZeroShotClassifierConfig(model=str(folder))
    assert zero_shot.check_here(member, BIRDS)
    assert not zero_shot.check_here(ZeroShotClassifierConfig(model=str(tmp_path / "none")), BIRDS)
    with pytest.raises(ModelError, match="would lose"):
        zero_shot.check_here(member, named("crane " * 80))
