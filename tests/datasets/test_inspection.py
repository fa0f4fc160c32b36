import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dct_augment import config, datasets, images
from dct_augment.datasets import inspection, reading_pool
from dct_augment.datasets.inspection import SPLITS, Pictures, inspect
from dct_augment.datasets.overview import Overview
from dct_augment.errors import DatasetError
from dct_augment.records import Example, Progress
from tests.datasets.layouts import load
from tests.datasets.photographs import photograph, photograph_tree, save


def read(root: Path, folder: Path, **settings: Any) -> tuple[Pictures, int]:
    """Inspect a folder; also give how many pictures were opened."""
    data = load("folder", root, **settings)
    told: list[Progress] = []
    table = folder / "pictures.parquet"
    pictures = inspect({split: data.examples(split) for split in SPLITS}, table, str(settings), told.append)
    return pictures, told[-1].done if told else 0


def look(root: Path, folder: Path, name: str = "folder", **settings: Any) -> Overview:
    section = {"name": name, "path": str(root), **settings}
    loaded = config.validate({"name": "x", "dataset": section, "guide": {"name": "pocket/birds-guide"}})
    return datasets.look(datasets.load(loaded.dataset), loaded.dataset, folder)


def move_time(path: Path, seconds: int) -> None:
    status = path.stat()
    os.utime(path, (status.st_atime, status.st_mtime + seconds))


def test_each_picture_is_measured(tmp_path: Path) -> None:
    pictures, opened = read(photograph_tree(tmp_path / "data"), tmp_path)
    assert (len(pictures), opened, pictures.reasons) == (24, 24, {})
    assert pictures.keys[0].as_py() == "train/china/00.png"
    row = pictures.rows[0]
    assert (row["width"], row["height"]) == (160, 140)
    assert row["content"].tobytes().hex() == images.content(photograph(0))
    assert np.isnan(row["used_range"])
    assert row["contrast"] > 10


