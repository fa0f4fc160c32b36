"""Any images in folders are a data set."""

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from dct_augment import datasets
from dct_augment.errors import DatasetError, UnreadableImageError
from tests.datasets.layouts import assert_refused, folder_tree, keys, load, save_image, unreadable


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
    assert_refused("1 of 2 classes in .* has no training picture: 'b'", "folder", tmp_path)
    assert_refused("hold out 1.1 of all", "folder", tmp_path, val=0.6, test=0.5)
    save_image(tmp_path / "b" / "0.jpg")
    (tmp_path / "val").mkdir()
    for name in "ab":
        (tmp_path / name).rename(tmp_path / "val" / name)
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


def test_words_of_a_folders_classes_come_from_the_configuration_itself(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 6)
    words = {"Crane": "crane bird", "001.Laughing_gull": " gull "}
    assert [info.name for info in load("folder", root, words=words).classes][:2] == ["gull", "crane bird"]
    assert_refused(
        r"dataset.words: there is no class 'cran' \(did you mean 'crane'", "folder", root, words={"cran": "x"}
    )


def test_unreadable_images_are_replaced_in_few_shot_draws(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 12)
    data = load("folder", root, val=0, test=0)
    first = [example.key for example in datasets.few_shot(data, 4, 0).train if example.label == 1]
    (root / first[0]).write_bytes(b"\xff\xd8 truncated")
    (root / first[1]).write_bytes((root / first[1]).read_bytes()[:40])
    again = [example.key for example in datasets.few_shot(data, 4, 0).train if example.label == 1]
    assert again[:2] == first[2:]
    assert len(again) == 4
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


def split_tree(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("a", "b")) -> Path:
    """Write class folders inside a folder for each split."""
    for split, count in counts.items():
        for name in classes:
            for number in range(count):
                save_image(root / split / name / f"{number}.jpg")
    return root


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "dev", "test"),
        ("training", "validation", "testing"),
        ("Train", "Val", "TEST"),
        ("trn", "valid", "tst"),
        ("TRAINING", "eval", "Testing"),
    ],
)
def test_every_usual_word_for_a_split_is_read_in_any_case(tmp_path: Path, train: str, val: str, test: str) -> None:
    data = load("folder", split_tree(tmp_path, {train: 4, val: 2, test: 3}))
    assert [info.name for info in data.classes] == ["a", "b"]
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [8, 4, 6]
    assert {key.split("/")[0] for key in keys(data, "test")} == {test}


def test_training_and_testing_alone_are_splits_not_two_classes(tmp_path: Path) -> None:
    data = load("folder", split_tree(tmp_path, {"training": 20, "testing": 3}))
    assert [info.name for info in data.classes] == ["a", "b"]
    assert len(data.examples("test")) == 6
    assert 0 < len(data.examples("val")) < 20


def test_one_split_in_two_spellings_is_read_whole(tmp_path: Path) -> None:
    split_tree(tmp_path, {"train": 3}, ("a", "b"))
    data = load("folder", split_tree(tmp_path, {"Train": 2}, ("b", "c")), val=0, test=0)
    assert [info.name for info in data.classes] == ["a", "b", "c"]
    assert [example.key for example in data.examples("train") if example.label == 1] == [
        "Train/b/0.jpg",
        "Train/b/1.jpg",
        "train/b/0.jpg",
        "train/b/1.jpg",
        "train/b/2.jpg",
    ]
    assert "'Train' and 'train' are read as one training split" in data.notes[0]


@pytest.mark.parametrize(("one", "other"), [("val", "dev"), ("valid", "validation"), ("test", "testing")])
def test_two_words_for_one_split_are_refused(tmp_path: Path, one: str, other: str) -> None:
    split_tree(tmp_path, {"train": 2, one: 1, other: 1})
    assert_refused(f"has '{min(one, other)}' and '{max(one, other)}', which both mean the", "folder", tmp_path)


def test_eval_is_the_validation_split_and_that_is_said(tmp_path: Path) -> None:
    data = load("folder", split_tree(tmp_path, {"train": 2, "eval": 1, "test": 3}))
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [4, 2, 6]
    assert data.notes == ("'eval' is read as the validation split; if it is your test split, call it test",)
    split_tree(tmp_path, {"val": 1})
    assert_refused("which both mean the validation split. Put them together under one name, or", "folder", tmp_path)
    shutil.rmtree(tmp_path / "test")
    assert_refused("rename eval to test if it is your test split", "folder", tmp_path)


@pytest.mark.parametrize("name", ["train", "test", "val", "Dev"])
def test_a_class_may_be_called_like_a_split(tmp_path: Path, name: str) -> None:
    for folder in (name, "car"):
        for number in range(3):
            save_image(tmp_path / folder / f"{number}.jpg")
    data = load("folder", tmp_path, val=0, test=0)
    assert {info.original_name for info in data.classes} == {name, "car"}
    assert len(data.examples("train")) == 6
    save_image(tmp_path / name / "more" / "0.jpg")
    assert len(load("folder", tmp_path, val=0, test=0).examples("train")) == 7


