"""What the card of a classifier says of its accuracy."""

import json
from pathlib import Path

import pytest

from dct_augment.classifiers import card_accuracy
from dct_augment.config import ClassifierConfig, ZeroShotClassifierConfig

CARD = """---
model-index:
- name: vit-cub
  results:
  - task: {{type: image-classification}}
    dataset: {{name: CUB, type: cub}}
    metrics:
    - {{type: accuracy, value: {first}}}
    - {{type: f1, value: 0.1}}
  - dataset: {{name: NABirds, type: nabirds}}
    metrics:
    - {{type: accuracy, value: {second}}}
---
# A model
"""


def member(folder: Path) -> ClassifierConfig:
    return ClassifierConfig(name=str(folder))


@pytest.mark.parametrize(("first", "second", "lowest"), [(0.91, 0.86, 0.86), (91.5, 93, 0.915), ("high", 0.8, 0.8)])
def test_a_card_states_the_lowest_of_its_accuracies_as_a_share(
    tmp_path: Path, first: object, second: object, lowest: float
) -> None:
    (tmp_path / "README.md").write_text(CARD.format(first=first, second=second))
    assert card_accuracy(member(tmp_path)) == pytest.approx(lowest)


def test_a_classifier_that_a_run_has_kept_states_the_accuracy_to_expect(tmp_path: Path) -> None:
    (tmp_path / "classifier.json").write_text(json.dumps({"accuracy": {"mean": 0.72, "low": 0.6}}))
    assert card_accuracy(member(tmp_path)) == 0.72
    (tmp_path / "classifier.json").write_text(json.dumps({"accuracy": None}))
    assert card_accuracy(member(tmp_path)) is None


@pytest.mark.parametrize("text", ["no header", "---\nmodel-index: 7\n---\n", "---\n[broken\n---\n", ""])
def test_a_card_without_a_result_states_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert card_accuracy(member(tmp_path)) is None


def test_classifiers_without_a_card_state_nothing(tmp_path: Path) -> None:
    assert card_accuracy(member(tmp_path)) is None
    assert card_accuracy(ClassifierConfig(name="someone/no-such-model")) is None
    assert card_accuracy(ClassifierConfig(name="resnet50", checkpoint=tmp_path / "w.safetensors")) is None
    assert card_accuracy(ClassifierConfig(name="module:load", library="function")) is None
    assert card_accuracy(ZeroShotClassifierConfig()) is None
