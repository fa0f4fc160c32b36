"""Data sets that cannot be read: folders, tables, tars, files of words, annotations."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.robustness.case import Case, Files, Maker

CONFIG = "name: x\nguide: {name: pocket/birds-guide}\ndataset: {name: %s, path: %s%s}\n"


@cache
def png(colour: int = 0) -> bytes:
    """A small picture."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour % 256, colour // 256 % 256, 99)).save(stream, "PNG")
    return stream.getvalue()


def _data(said: str, kind: str, path: str, files: Files, settings: str = "") -> Case:
    more = f", {settings}" if settings else ""
    return Case(("data", "--config", "c.yaml"), said, {"c.yaml": CONFIG % (kind, path, more), **files})


def _classes(*names: str, count: int = 4, root: str = "photos") -> dict[str, str | bytes | Maker]:
    return {
        f"{root}/{name}/{number}.png": png(97 * place + number)
        for place, name in enumerate(names)
        for number in range(count)
    }


def link(target: str) -> Maker:
    return lambda path: path.symlink_to(target)


def _folder(said: str, files: Files, settings: str = "") -> Case:
    return _data(said, "folder", "photos", files, settings)


def _named(folder: bytes) -> Maker:
    """Make a picture in a folder whose name is any bytes; the path itself is no file."""

    def make(path: Path) -> None:
        place = os.path.join(os.fsencode(path.parent), folder)
        os.makedirs(place)
        with open(os.path.join(place, b"0.png"), "wb") as stream:
            stream.write(png())

    return make


FOLDERS = {
    "a folder that is not there": _folder("dataset.path 'photos' does not exist or is no folder", {}),
    "a folder that is a file": _folder("dataset.path 'photos' does not exist or is no folder", {"photos": "x"}),
    "a folder that is a pipe": _folder("dataset.path 'photos' does not exist or is no folder", {"photos": os.mkfifo}),
    "a folder that is a link to itself": _folder("'photos'", {"photos": link("photos")}),
    "an empty folder": _folder("'photos' holds no class folders", {"photos/": ""}),
    "a folder with pictures alone": _folder("'photos' holds no class folders", {"photos/a.png": png()}),
    "a class without a picture": _folder(
        "1 of 2 classes in 'photos' has no training picture: 'gull'", {**_classes("crane"), "photos/gull/": ""}
    ),
    "a class of text files": _folder("'gull'", {**_classes("crane"), "photos/gull/a.txt": "x"}),
    "a class that holds a link to itself alone": _folder(
        "'gull'", {**_classes("crane"), "photos/gull/again": link(".")}
    ),
    "one folder around all": _folder("did you mean dataset.path 'photos/all'", _classes("all/crane", "all/gull")),
    "splits in classes": _folder(
        "every class folder holds splits", _classes("crane/train", "crane/test", "gull/train", "gull/test")
    ),
    "a test without a train": _folder("has test but no train folder", _classes("test/crane", "test/gull")),
    "two names for one split": _folder(
        "'val' and 'valid', which both mean the validation split", _classes("train/a", "val/a", "valid/a")
    ),
    "a test class that train has not": _folder(
        "has classes that train has not: gull", _classes("train/crane", "train/owl", "test/gull")
    ),
    "splits without classes": _folder(
        "hold pictures but no class folders", {"photos/train/a.png": png(), "photos/test/b.png": png()}
    ),
    "a class whose name is no UTF-8": _folder(
        "is not UTF-8; rename it", {**_classes("crane"), "photos/x": _named(b"\xffgull")}
    ),
    "words that are not there": _folder(
        "dataset.words 'w.yaml' cannot be read: No such file", _classes("crane", "gull"), "words: w.yaml"
    ),
    "words that are a folder": _folder(
        "dataset.words 'w.yaml' cannot be read: Is a directory", {**_classes("crane"), "w.yaml/": ""}, "words: w.yaml"
    ),
    "words that are a pipe": _folder(
        "dataset.words 'w.yaml' cannot be read: it is no file, but a pipe",
        {**_classes("crane"), "w.yaml": os.mkfifo},
        "words: w.yaml",
    ),
    "words that are empty": _folder(
        "dataset.words 'w.yaml' is empty", {**_classes("crane"), "w.yaml": " \n"}, "words: w.yaml"
    ),
    "words that are no text": _folder(
        "dataset.words 'w.yaml' is not written in UTF-8", {**_classes("crane"), "w.yaml": b"\xff"}, "words: w.yaml"
    ),
    "words that are a list": _folder(
        "must map classes to words", {**_classes("crane"), "w.yaml": "- crane"}, "words: w.yaml"
    ),
    "words of an unknown class": _folder(
        "there is no class 'crance' (did you mean 'crane'?)",
        {**_classes("crane", "gull"), "w.yaml": "crance: bird"},
        "words: w.yaml",
    ),
    "words of a class twice": _folder(
        "the key 'crane' is written twice, at line 2",
        {**_classes("crane"), "w.yaml": "crane: a\ncrane: b"},
        "words: w.yaml",
    ),
    "words that are 3,000 deep": _folder(
        "nested too deeply", {**_classes("crane"), "w.yaml": "crane: " + "[" * 3000}, "words: w.yaml"
    ),
    "a table of words without a head": _folder(
        "must begin with the line `class,words`", {**_classes("crane"), "w.csv": "crane,bird\n"}, "words: w.csv"
    ),
    "a table of words of three columns": _folder(
        "has 3 columns, not 2", {**_classes("crane"), "w.csv": "class,words\ncrane,a,b\n"}, "words: w.csv"
    ),
    "a table of words with an open quote": _folder(
        "dataset.words 'w.csv' cannot be read: line 2",
        {**_classes("crane"), "w.csv": 'class,words\ncrane,"a\n'},
        "words: w.csv",
    ),
}


