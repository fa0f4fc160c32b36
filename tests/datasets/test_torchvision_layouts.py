"""Published data sets as torchvision has them on disk: names, splits, settings, and what is said of damaged files."""

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dct_augment import config, datasets
from dct_augment.config import DATASETS
from dct_augment.datasets import cifar
from dct_augment.errors import ConfigError, DatasetError, UnreadableImageError
from dct_augment.records import Dataset
from tests.datasets.layouts import assert_refused, keys, load
from tests.datasets.torchvision_trees import CIFAR100, OWN_FOLDERS, TREES, python2_pickle

SIZES = {
    "aircraft": {"train": 6, "val": 6, "test": 6},
    "flowers102": {"train": 102, "val": 2, "test": 2},
    "pets": {"train": 24, "test": 12},
    "cars": {"train": 24, "test": 3},
    "food101": {"train": 20, "test": 6},
    "dtd": {"train": 4, "val": 4, "test": 4},
    "eurosat": {"train": 60},
    "caltech101": {"train": 90},
    "cifar10": {"train": 45, "test": 6},
    "cifar100": {"train": 30, "test": 6},
}
"""Published splits; what is not published is held out of train."""

NAMES = {
    "aircraft": ["707-320", "a300b4", "f/a-18"],
    "pets": ["abyssinian", "american bulldog", "egyptian mau"],
    "cars": ["am general hummer suv 2000", "mclaren mp4-12c coupe 2012", "smart fortwo convertible 2012"],
    "food101": ["apple pie", "baby back ribs"],
    "dtd": ["banded", "polka-dotted"],
    "eurosat": ["annual crop", "sea lake"],
    "caltech101": ["off-center face", "side of a car", "water lily"],
    "cifar10": ["airplane", "automobile", "bird"],
    "cifar100": ["apple", "aquarium fish", "baby"],
}
"""What prompts say."""


@pytest.mark.parametrize("name", TREES)
def test_published_splits_stay_and_others_are_held_out_of_train(name: str, tmp_path: Path) -> None:
    data = load(name, TREES[name](tmp_path), val=0.2, test=0.2)
    published = SIZES[name]
    held_out = [split for split in ("val", "test") if split not in published]
    for split in {"val", "test"} & published.keys():
        assert len(data.examples(split)) == published[split]
    assert all(len(data.examples(split)) > 0 for split in held_out)
    assert sum(len(data.examples(split)) for split in ("train", *held_out)) == published["train"]
    every = [example.key for split in ("train", "val", "test") for example in data.examples(split)]
    assert len(set(every)) == len(every)
    assert data.name == name


@pytest.mark.parametrize("name", TREES)
def test_the_path_may_be_the_root_or_the_own_folder(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    own = root
    for part in Path(OWN_FOLDERS[name]).parts:
        own = own / part
        assert [keys(load(name, own), split) for split in ("train", "val", "test")] == [
            keys(load(name, root), split) for split in ("train", "val", "test")
        ]


@pytest.mark.parametrize("name", NAMES)
def test_classes_have_the_names_that_prompts_want(name: str, tmp_path: Path) -> None:
    assert [info.name for info in load(name, TREES[name](tmp_path)).classes] == NAMES[name]


def test_manufacturers_are_one_word_where_they_write_themselves_so(tmp_path: Path) -> None:
    data = load("aircraft", TREES["aircraft"](tmp_path), level="manufacturer")
    assert [info.name for info in data.classes] == ["airbus", "boeing", "mcdonnell douglas"]
    (example, *_) = [one for one in data.examples("train") if one.key == "data/images/0001000.jpg"]
    assert example.label == 1


def test_flowers_have_names_though_the_files_only_number_them(tmp_path: Path) -> None:
    data = load("flowers102", TREES["flowers102"](tmp_path))
    assert len(data.classes) == 102
    assert [data.classes[place].name for place in (0, 10, 59, 101)] == [
        "pink primrose",
        "snapdragon",
        "pink-yellow dahlia",
        "blackberry lily",
    ]
    first = data.examples("train")[0]
    assert (first.key, first.label) == ("jpg/image_00001.jpg", 101)


def test_words_name_a_class_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("Egyptian_Mau: spotted cat\n")
    data = load("pets", TREES["pets"](tmp_path), words=str(tmp_path / "words.yaml"))
    assert data.classes[2].name == "spotted cat"


def test_textures_of_another_partition_are_other_pictures(tmp_path: Path) -> None:
    root = TREES["dtd"](tmp_path)
    assert keys(load("dtd", root, partition=2), "test") != keys(load("dtd", root), "test")
    with pytest.raises(ConfigError, match=r"dataset.partition: input should be less than or equal to 10, got 11"):
        load("dtd", root, partition=11)


def test_caltechs_background_is_no_class(tmp_path: Path) -> None:
    data = load("caltech101", TREES["caltech101"](tmp_path))
    assert not [key for split in ("train", "val", "test") for key in keys(data, split) if "BACKGROUND" in key]


def test_a_split_of_one_picture_is_read(tmp_path: Path) -> None:
    """MATLAB files do not tell one number from a list of one."""
    root = TREES["flowers102"](tmp_path)
    ids = {
        "trnid": np.array([range(1, 103)], np.uint16),
        "valid": np.array([[103]], np.uint16),
        "tstid": np.array([[104]], np.uint16),
    }
    scipy.io.savemat(root / "flowers-102" / "setid.mat", ids)
    assert keys(load("flowers102", root), "test") == {"jpg/image_00104.jpg"}


def test_every_data_set_of_the_configuration_has_an_adapter() -> None:
    assert datasets._ADAPTERS.keys() == DATASETS.keys()
    assert TREES.keys() < DATASETS.keys()


def test_an_unknown_name_is_told_the_published_ones() -> None:
    with pytest.raises(ConfigError, match=r"'cifar1' is unknown \(did you mean 'cifar10'\?\); .*flowers102, pets"):
        load("cifar1", Path("x"))


def test_a_setting_of_another_data_set_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"dataset.level: unknown key"):
        load("pets", Path("x"), level="family")


