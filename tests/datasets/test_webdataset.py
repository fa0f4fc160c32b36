"""Tar shards are read, our own and others'."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.conftest import ShardRun
from tests.datasets.layouts import COLOURS, assert_refused, load


def write_shard(path: Path, rows: list[tuple[str, int, str | None]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, label, name in rows:
            buffer = BytesIO()
            Image.new("RGB", (8, 6), COLOURS[label]).save(buffer, "PNG")
            members = {"png": buffer.getvalue(), "cls": str(label).encode()}
            if name:
                members["json"] = json.dumps({"class_name": name}).encode()
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                archive.addfile(info, BytesIO(content))


def test_our_own_shards_are_a_data_set(made: ShardRun) -> None:
    data = load("webdataset", made.folder.path, title="again")
    assert [info.name for info in data.classes] == ["crane", "Çà bird".lower(), "gull"]
    assert sum(len(data.examples(split)) for split in ("train", "val", "test")) == 15
    assert all(example.open().size == (16, 16) for example in data.examples("train"))


def test_shards_of_others_need_names_for_their_classes(tmp_path: Path) -> None:
    rows: list[tuple[str, int, str | None]] = [(f"s{n}", n % 2, None) for n in range(10)]
    write_shard(tmp_path / "birds-train-000000.tar", rows)
    write_shard(tmp_path / "birds-val-000000.tar", rows[:4])
    assert_refused("no name for label 0 and 1 more; put them into .*classes.txt", "webdataset", tmp_path)
    (tmp_path / "classes.txt").write_text("Sea_gull\ncrane\n")
    data = load("webdataset", tmp_path)
    assert [info.name for info in data.classes] == ["sea gull", "crane"]
    assert len(data.examples("val")) == 4
    assert len(data.examples("train")) + len(data.examples("test")) == 10


def test_a_folder_without_shards_and_a_damaged_shard_are_refused(tmp_path: Path) -> None:
    assert_refused("holds no \\*.tar shards", "webdataset", tmp_path)
    (tmp_path / "a.tar").write_bytes(b"not a tar")
    assert_refused("a.tar' cannot be read", "webdataset", tmp_path)
