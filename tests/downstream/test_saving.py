"""The classifier that a user keeps: timm loads it, its metadata say what it is, and a failure leaves nothing behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import dct_augment
from dct_augment import files
from dct_augment.config import DownstreamConfig
from dct_augment.downstream import saving, training
from dct_augment.downstream.saving import AccuracyEstimate, ClassifierFacts, save_classifier
from dct_augment.downstream.transforms import Transforms, model_input
from dct_augment.errors import InputError
from dct_augment.records import ClassInfo
from tests.conftest import CLASSES, speckled

SETTINGS = DownstreamConfig(image_size=32)
FACTS = ClassifierFacts(
    classes=CLASSES,
    arm="class_token",
    photos={"crane": 5, "ca-bird": 4, "gull": 5},
    synthetic={"crane": 50},
    dataset="birds | more",
    temperature=1.7,
    accuracy=AccuracyEstimate(0.78, 0.7, 0.85, "Mean of 15 folds of cross-validation."),
    arms={"real": AccuracyEstimate(0.71, 0.6, 0.8, "as above"), "class_token": AccuracyEstimate(0.78, 0.7, 0.85, "")},
    finding="Synthetic images help: +7 points (+3 to +11).",
    confusion=((9, 1, 0), (0, 10, 0), (3, 0, 7)),
    calibration_error=0.042,
    made_from={"photos": "ab" * 32},
)


def made(settings: DownstreamConfig, classes: int = 3) -> Any:
    torch.manual_seed(4)
    model: Any = training.create(settings, classes)
    with torch.no_grad():
        model.get_classifier().weight.normal_(std=0.5)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        DownstreamConfig(image_size=48, preprocessing="imagenet"),
        DownstreamConfig(model="test_vit", image_size=64),
        DownstreamConfig(model="test_resnet"),
    ],
    ids=["flexible", "imagenet", "fixed", "own-size"],
)
def test_timm_itself_loads_what_is_kept_with_the_same_logits_and_preprocessing(
    tmp_path: Path, settings: DownstreamConfig
) -> None:
    model = made(settings)
    save_classifier(tmp_path / "kept", model, settings, FACTS)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'kept'}", pretrained=True).eval()
    taken = model_input(settings)
    images = torch.randn(2, 3, *taken.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    data = timm.data.resolve_model_data_config(loaded)
    own = timm.data.create_transform(**data, is_training=False)
    image = speckled(1, 7).resize((90, 70), Image.Resampling.BICUBIC)
    assert torch.equal(own(image), Transforms(settings).plain(image))
    assert loaded.pretrained_cfg["label_names"] == ["crane", "Çà bird", "gull"]
    assert timm.data.resolve_model_data_config(loaded, use_test_size=True) == data


def test_a_kept_classifier_answers_as_the_model_did_and_knows_its_temperature(tmp_path: Path) -> None:
    model, root = made(SETTINGS), tmp_path / "runs" / "photos"
    save_classifier(root / "classifier", model, SETTINGS, FACTS)
    (root / "config.yaml").write_text("name: photos\n")
    image = speckled(2, 5).resize((64, 48))
    logits = model(Transforms(SETTINGS).plain(image)[None])[0].double()
    expected = (logits / 1.7).softmax(0)
    for place in (root, str(root), root / "classifier"):
        classifier = dct_augment.load_classifier(str(place))
        (prediction,) = classifier.predict([image])
        assert classifier.temperature == 1.7
        assert prediction.label == FACTS.labels[int(expected.argmax())]
        assert [share for _, share in prediction.top] == pytest.approx(
            sorted(expected.tolist(), reverse=True), abs=1e-2
        )


def test_the_metadata_say_all_that_is_known(tmp_path: Path) -> None:
    save_classifier(tmp_path / "kept", made(SETTINGS), SETTINGS, FACTS)
    data = json.loads((tmp_path / "kept" / "classifier.json").read_text(encoding="utf-8"))
    assert data["schema"] == 1
    assert [(one["index"], one["name"], one["slug"]) for one in data["classes"]] == [
        (0, "crane", "crane"),
        (1, "Çà bird", "ca-bird"),
        (2, "gull", "gull"),
    ]
    assert [(one["photos"], one["synthetic"]) for one in data["classes"]] == [(5, 50), (4, 0), (5, 0)]
    assert data["temperature"] == 1.7
    assert data["threshold"] is None
    assert data["accuracy"] == {
        "mean": 0.78,
        "low": 0.7,
        "high": 0.85,
        "method": "Mean of 15 folds of cross-validation.",
        "chance": None,
    }
    assert data["arm"] == "class_token"
    assert data["confusion"] == [[9, 1, 0], [0, 10, 0], [3, 0, 7]]
    assert data["model"]["preprocessing"]["input_size"] == [3, 32, 32]
    assert data["made_from"] == {"photos": "ab" * 32}
    for name, digest in data["files"].items():
        assert files.sha256(tmp_path / "kept" / name) == digest
    assert set(data["files"]) == {"config.json", "model.safetensors"}


def test_the_model_card_has_what_the_hub_reads_and_what_a_person_must_know(tmp_path: Path) -> None:
    save_classifier(tmp_path / "kept", made(SETTINGS), SETTINGS, FACTS)
    text = (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    parsed = yaml.safe_load(header)
    assert parsed["library_name"] == "timm"
    assert parsed["pipeline_tag"] == "image-classification"
    assert {"few-shot", "synthetic"} <= set(parsed["tags"])
    assert "license" not in parsed
    for said in (
        "# Classifier of birds \\| more: 3 classes",
        "14 photos and 50 generated images",
        "78.0% (95 % interval 70.0% to 85.0%) of new pictures. Mean of 15 folds",
        "Synthetic images help: +7 points",
        "| `class_token` | 78.0% | 70.0% to 85.0% | this classifier |",
        "| gull | crane | 3 of 10 |",
        "| 2 gull | 3 | 0 | 7 |",
        "temperature 1.7. Their expected calibration error is 4.2% (15 bins).",
        "| 1 | Çà bird | Çà bird | 4 | 0 |",
        "Do not use it",
        "32 x 32 pixels, bicubic, the middle 95.0% of the picture (center)",
        "ab" * 32,
    ):
        assert said in body, said
    assert body.index("| gull | crane") < body.index("| crane | Çà bird")


@pytest.mark.parametrize(("chance", "said"), [(0.72, True), (0.3, False), (None, False)])
def test_the_model_card_calls_an_accuracy_near_chance_that(chance: float | None, said: bool, tmp_path: Path) -> None:
    assert FACTS.accuracy is not None
    facts = replace(FACTS, accuracy=replace(FACTS.accuracy, chance=chance))
    save_classifier(tmp_path / "kept", made(SETTINGS), SETTINGS, facts)
    text = (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")
    sentence = "That is not clearly better than always answering the most frequent class (72.0%)."
    assert (sentence in text) == said


def test_a_classifier_of_nothing_but_photos_claims_nothing_of_generated_images(tmp_path: Path) -> None:
    facts = ClassifierFacts(classes=CLASSES, arm="real", photos={"crane": 1})
    save_classifier(tmp_path / "kept", made(SETTINGS), SETTINGS, facts)
    text = (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")
    assert "It was not measured." in text
    assert "enerated images may" not in text
    assert "What is taken for what" not in text
    assert "- synthetic" not in text


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    classes = (ClassInfo(0, "crane", "crane", True), ClassInfo(1, "crane", "crane-2", True), CLASSES[2])
    facts = replace(FACTS, classes=classes, photos={}, synthetic={})
    save_classifier(tmp_path / "kept", made(SETTINGS), SETTINGS, facts)
    assert dct_augment.load_classifier(str(tmp_path / "kept")).labels == ("crane (crane)", "crane (crane-2)", "gull")


def test_a_kept_classifier_takes_the_place_of_the_last_one_and_a_failure_leaves_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kept"
    save_classifier(folder, made(SETTINGS), SETTINGS, FACTS)
    (folder / "stray.txt").write_text("of the last one")
    save_classifier(folder, made(SETTINGS), SETTINGS, replace(FACTS, temperature=2.5))
    assert json.loads((folder / "classifier.json").read_text())["temperature"] == 2.5
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "classifier.json",
        "README.md",
    }

    def fail(*arguments: Any) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr(saving.model_card, "write_card", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_classifier(folder, made(SETTINGS), SETTINGS, FACTS)
    assert json.loads((folder / "classifier.json").read_text())["temperature"] == 2.5
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_is_published_of_other_weights_is_not_kept(tmp_path: Path) -> None:
    """timm drops the first output of weights with `label_offset`, and reads `custom_load` weights in another format."""
    settings = DownstreamConfig(model="test_resnet", image_size=32)
    model = made(settings)
    other = {"label_offset": 1, "custom_load": True, "test_input_size": (3, 96, 96), "test_crop_pct": 1.0}
    model.pretrained_cfg = {**model.pretrained_cfg, **other}
    save_classifier(tmp_path / "kept", model, settings, FACTS)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'kept'}", pretrained=True)
    assert torch.equal(loaded.get_classifier().weight, model.get_classifier().weight)
    config = json.loads((tmp_path / "kept" / "config.json").read_text())["pretrained_cfg"]
    assert not {"label_offset", "test_input_size", "test_crop_pct"} & set(config)
    assert config["custom_load"] is False


def test_the_weights_are_those_of_the_model(tmp_path: Path) -> None:
    model = made(SETTINGS)
    save_classifier(tmp_path / "kept", model, SETTINGS, FACTS)
    stored = load_file(tmp_path / "kept" / "model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": CLASSES[::-1]}, "in the order of its outputs"),
        ({"photos": {"bat": 3}}, "classes that do not exist: bat"),
        ({"confusion": ((1, 2), (3, 4))}, "confusion must be 3 x 3"),
    ],
)
def test_facts_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(FACTS, **changes)


def test_a_model_of_other_outputs_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 5 outputs, but there are 3 classes"):
        save_classifier(tmp_path / "kept", made(SETTINGS, 5), SETTINGS, FACTS)
    assert list(tmp_path.iterdir()) == []
