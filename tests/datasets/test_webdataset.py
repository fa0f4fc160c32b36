"""Tar shards are read, our own and others'."""

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from dct_augment.datasets.webdataset import TarImages
from dct_augment.errors import UnreadableImageError
from dct_augment.records import Dataset
from tests.conftest import ShardRun
from tests.datasets.layouts import COLOURS, assert_refused, load

RGB = [(255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of unpacked tars."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dct-augment" / "tars"


def image(place: int, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 6), COLOURS[place]).save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


def write_shard(path: Path, rows: Sequence[tuple[str, int, str | None]], mode: str = "w") -> Path:
    """Write pictures, each in the colour of its class, with labels and maybe names."""
    members: dict[str, bytes] = {}
    for key, label, name in rows:
        members[f"{key}.png"] = image(label % 4)
        members[f"{key}.cls"] = str(label).encode()
        if name:
            members[f"{key}.json"] = json.dumps({"class_name": name}).encode()
    return write_tar(path, members, mode)


def all_train(path: Path, **settings: Any) -> Dataset:
    return load("webdataset", path, val=0, test=0, **settings)


def colours(data: Dataset) -> dict[str, set[Any]]:
    """Show the colours of the pictures of each class."""
    shown: dict[str, set[Any]] = {}
    for example in data.examples("train"):
        shown.setdefault(data.classes[example.label].original_name, set()).add(example.open().getpixel((0, 0)))
    return shown


def test_our_own_shards_are_a_data_set(made: ShardRun) -> None:
    data = load("webdataset", made.folder.path, title="again")
    assert [info.name for info in data.classes] == ["crane", "Çà bird".lower(), "gull"]
    assert sum(len(data.examples(split)) for split in ("train", "val", "test")) == 15
    assert all(example.open().size == (16, 16) for example in data.examples("train"))


def test_our_own_shards_of_some_classes_only_are_a_data_set(tmp_path: Path) -> None:
    write_shard(tmp_path / "x-train-000000.tar", [(f"k{n}", (7, 2)[n % 2], ("kiwi", "crane")[n % 2]) for n in range(8)])
    data = all_train(tmp_path)
    assert [(info.index, info.name) for info in data.classes] == [(0, "crane"), (1, "kiwi")]
    assert colours(data) == {"crane": {RGB[2]}, "kiwi": {RGB[3]}}
    assert data.notes == ("labels '2', '7' are classes 0 to 1 here",)
    (tmp_path / "classes.txt").write_text("\n".join(f"class {number}" for number in range(9)))
    assert [info.name for info in all_train(tmp_path).classes] == ["class 2", "class 7"]


def test_shards_of_runs_that_number_classes_in_different_ways_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("a", 0, "crane"), ("b", 1, "kiwi")])
    write_shard(tmp_path / "b.tar", [("a", 0, "kiwi")])
    assert_refused("b.tar': sample 'a': label 0 is 'kiwi' here and 'crane' elsewhere", "webdataset", tmp_path)


def test_a_run_folder_says_where_its_shards_are(tmp_path: Path) -> None:
    for name in ("comparison", "shards"):
        write_shard(tmp_path / name / "x-000000.tar", [("a", 0, "crane")])
    assert_refused("holds no .*; did you mean .*shards'", "webdataset", tmp_path)


def test_shards_of_others_need_names_for_their_classes(tmp_path: Path) -> None:
    rows: list[tuple[str, int, str | None]] = [(f"s{n}", n % 2, None) for n in range(10)]
    write_shard(tmp_path / "birds-train-000000.tar", rows)
    write_shard(tmp_path / "birds-val-000000.tar", rows[:4])
    assert_refused("no name for 2 labels, 0 to 1; put them into .*classes.txt", "webdataset", tmp_path)
    (tmp_path / "classes.txt").write_text("Sea_gull\ncrane\n")
    data = load("webdataset", tmp_path)
    assert [info.name for info in data.classes] == ["sea gull", "crane"]
    assert len(data.examples("val")) == 4
    assert len(data.examples("train")) + len(data.examples("test")) == 10
    (tmp_path / "classes.txt").write_text("crane\n")
    assert_refused("names 1 class, but labels are 0 to 1", "webdataset", tmp_path)


