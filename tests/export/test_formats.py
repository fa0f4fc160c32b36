"""What other tools read from an export: the right images, labels and names, byte for byte."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dct_augment.export import FORMATS, export_images
from dct_augment.records import ClassInfo
from tests.export.finished_runs import BIRDS, finish, stored_files

NAMES = ["song sparrow", "Çà bird", "gull"]
SORTED_FOLDERS = ["ca-bird", "gull", "song-sparrow"]
SPLIT_WORDS = ("test", "val tube", "dev", "eval", "train", "testing ground")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of `datasets` for this test alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(folder: Path, *arguments: str, **options: Any) -> Any:
    loaded = datasets.load_dataset(*(arguments or (str(folder),)), **options)
    assert list(loaded) == ["train"]
    return loaded["train"]


def encoded(table: Any) -> dict[str, bytes]:
    """The bytes of every image that `datasets` has, by key."""
    plain = table.cast_column("image", datasets.Image(decode=False))
    return {Path(row["image"]["path"]).stem: row["image"]["bytes"] or read(row["image"]["path"]) for row in plain}


def files_of(table: Any) -> set[bytes]:
    """The bytes of every image that `datasets` has, whatever the format."""
    column = "png" if "png" in table.features else "image"
    if not isinstance(table.features[column], datasets.Image):
        return set(table[column])
    plain = table.cast_column(column, datasets.Image(decode=False))
    return {row[column]["bytes"] or read(row[column]["path"]) for row in plain}


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def test_image_folders_are_read_by_torchvision(run: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    export_images(run, tmp_path / "out", "imagefolder")
    images = ImageFolder(tmp_path / "out" / "train")
    assert images.classes == SORTED_FOLDERS
    assert len(images) == 9
    for path, label in images.samples:
        key = Path(path).stem
        assert key.rpartition("-")[0] == SORTED_FOLDERS[label]
        assert Path(path).read_bytes() == stored_files(run)[key]


@pytest.mark.parametrize("how", ["folder", "imagefolder"])
def test_image_folders_are_read_by_datasets_with_labels_and_names(run: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    export_images(run, out, "imagefolder")
    table = load(out) if how == "folder" else load(out, "imagefolder", data_dir=str(out))
    assert table.features["label"].names == SORTED_FOLDERS
    assert encoded(table) == stored_files(run)
    for row, image in zip(table, encoded(table), strict=True):
        assert SORTED_FOLDERS[row["label"]] == image.rpartition("-")[0]


def test_the_table_of_image_folders_has_the_labels_that_readers_count(run: Path, tmp_path: Path) -> None:
    export_images(run, tmp_path / "out", "imagefolder")
    with (tmp_path / "out" / "images.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    for row in rows:
        assert (tmp_path / "out" / row["file_name"]).is_file()
        assert row["file_name"].split("/")[1] == SORTED_FOLDERS[int(row["label"])]
        assert NAMES[int(row["class_index"])] == row["class_name"]


@pytest.mark.parametrize("format", ["imagefolder", "csv"])
def test_classes_that_are_called_like_a_split_stay_classes(tmp_path: Path, format: str) -> None:
    classes = tuple(ClassInfo(place, name, name.replace(" ", "-")) for place, name in enumerate(SPLIT_WORDS))
    classes = tuple(ClassInfo(place % 3, info.name, info.slug) for place, info in enumerate(classes))
    root = finish(tmp_path / "run", classes=classes, per_class=1)
    export_images(root, tmp_path / "out", format)
    table = load(tmp_path / "out")
    assert table.features["label"].names == sorted(info.slug for info in classes)
    assert len(table) == len(SPLIT_WORDS)


def test_the_layout_of_the_hub_is_read_by_datasets_with_features(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_images(run, out, "huggingface")
    assert (out / "data" / "train-00000-of-00001.parquet").is_file()
    table = load(out)
    assert table.features["label"].names == NAMES
    assert encoded(table) == stored_files(run)
    for row in table:
        assert isinstance(row["image"], Image.Image)
        assert NAMES[row["label"]] == row["class_name"]
        assert row["prompt"].startswith("a photo of a <dct-birds-")
        assert (row["guide_right"], row["guide_confidence"], row["run"]) == (True, 0.9, "birds")


def test_a_parquet_of_the_hub_has_its_features_without_the_card(run: Path, tmp_path: Path) -> None:
    export_images(run, tmp_path / "out", "huggingface")
    table = datasets.Dataset.from_parquet(str(tmp_path / "out" / "data" / "*.parquet"))
    assert table.features["label"].names == NAMES
    assert table[0]["image"].size == (16, 16)


@pytest.mark.parametrize("format", FORMATS)
def test_datasets_reads_what_is_there_now_not_what_was_there_before(run: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    export_images(run, out, format)
    assert len(load(out)) == 9
    for seed in (1, 2):
        other = finish(tmp_path / str(seed), seed=seed, per_class=4)
        export_images(other, out, format, overwrite=True)
        assert files_of(load(out)) == set(stored_files(other).values())


def test_large_exports_are_several_files_that_datasets_reads_as_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dct_augment.export.tables.BYTES_OF_A_FILE", 1)
    monkeypatch.setattr("dct_augment.export.tables.ROWS_OF_A_GROUP", 2)
    export_images(run, tmp_path / "out", "huggingface")
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-{number:05d}-of-00005.parquet" for number in range(5)]
    assert encoded(load(tmp_path / "out")) == stored_files(run)


def test_a_table_of_parquet_has_bytes_and_rows(run: Path, tmp_path: Path) -> None:
    export_images(run, tmp_path / "out", "parquet")
    table = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet").to_pylist()
    assert {row["key"]: row["image"] for row in table} == stored_files(run)
    assert {row["file_name"] for row in table} == {f"{key}.png" for key in stored_files(run)}
    assert [NAMES[row["label"]] for row in table] == [row["class_name"] for row in table]
    assert len(load(tmp_path / "out")) == 9


def test_tars_are_read_by_webdataset(run: Path, tmp_path: Path) -> None:
    import webdataset as wds

    export_images(run, tmp_path / "out", "webdataset")
    tar = str(tmp_path / "out" / "train-000000.tar")
    samples = list(wds.WebDataset(tar, shardshuffle=False))
    assert {sample["__key__"]: sample["png"] for sample in samples} == stored_files(run)
    for sample in samples:
        row = json.loads(sample["json"])
        assert NAMES[int(sample["cls"])] == row["class_name"]
        assert row["key"] == sample["__key__"]
    assert (tmp_path / "out" / "classes.txt").read_text(encoding="utf-8").splitlines() == NAMES


def test_tars_are_read_by_timm_in_several_parts(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data import create_dataset

    monkeypatch.setattr("dct_augment.export.webdatasets.IMAGES_OF_A_TAR", 4)
    export_images(run, tmp_path / "out", "webdataset")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [f"train-00000{n}.tar" for n in range(3)]
    reader = create_dataset("wds/out", root=str(tmp_path / "out"), split="train", batch_size=1, is_training=False)
    pairs = [(image.tobytes(), label) for image, label in reader]
    expected = []
    for key, data in stored_files(run).items():
        label = [info.slug for info in BIRDS].index(key.rpartition("-")[0])
        expected.append((Image.open(io.BytesIO(data)).convert("RGB").tobytes(), label))
    assert sorted(pairs) == sorted(expected)


def test_tars_are_read_by_datasets(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_images(run, out, "webdataset")
    table = load(out)
    assert table.features["cls"].names == NAMES
    assert [NAMES[row["cls"]] for row in table] == [row["json"]["class_name"] for row in table]
    plain = load(out, "webdataset", data_files={"train": str(out / "*.tar")})
    assert [NAMES[row["cls"]] for row in plain] == [row["json"]["class_name"] for row in plain]
    assert plain[0]["png"].size == (16, 16)


def test_a_table_of_labels_names_files_and_classes(run: Path, tmp_path: Path) -> None:
    export_images(run, tmp_path / "out", "csv")
    with (tmp_path / "out" / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:4] == ["path", "label", "split", "label_index"]
    for row in rows:
        assert read(str(tmp_path / "out" / row["path"])) == stored_files(run)[row["key"]]
        assert row["label"] == NAMES[int(row["class_index"])]
        assert row["path"].split("/")[1] == SORTED_FOLDERS[int(row["label_index"])]
        assert row["split"] == "train"
    assert load(tmp_path / "out").features["label"].names == SORTED_FOLDERS


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_run_makes_the_same_files(run: Path, tmp_path: Path, format: str) -> None:
    digests = []
    for place in ("a", "b"):
        export_images(run, tmp_path / place / "out", format)
        files = sorted(path for path in (tmp_path / place).rglob("*") if path.is_file())
        digests.append(
            {path.relative_to(tmp_path / place): path.read_bytes().replace(b"/a/", b"/b/") for path in files}
        )
    assert digests[0] == digests[1]


@pytest.mark.parametrize(("image_format", "start"), [("jpg", b"\xff\xd8"), ("webp", b"RIFF")])
def test_other_image_formats_keep_their_bytes_and_ending(tmp_path: Path, image_format: str, start: bytes) -> None:
    root = finish(tmp_path / "run", image_format=image_format)
    export_images(root, tmp_path / "out", "webdataset")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        pictures = {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(f".{image_format}")}
    assert {name.partition(".")[0]: data for name, data in pictures.items()} == stored_files(root)
    assert all(data.startswith(start) for data in pictures.values())


def test_tars_are_read_by_this_package(run: Path, tmp_path: Path) -> None:
    from dct_augment import SyntheticImages, load_dataset
    from dct_augment.config import WebDatasetDataset

    export_images(run, tmp_path / "out", "webdataset", classes=["gull", "ca-bird"])
    images = SyntheticImages(tmp_path / "out")
    assert [(key.rpartition("-")[0], label) for key, label in zip(images.keys, images.labels, strict=True)] == (
        [("ca-bird", 0)] * 3 + [("gull", 1)] * 3
    )
    dataset = load_dataset(WebDatasetDataset(name="webdataset", path=tmp_path / "out", val=0, test=0))
    assert [info.original_name for info in dataset.classes] == ["Çà bird", "gull"]
    assert len(dataset.examples("train")) == 6


def test_image_folders_are_read_by_this_package(run: Path, tmp_path: Path) -> None:
    from dct_augment import load_dataset
    from dct_augment.config import FolderDataset

    export_images(run, tmp_path / "out", "imagefolder")
    dataset = load_dataset(FolderDataset(name="folder", path=tmp_path / "out" / "train", val=0, test=0))
    assert [info.original_name for info in dataset.classes] == SORTED_FOLDERS
    assert len(dataset.examples("train")) == 9
