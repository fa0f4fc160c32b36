"""Loading a classifier names it and what is wrong."""

import pytest

from dct_augment import classifiers, pocket
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from tests import tiny
from tests.classifiers.small_models import LABELS


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pooling": "mean_before_norm"}, "pooling: mean_before_norm has no effect on a classifier of timm"),
        ({"library": "transformers", "checkpoint": "x.pth"}, "checkpoint: x.pth has no effect on .* transformers"),
        ({"library": "function", "revision": "v2"}, "revision: v2 has no effect on a classifier of function"),
        ({"revision": "v2"}, "is not on the Hub, so it has no revision 'v2'"),
    ],
)
def test_a_setting_without_effect_on_a_classifier_is_refused(setting, message):
    folder = tiny.classifier_folder("test_resnet", LABELS, 32)
    with pytest.raises(ModelError, match=message):
        classifiers.load([ClassifierConfig(name=f"local-dir:{folder}", **setting)])


def test_an_unknown_pocket_classifier_names_those_there_are():
    with pytest.raises(ModelError, match="'pocket/bird-guide' does not exist") as caught:
        classifiers.load("pocket/bird-guide")
    assert all(f"pocket/{name}" in str(caught.value) for name in pocket.CLASSIFIERS)


def test_a_classifier_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no classifier in .*nothing.: it has no config\.json"):
        classifiers.load(f"local-dir:{tmp_path / 'nothing'}")