def test_a_folder_without_shards_and_a_damaged_shard_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    assert_refused("holds no \\*.tar shards", "webdataset", folder)
    (folder / "a.tar").write_bytes(b"not a tar")
    assert_refused("a.tar': it cannot be read", "webdataset", folder)
    whole = write_shard(tmp_path / "b.tar", [("a", 0, "crane")], "w:gz").read_bytes()
    (folder / "a.tar").write_bytes(whole[: len(whole) // 2])
    assert_refused("a.tar': it cannot be unpacked", "webdataset", folder)
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path: Path) -> None:
    rows = [("./x0", 0, "a"), ("v1.0/x0", 1, "b"), ("v1.0/v2.1/x0", 1, "b")]
    tar = write_shard(tmp_path / "a.tar", rows)
    data = all_train(tmp_path)
    assert [example.key for example in data.examples("train")] == [f"a.tar/{key}" for key, _, _ in rows]
    assert colours(data) == {"a": {RGB[0]}, "b": {RGB[1]}}
    theirs = [sample["__key__"] for sample in wds.WebDataset(str(tar), shardshuffle=False)]
    assert theirs == [key for key, _, _ in rows]


@pytest.mark.parametrize("ending", ["input.png", "image.JPG", "jpeg", "left.webp", "PNG"])
def test_the_picture_is_the_member_whose_last_ending_is_a_pictures(tmp_path: Path, ending: str) -> None:
    kind = {"png": "PNG", "webp": "WEBP"}.get(ending.lower()[-4:].lstrip("."), "JPEG")
    write_tar(tmp_path / "a.tar", {f"x.{ending}": image(3, kind), "x.CLS": b"gull", "x.txt": b"a gull"})
    assert colours(all_train(tmp_path)) == {"gull": {RGB[3]}}


def test_of_several_pictures_the_plain_one_is_read_or_the_user_chooses(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.seg.png": image(1), "x.png": image(0), "x.cls": b"a"})
    assert colours(all_train(tmp_path)) == {"a": {RGB[0]}}
    assert colours(all_train(tmp_path, image_key="seg.png")) == {"a": {RGB[1]}}
    write_tar(tmp_path / "a.tar", {"x.in.png": image(1), "x.out.png": image(0), "x.cls": b"a"})
    assert_refused(
        "sample 'x' has several pictures: in.png, out.png; choose one: dataset.image_key", "webdataset", tmp_path
    )


def test_samples_without_a_picture_are_counted(tmp_path: Path) -> None:
    members = {"x.png": image(0), "x.cls": b"a", "y.json": b'{"status": "failed_to_download"}', "z.cls": b"a"}
    write_tar(tmp_path / "a.tar", members)
    data = all_train(tmp_path)
    assert (len(data.examples("train")), data.notes) == (1, ("2 samples of the tars have no picture and are left out",))


def test_tars_without_any_picture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\n")
    write_tar(tmp_path / "a.tar", {"x.txt": b"a gull", "x.cls": b"0"})
    assert_refused("no sample .1 read. has a picture; there is 'cls', 'txt'", "webdataset", tmp_path)
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.cls": b"0"})
    assert_refused(
        "no sample .1 read. has a picture .in.png, which dataset.image_key names; there is 'cls', 'png'",
        "webdataset",
        tmp_path,
        image_key="in.png",
    )


def test_tars_of_a_test_split_alone_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "birds-test-0.tar", [("x", 0, "gull")])
    assert_refused("has tars of the split test but none of train", "webdataset", tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.json": b'{"label":'}, "its JSON member is damaged"),
        ({"x.json": b'{"label":' + b"[" * 100_000}, "its JSON member is damaged"),
        ({"x.json": b'{"label": "\xff"}'}, "its JSON member is damaged"),
        ({"x.cls": b"[gull]"}, "its label '.gull.' is in brackets, as a list is, but is none"),
    ],
)
def test_a_damaged_label_names_its_sample(tmp_path: Path, members: Mapping[str, bytes], message: str) -> None:
    write_tar(tmp_path / "a.tar", {"x.png": image(0), **members})
    assert_refused(f"a.tar': sample 'x': {message}", "webdataset", tmp_path)