def test_a_class_may_be_called_like_a_split_inside_of_splits(tmp_path: Path) -> None:
    data = load("folder", split_tree(tmp_path, {"train": 3, "test": 2}, ("train", "test")), val=0)
    assert [info.name for info in data.classes] == ["test", "train"]
    assert len(data.examples("test")) == 4


def test_a_folder_that_may_be_a_split_or_a_class_is_refused(tmp_path: Path) -> None:
    split_tree(tmp_path, {"train": 2}, ("steam", "diesel"))
    save_image(tmp_path / "car" / "0.jpg")
    assert_refused("'train' holds folders, as a split does, but 'car' beside it holds pictures", "folder", tmp_path)


def test_splits_inside_of_classes_are_refused(tmp_path: Path) -> None:
    split_tree(tmp_path, {"crane": 2, "gull": 2}, ("test", "train"))
    assert_refused(
        "every class folder holds splits .gull/test, .*Put the splits outside: test/gull", "folder", tmp_path
    )


def test_split_folders_without_class_folders_are_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "0.jpg")
    save_image(tmp_path / "test" / "0.jpg")
    assert_refused("has only 'test' and 'train', which hold pictures but no class folders", "folder", tmp_path)


def test_test_pictures_without_class_folders_have_hidden_labels(tmp_path: Path) -> None:
    split_tree(tmp_path, {"train": 30, "val": 1})
    save_image(tmp_path / "test" / "0.jpg")
    data = load("folder", tmp_path)
    assert "'test' holds pictures in no class folder, so their labels are unknown; it is left out" in data.notes[0]
    assert {key.split("/")[0] for key in keys(data, "test")} == {"train"}


def test_an_empty_split_is_held_out_of_train(tmp_path: Path) -> None:
    split_tree(tmp_path, {"train": 30, "val": 1})
    (tmp_path / "test" / "a").mkdir(parents=True)
    data = load("folder", tmp_path)
    assert data.notes == ("split test: 'test' holds no picture; the split is left out",)
    assert len(data.examples("test")) > 0


def test_whatever_is_left_out_is_counted(tmp_path: Path) -> None:
    split_tree(tmp_path, {"train": 2, "test": 1})
    for name in ("a/notes.txt", "a/more.TXT", "b/raw.CR2", "b/README", "b/.DS_Store"):
        (tmp_path / "train" / name).write_text("no picture")
    save_image(tmp_path / "train" / "cover.jpg")
    save_image(tmp_path / "logo.png")
    save_image(tmp_path / "thumbnails" / "a" / "0.jpg")
    data = load("folder", tmp_path, val=0)
    assert data.notes == (
        "folders beside the splits are left out: 'thumbnails'",
        "2 pictures lie in no class folder and are left out: 'logo.png', 'train/cover.jpg'",
        "4 files in class folders whose ending is not a picture's are left out: 2 .txt, 1 without ending, 1 .cr2",
    )
    assert len(data.examples("train")) == 4


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 6)
    save_image(root / "crane" / ".ipynb_checkpoints" / "000-checkpoint.png")
    assert all("/." not in key for key in keys(load("folder", root, val=0, test=0), "train"))


def test_heic_pictures_belong_to_their_class(tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "0.jpg")
    (tmp_path / "a" / "1.HEIC").write_bytes(bytes(4) + b"ftypheic" + bytes(20))
    assert keys(load("folder", tmp_path, val=0, test=0), "train") == {"a/0.jpg", "a/1.HEIC"}


def test_numbered_classes_have_the_order_of_numbers_or_that_of_letters(tmp_path: Path) -> None:
    for name in ("10", "9", "1", "b", "A"):
        save_image(tmp_path / name / "0.jpg")
    assert [info.original_name for info in load("folder", tmp_path, val=0, test=0).classes] == [
        "1",
        "9",
        "10",
        "A",
        "b",
    ]
    data = load("folder", tmp_path, val=0, test=0, class_order="alphabetical")
    assert [info.original_name for info in data.classes] == ["1", "10", "9", "A", "b"]


def test_links_in_a_circle_are_left_out_with_a_remark(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 3)
    before = load("folder", root)
    (root / "crane" / "again").symlink_to(root / "crane")
    data = load("folder", root)
    for split in ("train", "val", "test"):
        assert [example.key for example in data.examples(split)] == [e.key for e in before.examples(split)]
    (note,) = set(data.notes) - set(before.notes)
    assert note.startswith("1 link leads back to a folder that it lies in, and is left out: ")
    assert "crane/again" in note


def test_a_pipe_among_pictures_is_unreadable_and_not_waited_for(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 3)
    os.mkfifo(root / "crane" / "pipe.png")
    data = load("folder", root, val=0, test=0)
    (pipe,) = [example for example in data.examples("train") if example.key == "crane/pipe.png"]
    with pytest.raises(UnreadableImageError, match="it is no file, but a pipe or a device"):
        pipe.open()