def test_a_picture_that_did_not_change_is_not_opened_again(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    before, _ = read(root, tmp_path)
    written = (tmp_path / "pictures.parquet").stat().st_mtime_ns
    after, opened = read(root, tmp_path)
    assert opened == 0
    assert np.array_equal(before.rows["content"], after.rows["content"])
    assert (tmp_path / "pictures.parquet").stat().st_mtime_ns == written


def test_changed_and_new_pictures_alone_are_opened(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    read(root, tmp_path)
    save(root / "train" / "china" / "00.png", 5)
    save(root / "train" / "china" / "new.png", 7, (20, 20))
    (root / "val" / "china" / "04.png").unlink()
    pictures, opened = read(root, tmp_path)
    assert opened == 2
    assert pictures.rows["content"][0].tobytes().hex() == images.content(photograph(5))
    rows = {row["key"]: row for row in pq.read_table(tmp_path / "pictures.parquet").to_pylist()}
    assert len(rows) == 25  # what was known of the removed one stays
    assert rows["train/china/00.png"]["content"].hex() == images.content(photograph(5))


def test_a_look_at_one_class_forgets_nothing_of_the_others(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    read(root, tmp_path)
    data = load("folder", root)
    one_class = datasets.DatasetSubset("x", data.classes[:1], data, {})
    save(root / "train" / "china" / "00.png", 5)
    told: list[Progress] = []
    table = tmp_path / "pictures.parquet"
    inspect({split: one_class.examples(split) for split in SPLITS}, table, "{}", told.append)
    assert told[-1].done == 1
    rows = pq.read_table(table).to_pylist()
    assert sorted({row["key"] for row in rows}) == sorted(row["key"] for row in rows)
    assert len(rows) == 24
    assert read(root, tmp_path)[1] == 0


def test_a_picture_of_the_same_size_and_another_time_is_opened_again(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    read(root, tmp_path)
    move_time(root / "test" / "china" / "06.png", 10)
    assert read(root, tmp_path)[1] == 1


def test_other_settings_of_reading_open_all_again(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    read(root, tmp_path)
    assert read(root, tmp_path, background="black")[1] == 24


def test_a_damaged_table_is_made_anew(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    (tmp_path / "pictures.parquet").write_bytes(b"no parquet")
    assert read(root, tmp_path)[1] == 24
    assert read(root, tmp_path)[1] == 0


def read_shared(root: Path, table: Path, shared: Path) -> int:
    """Look at all pictures with a second table; return how many were opened."""
    data = load("folder", root)
    told: list[Progress] = []
    inspect({split: data.examples(split) for split in SPLITS}, table, "{}", told.append, shared=shared)
    assert len(pq.read_table(table)) == 24
    return told[-1].done if told else 0


def test_another_run_opens_no_picture_that_one_run_has_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_MANY", 2)
    root, shared = photograph_tree(tmp_path / "data"), tmp_path / "cache" / "x.parquet"
    assert read_shared(root, tmp_path / "one.parquet", shared) == 24
    assert read_shared(root, tmp_path / "two.parquet", shared) == 0
    for picture in sorted((root / "train" / "china").iterdir())[:2]:
        move_time(picture, 10)
    assert read_shared(root, tmp_path / "three.parquet", shared) == 2
    assert read_shared(root, tmp_path / "four.parquet", shared) == 0
    shared.write_bytes(b"no parquet")
    assert read_shared(root, tmp_path / "five.parquet", shared) == 24
    assert read_shared(root, tmp_path / "six.parquet", shared) == 0


def test_few_pictures_are_opened_by_each_run(tmp_path: Path) -> None:
    root, shared = photograph_tree(tmp_path / "data"), tmp_path / "cache" / "x.parquet"
    for table in ("one.parquet", "two.parquet"):
        assert read_shared(root, tmp_path / table, shared) == 24
    assert not shared.exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_MANY", 2)
    root, file = photograph_tree(tmp_path / "data"), tmp_path / "file"
    file.write_bytes(b"")
    for table in ("one.parquet", "two.parquet"):
        assert read_shared(root, tmp_path / table, file / "x.parquet") == 24


def test_a_look_shares_what_it_learned_of_many_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_MANY", 2)
    monkeypatch.setenv("DCT_AUGMENT_CACHE", str(tmp_path / "cache"))
    root = photograph_tree(tmp_path / "data")
    section = config.validate(
        {"name": "x", "dataset": {"name": "folder", "path": str(root)}, "guide": {"name": "pocket/birds-guide"}}
    ).dataset
    for folder, opened in (("one", True), ("two", False)):
        told: list[Progress] = []
        overview = datasets.look(datasets.load(section), section, tmp_path / folder, told.append)
        assert any("pictures read" in progress.note for progress in told) == opened
        assert (tmp_path / folder / "overview.json").read_bytes() == (tmp_path / "one" / "overview.json").read_bytes()
        assert sum(overview.counts.values()) == 24


def test_what_was_read_before_a_stop_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photograph_tree(tmp_path / "data")
    data = load("folder", root)
    chunks = 0

    def stop(progress: Progress) -> None:
        nonlocal chunks
        chunks += 1
        raise KeyboardInterrupt

    examples = {split: data.examples(split) for split in SPLITS}
    monkeypatch.setattr(reading_pool, "CHUNK", 10)
    with pytest.raises(KeyboardInterrupt):
        inspect(examples, tmp_path / "pictures.parquet", "{}", stop)
    assert chunks == 1
    assert read(root, tmp_path)[1] == 14


@pytest.mark.slow
def test_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("folder", photograph_tree(tmp_path / "data"))
    examples = {split: data.examples(split) for split in SPLITS}
    one = inspect(examples, tmp_path / "one.parquet", processes=1)
    monkeypatch.setattr(reading_pool, "_ENOUGH", 1)
    monkeypatch.setattr(reading_pool, "CHUNK", 8)
    two = inspect(examples, tmp_path / "two.parquet", processes=2)
    assert one.rows.tobytes() == two.rows.tobytes()


def test_a_repaired_picture_comes_back(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    picture = root / "test" / "china" / "06.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    overview = look(root, tmp_path / "out")
    assert [(p.split, p.key, p.class_name) for p in overview.unreadable] == [("test", "test/china/06.png", "china")]
    assert overview.without == {"train": frozenset(), "val": frozenset(), "test": frozenset({"test/china/06.png"})}
    table = pq.read_table(tmp_path / "out" / "unreadable.parquet").to_pylist()
    assert [row["key"] for row in table] == ["test/china/06.png"]
    assert "cannot be decoded" in table[0]["reason"]

    picture.write_bytes(whole)
    overview = look(root, tmp_path / "out")
    assert overview.unreadable == ()
    assert not any(overview.without.values())
    assert pq.read_table(tmp_path / "out" / "unreadable.parquet").num_rows == 0


def test_an_unreadable_picture_is_tried_again_though_its_file_did_not_change(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    large: dict[str, Any] = {"max_pixels": 160 * 140 - 1}
    assert len(look(root, tmp_path / "out", **large).unreadable) == 24
    assert read(root, tmp_path, **large)[1] == 24
    assert read(root, tmp_path, **large)[1] == 24


def test_a_tar_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    root.mkdir()
    for number in range(12):
        save(tmp_path / f"{number}.png", number)
        (tmp_path / f"{number}.cls").write_text(str(number % 2))
    tar = root / "train-000.tar"
    with tarfile.open(tar, "w") as archive:
        for number in range(12):
            archive.add(tmp_path / f"{number}.png", f"{number}.png")
            archive.add(tmp_path / f"{number}.cls", f"{number}.cls")
    (root / "classes.txt").write_text("china\nflower\n")
    data = load("webdataset", root)
    examples = {split: data.examples(split) for split in SPLITS}
    told: list[Progress] = []
    inspect(examples, tmp_path / "pictures.parquet", "", told.append)
    assert told[-1].done == 12
    told.clear()
    inspect(examples, tmp_path / "pictures.parquet", "", told.append)
    assert told == []
    move_time(tar, 5)
    inspect(examples, tmp_path / "pictures.parquet", "", told.append)
    assert told[-1].done == 12


def test_pictures_of_12_bits_in_files_of_16_are_told_of(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    for number in (0, 8):
        grey = np.asarray(photograph(number).convert("L")).astype(np.uint16) * 15
        Image.fromarray(grey).save(root / "train" / "china" / f"{number:02d}.png")
    (note,) = look(root, tmp_path / "out").notes
    assert note.startswith("2 images of more than 8 bits use less than 1/16 of the range and look black: ")
    assert "dataset.value_range" in note
    assert look(root, tmp_path / "out", value_range="12bit").notes == ()


def test_sizes_and_counts(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    save(root / "val" / "china" / "small.png", 1, (17, 16))
    save(root / "val" / "china" / "large.png", 2, (320, 200))
    overview = look(root, tmp_path / "out", duplicates="drop")
    assert overview.counts == {"train": 12, "val": 8, "test": 6}
    assert [info.counts["val"] for info in overview.classes] == [5, 3]
    sizes = overview.sizes
    assert (sizes.smallest, sizes.median, sizes.largest) == ((17, 16), (160, 140), (320, 200))


def test_duplicates_across_splits_are_a_problem_that_lists_them(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    shutil.copy(root / "test" / "china" / "06.png", root / "train" / "china" / "copy.png")
    save(root / "train" / "flower" / "copy.jpg", 5, quality=80)
    overview = look(root, tmp_path / "out")
    (problem,) = overview.problems
    assert problem.startswith("2 images are in more than one split")
    assert "train/china/copy.png = test/china/06.png (exact)" in problem
    assert "train/flower/copy.jpg = val/flower/05.png (near)" in problem
    with pytest.raises(DatasetError, match=r"set dataset\.duplicates to drop"):
        overview.refuse_problems()
    rows = pq.read_table(tmp_path / "out" / "duplicates.parquet").to_pylist()
    assert [(row["kind"], row["split"], row["key"], row["left_out"]) for row in rows] == [
        ("exact", "train", "train/china/copy.png", False),
        ("exact", "test", "test/china/06.png", False),
        ("near", "train", "train/flower/copy.jpg", False),
        ("near", "val", "val/flower/05.png", False),
    ]


def test_dropped_copies_are_left_out_and_no_problem(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    shutil.copy(root / "test" / "china" / "06.png", root / "train" / "china" / "copy.png")
    shutil.copy(root / "test" / "china" / "06.png", root / "val" / "china" / "copy.png")
    shutil.copy(root / "train" / "china" / "00.png", root / "train" / "china" / "again.png")
    overview = look(root, tmp_path / "out", duplicates="drop")
    assert overview.problems == ()
    assert overview.without == {
        "train": frozenset({"train/china/copy.png", "train/china/again.png"}),
        "val": frozenset({"val/china/copy.png"}),
        "test": frozenset(),
    }


def test_copies_within_a_split_are_no_error(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    shutil.copy(root / "train" / "china" / "00.png", root / "train" / "china" / "again.png")
    overview = look(root, tmp_path / "out")
    assert (len(overview.groups), overview.problems) == (1, ())
    assert not any(overview.without.values())


def test_keep_searches_nothing_and_reads_no_training_picture(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    shutil.copy(root / "test" / "china" / "06.png", root / "train" / "china" / "copy.png")
    overview = look(root, tmp_path / "out", duplicates="keep")
    assert (overview.groups, overview.problems, overview.inspected) == ((), (), ("val", "test"))
    keys = pq.read_table(tmp_path / "out" / "pictures.parquet")["key"].to_pylist()
    assert keys
    assert not any(key.startswith("train/") for key in keys)
    assert "duplicates: not searched (dataset.duplicates: keep)" in overview.lines()


def test_a_picture_in_two_classes_is_noted_by_name(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    shutil.copy(root / "train" / "china" / "00.png", root / "train" / "flower" / "00.png")
    (note,) = look(root, tmp_path / "out").notes
    assert note == (
        "1 image is in more than one class: train/china/00.png (china) = train/flower/00.png (flower); each teaches "
        "and tests all of its classes: delete what is wrong"
    )


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (
            ("0", "1"),
            "2 of 2 classes have a name that says nothing in a prompt, as in 'a photo of a 0': '0', '1'; give words in "
            "a file: dataset.words",
        ),
        (("A", "b"), "2 of 2 classes have a name that says nothing in a prompt, as in 'a photo of a a': 'a', 'b';"),
        (
            ("class_7", "crane"),
            "1 of 2 classes has a name that says nothing in a prompt, as in 'a photo of a class 7': ",
        ),
        (("n01440764", "n01443537"), "2 of 2 classes have a name that says nothing in a prompt, "),
    ],
)
def test_class_names_that_say_nothing_are_noted(tmp_path: Path, names: tuple[str, str], note: str) -> None:
    root = photograph_tree(tmp_path / "data")
    for folder in root.iterdir():
        (folder / "china").rename(folder / names[0])
        (folder / "flower").rename(folder / names[1])
    (said,) = look(root, tmp_path / "out").notes
    assert said.startswith(note)


def test_class_names_that_say_something_are_not_noted(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    for folder in root.iterdir():
        (folder / "china").rename(folder / "猫")
        (folder / "flower").rename(folder / "0")
    (tmp_path / "words.yaml").write_text("0: flower")
    assert look(root, tmp_path / "out", words=str(tmp_path / "words.yaml")).notes == ()
    for folder in root.iterdir():
        (folder / "猫").rename(folder / "7_up")
        (folder / "0").rename(folder / "boeing 747")
    assert look(root, tmp_path / "out").notes == ()


def test_a_second_look_compares_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photograph_tree(tmp_path / "data")
    save(root / "train" / "flower" / "copy.jpg", 5, quality=80)
    first = look(root, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(datasets.looking.duplicates, "find_duplicates", lambda *_: pytest.fail("searched again"))
    assert look(root, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


def test_a_shipped_data_set_is_counted_and_nothing_is_read(tmp_path: Path) -> None:
    loaded = config.load("pocket")
    data = datasets.load("pocket")
    broken = {split: [Example(e.key, e.label, pytest.fail) for e in data.examples(split)] for split in SPLITS}
    unopened = datasets.splits.ImageDataset(data.name, data.classes, broken)
    overview = datasets.look(unopened, loaded.dataset, tmp_path / "out")
    assert overview.lines()[0] == "pocket: 1,120 images of 16 classes: 320 train, 160 val, 640 test"
    assert not (tmp_path / "out").exists()
    assert tuple(overview.counts) == inspection.SPLITS


def test_a_stored_table_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    stored = pytest.importorskip("datasets")
    features = stored.Features({"image": stored.Image(), "label": stored.ClassLabel(names=["china", "flower"])})
    rows = {"image": [photograph(number) for number in range(12)], "label": [number % 2 for number in range(12)]}
    stored.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "table"))
    assert look(tmp_path / "table", tmp_path / "out", "huggingface").sizes.largest == (160, 140)
    data = load("huggingface", tmp_path / "table")
    examples = {split: data.examples(split) for split in SPLITS}
    told: list[Progress] = []
    for _ in range(2):
        inspect(examples, tmp_path / "pictures.parquet", "", told.append)
    assert [progress.done for progress in told] == [12]


def test_a_row_of_a_file_of_many_changes_with_that_file(tmp_path: Path) -> None:
    """As CIFAR's batches: the path of a picture goes on behind that of the file."""
    batch = tmp_path / "batch"
    batch.write_bytes(b"rows")
    assert inspection._stamp(str(batch / "00042")) == inspection._stamp(str(batch)) != (-1, -1)
    assert inspection._stamp(str(tmp_path / "gone" / "00042")) == (-1, -1)


def test_tables_that_were_removed_are_written_again(tmp_path: Path) -> None:
    root, out = photograph_tree(tmp_path / "data"), tmp_path / "out"
    shutil.copy(root / "train" / "china" / "00.png", root / "train" / "china" / "copy.png")
    first = look(root, out)
    for name in ("duplicates.parquet", "unreadable.parquet"):
        before = pq.read_table(out / name)
        (out / name).unlink()
        assert look(root, out) == first
        assert pq.read_table(out / name).equals(before)


def test_a_row_with_a_null_byte_in_its_path_is_unreadable(tmp_path: Path) -> None:
    root = photograph_tree(tmp_path / "data")
    paths = [
        *(f"train/china/{path.name}" for path in sorted((root / "train" / "china").iterdir())),
        "train/china/0\0.png",
    ]
    rows = [{"path": path, "label": "ab"[number % 2]} for number, path in enumerate(paths)]
    (root / "birds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (picture,) = look(root / "birds.jsonl", tmp_path / "out", "manifest", val=0, test=0).unreadable
    assert (picture.key, picture.reason) == ("train/china/0\0.png", "its path is none: embedded null byte")


def test_a_class_is_listed_with_its_label(tmp_path: Path) -> None:
    data = load("folder", photograph_tree(tmp_path / "data"))
    section = config.validate(
        {"name": "x", "dataset": {"name": "folder", "path": str(tmp_path / "data")}, "guide": {"name": "x"}}
    ).dataset
    flower = datasets.DatasetSubset("x", data.classes[1:], data, {})
    overview = datasets.look(flower, section, tmp_path / "out")
    assert [info["index"] for info in overview.as_json()["classes"]] == [1]


def test_dark_pictures_of_16_bit_colour_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(3):
            rows = np.random.default_rng([number, ord(name)]).integers(0, 4096, (20, 20, 3)).astype(">u2")
            path = tmp_path / "data" / name / f"{number}.ppm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"P6 20 20 65535\n" + rows.tobytes())
    notes = " ".join(look(tmp_path / "data", tmp_path / "out").notes)
    assert (
        "6 images of more than 8 bits use less than 1/16 of the range and look black: set dataset.value_range" in notes
    )