# ---------------------------------------------------------------------------------------------- missing and damaged


@pytest.mark.parametrize("name", TREES)
def test_an_empty_folder_is_told_what_to_put_there(name: str, tmp_path: Path) -> None:
    assert_refused(r"lacks .*it holds nothing. Put .* as torchvision.datasets.\w+ ", name, tmp_path)
    assert_refused("does not exist or is no folder", name, tmp_path / "gone")


ANNOTATIONS = {
    "aircraft": ["data/variants.txt", "data/images_variant_train.txt"],
    "flowers102": ["imagelabels.mat", "setid.mat"],
    "pets": ["annotations/trainval.txt", "annotations/test.txt"],
    "cars": ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"],
    "food101": ["meta/train.json", "meta/test.json"],
    "dtd": ["labels/train1.txt", "labels/val1.txt"],
    "cifar10": ["batches.meta", "data_batch_3", "test_batch"],
    "cifar100": ["meta", "train"],
}
FILES = [(name, file) for name, files in ANNOTATIONS.items() for file in files]


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_missing_annotation_file_is_named(name: str, file: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    (root / OWN_FOLDERS[name] / file).unlink()
    assert_refused(f"lacks {file}; it holds", name, root)


@pytest.mark.parametrize(("name", "file"), [pair for pair in FILES if pair[1] != "data/variants.txt"])
@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_a_truncated_annotation_file_is_one_message(name: str, file: str, kept: float, tmp_path: Path) -> None:
    path = TREES[name](tmp_path) / OWN_FOLDERS[name] / file
    content = path.read_bytes()
    if path.suffix == ".txt" and kept:
        content = content.rstrip()[:-2] if name != "dtd" else b"banded"
        content += b"\n707-320" if name == "aircraft" else b""
        path.write_bytes(content)
    else:
        path.write_bytes(content[: int(len(content) * kept)])
    assert_refused(f"{path.name}' is damaged: .* It must hold .* Download it again", name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("aircraft", "data/images_variant_train.txt", "1 Zeppelin\n", r"data/images/1.jpg has the class 'Zeppelin'"),
        ("aircraft", "data/images_variant_train.txt", "0001000\n", r"line 1 is '0001000'.*lines `image variant`"),
        ("aircraft", "data/variants.txt", "", r"classes of the data set|no training picture"),
        ("pets", "annotations/test.txt", "Sphynx_1 2 1 2\n", r"the label 2 is 'american_bulldog' and 'Sphynx'"),
        ("pets", "annotations/test.txt", "Sphynx_1 7 1 2\n", r"it has 4 labels, up to 7"),
        ("pets", "annotations/test.txt", "Sphynx_1 two 1 2\n", r"line 1 is 'Sphynx_1 two 1 2'"),
        ("pets", "annotations/test.txt", f"Sphynx_1 {'1' * 5000} 1 2\n", r"line 1 is 'Sphynx_1 111"),
        ("food101", "meta/train.json", "[1]", r"it holds a list, no mapping"),
        ("food101", "meta/train.json", '{"apple_pie": [1]}', r"'apple_pie' has no list of names"),
        ("food101", "meta/test.json", '{"soup": ["soup/1"]}', r"images/soup/1.jpg has the class 'soup'"),
        ("dtd", "labels/test1.txt", "a/b/c\n", r"line 1 is 'a/b/c'.*lines `class/image`"),
        ("dtd", "labels/test1.txt", "\n", r"it has no lines"),
    ],
)
def test_annotation_files_that_disagree_are_named(
    name: str, file: str, content: str, message: str, tmp_path: Path
) -> None:
    path = TREES[name](tmp_path) / OWN_FOLDERS[name] / file
    path.write_text(content)
    assert_refused(message, name, tmp_path)