def test_a_tar_that_the_system_cannot_read_is_one_message_without_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.tar").symlink_to("/proc/self/mem")
    assert_refused("a.tar': it cannot be unpacked: Input/output error", "webdataset", tmp_path)


def test_an_empty_line_in_classes_txt_shifts_no_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.cls": b"0", "y.png": image(1), "y.cls": b"1"})
    (tmp_path / "classes.txt").write_text("gull\n\ncrane\n")
    assert_refused("classes.txt': line 2 is empty; a line is a name", "webdataset", tmp_path)
    (tmp_path / "classes.txt").write_text("gull\ncrane\n\n\n")
    assert [info.name for info in all_train(tmp_path).classes] == ["gull", "crane"]
    (tmp_path / "classes.txt").write_bytes(b"\xff")
    assert_refused("classes.txt' is no UTF-8 text", "webdataset", tmp_path)


@pytest.mark.parametrize("key", ["label", "class", "class_name", "cls"])
def test_labels_are_found_in_the_json_member(tmp_path: Path, key: str) -> None:
    rows = {f"x{n}.png": image(n % 2) for n in range(4)}
    rows |= {f"x{n}.json": json.dumps({key: ("gull", "crane")[n % 2], "url": "..."}).encode() for n in range(4)}
    write_tar(tmp_path / "a.tar", rows)
    assert colours(all_train(tmp_path)) == {"gull": {RGB[0]}, "crane": {RGB[1]}}


