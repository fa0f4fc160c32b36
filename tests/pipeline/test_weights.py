"""A local model is known by what its files hold."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dct_augment import config
from dct_augment.config import Config, comparable
from dct_augment.config.identity import Part
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.weights import WeightHashes
from dct_augment.records import ClassInfo


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


def test_other_content_of_an_adapter_is_another_one(tmp_path: Path) -> None:
    """Of a folder with a file that is named, that file alone counts."""
    first, second = (write(tmp_path / "lora" / name, b"first", 1) for name in ("a.safetensors", "b.safetensors"))
    adapters = [{"path": str(first)}, {"path": str(tmp_path / "lora"), "weight_name": second.name, "name": "other"}]
    loaded = settings(model={"adapters": [*adapters, {"path": "owner/on-the-hub"}]})
    before = identity(loaded, tmp_path)["model"]["adapters"]
    assert [("weights" in adapter) for adapter in before] == [True, True, False]
    write(second, b"other", 2)
    after = identity(loaded, tmp_path)["model"]["adapters"]
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert identity(settings(model={"adapters": []}), tmp_path) == settings().identity("generation")


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


def of_benchmark(loaded: Config, folder: Path) -> dict[str, Any]:
    return WeightHashes(loaded, folder / "checks" / "weights.json").add_to(loaded.identity("benchmark"))


@pytest.mark.parametrize("prefix", ["local-dir:", ""])
def test_other_weights_of_a_low_resource_classifier_are_another_one_however_its_folder_is_written(
    prefix: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "mine" / "model.safetensors", b"first", 1)
    loaded = settings(downstream={"model": f"{prefix}{tmp_path / 'mine'}"})
    first = of_benchmark(loaded, tmp_path)
    write(file, b"other", 2)
    (line,) = config.differences(first, of_benchmark(loaded, tmp_path))
    assert line.startswith("downstream.weights: ")


@pytest.mark.parametrize("prefix", ["local-dir:", ""])
def test_of_a_run_only_the_kept_classifier_counts(prefix: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run / "config.yaml", b"name: x", 1)
    write(run / "classifier" / "config.json", b"{}", 1)
    file = write(run / "classifier" / "model.safetensors", b"first", 1)
    loaded = settings(downstream={"model": f"{prefix}{run}"})
    first = of_benchmark(loaded, tmp_path)
    assert "weights" in first["downstream"]
    write(run / "times.json", b"{}", 1)
    write(run / "report" / "summary.json", b"{}", 1)
    assert of_benchmark(loaded, tmp_path) == first
    write(file, b"other", 2)
    assert of_benchmark(loaded, tmp_path) != first


def test_a_run_inside_another_one_reads_no_model_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model" / "model.safetensors", b"first", 1)
    photos = tmp_path / "photos"
    for name in ("crane", "kiwi"):
        (photos / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(photos / name / f"{number}.png")
    dataset = {"name": "folder", "path": str(photos)}
    given = settings(model={"path": str(tmp_path / "model")}, dataset=dataset, output=str(tmp_path / "run"))
    outer = RunContext(given)
    expected = outer.identity("generation")
    monkeypatch.setattr("dct_augment.files.sha256", None)  # a call would fail
    inner = RunContext(outer.config.model_copy(update={"output": tmp_path / "run" / "arms" / "x"}), outer=outer)
    assert inner.identity("generation") == expected
    assert inner.dataset is outer.dataset


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


@pytest.mark.parametrize(
    ("part", "changes", "file", "key"),
    [
        ("generation", {"guide": {"name": "resnet18", "match": "FILE"}}, "labels.yaml", "guide.match_sha256"),
        (
            "generation",
            {"model": {"path": "owner/name", "tiny_decoder": "FOLDER"}},
            "a.safetensors",
            "model.tiny_decoder_sha256",
        ),
        ("tokens", {"tokens": {"init_from": "FILE"}}, "start.safetensors", "tokens.init_from_sha256"),
        ("metrics", {"metrics": {"features": "local-dir:FOLDER"}}, "a.safetensors", "metrics.features_sha256"),
        (
            "metrics",
            {"metrics": {"features": "inception", "inception_weights": "FILE"}},
            "weights.pth",
            "metrics.features_sha256",
        ),
    ],
    ids=["match", "tiny decoder", "init_from", "features", "inception"],
)
def test_other_content_of_a_file_that_decides_a_result_is_another_result(
    part: Part, changes: dict[str, dict[str, str]], file: str, key: str, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    names = {"FILE": str(folder / file), "FOLDER": str(folder), "local-dir:FOLDER": f"local-dir:{folder}"}
    sections = {name: {k: names.get(v, v) for k, v in section.items()} for name, section in changes.items()}
    loaded = settings(**sections)
    hashes = WeightHashes(loaded, tmp_path / "weights.json")
    write(folder / file, b"first", 1)
    first = hashes.add_to(loaded.identity(part))
    write(folder / file, b"other", 2)
    changed = hashes.add_to(loaded.identity(part))
    (line,) = config.differences(first, changed)
    assert line.startswith(f"{key}: ")
    without = loaded.identity(part)
    assert comparable(changed, without) == without


def test_a_record_with_the_hash_of_a_model_alone_is_compared_by_that_alone(tmp_path: Path) -> None:
    write(tmp_path / "model" / "model.safetensors", b"first", 1)
    match = write(tmp_path / "labels.yaml", b"crane: Kranich", 1)
    loaded = settings(guide={"name": f"local-dir:{tmp_path / 'model'}", "match": str(match)})
    today = identity(loaded, tmp_path)
    old = {**today, "guide": [{key: value for key, value in today["guide"][0].items() if key != "match_sha256"}]}
    assert "weights" in old["guide"][0]
    assert comparable(today, old) == old


def test_the_start_of_one_class_makes_nothing_stale_that_is_of_another(tmp_path: Path) -> None:
    for slug in ("crane", "kiwi"):
        write(tmp_path / "start" / f"{slug}.safetensors", b"first", 1)
    loaded = settings(tokens={"init_from": str(tmp_path / "start")})
    crane, kiwi, gull = (ClassInfo(number, name, name) for number, name in enumerate(("crane", "kiwi", "gull")))

    def narrowed(info: ClassInfo) -> dict[str, Any]:
        whole = WeightHashes(loaded, tmp_path / "weights.json").add_to(loaded.identity("tokens"))
        return loaded.narrow(whole, [info])

    before = {info.slug: narrowed(info) for info in (crane, kiwi, gull)}
    write(tmp_path / "start" / "kiwi.safetensors", b"other", 2)
    changed = [info.slug for info in (crane, kiwi, gull) if narrowed(info) != before[info.slug]]
    assert changed == ["kiwi"]
