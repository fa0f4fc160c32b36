"""Photos of a data set are written as a user has them."""

from pathlib import Path

import pytest
from PIL import Image

import dct_augment
from dct_augment.datasets.photos import write_photos
from dct_augment.errors import InputError
from dct_augment.images import content


def contents(folder: Path) -> list[str]:
    return [content(Image.open(path)) for path in sorted(folder.rglob("*.png"))]


def test_photos_of_each_class_and_new_ones_are_different_pictures(tmp_path: Path) -> None:
    digits = dct_augment.load_dataset("digits")
    assert write_photos(digits, tmp_path / "photos", tmp_path / "new", shots=3, test_photos=2, new_photos=4) == 50
    for split, count in (("train", 3), ("test", 2)):
        folders = sorted((tmp_path / "photos" / split).iterdir())
        assert len(folders) == 10
        assert {len(list(folder.iterdir())) for folder in folders} == {count}
    found = contents(tmp_path)
    assert len(found) == len(set(found)) == 30 + 20 + 4
    (tmp_path / "photos" / "train" / "zero" / "00.png").unlink()
    write_photos(digits, tmp_path / "photos", tmp_path / "new", shots=3, replace=True)
    assert len(list((tmp_path / "photos" / "zero").iterdir())) == 3
    assert not (tmp_path / "photos" / "train").exists()


def test_a_folder_of_the_user_is_never_replaced_unasked(tmp_path: Path) -> None:
    mine = tmp_path / "new" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"new' is there already; give a new folder, or replace=True"):
        write_photos(dct_augment.load_dataset("digits"), tmp_path / "photos", tmp_path / "new")
    assert mine.read_text() == "mine"
    assert not (tmp_path / "photos").exists()
