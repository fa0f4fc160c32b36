"""Tables of pictures are read: CSV, TSV, JSON lines and parquet."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dct_augment.datasets.image_files import ImageFiles
from tests.datasets.layouts import COLOURS, assert_refused, keys, load, save_image, unreadable

Rows = list[dict[str, Any]]


def picture_rows(root: Path, count: int = 20, names: tuple[str, ...] = ("crane", "gull")) -> Rows:
    """Save pictures of each class in turn, each class in its colour, and list their rows."""
    rows = []
    for number in range(count):
        place = number % len(names)
        path = f"pictures/{number:03d}.png"
        save_image(root / path, COLOURS[place])
        rows.append({"path": path, "label": names[place]})
    return rows


def write(path: Path, rows: Rows) -> Path:
    """Write the rows as the ending says."""
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_of_any_kind_gives_every_picture_its_class(tmp_path: Path, ending: str) -> None:
    data = load("manifest", write(tmp_path / f"birds.{ending}", picture_rows(tmp_path)))
    assert data.name == "birds"
    assert [info.name for info in data.classes] == ["crane", "gull"]
    assert sum(len(data.examples(split)) for split in ("train", "val", "test")) == 20
    for example in data.examples("train"):
        assert example.open().getpixel((0, 0)) == [(255, 0, 0), (0, 128, 0)][example.label]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_compressed_table_is_read(tmp_path: Path, ending: str) -> None:
    plain = write(tmp_path / f"birds.{ending}", picture_rows(tmp_path))
    packed = tmp_path / f"packed.{ending}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert keys(load("manifest", packed), "train") == keys(load("manifest", plain), "train")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_splits_of_a_table_have_the_usual_words(tmp_path: Path, ending: str) -> None:
    rows = picture_rows(tmp_path, 8)
    words = ["Training", "Training", "dev", "dev", "TEST", "TEST", "test", "test"]
    rows = [row | {"split": word} for row, word in zip(rows, words, strict=True)]
    data = load("manifest", write(tmp_path / f"birds.{ending}", rows))
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [2, 2, 4]
    assert data.notes == ("the column of splits: 'TEST' and 'test' are read as one test split",)


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    rows = [
        {"file_name": row["path"], "species": row["label"], "fold": "train" if number < 12 else "test", "extra": "x,y"}
        for number, row in enumerate(picture_rows(tmp_path))
    ]
    table = write(tmp_path / "birds.csv", rows)
    settings = {"path_column": "file_name", "label_column": "species", "split_column": "fold"}
    data = load("manifest", table, val=0, **settings)
    assert [len(data.examples(split)) for split in ("train", "test")] == [12, 8]
    assert_refused("no column 'path'; there are file_name, species, fold, extra", "manifest", table)
    assert_refused("no column 'label';.*dataset.label_column", "manifest", table, path_column="file_name")
    assert_refused(
        "no column 'sp'; there are file_name, .*dataset.split_column",
        "manifest",
        table,
        **{**settings, "split_column": "sp"},
    )


def test_pictures_are_looked_for_in_each_root_in_turn(tmp_path: Path) -> None:
    rows = [{"path": f"{name}.png", "label": name[0]} for name in ("a1", "a2", "b1", "b2")]
    for place, root in (("a1", "one"), ("b1", "two"), ("b2", "two"), ("b1", "one")):
        save_image(tmp_path / root / f"{place}.png", "red" if root == "one" else "blue")
    save_image(tmp_path / "three" / "a2.png", "green")
    rows[1]["path"] = str(tmp_path / "three" / "a2.png")
    table = write(tmp_path / "birds.csv", rows)
    roots = [str(tmp_path / "one"), str(tmp_path / "two")]
    examples = {e.key: e for e in load("manifest", table, val=0, test=0, root=roots).examples("train")}
    colours = {Path(key).name: example.open().getpixel((0, 0)) for key, example in examples.items()}
    assert colours == {"a1.png": (255, 0, 0), "a2.png": (0, 128, 0), "b1.png": (255, 0, 0), "b2.png": (0, 0, 255)}
    assert "b2.png" in examples, "a key does not name the root, so that data can move"
    assert_refused("'nowhere' does not exist or is no folder", "manifest", table, root="nowhere")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_row_without_a_label_is_left_out_and_no_class(tmp_path: Path, ending: str) -> None:
    rows = picture_rows(tmp_path)
    rows[3]["label"] = rows[4]["label"] = None
    data = load("manifest", write(tmp_path / f"birds.{ending}", rows), val=0, test=0)
    assert [info.name for info in data.classes] == ["crane", "gull"]
    assert len(data.examples("train")) == 18
    assert data.notes == ("split train: 2 of 20 pictures are left out because of a label that is missing",)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_missing_label_that_pandas_made_a_word_is_no_class(tmp_path: Path, ending: str) -> None:
    rows = picture_rows(tmp_path)
    rows[3]["label"], rows[4]["label"] = "nan", "None"
    data = load("manifest", write(tmp_path / f"birds.{ending}", rows), val=0, test=0)
    assert [info.name for info in data.classes] == ["crane", "gull"]
    assert data.notes == ("split train: 2 of 20 pictures are left out because of a label that is missing",)


def test_numbers_that_pandas_made_fractions_are_still_classes(tmp_path: Path) -> None:
    rows = picture_rows(tmp_path, names=("1", "10", "2"))
    frame = pd.DataFrame(rows).astype({"label": float})
    frame.loc[0, "label"] = float("nan")
    frame.to_parquet(tmp_path / "birds.parquet")
    data = load("manifest", tmp_path / "birds.parquet", val=0, test=0)
    assert [info.original_name for info in data.classes] == ["1", "2", "10"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_hidden_test_labels_are_no_class_and_a_test_split_is_held_out(tmp_path: Path, ending: str) -> None:
    rows = picture_rows(tmp_path, 40, names=("0", "1"))
    for number, row in enumerate(rows):
        row |= {"split": "train" if number < 30 else "test"}
        row["label"] = int(row["label"]) if number < 30 else -1
    data = load("manifest", write(tmp_path / f"birds.{ending}", rows))
    assert [info.original_name for info in data.classes] == ["0", "1"]
    assert "split test: 10 of 10 labels are hidden (-1); the split is left out" in data.notes
    assert keys(data, "test") < {row["path"] for row in rows[:30]}


def test_several_labels_of_a_picture_are_refused(tmp_path: Path) -> None:
    rows = [row | {"label": ["a", "b"]} for row in picture_rows(tmp_path, 4)]
    assert_refused("line 1: a picture has 2 labels .a, b.", "manifest", write(tmp_path / "a.jsonl", rows))
    assert_refused("column 'label': a picture has 2 labels", "manifest", write(tmp_path / "a.parquet", rows))
    rows = [row | {"label": [row["label"]]} for row in picture_rows(tmp_path, 4)]
    for ending in ("jsonl", "parquet"):
        assert len(load("manifest", write(tmp_path / f"a.{ending}", rows), val=0, test=0).classes) == 2
    rows = picture_rows(tmp_path, 4, names=("a|b", "c"))
    assert [
        info.original_name for info in load("manifest", write(tmp_path / "a.csv", rows), val=0, test=0).classes
    ] == [
        "a|b",
        "c",
    ]


def test_a_picture_that_is_named_again_is_read_once_or_refused(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in picture_rows(tmp_path, 6)]
    again = rows[0] | {"path": "./pictures/../pictures/000.png"}
    data = load("manifest", write(tmp_path / "a.csv", [*rows, again]), val=0, test=0)
    assert (len(data.examples("train")), data.notes) == (6, ("1 row names a picture again and is left out",))
    table = write(tmp_path / "a.csv", [*rows, again | {"label": "gull"}])
    assert_refused("'pictures/000.png' has two labels; multi-label", "manifest", table)
    table = write(tmp_path / "a.csv", [*rows, again | {"split": "test"}])
    assert_refused("'pictures/000.png' has two splits", "manifest", table)


def test_missing_files_are_listed_and_unreadable(tmp_path: Path) -> None:
    rows = picture_rows(tmp_path)
    (tmp_path / rows[2]["path"]).unlink()
    data = load("manifest", write(tmp_path / "a.csv", rows), val=0, test=0)
    assert data.notes == ("1 of 20 files of the table is missing: 'pictures/002.png'",)
    assert unreadable(data.examples("train")) == ["pictures/002.png"]
    (tmp_path / "empty").mkdir()
    assert_refused(
        "no picture of it .20. is in .*empty', the first is 'pictures/000.png'. Set dataset.root",
        "manifest",
        tmp_path / "a.csv",
        root=str(tmp_path / "empty"),
    )
    web = write(tmp_path / "web.csv", [{"path": "https://a.example/1.jpg", "label": "a"}])
    assert_refused("They are web addresses: download", "manifest", web)


def test_paths_as_windows_writes_them_are_found(tmp_path: Path) -> None:
    rows = [row | {"path": row["path"].replace("/", "\\")} for row in picture_rows(tmp_path, 4)]
    assert "pictures/000.png" in keys(load("manifest", write(tmp_path / "a.csv", rows), val=0, test=0), "train")


def test_a_table_as_spreadsheets_save_it_is_read(tmp_path: Path) -> None:
    lines = ["path;label", *(f"{row['path']};{row['label']}" for row in picture_rows(tmp_path, 4))]
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert len(load("manifest", tmp_path / "a.csv", val=0, test=0).examples("train")) == 4


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", b"path,label\n", "the table has no rows"),
        ("a.csv", b"", "there is no column 'path'; there are none"),
        ("a.csv", b"path,label\na.png,b,c\n", "it cannot be read: CSV parse error: .*Expected 2 columns, got 3"),
        ("a.csv", b"path,label\n,b\n", "a row has no path"),
        ("a.csv", "path,label\nç.png,b\n".encode("latin-1"), "it cannot be read: it holds what is no text in UTF-8"),
        ("a.csv", b"path,label,split\na.png,b,somewhere\n", "a row's split is 'somewhere'; splits are called train, "),
        ("a.csv", b"path,label,split\na.png,b,\n", "some rows have no split"),
        ("a.csv", b"path,label,split\na.png,b,test\n", "no row is of the split train; there are test"),
        ("a.jsonl", b'{"path": "a.png", "label": "b"}\n{"path"', "line 2: it is no JSON"),
        ("a.jsonl", b"[1]\n", "line 1: it is no JSON object"),
        ("a.jsonl", b'{"path": 3, "label": "b"}\n', "line 1: 'path' is 3, not a path"),
        ("a.parquet", b"no parquet", "it cannot be read"),
        ("a.csv", b"path,path,label\na.png,a.png,b\n", "there are 2 columns 'path'; rename all but one"),
        ("a.csv.gz", b"no gzip", "it cannot be read: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"path": "a.png", "label": "b"}', mtime=0)[:-12] + bytes(12),
            "it cannot be read: ",
        ),
        ("a.jsonl", b'{"path": "\\ud800", "label": "b"}', "it cannot be read: it holds what is no text in UTF-8"),
        ("a.jsonl", b'{"path": ' + b"[" * 100_000, "line 1: it is nested too deeply"),
        ("a.jsonl", b'{"path": "a\\u0000.png", "label": "b"}', "no picture of it .1. is in "),
        ("a.xlsx", b"", "tables end in .csv, .tsv, .jsonl, .ndjson, .parquet, not in .xlsx"),
    ],
)
def test_a_damaged_table_is_one_message(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content)
    save_image(tmp_path / "a.png")
    assert_refused(f"{file}': {message}", "manifest", tmp_path / file)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    assert_refused("does not exist or is no file; a manifest is a .csv", "manifest", tmp_path)


def test_an_index_of_a_table_is_small(tmp_path: Path) -> None:
    save_image(tmp_path / "0.png")
    lines = [f"class-{number % 100:03d}/picture-{number:08d}.jpg,c{number % 100}" for number in range(20_000)]
    (tmp_path / "a.csv").write_text("path,label\n0.png,c0\n" + "\n".join(lines))
    examples = load("manifest", tmp_path / "a.csv", val=0, test=0).examples("train")
    assert isinstance(examples, ImageFiles)
    assert (examples.paths.nbytes + examples.labels.nbytes) / len(examples) < 60


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_mistyped_column_of_splits_is_refused_and_the_test_is_not_trained_on(tmp_path: Path, ending: str) -> None:
    rows = [row | {"fold": "train" if number < 12 else "test"} for number, row in enumerate(picture_rows(tmp_path))]
    table = write(tmp_path / f"birds{ending}", rows)
    assert_refused(
        "no column 'folds'; there are path, label, fold.*split_column", "manifest", table, split_column="folds"
    )
    assert len(load("manifest", table, val=0, split_column="fold").examples("test")) == 8


def test_json_lines_may_begin_with_an_empty_line_and_name_a_split_late(tmp_path: Path) -> None:
    first, *rest = picture_rows(tmp_path)
    rows = [
        first | {"fold": "train"},
        *({"path": row["path"], "label": row["label"], "fold": "test"} for row in rest[:4]),
    ]
    rows += [row | {"fold": "train"} for row in rest[4:]]
    table = tmp_path / "birds.jsonl"
    table.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    assert len(load("manifest", table, val=0, split_column="fold").examples("test")) == 4
    assert_refused("line 2.*no column 'labels'", "manifest", table, label_column="labels")