def table(**columns: object) -> Maker:
    return lambda path: pq.write_table(pa.table(columns), path)


def _table(said: str, name: str, content: str | bytes | Maker, settings: str = "", **pictures: bytes) -> Case:
    files = {f"{key}.png": data for key, data in (pictures or {"a": png(1), "b": png(2)}).items()}
    return _data(said, "manifest", name, {**files, name: content}, settings)


_ROWS = "path,label\na.png,crane\nb.png,gull\n"
TABLES = {
    "a table that is not there": _data("dataset.path does not exist or is no file", "manifest", "t.csv", {}),
    "a table that is a folder": _data("dataset.path does not exist or is no file", "manifest", "t.csv", {"t.csv/": ""}),
    "a table that is a pipe": _table("dataset.path does not exist or is no file", "t.csv", os.mkfifo),
    "a table of another kind": _table("tables end in .csv, .tsv, .jsonl", "t.xlsx", "x"),
    "an empty table": _table("there is no column 'path'", "t.csv", ""),
    "a table of its head alone": _table("the table has no rows", "t.csv", "path,label\n"),
    "a table without labels": _table(
        "there is no column 'label'; there are path, class", "t.csv", "path,class\na.png,x\n"
    ),
    "a table with a column twice": _table("there are 2 columns 'label'", "t.csv", "path,label,label\na.png,x,y\n"),
    "a table with a row of three": _table("'t.csv': it cannot be read", "t.csv", _ROWS + "a.png,b,c\n"),
    "a table that is no text": _table("'t.csv': it cannot be read", "t.csv", b"\xff\xfe\x00"),
    "a table with a row that is no text": _table("'t.csv'", "t.csv", _ROWS.encode() + b"b.png,\xff\n"),
    "a table of null bytes": _table("there is no column 'path'", "t.csv", bytes(50)),
    "a table of pictures that are not there": _table("no picture of it (1) is in", "t.csv", "path,label\nc.png,x\n"),
    "a table of web addresses": _table("They are web addresses", "t.csv", "path,label\nhttps://x/c.png,x\n"),
    "a row without a path": _table("a row has no path", "t.csv", _ROWS + ",gull\n"),
    "a path with a null byte": _table("no picture of it (1) is in", "t.csv", "path,label\na\0.png,x\n"),
    "a picture with two labels": _table("has two labels", "t.csv", _ROWS + "a.png,gull\n"),
    "a picture in two splits": _table("has two splits", "t.csv", "path,label,split\na.png,x,train\na.png,x,test\n"),
    "a split of no usual name": _table("a row's split is 'left'", "t.csv", "path,label,split\na.png,x,left\n"),
    "a row without a split": _table("some rows have no split", "t.csv", "path,label,split\na.png,x,train\nb.png,x,\n"),
    "no row of train": _table("no row is of the split train", "t.csv", "path,label,split\na.png,x,test\n"),
    "no label": _table("no training picture has a label", "t.csv", "path,label\na.png,\nb.png,nan\n"),
    "a table that is no gzip": _table("'t.csv.gz': it cannot be read", "t.csv.gz", "path,label\n"),
    "a root that is not there": _table("dataset.root: 'gone' does not exist", "t.csv", _ROWS, "root: gone"),
    "lines that are no JSON": _table("line 1: it is no JSON", "t.jsonl", "{\n"),
    "lines that are 99,999 deep": _table("line 1: it is nested too deeply", "t.jsonl", "[" * 99_999 + "\n"),
    "a line that is a list": _table("line 1: it is no JSON object", "t.jsonl", "[1]\n"),
    "a line whose path is a number": _table(
        "line 1: 'path' is 3, not a path", "t.jsonl", '{"path": 3, "label": "x"}\n'
    ),
    "a line whose label is an object": _table(
        "is no class: a label is a word or a whole number", "t.jsonl", '{"path": "a.png", "label": {"x": 1}}\n'
    ),
    "a line whose label is half a number": _table(
        "the label 0.5 is no class", "t.jsonl", '{"path": "a.png", "label": 0.5}\n'
    ),
    "a line of several labels": _table(
        "multi-label data cannot be used", "t.jsonl", '{"path": "a.png", "label": ["x", "y"]}\n'
    ),
    "a line whose label is half a letter": _table(
        "is no text in UTF-8", "t.jsonl", '{"path": "a.png", "label": "\\ud800"}\n'
    ),
    "a line whose path is half a letter": _table("'t.jsonl'", "t.jsonl", '{"path": "\\ud800.png", "label": "x"}\n'),
    "a line with a number of 5,000 digits": _table(
        "line 1: it holds a number of too many digits", "t.jsonl", '{"path": "a.png", "label": %s}\n' % ("9" * 5000)
    ),
    "a parquet that is none": _table("'t.parquet': it cannot be read", "t.parquet", "PAR1"),
    "an empty parquet": _table("'t.parquet': it cannot be read", "t.parquet", b""),
    "a parquet without labels": _table("there is no column 'label'", "t.parquet", table(path=["a.png"])),
    "a parquet whose paths are numbers": _table(
        "column 'path' holds int64, not paths", "t.parquet", table(path=[1], label=["x"])
    ),
    "a parquet whose labels are halves": _table(
        "the label 0.5 is no class", "t.parquet", table(path=["a.png"], label=[0.5])
    ),
    "a parquet whose path is null": _table(
        "a row has no path", "t.parquet", table(path=["a.png", None], label=["x", "x"])
    ),
    "a parquet whose split is a number": _table(
        "a row's split is '7'", "t.parquet", table(path=["a.png"], label=["x"], split=[7])
    ),
    "a parquet whose split is a list": _table(
        "'t.parquet'", "t.parquet", table(path=["a.png"], label=["x"], split=[["train"]])
    ),
}


