"""A classifier in other formats gives the probabilities of the model, for any number of images."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import dct_augment
from dct_augment import classifiers
from dct_augment.config import DownstreamConfig
from dct_augment.downstream import exporting, training
from dct_augment.downstream.exporting import export_classifier
from dct_augment.downstream.saving import ClassifierFacts, save_classifier
from dct_augment.errors import ExportError, InputError, ModelError
from tests.conftest import CLASSES

FACTS = ClassifierFacts(classes=CLASSES, arm="real", photos={"crane": 1}, temperature=1.9, threshold=0.3)


def kept(folder: Path, settings: DownstreamConfig) -> Path:
    torch.manual_seed(2)
    model: Any = training.create(settings, 3)
    with torch.no_grad():
        model.get_classifier().weight.normal_(std=0.5)
    save_classifier(folder / "classifier", model.eval(), settings, FACTS)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(tmp_path_factory.mktemp("run"), DownstreamConfig(image_size=32))


def expected(run: Path, images: torch.Tensor) -> torch.Tensor:
    model = timm.create_model(f"local-dir:{run / 'classifier'}", pretrained=True).eval()
    with torch.no_grad():
        return (model(images) / 1.9).softmax(1)


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(9 + count))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_torch_export_gives_the_models_probabilities(run: Path, tmp_path: Path, count: int) -> None:
    path = export_classifier(run, "torch_export", tmp_path / "net.pt2")
    module = torch.export.load(path).module()
    torch.testing.assert_close(module(images(count)), expected(run, images(count)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"image_size": 32}, {"model": "test_vit", "image_size": 64}], ids=["cnn", "vit"])
def test_onnx_gives_the_models_probabilities(tmp_path: Path, settings: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = kept(tmp_path / "run", DownstreamConfig.model_validate(settings))
    path = export_classifier(str(run), "onnx", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        batch = images(count, settings["image_size"])
        (found,) = session.run(["probabilities"], {"images": batch.numpy()})
        np.testing.assert_allclose(found, expected(run, batch).numpy(), atol=1e-5, rtol=1e-3)
    assert [path.name for path in tmp_path.iterdir() if path.name != "run"] == ["net.onnx"]


def check_metadata(metadata: dict[str, str]) -> None:
    assert json.loads(metadata["labels"]) == ["crane", "Çà bird", "gull"]
    assert json.loads(metadata["temperature"]) == 1.9
    assert json.loads(metadata["threshold"]) == 0.3
    preprocessing = json.loads(metadata["preprocessing"])
    assert preprocessing["input_size"] == [3, 32, 32]
    assert (preprocessing["mean"], preprocessing["std"]) == ([0.5] * 3, [0.5] * 3)
    assert (preprocessing["interpolation"], preprocessing["crop_pct"], preprocessing["crop_mode"]) == (
        "bicubic",
        0.95,
        "center",
    )


def test_the_files_say_labels_and_preprocessing(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export_classifier(run, "onnx", tmp_path / "net.onnx")
    check_metadata(onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map)
    path = export_classifier(run, "torch_export", tmp_path / "net.pt2")
    extra = dict.fromkeys((f"{key}.json" for key in ("labels", "preprocessing", "temperature", "threshold")), "")
    torch.export.load(path, extra_files=extra)
    check_metadata({name.removesuffix(".json"): text for name, text in extra.items()})


def test_a_file_that_gives_other_probabilities_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, open_file = exporting._FORMATS["torch_export"]

    def wrong(path: Path) -> Any:
        answer = open_file(path)
        return lambda batch: answer(batch) + 0.01

    monkeypatch.setitem(exporting._FORMATS, "torch_export", (write, wrong))
    with pytest.raises(ExportError, match=r"gives other probabilities than the model, by up to 0\.01"):
        export_classifier(run, "torch_export", tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        ("tflite", "net.tflite", "format 'tflite' does not exist; there are: onnx, torch_export"),
        ("torch_export", "net.onnx", r"a file of format torch_export ends in \.pt2"),
        ("onnx", "net", r"a file of format onnx ends in \.onnx"),
    ],
)
def test_a_format_or_ending_that_cannot_be_is_one_message(
    run: Path, tmp_path: Path, format: str, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_classifier(run, format, tmp_path / name)


def test_what_has_no_classifier_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(ModelError, match="has no classifier yet"):
        export_classifier(tmp_path, "torch_export", tmp_path / "net.pt2")
    with pytest.raises(ModelError, match="is no folder"):
        export_classifier("resnet50", "torch_export", tmp_path / "net.pt2")


def test_onnx_without_its_packages_says_how_to_get_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"onnxruntime is missing\): pip install 'dct-augment\[onnx\]'"):
        export_classifier(run, "onnx", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_shipped_classifier_is_exported_too(tmp_path: Path) -> None:
    path = dct_augment.export_classifier("pocket/birds-guide", "torch_export", tmp_path / "birds.pt2")
    found = torch.export.load(path).module()(torch.zeros(2, 3, 64, 64))
    guide = classifiers.load("pocket/birds-guide")
    torch.testing.assert_close(found, guide.logits(torch.zeros(2, 3, 64, 64)).softmax(1), atol=1e-5, rtol=1e-4)
