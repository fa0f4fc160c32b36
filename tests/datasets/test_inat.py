"""iNaturalist is read as published, all four years."""

from collections import Counter
from pathlib import Path

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