def img2dataset_shard(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a shard as img2dataset does with `save_additional_columns`: jpg, txt and json of each, no cls."""
    members: dict[str, bytes] = {}
    for number, row in enumerate(rows):
        key = f"{number:09d}"
        metadata = {"caption": "a bird", "url": f"https://a.example/{key}.jpg", "key": key, "status": "success"}
        members[f"{key}.jpg"] = image(number % 2, "JPEG")
        members[f"{key}.json"] = json.dumps({**metadata, "error_message": None, "width": 8, **row}).encode()
        members[f"{key}.txt"] = b"a bird"
    return write_tar(path, members)


def test_shards_of_img2dataset_have_their_labels_in_a_json_key(tmp_path: Path) -> None:
    img2dataset_shard(tmp_path / "00000.tar", [{"species": ("gull", "crane")[n % 2]} for n in range(4)])
    assert_refused(
        "sample '000000000': it has no label: no member .cls, nor one of cls, label, .* in its JSON, which has "
        "caption, url, .*species. Name what holds the label: dataset.label_key",
        "webdataset",
        tmp_path,
    )
    data = all_train(tmp_path, label_key="species")
    assert [info.name for info in data.classes] == ["crane", "gull"]
    assert sorted(example.label for example in data.examples("train")) == [0, 0, 1, 1]
    assert_refused("no member .kind, nor 'kind' in its JSON", "webdataset", tmp_path, label_key="kind")


def test_numbers_and_names_in_the_json_member_belong_together(tmp_path: Path) -> None:
    rows = [{"label": n % 2, "class_name": ("gull", "crane")[n % 2]} for n in range(4)]
    img2dataset_shard(tmp_path / "00000.tar", rows)
    assert [info.name for info in all_train(tmp_path).classes] == ["gull", "crane"]


def test_labels_are_words_or_numbers_but_not_both(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.cls": b"gull\n", "y.png": image(1), "y.cls": b"1"})
    assert_refused("some labels are numbers .1. and others words .'gull'.", "webdataset", tmp_path)


def test_words_have_the_order_of_classes_txt_if_it_names_them(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.cls": b"gull\n", "y.png": image(1), "y.cls": b"crane"})
    assert [info.name for info in all_train(tmp_path).classes] == ["crane", "gull"]
    (tmp_path / "classes.txt").write_text("gull\ndodo\ncrane\n")
    data = all_train(tmp_path)
    assert [info.name for info in data.classes] == ["gull", "crane"]
    assert colours(data) == {"gull": {RGB[0]}, "crane": {RGB[1]}}


@pytest.mark.parametrize("stored", [b"[1, 2]", b"1 2", b"3,4"])
def test_several_labels_are_refused(tmp_path: Path, stored: bytes) -> None:
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.cls": stored})
    assert_refused("a.tar': sample 'x': a picture has 2 labels .* multi-label", "webdataset", tmp_path)
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.json": b'{"label": ["a", "b"]}'})
    assert_refused("a.tar': sample 'x': a picture has 2 labels .a, b.", "webdataset", tmp_path)
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.cls": b"\xff\xd8\xff"})
    assert_refused("its label is no text", "webdataset", tmp_path)


def test_hidden_test_labels_are_no_class_and_a_test_split_is_held_out(tmp_path: Path) -> None:
    write_shard(tmp_path / "x-train-000000.tar", [(f"k{n}", n % 2, ("kiwi", "crane")[n % 2]) for n in range(40)])
    write_shard(tmp_path / "x-test-000000.tar", [(f"k{n}", -1, None) for n in range(4)])
    data = load("webdataset", tmp_path)
    assert [info.name for info in data.classes] == ["kiwi", "crane"]
    assert data.notes == ("split test: 4 of 4 labels are hidden (-1); the split is left out",)
    assert {example.key.split("/")[0] for example in data.examples("test")} == {"x-train-000000.tar"}


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz")],
)
def test_a_compressed_tar_is_unpacked_once_whatever_its_name(tmp_path: Path, cache: Path, name: str, mode: str) -> None:
    tar = write_shard(tmp_path / "shards" / name, [("x", 0, "gull"), ("y", 1, "crane")], mode)
    data = all_train(tmp_path / "shards")
    assert colours(data) == {"gull": {RGB[0]}, "crane": {RGB[1]}}
    assert data.notes == (f"1 compressed tar is read from copies in {str(cache)!r}, made once",)
    (copy,) = cache.glob("*.tar")
    before = copy.stat().st_mtime_ns
    assert [example.key for example in all_train(tmp_path / "shards").examples("train")] == [f"{name}/x", f"{name}/y"]
    assert copy.stat().st_mtime_ns == before
    write_shard(tar, [("x", 0, "gull"), ("y", 1, "crane"), ("z", 1, "crane")], mode)
    assert len(all_train(tmp_path / "shards").examples("train")) == 3


def test_compressed_members_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    members = {"x.png.gz": gzip.compress(image(2)), "x.cls.gz": gzip.compress(b"3"), "x.json.gz": gzip.compress(b"{}")}
    tar = write_tar(tmp_path / "a.tar", members)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert colours(all_train(tmp_path)) == {"d": {RGB[2]}}
    (sample,) = wds.WebDataset(str(tar), shardshuffle=False).decode("pil")
    assert next(value for key, value in sample.items() if key.startswith("png")).getpixel((0, 0)) == RGB[2]
    write_tar(tmp_path / "a.tar", members | {"x.png.gz": gzip.compress(image(2))[:-12]})
    with pytest.raises(UnreadableImageError, match="its member cannot be read: a compressed member is damaged"):
        all_train(tmp_path).examples("train")[0].open()


def test_a_tar_is_read_as_the_library_itself_reads_it(tmp_path: Path) -> None:
    """Keys, labels and pixels of a shard with names of many kinds equal those of webdataset."""
    members: dict[str, bytes] = {}
    for number, key in enumerate(("a", "./b", "v1.0/c", "d e", "dir/ç", "dir/sub/UPPER")):
        members |= {f"{key}.png": image(number % 4), f"{key}.cls": str(number % 3).encode(), f"{key}.caption.txt": b"x"}
    members |= {".hidden.png": image(0), "__MACOSX__/a.png": image(0), "readme": b"no sample"}
    tar = write_tar(tmp_path / "a.tar", members)
    (tmp_path / "classes.txt").write_text("k\nl\nm\n")
    ours = all_train(tmp_path).examples("train")
    theirs = list(wds.WebDataset(str(tar), shardshuffle=False).decode("pil").to_tuple("__key__", "cls", "png"))
    assert [(f"a.tar/{key}", label) for key, label, _ in theirs] == [(example.key, example.label) for example in ours]
    assert all(np.array_equal(np.asarray(e.open()), np.asarray(t[2])) for e, t in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["plain-0001.tar", "my-plain-birds.tar", "x-plain-000000.tar"])
def test_a_tar_may_be_called_plain(tmp_path: Path, name: str) -> None:
    write_shard(tmp_path / name, [("x", 0, "gull")])
    assert len(all_train(tmp_path).examples("train")) == 1


def test_plain_prompt_images_of_a_run_of_version_0_1_0_are_left_out(tmp_path: Path) -> None:
    for split in ("train", "plain"):
        write_shard(tmp_path / f"plain-birds-{split}-000000.tar", [(f"{split}-x", 0, "gull")])
    (tmp_path / "plan.json").write_text(json.dumps({"train": [], "plain": []}))
    data = all_train(tmp_path)
    assert [example.key for example in data.examples("train")] == ["plain-birds-train-000000.tar/train-x"]
    assert data.notes == ("1 tar of plain-prompt images of a run of version 0.1.0 is left out",)


def test_splits_are_words_in_the_names_of_tars_or_of_their_folders(tmp_path: Path) -> None:
    for name, count in (("Training/0.tar", 5), ("Training/1.tar", 1), ("dev/0.tar", 2), ("testing/x-0.tar", 3)):
        write_shard(tmp_path / name, [(f"k{n}", 0, "gull") for n in range(count)])
    data = load("webdataset", tmp_path)
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [6, 2, 3]
    assert data.examples("train")[5].key == "Training/1.tar/k0"
    shutil.rmtree(tmp_path / "dev")
    write_shard(tmp_path / "more.tar", [("k", 0, "gull")])
    data = load("webdataset", tmp_path, val=0)
    assert data.notes == ("tars without a split in their names are read as train: 'more.tar'",)
    assert len(data.examples("train")) == 7


def test_a_run_may_be_called_like_a_split(tmp_path: Path) -> None:
    write_shard(tmp_path / "test-train-000000.tar", [("k", 0, "gull")])
    assert len(all_train(tmp_path).examples("train")) == 1


def test_two_words_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("x-train-0.tar", "x-val-0.tar", "x-dev-0.tar"):
        write_shard(tmp_path / name, [("k", 0, "gull")])
    assert_refused("has 'dev' and 'val', which both mean the validation split", "webdataset", tmp_path)


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_tar(tmp_path / "a.tar", {"x.jpg": image(0, "JPEG", exif=exif), "x.cls": b"gull"})
    assert all_train(tmp_path).examples("train")[0].open().size == (6, 8)


def test_an_index_of_tars_is_small(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(3000):
            for ending, content in (("png", b"picture"), ("cls", b"gull")):
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    examples = all_train(tmp_path).examples("train")
    assert isinstance(examples, TarImages)
    assert (examples.table.nbytes + examples.labels.nbytes) / len(examples) < 70
    assert examples[-1].key == "a.tar/000002999"


@pytest.mark.parametrize("label_key", [".species", "SPECIES", ".Species"])
def test_a_label_key_is_written_as_an_image_key_may_be(tmp_path: Path, label_key: str) -> None:
    write_tar(tmp_path / "a.tar", {"x.png": image(0), "x.species": b"crane", "y.png": image(1), "y.species": b"gull"})
    data = load("webdataset", tmp_path, val=0, test=0, label_key=label_key)
    assert [info.name for info in data.classes] == ["crane", "gull"]
    assert_refused("no member .sort", "webdataset", tmp_path, label_key=".Sort")


def test_a_label_key_of_the_json_member_keeps_its_case(tmp_path: Path) -> None:
    members = {"x.png": image(0), "x.json": b'{"Species": "crane"}'}
    write_tar(tmp_path / "a.tar", members)
    assert load("webdataset", tmp_path, val=0, test=0, label_key="Species").classes[0].name == "crane"
