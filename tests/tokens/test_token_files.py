"""The token files that a run leaves, and what is made of them when it starts again."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dct_augment.errors import InputError, StaleRunError
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.files import TokenFolder
from dct_augment.tokens.state import TrainedToken, Validation
from tests import tiny
from tests.tokens.certificates import certificate

BASE = {"path": "tiny", "revision": None, "family": "StableDiffusion", "blocks": [("", tiny.WIDTH)]}
IDENTITY: dict[str, Any] = {
    "schema": 2,
    "tokens": {"seed": 0, "look_ahead": [[0.1, 0.5]]},
    "guide": {"name": "pocket/x"},
}


def trained_token(count: int = 1, info: ClassInfo = tiny.CLASSES[2]) -> TrainedToken:
    """A token of so many vectors that reached its target."""
    vector = torch.randn(count, tiny.WIDTH, generator=torch.Generator().manual_seed(5))
    validation = Validation(2, 0.75, 0.6)
    return TrainedToken(info, vector, True, StopReason.TARGET, 2, 1, 99, validation, certificate(), (), (validation,))


def failed_token(info: ClassInfo) -> TrainedToken:
    """A class whose loss was not finite."""
    return replace(trained_token(info=info), usable=False, reason=StopReason.NON_FINITE, best=None, certificate=None)


@pytest.mark.parametrize("count", [1, 3])
def test_a_saved_token_is_read_with_its_vector_and_metadata(tmp_path, count):
    folder, trained = TokenFolder(tmp_path / "tokens", "Tiny Set"), trained_token(count)
    metadata = folder.save(trained, IDENTITY, BASE)
    assert metadata["token"] == "<dct-tiny-set-red-bird>"
    assert folder.file(trained.info) == tmp_path / "tokens" / "red-bird.safetensors"
    assert torch.equal(folder.vector(trained.info), trained.vector)
    assert folder.metadata(trained.info, IDENTITY) == json.loads(json.dumps(metadata))
    expected = {"usable": True, "stop_reason": "target reached", "updates": 2, "unet_evaluations": 99,
                "plain_guide_accuracy": 0.25, "guide_accuracy": 0.75, "plain_judge_accuracy": 0.25,
                "judge_accuracy": 0.7, "verdict": "certified",
                "gain": 0.5, "gain_low": 0.1, "gain_high": 0.9,
                "diversity": 40.0, "plain_diversity": 50.0, "mean_pixel_change": 12.3,
                "class": "red bird", "class_index": 2, "attempts": 1}  # fmt: skip
    assert {key: metadata[key] for key in expected} == expected
    token = folder.token(trained.info)
    assert (token.word, token.slug, len(token.sha256)) == ("<dct-tiny-set-red-bird>", "red-bird", 64)
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["red-bird.safetensors"]


def test_the_same_token_gives_the_same_bytes(tmp_path):
    hashes = set()
    for name in "ab":
        folder = TokenFolder(tmp_path / name, "tiny")
        folder.save(trained_token(), IDENTITY, BASE)
        hashes.add(folder.token(trained_token().info).sha256)
    assert len(hashes) == 1


def test_a_missing_token_has_no_metadata(tmp_path):
    assert TokenFolder(tmp_path, "tiny").metadata(tiny.CLASSES[0], IDENTITY) is None


def test_a_token_of_other_settings_is_refused_and_the_setting_named(tmp_path):
    folder = TokenFolder(tmp_path, "tiny")
    folder.save(trained_token(), IDENTITY, BASE)
    changed = IDENTITY | {"tokens": {"seed": 7, "look_ahead": [[0.1, 0.5]]}}
    with pytest.raises(StaleRunError, match=r"red-bird\.safetensors.*tokens\.seed: 0 -> 7") as caught:
        folder.metadata(trained_token().info, changed)
    assert "look_ahead" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 4, 40, -1])
def test_a_damaged_token_file_counts_as_missing(tmp_path, length):
    folder = TokenFolder(tmp_path, "tiny")
    folder.save(trained_token(), IDENTITY, BASE)
    path = folder.file(trained_token().info)
    path.write_bytes(path.read_bytes()[:length])
    assert folder.metadata(trained_token().info, IDENTITY) is None


@pytest.mark.parametrize("place", [0.2, 0.5, 0.999])
def test_a_token_file_with_a_flipped_bit_counts_as_missing_and_is_not_drawn_with(tmp_path, place):
    folder, info = TokenFolder(tmp_path, "tiny"), trained_token().info
    folder.save(trained_token(), IDENTITY, BASE)
    data = bytearray(folder.file(info).read_bytes())
    data[int(place * len(data))] ^= 1
    folder.file(info).write_bytes(data)
    assert folder.metadata(info, IDENTITY) is None
    with pytest.raises(InputError, match=r"red-bird\.safetensors"):
        folder.is_usable(info)


@pytest.mark.parametrize("metadata", [None, {"dct_augment": "{"}, {"dct_augment": "{}"}, {"dct_augment": "[1]"}])
def test_a_token_file_with_foreign_metadata_counts_as_missing(tmp_path, metadata):
    folder = TokenFolder(tmp_path, "tiny")
    save_file({"<dct-tiny-red-bird>": torch.zeros(16)}, folder.file(trained_token().info), metadata=metadata)
    assert folder.metadata(trained_token().info, IDENTITY) is None


@pytest.mark.parametrize("count", [1, 2])
def test_diffusers_loads_every_token_file_under_the_documented_word(tmp_path, count):
    folder, pipe = TokenFolder(tmp_path, "tiny"), tiny.pipeline()
    for info in tiny.CLASSES:  # all classes into one pipeline: no two names collide
        folder.save(trained_token(count, info), IDENTITY, BASE)
        pipe.load_textual_inversion(str(folder.file(info)))
    table = pipe.text_encoder.get_input_embeddings().weight
    for info in tiny.CLASSES:
        word = f"<dct-tiny-{info.slug}>"
        assert folder.word(info) == word
        number = pipe.tokenizer.convert_tokens_to_ids(word)
        assert torch.equal(table[number : number + count], trained_token(count, info).vector)
    with safe_open(folder.file(tiny.CLASSES[0]), "pt") as stored:
        assert list(stored.keys()) == ["<dct-tiny-crane>"]
        shape = stored.get_tensor("<dct-tiny-crane>").shape
    assert shape == ((tiny.WIDTH,) if count == 1 else (count, tiny.WIDTH))


def test_the_index_has_a_row_for_each_class_in_order(tmp_path):
    folder = TokenFolder(tmp_path, "tiny")
    assert folder.index().empty
    tokens = (trained_token(), trained_token(info=tiny.CLASSES[1]), failed_token(tiny.CLASSES[0]))
    folder.publish([folder.save(token, IDENTITY, BASE) for token in tokens])
    index = folder.index()
    assert index["slug"].tolist() == ["crane", "kiwi", "red-bird"]
    assert index["usable"].tolist() == [False, True, True]
    assert index["stop_reason"].tolist()[0] == "loss not finite"
    assert index["guide_accuracy"].isna().tolist() == [True, False, False]
    assert "identity" not in index


def test_a_failed_class_is_recorded_for_its_settings_until_it_has_a_token(tmp_path):
    folder, info = TokenFolder(tmp_path, "tiny"), tiny.CLASSES[0]
    assert folder.failure(info, IDENTITY) is None
    metadata = folder.save(failed_token(info), IDENTITY, BASE)
    assert not folder.file(info).exists()
    assert folder.failure(info, IDENTITY) == metadata
    assert folder.failure(info, {**IDENTITY, "seed": "other"}) is None
    assert folder.failure(replace(info, name="heron"), IDENTITY) is None
    folder.save(trained_token(info=info), IDENTITY, BASE)
    assert folder.failure(info, IDENTITY) is None


def test_a_token_of_an_older_version_without_the_newer_settings_is_still_known(tmp_path):
    folder, info = TokenFolder(tmp_path, "tiny"), tiny.CLASSES[0]
    today = {**IDENTITY, "tokens": {**IDENTITY["tokens"], "certificate_looks": 3, "plain_first": True}}
    old = folder.save(failed_token(info), IDENTITY, BASE) | {"stop_reason": "no effect"}
    (tmp_path / "crane.failed.json").write_text(json.dumps(old))
    assert folder.failure(info, today) == old
    folder.save(trained_token(info=info), IDENTITY, BASE)
    assert folder.metadata(info, today) is not None
    folder.save(trained_token(info=info), today, BASE)
    changed = {**today, "tokens": {**today["tokens"], "certificate_looks": 1}}
    with pytest.raises(StaleRunError, match=r"tokens\.certificate_looks: 3 -> 1"):
        folder.metadata(info, changed)


def test_groups_are_recorded_and_read_from_tokens_if_the_record_is_damaged(tmp_path):
    folder = TokenFolder(tmp_path, "tiny")
    assert folder.groups() == ()
    folder.record((("crane", "ca-bird"), ("gull",)))
    assert folder.groups() == (("crane", "ca-bird"), ("gull",))
    written = (tmp_path / "plan.json").read_text()
    for damaged in ("", "[]", '{"groups": [3]}', '{"groups": null}', "[" * 99_999, written.replace("gull", "owls")):
        (tmp_path / "plan.json").write_text(damaged)
        assert folder.recorded_groups() is None
        assert folder.groups() == ()
    crane, bird, gull = tiny.CLASSES[:3]
    rows = [folder.save(trained_token(info=crane), IDENTITY, BASE, 1), folder.save(failed_token(bird), IDENTITY, BASE)]
    folder.publish([*rows, folder.save(trained_token(info=gull), IDENTITY, BASE, 1)])
    folder.file(gull).unlink()  # the index knows it
    assert folder.groups() == ((bird.slug,), (crane.slug, gull.slug))


def test_a_damaged_record_of_a_failure_or_index_counts_as_missing(tmp_path):
    folder, info = TokenFolder(tmp_path, "tiny"), tiny.CLASSES[0]
    folder.publish([folder.save(failed_token(info), IDENTITY, BASE)])
    failure, index = tmp_path / "crane.failed.json", tmp_path / "index.parquet"
    failure.write_text(failure.read_text().replace("loss not finite", "loss is infinite"))
    assert folder.failure(info, IDENTITY) is None
    for damaged in (b"", b"PAR1", index.read_bytes()[:-9]):
        index.write_bytes(damaged)
        assert folder.has_damaged_index
        assert folder.index().empty