def tar(members: Mapping[str, bytes], *, kind: bytes = tarfile.REGTYPE, mode: str = "w") -> Maker:
    """Write a tar; members of another kind than a file have no content, but lead to `elsewhere`."""

    def make(path: Path) -> None:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                is_file = kind == tarfile.REGTYPE or name.endswith(".png")
                info.type, info.size = (tarfile.REGTYPE, len(data)) if is_file else (kind, 0)
                info.linkname = "" if is_file else "elsewhere"
                archive.addfile(info, io.BytesIO(data) if is_file else None)

    return make


def samples(*labels: bytes, ending: str = "cls") -> dict[str, bytes]:
    """The members of samples with these labels."""
    members: dict[str, bytes] = {}
    for number, label in enumerate(labels):
        members |= {f"{number:03d}.png": png(number), f"{number:03d}.{ending}": label}
    return members


def _cut(maker: Maker, length: int) -> Maker:
    def make(path: Path) -> None:
        maker(path)
        path.write_bytes(path.read_bytes()[:length])

    return make


def _tar(said: str, content: str | bytes | Maker, name: str = "a.tar", settings: str = "", **more: str) -> Case:
    files = {f"shards/{key.replace('_', '.')}": text for key, text in more.items()}
    return _data(said, "webdataset", "shards", {f"shards/{name}": content, **files}, settings)


