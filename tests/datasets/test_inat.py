"""iNaturalist is read as published, all four years."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.layouts import INAT_BIRDS, assert_refused, inat_tree, load


@pytest.mark.parametrize("year", [2017, 2018, 2019, 2021])
def test_inaturalist_of_every_year_has_names_and_splits(tmp_path: Path, year: int) -> None:
    data = load("inat", inat_tree(tmp_path, year), version=year)
    common = year == 2021
    assert [info.name for info in data.classes] == [pair[common].lower() for pair in INAT_BIRDS]
    assert data.name == f"inat{year}"
    assert len(data.examples("test")) == 6
    assert Counter(example.label for example in data.examples("test")) == {0: 2, 1: 2, 2: 2}
    assert len(data.examples("train")) + len(data.examples("val")) == 18
    assert data.examples("train")[0].open().size == (12, 9)


def test_inaturalist_can_be_limited_to_a_taxon_and_named_in_latin(tmp_path: Path) -> None:
    data = load("inat", inat_tree(tmp_path, 2021), taxon="aves", language="latin")
    assert [info.name for info in data.classes] == ["grus grus", "apteryx australis"]
    assert {example.label for example in data.examples("test")} == {0, 1}
    assert_refused("'Avess': no class is under it \\(did you mean 'Aves'", "inat", tmp_path, taxon="Avess")


def test_inaturalist_can_be_read_from_train_mini(tmp_path: Path) -> None:
    (inat_tree(tmp_path, 2021) / "train.json").rename(tmp_path / "train_mini.json")
    assert len(load("inat", tmp_path).classes) == 3


def test_hidden_names_and_damaged_files_of_inaturalist_are_explained(tmp_path: Path) -> None:
    (inat_tree(tmp_path, 2018) / "categories.json").unlink()
    assert_refused("names of iNaturalist 2018 are hidden in train2018.json", "inat", tmp_path, version=2018)
    (tmp_path / "train2018.json").write_text("{}")
    assert_refused("not a COCO-style annotation file", "inat", tmp_path, version=2018)
    assert_refused("lacks val.json", "inat", tmp_path)


def damaged(root: Path, change: Any) -> Path:
    path = inat_tree(root, 2021) / "train.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data["annotations"][3].pop("category_id"),
            r"annotations\[3\] lacks category_id; it is \{'id': 3",
        ),
        (lambda data: data["annotations"][0].pop("image_id"), r"annotations\[0\] lacks image_id"),
        (lambda data: data["images"][2].pop("file_name"), r"images\[2\] lacks file_name"),
        (lambda data: data["images"][2].update(id=None), r"images\[2\] lacks id"),
        (lambda data: data["categories"][1].pop("name"), r"categories\[1\] lacks name"),
        (lambda data: data["categories"].append("birds"), r"categories\[3\] lacks id and name; it is birds"),
        (lambda data: data["annotations"][0].update(image_id=[1]), r"annotations\[0\] lacks image_id"),
        (
            lambda data: data["annotations"][0].update(image_id=9),
            "1 annotation is of an image that is not in its list",
        ),
        (
            lambda data: data["annotations"][0].update(category_id=9),
            "of image 100 is of category 9, which is in no list",
        ),
        (
            lambda data: data["annotations"].append({"id": 77, "image_id": 100, "category_id": 1}),
            "image 100 has categories 0 and 1; multi-label data cannot be used",
        ),
        (lambda data: data["images"].append(data["images"][0]), "2 of its images have the id 100"),
        (lambda data: data["categories"].append({"id": 1, "name": "x"}), "2 of its categories have the id 1"),
        (lambda data: data.update(images={}), "it must have lists images, annotations, categories"),
    ],
)
def test_each_fault_of_an_annotation_file_is_one_message(tmp_path: Path, change: Any, message: str) -> None:
    assert_refused(f"train.json' is .*{message}", "inat", damaged(tmp_path, change))


def test_images_without_annotation_are_left_out_and_counted(tmp_path: Path) -> None:
    data = load("inat", damaged(tmp_path, lambda data: data["annotations"].pop()))
    assert data.notes == ("train.json: 1 image has no annotation, or a hidden one (-1), and is left out",)
    assert len(data.examples("train")) + len(data.examples("val")) == 17


@pytest.mark.parametrize(
    "hide", [list.clear, lambda annotations: [entry.update(category_id=-1) for entry in annotations]]
)
def test_a_split_of_hidden_labels_is_held_out_of_train(tmp_path: Path, hide: Any) -> None:
    path = inat_tree(tmp_path, 2021) / "val.json"
    data = json.loads(path.read_text())
    hide(data["annotations"])
    path.write_text(json.dumps(data))
    loaded = load("inat", tmp_path, test=0.5)
    assert loaded.notes[-1] == "split test has no picture; it is held out of train"
    assert 0 < len(loaded.examples("test")) < 18


def test_a_file_name_that_is_no_text_is_one_message(tmp_path: Path) -> None:
    assert_refused(
        "inat' cannot be read", "inat", damaged(tmp_path, lambda data: data["images"][0].update(file_name="\ud800"))
    )


def test_a_damaged_list_of_published_names_is_one_message(tmp_path: Path) -> None:
    path = inat_tree(tmp_path, 2019) / "categories.json"
    path.write_text("[{")
    assert_refused(
        "categories.json' is damaged: it is no JSON, .* It must hold a list of categories",
        "inat",
        tmp_path,
        version=2019,
    )
    path.write_text('[{"id": 0}]')
    assert_refused("must be a list of categories with id and name", "inat", tmp_path, version=2019)
    path.write_text('[{"id": 0, "name": "Grus grus"}]')
    assert_refused("lacks category 1 and 1 more", "inat", tmp_path, version=2019)
    path.write_text('[{"id": 0, "name": "Grus grus"}, {"id": 1, "name": "Apteryx australis"}]')
    assert_refused("lacks category 2; get the whole file", "inat", tmp_path, version=2019)
