"""What the package datasets reads is read: from disk, from folders as the Hub has them, from the Hub's caches."""

import gc
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dct_augment.config import validate
from dct_augment.datasets import needs_download
from dct_augment.errors import UnreadableImageError
from tests.datasets.layouts import COLOURS, assert_refused, load, save_image

hf = pytest.importorskip("datasets")

RGB = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
NAMES = ("sea_gull", "crane")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of the Hub and of the package, and no network."""
    root = tmp_path / "caches"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hf.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", str(root / "datasets"))
    monkeypatch.setattr(hf.config, "HF_CACHE_HOME", str(root))
    hf.disable_progress_bars()
    return root


def picture(place: int) -> Image.Image:
    return Image.new("RGB", (9, 7), COLOURS[place])


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def table(count: int = 20, labels: list[Any] | None = None, label_type: Any = None, **columns: Any) -> Any:
    """Make pictures of two classes in turn."""
    labels = [number % 2 for number in range(count)] if labels is None else labels
    label_type = label_type or hf.ClassLabel(names=list(NAMES))
    images = [picture(number % 2) for number in range(len(labels))]
    return hf.Dataset.from_dict(
        {"image": images, "label": labels}, features=hf.Features({"image": hf.Image(), "label": label_type})
    )


def save(path: Path, **splits: Any) -> Path:
    hf.DatasetDict(splits).save_to_disk(path)
    return path


def colours(data: Any, split: str = "train") -> dict[str, set[Any]]:
    """Show the colours of the pictures of each class."""
    shown: dict[str, set[Any]] = {}
    for example in data.examples(split):
        shown.setdefault(data.classes[example.label].original_name, set()).add(example.open().getpixel((0, 0)))
    return shown


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_a_hugging_face_directory_is_read_with_and_without_splits_and_class_names(
    tmp_path: Path, named: bool, split: bool
) -> None:
    labels = [n % 2 if named else NAMES[n % 2] for n in range(20)]
    rows = table(labels=labels, label_type=None if named else hf.Value("string")).rename_column("image", "pic")
    stored = hf.DatasetDict({"train": rows, "validation": rows.select([0, 1])}) if split else rows
    stored.save_to_disk(tmp_path / "t")
    data = load("huggingface", tmp_path / "t", image_column="pic", title="birds")
    assert [info.original_name for info in data.classes] == (list(NAMES) if named else sorted(NAMES))
    assert sum(len(data.examples(part)) for part in ("train", "val", "test")) == (22 if split else 20)
    assert not split or len(data.examples("val")) == 2
    assert colours(data) == {"sea_gull": {RGB["red"]}, "crane": {RGB["green"]}}
    assert_refused("no column 'image'; it has pic, label. Name it: dataset.image_column", "huggingface", tmp_path / "t")


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused("empty': it cannot be read", "huggingface", tmp_path / "empty")
    assert_refused("it is no folder, and no data set of the Hub", "huggingface", tmp_path / "none")


def test_pictures_that_the_package_does_not_decode_are_read(tmp_path: Path) -> None:
    """Bytes, paths, and what a column of bytes or of paths holds."""
    save_image(tmp_path / "p" / "0.png", "red")
    bare = table(2).cast_column("image", hf.Image(decode=False))
    by_path = hf.Dataset.from_dict(
        {"image": [str(tmp_path / "p" / "0.png")] * 2, "label": [0, 0]},
        features=hf.Features({"image": hf.Image(decode=False), "label": hf.ClassLabel(names=list(NAMES))}),
    )
    save(tmp_path / "t", train=hf.concatenate_datasets([bare, by_path]))
    assert colours(load("huggingface", tmp_path / "t", val=0, test=0)) == {
        "sea_gull": {RGB["red"]},
        "crane": {RGB["green"]},
    }
    raw = hf.Dataset.from_dict({"image": [encoded(picture(n)) for n in range(2)], "label": ["a", "b"]})
    save(tmp_path / "raw", train=raw)
    assert colours(load("huggingface", tmp_path / "raw", val=0, test=0)) == {"a": {RGB["red"]}, "b": {RGB["green"]}}


def test_no_picture_is_decoded_while_indexing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "t", train=table())

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(hf.Image, "decode_example", fail)
    assert len(load("huggingface", tmp_path / "t", val=0, test=0).examples("train")) == 20


def test_a_turned_photograph_and_16_bits_are_read_as_a_person_sees_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (9, 7)), "JPEG", exif=exif)
    grey = encoded(Image.fromarray(np.full((4, 4), 32896, np.uint16)))
    rows = hf.Dataset.from_dict(
        {"image": [{"bytes": turned, "path": None}, {"bytes": grey, "path": None}], "label": ["a", "b"]},
        features=hf.Features({"image": hf.Image(), "label": hf.Value("string")}),
    )
    save(tmp_path / "t", train=rows)
    first, second = load("huggingface", tmp_path / "t", val=0, test=0).examples("train")
    assert first.open().size == (7, 9)
    assert second.open().getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("dtype", "white"), [("uint8", 255), ("float32", 1.0), ("uint16", 65535)], ids=["bytes", "floats", "16 bits"]
)
@pytest.mark.parametrize("shape", [(3, 5, 8), (5, 8, 3)])
def test_arrays_of_any_numbers_and_either_order_of_axes_are_pictures(
    tmp_path: Path, dtype: str, white: float, shape: tuple[int, int, int]
) -> None:
    array = np.zeros(shape, dtype)
    array[(0, ...) if shape[0] == 3 else (..., 0)] = white
    rows = hf.Dataset.from_dict(
        {"image": [array, array], "label": ["a", "b"]},
        features=hf.Features({"image": hf.Array3D(shape, dtype), "label": hf.Value("string")}),
    )
    save(tmp_path / "t", train=rows)
    example = load("huggingface", tmp_path / "t", val=0, test=0).examples("train")[0]
    assert (example.open().size, example.open().getpixel((0, 0))) == ((8, 5), (255, 0, 0))


def test_a_row_without_a_picture_is_unreadable(tmp_path: Path) -> None:
    rows = hf.Dataset.from_dict(
        {"image": [None, {"bytes": b"no picture", "path": None}, encoded_row()], "label": ["a", "a", "a"]},
        features=hf.Features({"image": hf.Image(), "label": hf.Value("string")}),
    )
    save(tmp_path / "t", train=rows)
    none, damaged, sound = load("huggingface", tmp_path / "t", val=0, test=0).examples("train")
    with pytest.raises(UnreadableImageError, match="its row has no picture"):
        none.open()
    with pytest.raises(UnreadableImageError, match="no picture of a known format"):
        damaged.open()
    assert sound.open().size == (9, 7)


def encoded_row() -> dict[str, Any]:
    return {"bytes": encoded(picture(0)), "path": None}


def test_labels_of_splits_are_matched_by_name(tmp_path: Path) -> None:
    """Numbers with names in one split, words in another, and numbers in another order in the third."""
    train = table(20)
    test = table(labels=["sea_gull", "crane"], label_type=hf.Value("string"))
    val = table(labels=[1, 0], label_type=hf.ClassLabel(names=["crane", "sea_gull"]))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "test"]}))
    for name, rows in (("train", train), ("validation", val), ("test", test)):
        rows.save_to_disk(tmp_path / "t" / name)
    data = load("huggingface", tmp_path / "t")
    assert [info.original_name for info in data.classes] == list(NAMES)
    for split in ("train", "val", "test"):
        assert colours(data, split) == {"sea_gull": {RGB["red"]}, "crane": {RGB["green"]}}, split


@pytest.mark.parametrize("label_type", ["names", "int64"])
def test_hidden_test_labels_are_no_class(tmp_path: Path, label_type: str) -> None:
    kind = hf.ClassLabel(names=list(NAMES)) if label_type == "names" else hf.Value("int64")
    train, test = table(40, label_type=kind), table(labels=[-1] * 5, label_type=kind)
    data = load("huggingface", save(tmp_path / "t", train=train, test=test))
    assert len(data.classes) == 2
    assert "split test: 5 of 5 labels are hidden (-1); the split is left out" in data.notes
    assert {example.key.split("/")[0] for example in data.examples("test")} == {"train"}


def test_a_missing_label_is_no_class(tmp_path: Path) -> None:
    rows = table(labels=["a", None, "b", "a"], label_type=hf.Value("string"))
    data = load("huggingface", save(tmp_path / "t", train=rows), val=0, test=0)
    assert [info.name for info in data.classes] == ["a", "b"]
    assert [example.key for example in data.examples("train")] == ["train/0000000", "train/0000002", "train/0000003"]
    assert data.notes == ("split train: 1 of 4 pictures is left out because of a label that is missing",)


def test_a_missing_label_that_pandas_made_a_word_is_no_class(tmp_path: Path) -> None:
    rows = table(labels=["a", "nan", "b", "None", "<NA>"], label_type=hf.Value("string"))
    data = load("huggingface", save(tmp_path / "t", train=rows), val=0, test=0)
    assert [info.name for info in data.classes] == ["a", "b"]
    assert data.notes == ("split train: 3 of 5 pictures are left out because of a label that is missing",)


def test_a_class_that_the_data_set_itself_calls_none_is_a_class(tmp_path: Path) -> None:
    rows = table(labels=[0, 1, 0], label_type=hf.ClassLabel(names=["none", "kiwi"]))
    assert [info.name for info in load("huggingface", save(tmp_path / "t", train=rows), val=0, test=0).classes] == [
        "none",
        "kiwi",
    ]


def test_labels_in_lists_are_read_if_there_is_one_and_refused_if_there_are_more(tmp_path: Path) -> None:
    kind = hf.Sequence(hf.ClassLabel(names=list(NAMES)))
    data = load(
        "huggingface", save(tmp_path / "t", train=table(labels=[[0], [1], [0]], label_type=kind)), val=0, test=0
    )
    assert [(info.original_name) for info in data.classes] == list(NAMES)
    assert [example.label for example in data.examples("train")] == [0, 1, 0]
    path = save(tmp_path / "u", train=table(labels=[[0], [1, 0]], label_type=kind))
    assert_refused("split train, column 'label': a picture has 2 labels .*multi-label", "huggingface", path)


def test_classes_without_a_picture_are_left_out_of_the_names(tmp_path: Path) -> None:
    kind = hf.ClassLabel(names=["dodo", *NAMES])
    data = load("huggingface", save(tmp_path / "t", train=table(labels=[1, 2], label_type=kind)), val=0, test=0)
    assert [info.original_name for info in data.classes] == list(NAMES)
    assert data.notes[0].startswith("1 of 3 classes has no picture and is left out ('dodo')")


def test_splits_of_the_package_have_the_usual_words(tmp_path: Path) -> None:
    data = load("huggingface", save(tmp_path / "t", Training=table(), dev=table(2), testing=table(4), more=table(6)))
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [20, 2, 4]
    assert data.notes == ("splits of other names are left out: 'more'",)
    assert_refused(
        "which both mean the validation split",
        "huggingface",
        save(tmp_path / "u", train=table(), dev=table(2), val=table(2)),
    )
    assert_refused("it has no split train; it has test", "huggingface", save(tmp_path / "v", test=table()))
    whole = load("huggingface", save(tmp_path / "w", full=table()), val=0, test=0)
    assert whole.notes == ("'full', the only split, is read as the training split",)


def hub_folder(root: Path, train_files: int = 2) -> Path:
    """Write a data set as the Hub has it: parquet files in `data/`, and a card."""
    (root / "data").mkdir(parents=True)
    for number in range(train_files):
        table(20).to_parquet(root / "data" / f"train-{number:05d}-of-{train_files:05d}.parquet")
    table(4).to_parquet(root / "data" / "validation-00000-of-00001.parquet")
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n"
        "  - split: validation\n    path: data/validation-*\n---\n# Birds\n"
    )
    return root


def test_a_folder_of_parquet_files_as_the_hub_has_it_is_read(tmp_path: Path) -> None:
    root = hub_folder(tmp_path / "birds")
    data = load("huggingface", root, test=0)
    assert (data.name, [info.original_name for info in data.classes]) == ("birds", list(NAMES))
    assert [len(data.examples(split)) for split in ("train", "val")] == [40, 4]
    assert colours(data, "val") == {"sea_gull": {RGB["red"]}, "crane": {RGB["green"]}}
    (root / "data" / "train-00001-of-00002.parquet").unlink()
    assert_refused(
        "1 of its files is missing: 'data/train-00001-of-00002.parquet'; download again", "huggingface", root
    )


def test_a_damaged_parquet_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    root = hub_folder(tmp_path / "birds")
    (root / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1 and no more")
    assert_refused("it cannot be read: .*(Parquet|parquet)", "huggingface", root)


def test_a_damaged_folder_of_the_package_is_refused_in_words(tmp_path: Path) -> None:
    table().save_to_disk(str(tmp_path))
    (arrow,) = tmp_path.glob("*.arrow")
    arrow.unlink()
    assert_refused(f"it cannot be read: No such file or directory: '.*{arrow.name}'", "huggingface", tmp_path)
    (tmp_path / "state.json").write_text("{}")
    assert_refused("it cannot be read: a file of it lacks '_data_files'", "huggingface", tmp_path)


def test_parquet_files_without_a_card_are_read(tmp_path: Path) -> None:
    root = hub_folder(tmp_path / "birds")
    (root / "README.md").unlink()
    assert [len(load("huggingface", root, test=0).examples(split)) for split in ("train", "val")] == [40, 4]


def test_parquet_files_of_bytes_without_the_packages_own_types_are_read(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    images = pa.array([{"bytes": encoded(picture(n % 2)), "path": f"{n}.png"} for n in range(4)])
    pq.write_table(pa.table({"image": images, "label": pa.array([0, 1, 0, 1])}), tmp_path / "birds" / "train.parquet")
    data = load("huggingface", tmp_path / "birds", val=0, test=0)
    assert colours(data) == {"0": {RGB["red"]}, "1": {RGB["green"]}}


def test_subsets_are_chosen_by_name(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    for subset, count in (("small", 2), ("large", 8)):
        (root / subset).mkdir(parents=True)
        table(count).to_parquet(root / subset / "train-00000-of-00001.parquet")
    lines = [f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("small", "large")]
    (root / "README.md").write_text("---\nconfigs:\n" + "".join(lines) + "---\n")
    assert len(load("huggingface", root, subset="large", val=0, test=0).examples("train")) == 8
    assert_refused("small.*choose one: dataset.subset", "huggingface", root)


def test_an_imagefolder_is_read_as_the_package_reads_it(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    for split, count in (("train", 3), ("test", 2)):
        for place, name in enumerate(sorted(NAMES)):
            for number in range(count):
                save_image(root / split / name / f"{number}.png", COLOURS[place])
    data = load("huggingface", root, val=0)
    theirs = hf.load_dataset("imagefolder", data_dir=str(root))
    for split in ("train", "test"):
        assert [example.label for example in data.examples(split)] == theirs[split]["label"][:]
        assert [e.open().tobytes() for e in data.examples(split)] == [i.tobytes() for i in theirs[split]["image"]]
    assert [info.original_name for info in data.classes] == theirs["train"].features["label"].names


@pytest.mark.parametrize(("setting", "value"), [("subset", "raw"), ("revision", "v1")])
def test_settings_that_a_folder_of_pictures_would_ignore_are_refused(tmp_path: Path, setting: str, value: str) -> None:
    for name in ("car", "plane"):
        save_image(tmp_path / "pictures" / name / "0.png")
    root = save(tmp_path / "saved", train=table())
    for path, what in ((tmp_path / "pictures", "a folder of pictures"), (root, "a folder that save_to_disk wrote")):
        message = f"dataset.{setting} '{value}' has no effect: '{path}' is {what}; leave it out"
        assert_refused(message, "huggingface", path, **{setting: value})


def test_an_imagefolder_loses_no_class_that_is_called_like_a_split(tmp_path: Path) -> None:
    """`datasets` itself reads the class `train` alone, or makes `Testing/` a part of train."""
    for name, place in (("train", 0), ("car", 1)):
        save_image(tmp_path / "flat" / name / "0.png", COLOURS[place])
    assert colours(load("huggingface", tmp_path / "flat", val=0, test=0)) == {
        "train": {RGB["red"]},
        "car": {RGB["green"]},
    }
    for split, count in (("Training", 3), ("Testing", 2)):
        for name in ("test", "10", "9"):
            for number in range(count):
                save_image(tmp_path / "split" / split / name / f"{number}.png")
    data = load("huggingface", tmp_path / "split", val=0)
    assert [info.original_name for info in data.classes] == ["10", "9", "test"]
    assert [len(data.examples(split)) for split in ("train", "test")] == [9, 6]
    assert_refused(
        "a folder of pictures, which has the columns image and", "huggingface", tmp_path / "flat", label_column="x"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves metadata.csv open
def test_an_imagefolder_with_metadata_has_the_labels_of_its_table(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    lines = ["file_name,species"]
    for number in range(4):
        save_image(root / "train" / f"{number}.png", COLOURS[number % 2])
        lines.append(f"{number}.png,{NAMES[number % 2]}")
    (root / "train" / "metadata.csv").write_text("\n".join(lines) + "\n")
    data = load("huggingface", root, label_column="species", val=0, test=0)
    assert colours(data) == {"sea_gull": {RGB["red"]}, "crane": {RGB["green"]}}
    gc.collect()  # the open file is found here, not in another test


@pytest.fixture
def hub(caches: Path) -> Callable[..., Path]:
    """Write a data set into the Hub's cache, in the cache's own layout; return the snapshot."""

    def write(name: str = "someone/birds", commit: str = COMMIT, ref: str = "main", files: int = 1) -> Path:
        repository = caches / "hub" / f"datasets--{name.replace('/', '--')}"
        snapshot = hub_folder(repository / "snapshots" / commit, files)
        (repository / "blobs").mkdir(exist_ok=True)
        for number, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
            blob = repository / "blobs" / f"{commit[:8]}{number:056d}"
            shutil.move(file, blob)
            file.symlink_to(blob)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
        return snapshot

    return write


def test_a_data_set_of_the_hub_is_read_from_the_hubs_cache(hub: Callable[..., Path]) -> None:
    hub()
    data = load("huggingface", Path("someone/birds"), test=0)
    assert (data.name, len(data.examples("train")), len(data.examples("val"))) == ("birds", 20, 4)
    assert colours(data, "val") == {"sea_gull": {RGB["red"]}, "crane": {RGB["green"]}}


def test_a_revision_of_the_hub_is_the_one_that_is_read(hub: Callable[..., Path]) -> None:
    hub()
    hub(commit=COMMIT[::-1], ref="v2", files=2)
    path = Path("someone/birds")
    assert len(load("huggingface", path, test=0).examples("train")) == 20
    assert len(load("huggingface", path, test=0, revision="v2").examples("train")) == 40
    assert len(load("huggingface", path, test=0, revision=COMMIT[::-1]).examples("train")) == 40
    assert_refused("nothing of revision v3 is in the cache", "huggingface", path, revision="v3")


def test_the_caches_are_read_where_the_hub_cannot_be_reached(
    hub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    path = Path("someone/birds")
    assert_refused("the Hub cannot be reached .*Load it once with a network", "huggingface", path)
    hub()
    assert len(load("huggingface", path, test=0).examples("train")) == 20


def test_an_unfinished_download_is_not_taken_for_the_whole(hub: Callable[..., Path]) -> None:
    (hub(files=3) / "data" / "train-00002-of-00003.parquet").unlink()
    assert_refused("1 of its files is missing: 'data/train-00002-of-00003", "huggingface", Path("someone/birds"))


def test_a_data_set_that_is_nowhere_says_what_to_do(caches: Path, hub: Callable[..., Path]) -> None:
    path = Path("someone/birds")
    settings = {"name": "x", "dataset": {"name": "huggingface", "path": str(path)}, "guide": {"name": "g"}}
    dataset = validate(settings).dataset
    assert needs_download(dataset)
    assert_refused(
        "'someone/birds': it is no folder; .*HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set", "huggingface", path
    )
    hub()
    assert not needs_download(dataset)


def test_what_the_package_prepared_before_is_read_without_the_hubs_files(
    caches: Path, hub: Callable[..., Path], tmp_path: Path
) -> None:
    """`datasets` keeps the tables of a data set of the Hub in its own cache: `someone___birds/default/0.0.0/<hash>`."""
    builder = hf.load_dataset_builder(str(hub_folder(tmp_path / "birds", 1)))
    builder.download_and_prepare()
    prepared = Path(builder.cache_dir)
    place = caches / "datasets" / "someone___birds" / "default" / "0.0.0" / COMMIT
    place.parent.mkdir(parents=True)
    shutil.copytree(prepared, place)
    assert len(load("huggingface", Path("someone/birds"), test=0).examples("train")) == 20
    assert_refused("nothing of revision v2 is in the cache", "huggingface", Path("someone/birds"), revision="v2")


def test_an_old_name_of_a_column_setting_says_the_new_one(tmp_path: Path) -> None:
    from dct_augment.errors import ConfigError

    with pytest.raises(ConfigError, match=r"dataset.image: is called dataset.image_column now"):
        load("huggingface", tmp_path, image="pic")