def test_a_text_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = TREES["pets"](tmp_path) / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    path.write_bytes(b"\xff\xfe\x00")
    assert_refused("trainval.txt' is damaged: it is no UTF-8", "pets", tmp_path)


def test_deeply_nested_json_is_one_message(tmp_path: Path) -> None:
    path = TREES["food101"](tmp_path) / "food-101" / "meta" / "train.json"
    path.write_text("[" * 100_000)
    assert_refused("train.json' is damaged: it is nested too deeply", "food101", tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "imagelabels.mat",
            {"labels": np.array([[200] * 108], np.uint8)},
            "has the label 200. It must hold labels from 1 to 102",
        ),
        ("imagelabels.mat", {"numbers": np.array([[1]], np.uint8)}, "it has no variable 'labels'"),
        ("imagelabels.mat", {"labels": "text"}, "labels is an array"),
        (
            "setid.mat",
            {"trnid": np.array([[1, 999]], np.uint16)},
            "trnid has 999. It must hold numbers of the 108 images",
        ),
        ("setid.mat", {"trnid": np.array([[0.5]], np.float64)}, "trnid is an array"),
    ],
)
def test_matlab_files_with_other_content_are_named(
    file: str, content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = TREES["flowers102"](tmp_path) / "flowers-102" / file
    scipy.io.savemat(path, content)
    assert_refused(message, "flowers102", tmp_path)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({"class": 4, "fname": "1.jpg"}, r"cars_train/1.jpg has the label 4. It must hold labels from 1 to 3"),
        ({"class": "one", "fname": "1.jpg"}, r"has the class 'one'"),
        ({"fname": "1.jpg"}, r"annotations has fname"),
        (np.zeros(3), r"annotations has no fields"),
    ],
)
def test_annotations_of_cars_with_other_content_are_named(annotations: Any, message: str, tmp_path: Path) -> None:
    path = TREES["cars"](tmp_path) / "stanford_cars" / "devkit" / "cars_train_annos.mat"
    scipy.io.savemat(path, {"annotations": annotations})
    assert_refused(message, "cars", tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"), [("eurosat", "eurosat/2750"), ("caltech101", "caltech101/101_ObjectCategories")]
)
def test_folders_without_classes_are_named(name: str, folder: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    shutil.rmtree(root / folder)
    (root / folder / "BACKGROUND_Google" if name == "caltech101" else root / folder).mkdir(parents=True)
    assert_refused("holds no class folders", name, root)


def test_a_picture_that_is_listed_but_not_there_is_unreadable(tmp_path: Path) -> None:
    data = load("pets", TREES["pets"](tmp_path))
    example = data.examples("test")[0]
    (tmp_path / "oxford-iiit-pet" / example.key).unlink()
    with pytest.raises(UnreadableImageError, match="No such file"):
        example.open()


# ------------------------------------------------------------------------------------------------------------- CIFAR


def batch(**changes: Any) -> dict[str, Any]:
    """A sound batch of three pictures, but for the changes."""
    data = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    return {"fine_labels": [0, 1, 2], "data": data, **changes}


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    return TREES["cifar100"](tmp_path) / "cifar-100-python" / "train"


def opened(data: Dataset) -> dict[str, Image.Image]:
    return {example.key: example.open() for example in data.examples("train")}


@pytest.mark.parametrize(
    "dump", [python2_pickle, lambda value: pickle.dumps(value, 4)], ids=["as published", "by Python 3"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_pictures_of_cifar_are_those_of_the_array(
    dump: Callable[[Any], bytes], order: Literal["C", "F"], train_file: Path
) -> None:
    stored = batch(data=np.array(batch()["data"], order=order))
    train_file.write_bytes(dump(stored))
    images = opened(load("cifar100", train_file.parent, val=0.0))
    assert sorted(images) == ["train/00000", "train/00001", "train/00002"]
    for row, key in enumerate(sorted(images)):
        assert np.array_equal(np.asarray(images[key]), stored["data"][row].reshape(3, 32, 32).transpose(1, 2, 0))


def test_pictures_of_cifar_are_not_kept_in_memory(train_file: Path) -> None:
    data = load("cifar100", train_file.parent)
    examples = {example.key: example for split in ("train", "val") for example in data.examples(split)}
    last = examples["train/00029"]
    assert len(pickle.dumps(last)) < 1000
    assert pickle.loads(pickle.dumps(last)).open().tobytes() == last.open().tobytes()
    os.truncate(train_file, 20_000)
    with pytest.raises(UnreadableImageError, match="the file train is shorter than it was"):
        last.open()
    train_file.unlink()
    with pytest.raises(UnreadableImageError, match="No such file"):
        last.open()


class Harm:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_that_calls_a_function_is_refused_and_calls_nothing(train_file: Path, tmp_path: Path) -> None:
    train_file.write_bytes(pickle.dumps({**batch(), "harm": Harm(tmp_path / "harm")}))
    assert_refused(r"train' is damaged: .*it asks for posix.mkdir, which is not allowed", "cifar100", tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "it holds a list, no mapping"),
        (batch(fine_labels=[0, 1]), "'data' is not of 2 rows, as there are labels"),
        (batch(fine_labels=[0, 1, 3]), "it has the label 3"),
        (batch(fine_labels=[0, 1, -1]), "it has the label -1"),
        (batch(fine_labels=["a", "b", "c"]), "'fine_labels' is no list of numbers"),
        (batch(data=np.zeros((3, 3072), np.float32)), "'data' is not of 3 rows"),
        (batch(data=np.zeros((3072, 3), np.uint8)), "'data' is not of 3 rows"),
        (batch(data=np.zeros((3, 3, 32, 32), np.uint8)), "'data' is not of 3 rows"),
        (batch(data=b"x"), "'data' is not of 3 rows"),
        ({"data": batch()["data"]}, "'fine_labels' is no list of numbers"),
        (batch(fine_labels=[], data=np.zeros((0, 3072), np.uint8)), "'data' is not of 0 rows"),
    ],
)
def test_batches_with_other_content_are_named(content: Any, message: str, train_file: Path) -> None:
    train_file.write_bytes(python2_pickle(content))
    assert_refused(f"train' is damaged: {message}", "cifar100", train_file.parent)


def test_class_names_of_cifar_that_are_no_names_are_named(train_file: Path) -> None:
    (train_file.parent / "meta").write_bytes(python2_pickle({"fine_label_names": [1, 2]}))
    assert_refused("meta' is damaged: 'fine_label_names' is no list of names", "cifar100", train_file.parent)


SOUND = python2_pickle(batch())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_batch_with_changed_bytes_is_read_or_refused(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    """Changes gather at both ends, where the pickle is not the pictures."""
    content = bytearray(SOUND)
    for place, value in changes:
        content[place % 200 if place % 3 == 0 else -1 - place % 120 if place % 3 == 1 else place] = value
    (tmp_path / "train").write_bytes(content)
    with contextlib.suppress(DatasetError):
        labels, rows = cifar._batch(tmp_path / "train", "fine_labels", len(CIFAR100))
        assert len(labels) == 3
        assert 0 < rows.begin < len(content)


def test_a_pickle_with_a_high_place_in_its_memo_takes_no_memory(train_file: Path) -> None:
    train_file.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    assert_refused("'fine_labels' is no list of numbers", "cifar100", train_file.parent)


# ------------------------------------------------------------------------------------------------------------- cost


def test_an_index_costs_little_more_than_its_paths(tmp_path: Path) -> None:
    root = TREES["food101"](tmp_path)
    names = {name: [f"{name}/{number}" for number in range(10_000)] for name in ("apple_pie", "baby_back_ribs")}
    (root / "food-101" / "meta" / "train.json").write_text(json.dumps(names))
    train = load("food101", root).examples("train")
    assert train.paths.nbytes / len(train) < 45


def test_a_configuration_finds_the_settings_of_a_published_data_set() -> None:
    loaded = config.validate({"name": "x", "dataset": {"name": "dtd", "path": "x"}, "guide": {"name": "x"}})
    assert loaded.dataset.partition == 1