_JSON = json.dumps({"label": 0, "class_name": "crane"}).encode()
TARS = {
    "a folder without tars": _data("holds no *.tar shards", "webdataset", "shards", {"shards/": ""}),
    "an empty tar": _tar("'shards/a.tar': it cannot be read", b""),
    "a tar of text": _tar("'shards/a.tar': it cannot be read", "hello"),
    "a tar of null bytes": _tar("no sample (0 read) has a picture", bytes(10240)),
    "a tar that is cut": _tar("it lacks its end, so it may have been cut", _cut(tar(samples(b"crane", b"gull")), 1400)),
    "a tar that is no gzip": _tar("'shards/a.tar.gz'", b"\x1f\x8b" + bytes(99), "a.tar.gz"),
    "a gzip that is cut": _tar(
        "'shards/a.tar.gz': it cannot be unpacked", _cut(tar(samples(b"crane"), mode="w:gz"), 150), "a.tar.gz"
    ),
    "a tar by zstd": _tar("it is compressed by zstd", b"\x28\xb5\x2f\xfd" + bytes(600), "a.tar.zst"),
    "a tar without pictures": _tar("no sample (1 read) has a picture", tar({"a.txt": b"x"})),
    "a tar without labels": _tar("sample '000': it has no label", tar({"000.png": png()})),
    "labels with a large gap": _tar("no name for 2 labels, 0 to 300000000000", tar(samples(b"0", b"300000000000"))),
    "labels that are folders": _tar("sample '000': it has no label", tar(samples(b"crane"), kind=tarfile.DIRTYPE)),
    "labels that are links": _tar("sample '000': it has no label", tar(samples(b"crane"), kind=tarfile.SYMTYPE)),
    "labels that are pipes": _tar("sample '000': it has no label", tar(samples(b"crane"), kind=tarfile.FIFOTYPE)),
    "labels of 3e11 without a name": _tar("no name for label 300000000000", tar(samples(b"300000000000"))),
    "a list of names that is too short for 3e11": _tar(
        "names 1 class, but labels are 0 to 300000000000", tar(samples(b"300000000000", b"0")), classes_txt="crane\n"
    ),
    "labels of 10^30 beside others": _tar(
        "some labels are numbers (0) and others words", tar(samples(b"1" + b"0" * 30, b"0"))
    ),
    "labels of 5,000 digits": _tar("its label is no word", tar(samples(b"9" * 5000))),
    "labels that are no text": _tar("its label is no text", tar(samples(b"\xff\xfe"))),
    "labels of two lines": _tar("its label is no word", tar(samples(b"a\nb"))),
    "several labels": _tar("multi-label data cannot be used", tar(samples(b"1 2"))),
    "labels that are a deep list": _tar(
        "is in brackets, as a list is, but is none", tar(samples(b"[" * 99_999 + b"]"))
    ),
    "labels that are an object": _tar("sample '000'", tar(samples(b"[{}]"))),
    "no label but -1": _tar("no training picture has a label", tar(samples(b"-1", b"-1"))),
    "JSON that is none": _tar("its JSON member is damaged", tar(samples(b"{", ending="json"))),
    "JSON that is deep": _tar("its JSON member is damaged", tar(samples(b"[" * 99_999, ending="json"))),
    "JSON that is a list": _tar("it has no label", tar(samples(b"[1]", ending="json"))),
    "JSON that is null": _tar("it has no label", tar(samples(b"null", ending="json"))),
    "JSON with a label that is a list": _tar(
        "multi-label data cannot be used", tar(samples(b'{"label": [1, 2]}', ending="json"))
    ),
    "JSON with a label that is an object": _tar("is no class", tar(samples(b'{"label": {}}', ending="json"))),
    "JSON with a name that is half a letter": _tar(
        "is no text in UTF-8", tar(samples(b'{"label": 0, "class_name": "\\ud800"}', ending="json"))
    ),
    "one label of two names": _tar(
        "label 0 is 'gull' here and 'crane' elsewhere",
        tar(samples(_JSON, _JSON.replace(b"crane", b"gull"), ending="json")),
    ),
    "a name of two members": _tar("is in it twice", tar({"000.png": png(), "000.cls": b"a", "000.CLS": b"b"})),
    "several pictures": _tar("has several pictures", tar({"0.a.png": png(), "0.b.png": png(1), "0.cls": b"x"})),
    "a list of names with an empty line": _tar("line 2 is empty", tar(samples(b"0", b"1")), classes_txt="a\n\nb\n"),
    "an image key that no sample has": _tar(
        "which dataset.image_key names", tar(samples(b"x")), settings="image_key: photo.png"
    ),
    "a label key that no sample has": _tar("it has no label", tar(samples(b"x")), settings="label_key: species"),
    "tars of a test alone": _tar("none of train", tar(samples(b"x")), "x-test-000.tar"),
}


