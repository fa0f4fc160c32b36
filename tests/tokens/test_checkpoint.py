"""Which training a checkpoint is for."""

import pytest

from dct_augment.tokens.checkpoint import TrainingCheckpoint

STATE = {"classes": ["crane", "kiwi", "gull"], "waiting": ["gull"], "active": []}
IDENTITY = {"seed": 0}


@pytest.fixture
def checkpoint(tmp_path):
    """The checkpoint of group 0, written."""
    checkpoint = TrainingCheckpoint(tmp_path, 0, IDENTITY)
    checkpoint.write(STATE)
    return checkpoint


def test_a_checkpoint_is_read_for_its_classes_whether_missing_or_finished(checkpoint):
    assert checkpoint.read(["crane", "kiwi", "gull"], []) is not None
    state = checkpoint.read(["gull"], ["crane", "kiwi", "heron"])
    assert {key: state[key] for key in STATE} == STATE


def test_a_checkpoint_without_one_of_the_missing_classes_is_not_read(checkpoint):
    assert checkpoint.read(["crane", "kiwi", "gull", "heron"], []) is None


def test_a_checkpoint_with_a_class_that_is_neither_missing_nor_finished_is_not_read(checkpoint):
    assert checkpoint.read(["gull"], ["crane"]) is None


def test_a_checkpoint_of_other_settings_or_of_another_group_is_not_read(checkpoint, tmp_path):
    assert TrainingCheckpoint(tmp_path, 0, {"seed": 1}).read(STATE["classes"], []) is None
    assert TrainingCheckpoint(tmp_path, 1, IDENTITY).read(STATE["classes"], []) is None


@pytest.mark.parametrize("place", [0, 100, -40, -1])
def test_a_checkpoint_with_a_flipped_bit_is_not_read(checkpoint, tmp_path, place):
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert checkpoint.read(STATE["classes"], []) is None


def test_a_cleared_or_damaged_checkpoint_is_not_read(checkpoint, tmp_path):
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert checkpoint.read(STATE["classes"], []) is None
    checkpoint.clear()
    assert checkpoint.read(STATE["classes"], []) is None
    assert list(tmp_path.iterdir()) == []
