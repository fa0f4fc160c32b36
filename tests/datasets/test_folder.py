"""Any images in folders are a data set."""

from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from dct_augment import datasets
from dct_augment.errors import DatasetError
from tests.datasets.layouts import assert_refused, folder_tree, keys, load, save_image


def test_classes_of_a_folder_become_words_and_safe_slugs(tmp_path: Path) -> None:
    data = load("folder", folder_tree(tmp_path / "My Birds", 10))
    assert data.name == "My Birds"
    assert [info.name for info in data.classes] == ["laughing gull", "crane", "çà-.."]
    assert [info.slug for info in data.classes] == ["laughing-gull", "crane", "ca"]
    assert [info.original_name for info in data.classes] == ["001.Laughing_gull", "crane", "Çà-.."]


def test_shares_of_a_folder_are_held_out_and_adding_an_image_moves_none(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds")
    first_load = load("folder", root)
    parts = {split: keys(first_load, split) for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 120
    assert 5 <= len(parts["val"]) <= 25
    assert 12 <= len(parts["test"]) <= 40
    save_image(root / "crane" / "aaa.png")
    second_load = load("folder", root)
    assert all(parts[split] <= keys(second_load, split) for split in parts)
    assert keys(load("folder", root, seed=1), "test") != parts["test"]
    assert not load("folder", root, test=0, val=0).examples("test")


def test_images_of_a_folder_open_and_carry_their_class(tmp_path: Path) -> None:
    data = load("folder", folder_tree(tmp_path / "birds", 8))
    for example in data.examples("train"):
        assert example.open().convert("RGB").getpixel((0, 0)) == Image.new(
            "RGB", (1, 1), {0: "red", 1: "blue", 2: "green"}[example.label]
        ).getpixel((0, 0))


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_folder_may_have_splits_of_its_own(tmp_path: Path, val: str) -> None:
    for split, count in (("train", 6), (val, 2), ("test", 3)):
        for name in ("a", "b"):
            for number in range(count):
                save_image(tmp_path / split / name / f"{number}.jpg")
    data = load("folder", tmp_path, title="letters")
    assert data.name == "letters"
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [12, 4, 6]
    save_image(tmp_path / "test" / "c" / "0.jpg")
    assert_refused("has classes that train has not: c", "folder", tmp_path)


def test_a_folder_in_another_layout_is_refused(tmp_path: Path) -> None:
    assert_refused("does not exist or is no folder", "folder", tmp_path / "none")
    assert_refused("holds no class folders", "folder", tmp_path)
    save_image(tmp_path / "a" / "0.jpg")
    (tmp_path / "b").mkdir()
    assert_refused("1 of 2 classes in .* have no training picture: 'b'", "folder", tmp_path)
    assert_refused("hold out 1.1 of all", "folder", tmp_path, val=0.6, test=0.5)
    (tmp_path / "val").mkdir()
    assert_refused("has val but no train folder", "folder", tmp_path)


def test_words_of_a_folders_classes_come_from_a_file(tmp_path: Path) -> None:
    root, file = folder_tree(tmp_path / "birds", 6), tmp_path / "words.yaml"
    file.write_text("crane: crane bird\n001.Laughing_gull: gull\n")
    assert [info.name for info in load("folder", root, words=str(file)).classes][:2] == ["gull", "crane bird"]
    assert [info.slug for info in load("folder", root, words=str(file)).classes][:2] == ["laughing-gull", "crane"]
    for text, message in (
        ("cran: x", r"no class 'cran' \(did you mean 'crane'"),
        ("[1]", "must map"),
        ("{", "cannot be read"),
    ):
        file.write_text(text)
        assert_refused(message, "folder", root, words=str(file))


def test_unreadable_images_are_replaced_in_few_shot_draws(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 12)
    data = load("folder", root, val=0, test=0)
    first = [example.key for example in datasets.few_shot(data, 4, 0).train if example.label == 1]
    (root / first[0]).write_bytes(b"\xff\xd8 truncated")
    (root / first[1]).write_bytes((root / first[1]).read_bytes()[:40])
    again = [example.key for example in datasets.few_shot(data, 4, 0).train if example.label == 1]
    assert again[:2] == first[2:]
    assert len(again) == 4
    assert sorted(datasets.unreadable(data.examples("train"))) == sorted(first[:2])
    assert datasets.few_shot(data, 11, 0).fewer == {data.classes[1].name: 10}


def test_a_class_with_fewer_images_than_shots_gives_what_it_has(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 12)
    for number in range(3, 12):
        (root / "crane" / f"{number:03d}.png").unlink()
    data = load("folder", root, val=0, test=0)
    counts = {info.name: info.index for info in data.classes}
    cases: list[tuple[int | Literal["all"], list[int]]] = [(2, [2, 2, 2]), (5, [5, 3, 5]), ("all", [12, 3, 12])]
    for shots, expected in cases:
        split = datasets.few_shot(data, shots, 0)
        found = [sum(example.label == index for example in split.train) for index in sorted(counts.values())]
        assert sorted(found) == sorted(expected)
        assert split.fewer == ({"crane": 3} if shots != 2 else {})
    assert datasets.few_shot(data, "all", 0).shots == 12


def test_a_class_without_a_readable_image_is_refused_by_name(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 2)
    for path in (root / "crane").glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="'crane' has no training image: none of 2 can be read"):
        datasets.few_shot(load("folder", root, val=0, test=0), 1, 0)
