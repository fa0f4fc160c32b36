"""What `predict` says of pictures of any kind, and what it says of those that it cannot read."""

import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dct_augment import classifiers
from dct_augment.classifiers import Classifier, EnsembleClassifier, Preprocess, SingleClassifier, prediction
from dct_augment.classifiers.kept import PredictionSettings
from dct_augment.errors import InputError, ModelError
from dct_augment.records import ClassInfo
from tests import tiny

COLOURS = ("red", "green", "blue")
CLASSES = tuple(ClassInfo(index, name, name) for index, name in enumerate(COLOURS))


class MeanColour(nn.Module):
    """Logits are the mean red, green and blue of the input, times 4."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        return pixels.mean((2, 3)) * 4


def colours(temperature: float = 1.0, threshold: float | None = None) -> SingleClassifier:
    preprocess = Preprocess.square(8, (0.0,) * 3, (1.0,) * 3)
    return SingleClassifier(MeanColour(), preprocess, COLOURS, predicting=PredictionSettings(temperature, threshold))


def plain(colour: str, size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.new("RGB", size, colour)


RED = math.exp(4) / (math.exp(4) + 2)  # of a red picture at temperature 1


def test_the_probability_is_the_softmax_of_logits_over_temperature() -> None:
    (cold,) = colours().predict([plain("red")])
    assert (cold.label, cold.reason) == ("red", "")
    assert cold.probability == pytest.approx(RED, abs=1e-6)
    assert cold.top[0] == ("red", cold.probability)
    assert dict(cold.top) == pytest.approx({"red": RED, "green": (1 - RED) / 2, "blue": (1 - RED) / 2}, abs=1e-6)
    (warm,) = colours(temperature=2).predict([plain("red")])
    assert warm.probability == pytest.approx(math.exp(2) / (math.exp(2) + 2), abs=1e-6)


def test_pictures_of_every_kind_are_read_alike(tmp_path: Path) -> None:
    image = plain("blue")
    image.save(tmp_path / "a.png")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    kinds: list[Any] = [
        image,
        image.convert("RGBA"),
        np.asarray(image),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        stream.getvalue(),
    ]
    assert {(found.label, round(found.probability, 6)) for found in colours().predict(kinds)} == {
        ("blue", round(RED, 6))
    }
    for one in kinds:
        assert [found.label for found in colours().predict(one)] == ["blue"]
    stack = np.stack([np.asarray(image), np.asarray(plain("red"))])
    assert [found.label for found in colours().predict(stack)] == ["blue", "red"]


def test_a_picture_is_read_as_a_person_sees_it(tmp_path: Path) -> None:
    """16 bits are scaled, EXIF turns, and CMYK is converted, as in training."""
    values = np.zeros((8, 8), np.uint16) + 65535
    Image.fromarray(values).save(tmp_path / "grey16.png")
    (found,) = colours().predict([tmp_path / "grey16.png"])
    assert dict(found.top) == pytest.approx(dict.fromkeys(COLOURS, 1 / 3))


def test_a_picture_that_cannot_be_read_is_a_row_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    pictures: list[Any] = [
        plain("red"),
        tmp_path / "notes.txt",
        tmp_path / "none.png",
        np.zeros((2, 2, 2)),
        plain("green"),
    ]
    found = colours().predict(pictures, batch_size=2)
    assert [one.label for one in found] == ["red", None, None, None, "green"]
    assert found[1].reason == "it is no picture of a known format"
    assert found[2].reason == "No such file or directory"
    assert "no picture: (H, W)" in found[3].reason
    assert (found[1].probability, found[1].top) == (0.0, ())


def test_below_the_threshold_the_class_is_unknown_and_the_list_stays() -> None:
    (sure,) = colours().predict([plain("red")], threshold=RED - 0.01)
    (unsure,) = colours().predict([plain("red")], threshold=RED + 0.01)
    assert (sure.label, unsure.label) == ("red", "unknown")
    assert unsure.top == sure.top
    assert unsure.probability == sure.probability
    classifier = colours(threshold=RED + 0.01)
    assert classifier.predict(plain("red"))[0].label == "unknown"
    assert classifier.predict(plain("red"), threshold=0)[0].label == "red"


def test_top_lists_the_likeliest_classes_and_never_more_than_there_are() -> None:
    image = Image.new("RGB", (4, 4), (200, 100, 20))
    for top, expected in ((1, ["red"]), (2, ["red", "green"]), (9, ["red", "green", "blue"])):
        (found,) = colours().predict(image, top=top)
        assert [label for label, _ in found.top] == expected


def test_batches_have_the_size_that_was_asked_for_and_change_nothing() -> None:
    pictures = [plain(COLOURS[n % 3], (10 + n, 12)) for n in range(7)]
    one, many = colours(), colours()
    assert one.predict(pictures, batch_size=1) == pytest.approx(many.predict(pictures, batch_size=3))
    assert one._model.batches == [1] * 7
    assert many._model.batches == [3, 3, 1]


def test_pictures_are_read_only_a_few_ahead_of_what_is_taken() -> None:
    taken = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield plain("red")

    answers = iter(colours().predict_each(endless(), batch_size=4))
    for _ in range(6):
        next(answers)
    assert taken <= 8 + prediction._THREADS + 1


def test_large_pictures_of_a_model_that_takes_any_size_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    class AsItIs(Preprocess):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images

    monkeypatch.setattr(prediction, "_MOST_VALUES", 1000)
    classifier = SingleClassifier(MeanColour(), AsItIs((), ()), COLOURS)
    found = classifier.predict([plain("red", (20, 10)), plain("red", (20, 10)), plain("blue", (5, 5))])
    assert [one.label for one in found] == ["red", "red", "blue"]
    assert classifier._model.batches == [2, 1]
    mixed = SingleClassifier(MeanColour(), AsItIs((), ()), COLOURS)
    assert [one.label for one in mixed.predict([plain("red", (5, 4)), plain("blue", (4, 5))])] == ["red", "blue"]


def test_an_ensemble_predicts_what_its_logits_say() -> None:
    other = SingleClassifier(MeanColour(), Preprocess.square(4, (0.5,) * 3, (0.1,) * 3), COLOURS[::-1])
    ensemble = EnsembleClassifier([colours(), other], [1, 3], CLASSES)
    pictures = [Image.new("RGB", (8, 8), (250, 30, 60)), Image.new("RGB", (8, 8), (5, 200, 190))]
    images = torch.cat([prediction_tensor(image) for image in pictures])
    expected = ensemble.logits(images).softmax(1)
    for found, row in zip(ensemble.predict(pictures), expected, strict=True):
        shares = dict(found.top)
        assert [shares[name] for name in COLOURS] == pytest.approx(row.tolist(), abs=1e-5)


def prediction_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_a_classifier_of_any_kind_predicts() -> None:
    class Own(Classifier):
        labels = COLOURS

        def logits(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

        def features(self, images: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

        def targets(self, classes: Any) -> tuple[int, ...]:
            return (0, 1, 2)

    found = Own().predict([plain("lime", (4, 6)), plain("blue", (9, 5))])
    assert [one.label for one in found] == ["green", "blue"]
    assert found[0].probability == pytest.approx(math.exp(2) / (math.exp(2) + 2), abs=1e-6)


def test_an_answer_that_is_not_finite_has_a_reason() -> None:
    class Broken(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.full((len(pixels), 3), float("nan"))

    broken = SingleClassifier(Broken(), Preprocess.square(8, (0.0,) * 3, (1.0,) * 3), COLOURS)
    (found,) = broken.predict(plain("red"))
    assert (found.label, found.reason) == (None, "the classifier's answer is not finite")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {"top": 0}, "top and batch_size must be 1 or more, not 0 and 32"),
        (([],), {"batch_size": 0}, "not 5 and 0"),
        (([],), {"threshold": 1.5}, r"threshold must lie in 0\.\.1, not 1\.5"),
        (([7],), {}, "not a int"),
        ((torch.zeros(1, 3, 8, 8),), {}, "give a tensor .* to `logits`"),
    ],
)
def test_arguments_that_cannot_be_are_one_message(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        colours().predict(*arguments, **options)


def test_no_picture_is_no_prediction() -> None:
    assert colours().predict([]) == []


def test_a_run_without_a_classifier_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: photos\n")
    with pytest.raises(ModelError, match=rf"has no classifier yet; .* fit --config {tmp_path}/config.yaml"):
        classifiers.load(str(tmp_path))


def test_a_folder_of_a_classifier_without_metadata_has_temperature_1() -> None:
    folder = tiny.classifier_folder("test_resnet", ("a", "b", "c"), 32)
    loaded = classifiers.load(str(folder))
    assert (loaded.temperature, loaded.threshold) == (1.0, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"temperature": 1}', "is damaged"),
        ('{"temperature": "hot", "threshold": null}', "is damaged"),
        ('{"temperature": 0, "threshold": null}', "temperature must be a number above 0, not 0"),
        ('{"temperature": NaN, "threshold": null}', "temperature must be a number above 0, not nan"),
        ('{"temperature": 1, "threshold": 2}', "threshold must be null, or 0 to 1, not 2"),
    ],
)
def test_damaged_metadata_are_one_message(tmp_path: Path, content: str, message: str) -> None:
    folder = tmp_path / "kept"
    shutil.copytree(tiny.classifier_folder("test_resnet", ("a", "b", "c"), 32), folder)
    (folder / "classifier.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        classifiers.load(str(folder))


def test_the_metadata_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    shutil.copytree(tiny.classifier_folder("test_resnet", ("a", "b", "c"), 32), folder)
    (folder / "classifier.json").write_text(json.dumps({"temperature": 2.5, "threshold": 0.4}))
    loaded = classifiers.load(str(folder))
    assert (loaded.temperature, loaded.threshold) == (2.5, 0.4)