def test_links_to_folders_and_broken_links_are_followed_or_unreadable(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 3)
    save_image(tmp_path / "elsewhere" / "9.png")
    (root / "crane" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "crane" / "loop").symlink_to(root / "crane" / "loop")
    (root / "crane" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = load("folder", root, val=0, test=0)
    assert {"crane/more/9.png", "crane/gone.png"} < keys(data, "train")
    assert unreadable(data.examples("train")) == ["crane/gone.png"]


def test_names_of_classes_agree_however_their_accents_are_stored(tmp_path: Path) -> None:
    split_tree(tmp_path, {"train": 2}, (unicodedata.normalize("NFC", "Çà"), "b"))
    split_tree(tmp_path, {"test": 1}, (unicodedata.normalize("NFD", "Çà"), "b"))
    data = load("folder", tmp_path, val=0)
    assert sorted(example.label for example in data.examples("test")) == [0, 1]


def test_where_names_are_read_as_ascii_the_locale_is_to_be_set_and_no_folder_renamed(tmp_path: Path) -> None:
    (tmp_path / "Æøå").mkdir()
    code = (
        "import sys; from pathlib import Path; from dct_augment.datasets.image_files import folder_names; "
        "folder_names(Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    assert "the folder name 'Æøå' is not ASCII, as names are read here; set LC_ALL=C.UTF-8" in done.stderr


def test_file_names_that_are_no_text_are_counted_or_named(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "birds", 3)
    os.rename(root / "crane" / "000.png", os.fsencode(root / "crane") + b"/\xff.png")
    data = load("folder", root, val=0, test=0)
    assert "1 picture is left out, because a name is not UTF-8; rename it" in data.notes
    assert len(data.examples("train")) == 8
    os.mkdir(os.fsencode(root) + b"/\xfe")
    assert_refused("is not UTF-8; rename it", "folder", root)


def test_a_path_one_level_too_high_is_refused_with_the_right_one(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_image(tmp_path / "photos" / "archive" / name / "0.jpg")
    hint = (
        f"one class folder, 'archive', .* 'cat', 'dog'; did you mean dataset.path '{tmp_path / 'photos' / 'archive'}'"
    )
    assert_refused(hint, "folder", tmp_path / "photos")
    assert_refused("did you mean dataset.path '.*/photos/archive'", "folder", tmp_path)
    assert len(load("folder", tmp_path / "photos" / "archive", val=0, test=0).classes) == 2


def test_a_path_one_level_above_the_splits_is_refused_with_the_right_one(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            save_image(tmp_path / "archive" / split / name / "0.jpg")
    assert_refused("did you mean dataset.path '.*/archive'", "folder", tmp_path)


def test_a_folder_around_all_classes_of_a_split_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            save_image(tmp_path / split / "archive" / name / "0.jpg")
    assert_refused("one class folder, 'archive', .*; move them up into '.*/train'", "folder", tmp_path)


def test_one_class_alone_is_a_data_set_to_generate_for(tmp_path: Path) -> None:
    save_image(tmp_path / "photos" / "cat" / "0.jpg")
    save_image(tmp_path / "deep" / "cat" / "2020" / "0.jpg")
    for root in (tmp_path / "photos", tmp_path / "deep"):
        assert [info.name for info in load("folder", root, val=0, test=0).classes] == ["cat"]


def test_pictures_beside_the_split_are_to_be_moved_out_and_not_into_it(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_image(tmp_path / "photos" / "train" / name / "0.jpg")
    save_image(tmp_path / "photos" / "new" / "0.jpg")
    photos = tmp_path / "photos"
    advice = f"If 'train' is a split, give the folder '{photos / 'train'}', or move 'new' out of '{photos}'"
    assert_refused(advice, "folder", photos)


def test_a_folder_of_classes_beside_one_of_pictures_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_image(tmp_path / "photos" / name / "0.jpg")
    save_image(tmp_path / "new" / "0.jpg")
    advice = f"'photos' holds folders of pictures .'cat', 'dog'.*give the folder '{tmp_path / 'photos'}'"
    assert_refused(advice, "folder", tmp_path)
    save_image(tmp_path / "photos" / "0.jpg")  # a class with pictures of its own, and more of them in folders
    assert [info.name for info in load("folder", tmp_path, val=0, test=0).classes] == ["new", "photos"]


def test_a_class_of_folders_is_a_class_where_others_have_folders_too_or_it_has_one_alone(tmp_path: Path) -> None:
    save_image(tmp_path / "cat" / "2020" / "0.jpg")
    save_image(tmp_path / "dog" / "0.jpg")
    assert len(load("folder", tmp_path, val=0, test=0).classes) == 2
    for name in ("cat", "owl"):
        save_image(tmp_path / name / "2020" / "0.jpg")
        save_image(tmp_path / name / "2021" / "0.jpg")
    assert len(load("folder", tmp_path, val=0, test=0).classes) == 3


def test_holding_out_less_is_advised_only_where_a_class_was_held_out(tmp_path: Path) -> None:
    save_image(tmp_path / "cat" / "0.jpg")
    (tmp_path / "dog").mkdir()
    assert_refused("'dog'. Add some, or remove the class$", "folder", tmp_path, val=0, test=0)
    save_image(tmp_path / "dog" / "0.jpg")
    assert_refused("or hold out less", "folder", tmp_path, val=0.5, test=0.49)
