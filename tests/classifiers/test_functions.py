"""A user's own function makes a classifier."""

import sys

import pytest
import torch

from dct_augment import classifiers
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError


def test_a_function_of_the_users_own_makes_a_classifier_or_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "function_guide.py").write_text(
        "import torch\n\ndef build():\n    net = torch.nn.Flatten()\n    net.labels = ['a'] * 12\n    return net\n"
        "def wrong():\n    return 5\ndef bare():\n    return torch.nn.Flatten()\n"
    )
    guide = classifiers.load([ClassifierConfig(name="function_guide:build", library="function")])
    assert guide.logits(torch.full((1, 3, 2, 2), 0.25)).tolist() == [[0.25] * 12]
    with pytest.raises(ModelError, match="say so with library: function"):
        classifiers.load("function_guide:build")
    wrong = {
        "function_guide:wrong": "returned int",
        "function_guide:bare": "no attribute `labels`",
        "function_guide:none": "AttributeError",
        "nothing:at": "ModuleNotFoundError",
        "x": "module:function",
    }
    for name, message in wrong.items():
        with pytest.raises(ModelError, match=message):
            classifiers.load([ClassifierConfig(name=name, library="function")])