def _inat(said: str, train: object, val: object = None) -> Case:
    good = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "crane"}],
    }
    texts = [
        json.dumps(value) if not isinstance(value, str) else value for value in (train, good if val is None else val)
    ]
    return _data(said, "inat", "inat", {"inat/train.json": texts[0], "inat/val.json": texts[1], "inat/a.png": png()})


def _cub(said: str, **changes: str | bytes) -> Case:
    texts = {
        "classes": "1 001.Crane\n",
        "images": "1 a.png\n",
        "image_class_labels": "1 1\n",
        "train_test_split": "1 1\n",
    }
    files = {f"cub/{name}.txt": text for name, text in (texts | changes).items()}
    return _data(said, "cub", "cub", {**files, "cub/images/a.png": png()})


ANNOTATIONS = {
    "annotations that are no JSON": _inat("'inat/train.json' is damaged: it is no JSON", "{"),
    "annotations that are deep": _inat("'inat/train.json' is damaged: it is nested too deeply", "[" * 99_999),
    "annotations that are a list": _inat("is not a COCO-style annotation file", []),
    "annotations without images": _inat(
        "is not a COCO-style annotation file", {"images": 3, "annotations": [], "categories": []}
    ),
    "an annotation that is a number": _inat(
        "is damaged: images[0] lacks id and file_name", {"images": [7], "annotations": [], "categories": []}
    ),
    "an annotation whose id is a list": _inat(
        "is damaged: images[0] lacks id",
        {"images": [{"id": [], "file_name": "a"}], "annotations": [], "categories": []},
    ),
    "a category without a name": _inat(
        "is damaged: categories[0] lacks name", {"images": [], "annotations": [], "categories": [{"id": 1}]}
    ),
    "no val annotations": _data("lacks val.json", "inat", "inat", {"inat/train.json": "{}"}),
    "a CUB without classes": _data("lacks classes.txt", "cub", "cub", {"cub/images/": ""}),
    "a CUB whose classes are no text": _cub("'cub/classes.txt' is damaged: it is no UTF-8", classes=b"\xff"),
    "a CUB whose classes are empty": _cub("class '1' of image_class_labels.txt is not in classes.txt", classes=""),
    "a CUB with a line of one word": _cub("'cub/images.txt'", images="1\n"),
    "a CUB with an unknown class": _cub(
        "class '7' of image_class_labels.txt is not in classes.txt", image_class_labels="1 7\n"
    ),
    "a CUB with an unknown split": _cub("'x' is neither 1 (train) nor 0 (test)", train_test_split="1 x\n"),
    "a CUB that does not agree": _cub(
        "image '2' is in image_class_labels.txt but not in images.txt", image_class_labels="1 1\n2 1\n"
    ),
    "a data set of the Hub's package that is not there": _data("'gone'", "huggingface", "gone", {}),
    "a CIFAR that is not there": _data("'gone'", "cifar10", "gone", {}),
    "a DTD that is not there": _data("'gone'", "dtd", "gone", {}),
}
