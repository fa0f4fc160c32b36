"""A local model is known by what its files hold."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dct_augment import config
from dct_augment.config import Config, comparable
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.weights import WeightHashes


def settings(**sections: object) -> Config:
    base = {"name": "x", "dataset": {"name": "pocket"}, "guide": {"name": "pocket/birds-guide"}}
    return config.validate({**base, **sections})


def write(path: Path, content: bytes, time: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(time, time))
    return path


def identity(loaded: Config, folder: Path) -> dict[str, Any]:
    hashes = WeightHashes(loaded, folder / "checks" / "weights.json")
    extended = hashes.add_to(loaded.identity("generation"))
    hashes.save()
    return extended


@pytest.mark.parametrize("setting", ["guide.name", "judge.name", "model.path", "guide.backbone", "judge.model"])
def test_other_weights_under_the_same_path_are_another_model(setting: str, tmp_path: Path) -> None:
    file = write(tmp_path / "model" / "unet" / "model.safetensors", b"first", 1)
    section, _, key = setting.partition(".")
    kinds = {"backbone": {"name": "few_shot"}, "model": {"name": "zero_shot"}}
    loaded = settings(**{section: {**kinds.get(key, {}), key: str(tmp_path / "model")}})
    first = identity(loaded, tmp_path)
    assert identity(loaded, tmp_path) == first
    write(file, b"other", 2)
    changed = identity(loaded, tmp_path)
    (line,) = config.differences(first, changed)
    assert line.startswith(f"{section}.weights: ")


@pytest.mark.parametrize("role", ["guide", "judge"])
def test_other_weights_of_a_zero_shot_model_in_a_folder_are_another_classifier(role: str, tmp_path: Path) -> None:
    file = write(tmp_path / "clip" / "model.safetensors", b"first", 1)
    loaded = settings(**{role: {"name": "zero_shot", "model": str(tmp_path / "clip")}})
    first = identity(loaded, tmp_path)
    write(file, b"other", 2)
    (line,) = config.differences(first, identity(loaded, tmp_path))
    assert line.startswith(f"{role}.weights: ")
    on_the_hub = settings(**{role: {"name": "zero_shot", "model": "some/clip"}})
    assert identity(on_the_hub, tmp_path) == on_the_hub.identity("generation")


def test_other_words_of_a_class_make_another_zero_shot_classifier(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("crane: wading crane\n")
    for name in ("crane", "kiwi"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    photos = {"name": "folder", "path": str(tmp_path / "photos")}
    members = ({"name": "zero_shot", "model": "some/clip"}, {"name": "pocket/birds-guide"})
    words = (photos, {**photos, "words": str(tmp_path / "words.yaml")})
    for part in ("tokens", "generation", "metrics"):
        first, other = (
            RunContext(settings(dataset=dataset, guide=members, output=str(tmp_path))).identity(part)
            for dataset in words
        )
        (line,) = config.differences(first["guide"][0], other["guide"][0])
        assert line.startswith("class_names: ")
        assert first["guide"][1] == other["guide"][1]


def test_a_checkpoint_and_labels_beside_a_name_of_timm_count_too(tmp_path: Path) -> None:
    checkpoint, labels = write(tmp_path / "a.pth", b"first", 1), write(tmp_path / "labels.txt", b"a\nb\n", 1)
    loaded = settings(guide={"name": "resnet18", "checkpoint": str(checkpoint), "labels": str(labels)})
    seen = [identity(loaded, tmp_path)["guide"][0]["weights"]]
    write(checkpoint, b"other", 2)
    seen.append(identity(loaded, tmp_path)["guide"][0]["weights"])
    write(labels, b"b\na\n", 2)
    seen.append(identity(loaded, tmp_path)["guide"][0]["weights"])
    assert len(set(seen)) == 3


def test_a_file_with_the_same_size_and_time_is_not_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "model" / "model.safetensors", b"first", 1)
    loaded = settings(guide={"name": f"local-dir:{tmp_path / 'model'}"})
    first = identity(loaded, tmp_path)
    write(file, b"other", 1)
    assert identity(loaded, tmp_path) == first


def test_shipped_models_and_ids_of_the_hub_have_no_hash(tmp_path: Path) -> None:
    loaded = settings(model={"path": "owner/name"}, judge={"name": "resnet18"})
    assert identity(loaded, tmp_path) == loaded.identity("generation")
    assert not (tmp_path / "checks").exists()


def test_a_record_without_hashes_is_compared_without_them(tmp_path: Path) -> None:
    write(tmp_path / "model" / "model.safetensors", b"first", 1)
    loaded = settings(guide={"name": f"local-dir:{tmp_path / 'model'}"})
    today, old = identity(loaded, tmp_path), loaded.identity("generation")
    assert comparable(today, old) == old
    assert comparable(today, today) == today
