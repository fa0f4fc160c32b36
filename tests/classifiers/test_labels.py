"""Labels are found by name, in whatever order and spelling the classifier has them."""

import json

import pytest
import timm

from dct_augment.classifiers import Preprocess, SingleClassifier, labels, timm_models
from dct_augment.classifiers.labels import Labels
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo
from tests import tiny
from tests.classifiers.small_models import LABELS, MEAN, STD, RecordingNetwork


def test_classes_find_their_labels_by_name():
    assert tiny.classifier("test_resnet").targets(tiny.CLASSES) == (3, 2, 0)


def test_all_classes_without_a_label_are_listed():
    classes = [*tiny.CLASSES, ClassInfo(3, "gull", "gull"), ClassInfo(4, "red brid", "red-brid")]
    with pytest.raises(ModelError, match=r"2 of 5 classes: 'gull'; 'red brid'.*did you mean 'red bird'") as caught:
        tiny.classifier("test_resnet").targets(classes)
    assert "'Red_Bird', 'stone', 'kiwi', 'Crane'" in str(caught.value)


def test_a_label_that_a_classifier_has_twice_is_refused():
    """ImageNet has two "crane": choosing one in silence would train the wrong bird."""
    guide = SingleClassifier(RecordingNetwork(), Preprocess.square(8, MEAN, STD), ("crane", "kiwi", "Crane "))
    assert guide.targets([ClassInfo(0, "kiwi", "kiwi")]) == (1,)
    with pytest.raises(ModelError, match="no single label for 1 of 1 class: 'crane' is"):
        guide.targets([ClassInfo(0, "crane", "crane")])


def test_imagenets_two_cranes_are_told_apart_by_their_ids():
    model = timm.create_model("test_resnet")
    names, ids = timm_models._labels(ClassifierConfig(name="test_resnet"), model)
    classifier_labels = Labels(names, ids)
    bird, machine = (
        ClassInfo(i, "crane", f"crane-{i}", original_name=wnid) for i, wnid in enumerate(("n02012849", "n03126707"))
    )
    assert classifier_labels.match([bird, machine]) == (134, 517)
    with pytest.raises(ModelError, match=r"'crane' \(n02012849\) and 'crane' \(n03126707\)"):
        classifier_labels.match([ClassInfo(0, "crane", "crane")])
    assert classifier_labels.match([ClassInfo(0, "tank suit", "tank-suit")]) == (639,)


def test_imagenets_ids_are_found_by_its_list_of_names():
    """As transformers' ImageNet classifiers carry them: names alone, with two "crane"."""
    names = list(timm.data.ImageNetInfo("imagenet-1k").label_descriptions())
    cranes = [
        ClassInfo(0, "crane", "crane", original_name="n03126707"),
        ClassInfo(1, "crane", "crane-2", original_name="n02012849"),
    ]
    square = Preprocess.square(8, MEAN, STD)
    guide = SingleClassifier(RecordingNetwork(), square, [name.split(",")[0] for name in names])
    assert guide.targets(cranes) == (517, 134)
    with pytest.raises(ModelError, match="no single label for 2 of 2"):
        SingleClassifier(RecordingNetwork(), square, names[::-1]).targets(cranes)


def test_two_classes_with_one_label_are_refused(tmp_path):
    classifier_labels = Labels(("crane", "kiwi"))
    cranes = [
        ClassInfo(0, "crane", "crane", original_name="n1"),
        ClassInfo(1, "crane", "crane-2", original_name="n2"),
    ]
    with pytest.raises(ModelError, match=r"'crane' \(n1\) and 'crane' \(n2\) are both 'crane'"):
        classifier_labels.match(cranes)
    (tmp_path / "match.yaml").write_text("n1: crane\nn2: crane")
    assert classifier_labels.match(cranes, tmp_path / "match.yaml") == (0, 0)


@pytest.mark.parametrize("label", ["001.Black_footed_Albatross", "black-footed albatross", " Black Footed  Albatross"])
def test_labels_are_compared_without_case_padded_numbers_and_punctuation(label):
    assert Labels(("x", label)).match([ClassInfo(0, "black footed albatross", "b")]) == (1,)


def test_a_number_that_belongs_to_a_label_tells_it_from_another():
    seven_up = ClassInfo(0, "7 up", "7-up", original_name="7_up")
    euros = [ClassInfo(number, f"{number} euro", f"{number}-euro") for number in (1, 2)]
    assert Labels(("up", "7_Up", "1_euro", "2_euro")).match([seven_up, *euros]) == (1, 2, 3)
    with pytest.raises(ModelError, match=r"no single label for 1 of 1 class: '7 up'"):
        Labels(("up", "down")).match([seven_up])
    with pytest.raises(ModelError, match=r"no single label"):
        Labels(("7_up", "down")).match([ClassInfo(0, "up", "up")])


def test_numbers_that_count_the_labels_do_not_hinder():
    crane = ClassInfo(0, "crane", "crane")
    assert Labels(("1_kiwi", "2_crane")).match([crane]) == (1,)
    assert Labels(("1_kiwi, a bird", "2_crane, wading bird")).match([crane]) == (1,)
    counted = ClassInfo(0, "crane", "crane", original_name="002.Crane")
    assert Labels(("001.Kiwi", "002.Crane")).match([counted]) == (1,)


def test_a_class_with_words_of_the_users_own_still_finds_its_label():
    crane = ClassInfo(0, "crane bird", "crane", original_name="002.Crane", default_name="crane")
    assert Labels(("kiwi", "crane")).match([crane]) == (1,)
    assert Labels(("001.kiwi", "002.crane")).match([crane]) == (1,)


def test_a_file_of_labels_by_class_may_not_name_a_class_twice(tmp_path):
    path = tmp_path / "match.yaml"
    for text in ("crane: 1\ncrane: 2", "crane: 1\nCrane: 2"):
        path.write_text(text)
        with pytest.raises(ModelError, match="twice"):
            Labels(LABELS).match([ClassInfo(1, "crane", "crane")], path)


def test_classes_find_their_labels_by_index_and_by_a_file(tmp_path):
    classifier_labels, crane = Labels(LABELS), ClassInfo(1, "crane", "crane-2", original_name="n1")
    assert classifier_labels.match([crane], "index") == (1,)
    with pytest.raises(ModelError, match="4 outputs and 1 class lies beyond: 'gull'"):
        classifier_labels.match([ClassInfo(4, "gull", "gull")], "index")
    for key, label, output in (("n1", "stone", 1), ("crane-2", 2, 2), ("crane", "red bird", 0)):
        path = tmp_path / "match.yaml"
        path.write_text(json.dumps({key: label}))
        assert classifier_labels.match([crane], path) == (output,)
    for text, message in (("[1]", "must be a mapping"), ("crane: 9", "no single label"), ("{", "cannot be read")):
        path.write_text(text)
        with pytest.raises(ModelError, match=message):
            classifier_labels.match([crane], path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.txt", "crane\n\nkiwi \n"), ("a.json", '["crane", "kiwi"]'), ("a.yaml", "1: kiwi\n0: crane")],
)
def test_a_file_of_labels_has_three_formats(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert labels.read(tmp_path / name, 2) == ("crane", "kiwi")
    with pytest.raises(ModelError, match="names 2 labels, but the classifier has 3 outputs"):
        labels.read(tmp_path / name, 3)


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.yaml", "a: b"), ("a.yaml", "5"), ("b.txt", None)])
def test_a_file_of_labels_that_cannot_be_read_is_an_error(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match="labels: "):
        labels.read(tmp_path / name)
