import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from dct_augment.config import fingerprint
from dct_augment.downstream.mixing import SyntheticImages
from dct_augment.errors import ShardError, StaleRunError
from dct_augment.generation import checked, image_files, shard_rows, shards
from dct_augment.generation.shards import ShardFolder, shard_folder, shard_folders
from dct_augment.images import content
from dct_augment.pipeline.verify import Findings, verify
from dct_augment.records import GeneratedImage, ImageKind
from tests.conftest import CLASSES, ShardRun, drawn

FORMATS = ("png", "webp", "jpg")


def found_in(run: ShardRun) -> Findings:
    return verify(run.root, run.name)


def said_of(run: ShardRun) -> list[str]:
    return [str(problem) for problem in found_in(run).problems]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def samples(tar: Path) -> list[dict[str, Any]]:
    return list(wds.WebDataset(str(tar), shardshuffle=False))


def rewrite_rows(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change a parquet's rows and keep what it says of itself."""
    table = pq.read_table(path)
    changed = table.from_pandas(change(table.to_pandas()), preserve_index=False)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def edit_info(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads(path.read_text())
    change(info["splits"])
    path.write_text(json.dumps(info))


# What is in the files.


@pytest.mark.parametrize("image_format", FORMATS)
def test_plain_tar_members_agree_with_the_rows(shard_run: ShardRun, image_format: str) -> None:
    layout = shard_run.draw(image_format=image_format)
    rows = shard_run.folder.rows().set_index("key")
    found: dict[str, dict[str, bytes]] = {}
    for spec in layout:
        with tarfile.open(shard_run.folder.tar(spec)) as archive:
            for member in archive:
                key, ending = member.name.split(".")
                found.setdefault(key, {})[ending] = archive.extractfile(member).read()
    assert sorted(found) == sorted(rows.index)
    for key, members in found.items():
        facts, row = json.loads(members["json"]), rows.loc[key]
        assert sorted(members) == sorted([image_format, "cls", "json"])
        assert int(members["cls"]) == facts["class_index"] == row["class_index"]
        for name in ("class_name", "seed", "prompt", "number", "token_sha256", "status", "guide_label"):
            assert facts[name] == row[name]
        assert Image.open(io.BytesIO(members[image_format])).size == (16, 16)


@pytest.mark.parametrize("image_format", FORMATS)
def test_webdataset_reads_images_labels_and_facts(shard_run: ShardRun, image_format: str) -> None:
    layout = shard_run.draw(image_format=image_format)
    urls = [str(shard_run.folder.tar(spec)) for spec in layout]
    reader = wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", image_format, "cls", "json")
    found = {key: (label, facts["seed"]) for key, _, label, facts in reader}
    rows = shard_run.folder.rows()
    assert found == {row.key: (row.class_index, row.seed) for row in rows.itertuples()}


@pytest.mark.parametrize("image_format", FORMATS)
def test_timms_wds_reader_finds_the_split_by_its_info(shard_run: ShardRun, image_format: str) -> None:
    from timm.data import create_dataset

    shard_run.draw(image_format=image_format, failed=("gull-000001",))
    dataset = create_dataset("wds/", root=str(shard_run.root / "shards"), split="train", batch_size=1)
    found = [(np.asarray(image).mean((0, 1)).argmax(), label) for image, label in dataset]
    assert len(found) == len(dataset) == 14
    assert all(color == label for color, label in found)


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_pictures_come_back_as_they_were_drawn(shard_run: ShardRun, image_format: str) -> None:
    (spec, *_) = shard_run.draw(image_format=image_format)
    rows = {row.key: row for row in shard_run.rows(spec)}
    read = list(shards.read(shard_run.folder.tar(spec)))
    assert [key for key, _, _ in read] == list(rows)
    assert all(image.tobytes() == drawn(rows[key]).tobytes() for key, _, image in read)


def test_images_of_a_shard_folder_are_those_of_its_rows(made: ShardRun) -> None:
    for folder in (made.folder, made.comparison):
        rows = folder.rows()
        found = [(key, label) for key, label, _ in folder.images()]
        assert found == list(zip(rows["key"], rows["class_index"], strict=True))


def test_rows_say_which_shard_and_class_they_belong_to(made: ShardRun) -> None:
    rows = made.folder.rows()
    assert rows["shard"].value_counts(sort=False).to_dict() == {
        "tiny-train-000000.tar": 4,
        "tiny-train-000001.tar": 4,
        "tiny-train-000002.tar": 4,
        "tiny-train-000003.tar": 3,
    }
    assert set(zip(rows["class_index"], rows["class_name"], strict=True)) == {(i.index, i.name) for i in CLASSES}
    assert made.comparison.rows()["token_sha256"].eq("").all()


def test_a_shard_folder_that_is_not_there_is_empty(shard_run: ShardRun) -> None:
    assert shard_run.folder.layout() == ()
    assert len(shard_run.folder.rows()) == 0
    assert list(shard_run.folder.images()) == []


def test_a_failed_image_has_a_row_and_no_picture(shard_run: ShardRun) -> None:
    shard_run.draw(failed=("crane-000000", "gull-000004"))
    rows = shard_run.folder.rows().set_index("key")
    pictures = {key for key, _, _ in shard_run.folder.images()}
    assert set(rows.index) - pictures == {"crane-000000", "gull-000004"}
    assert rows.loc["gull-000004", "error"] == "image is not finite"
    assert json.loads((shard_run.root / "shards" / "_info.json").read_text())["splits"]["train"]["num_samples"] == 13
    assert found_in(shard_run).problems == ()


def test_a_shard_may_hold_failures_only(shard_run: ShardRun) -> None:
    shard_run.draw(per_class=1, shard_size=1, failed=("crane-000000",))
    assert found_in(shard_run) == Findings(3, 2, 3, ())


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_same_images_make_the_same_bytes(new_run: Callable[[str], ShardRun], image_format: str) -> None:
    one, other = new_run("one"), new_run("other")
    for run in (one, other):
        run.draw(image_format=image_format)
    paths = sorted(path.relative_to(one.root) for path in one.root.rglob("*") if path.is_file())
    assert len(paths) == 3 + 2 * 4 + 2
    assert [path for path in paths if (one.root / path).read_bytes() != (other.root / path).read_bytes()] == []


def test_growing_adds_shards_and_touches_none(made: ShardRun) -> None:
    folder = made.root / "shards"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("tiny-*")}
    made.draw(per_class=9)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert made.folder.rows()["class_name"].value_counts().to_dict() == {info.name: 9 for info in CLASSES}
    assert found_in(made).problems == ()


def test_info_lists_the_shards_of_its_folder_and_their_lengths(made: ShardRun) -> None:
    training = json.loads((made.root / "shards" / "_info.json").read_text())["splits"]
    comparison = json.loads((made.root / "comparison" / "_info.json").read_text())["splits"]
    assert training.keys() == {"train"}
    assert training["train"]["shard_lengths"] == [4, 4, 4, 3]
    names = ["tiny-plain_prompt-000000.tar", "tiny-plain_prompt-000001.tar"]
    assert comparison == {
        "plain_prompt": {"name": "plain_prompt", "num_samples": 6, "shard_lengths": [4, 2], "filenames": names}
    }


def test_the_shards_folder_holds_class_token_images_only_and_keys_are_unique_in_a_run(made: ShardRun) -> None:
    keys = [sample["__key__"] for tar in made.root.glob("shards/*.tar") for sample in samples(tar)]
    plain_keys = [sample["__key__"] for tar in made.root.glob("comparison/*.tar") for sample in samples(tar)]
    assert sorted(keys) == sorted(made.folder.rows()["key"])
    assert sorted(plain_keys) == sorted(f"plain_{key}" for key in keys if int(key[-6:]) < 2)
    assert set(made.folder.rows()["kind"]) == {"class_token"}
    assert set(made.comparison.rows()["kind"]) == {"plain_prompt"}


def test_info_leaves_out_unfinished_shards(made: ShardRun) -> None:
    (made.root / "shards" / "tiny-train-000003.parquet").unlink()
    made.folder.publish()
    info = json.loads((made.root / "shards" / "_info.json").read_text())["splits"]
    assert (info["train"]["num_samples"], len(info["train"]["filenames"])) == (12, 3)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_row_says_where_its_picture_lies_and_what_is_in_it(shard_run: ShardRun, image_format: str) -> None:
    shard_run.draw(image_format=image_format, failed=("crane-000000",))
    rows = shard_run.folder.rows().set_index("key")
    failed = rows.loc["crane-000000"]
    assert (failed["offset"], failed["bytes"], failed["content"]) == (-1, -1, "")
    pictures = {key: picture for key, _, picture in shard_run.folder.images()}
    assert len(pictures) == len(rows) - 1
    for key, picture in pictures.items():
        row = rows.loc[key]
        data = (shard_run.folder.path / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["bytes"]]
        assert Image.open(io.BytesIO(data)).convert("RGB").tobytes() == picture.tobytes()
        assert row["content"] == content(picture)


def test_each_member_of_a_tar_has_one_block_before_its_data(made: ShardRun) -> None:
    tar = made.folder.tar(made.folder.layout()[0])
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
        assert {(member.mtime, str(member.pax_headers)) for member in members} == {(0, "{}")}
    for member, following in itertools.pairwise(members):
        assert following.offset == member.offset + 512 + -(-member.size // 512) * 512


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_shard_of_images_that_are_encoded_already_is_the_same_shard(shard_run: ShardRun, image_format: str) -> None:
    spec = shard_run.draw(image_format=image_format)[0]
    whole = [path(spec).read_bytes() for path in (shard_run.folder.tar, shard_run.folder.parquet)]
    pictures = {row.key: drawn(row) for row in shard_run.rows(spec)}
    images = [
        GeneratedImage(
            row,
            pictures[row.key],
            guide_label=row.class_name,
            guide_confidence=0.9,
            file=image_files.encode(pictures[row.key], image_format),
        )
        for row in shard_run.rows(spec)
    ]
    shard_run.folder.write(spec, images, shard_run.identity, image_format)
    assert [path(spec).read_bytes() for path in (shard_run.folder.tar, shard_run.folder.parquet)] == whole


# Whether a shard is done.


def test_a_written_shard_is_done(made: ShardRun) -> None:
    assert all(made.folder.done(spec, made.identity) for spec in made.folder.layout())


@pytest.mark.parametrize(
    "harm", [truncate, Path.unlink, lambda path: flip(path, 700), lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_harmed_shard_is_not_done_and_can_be_made_again(
    made: ShardRun, harm: Callable[[Path], object], ending: str
) -> None:
    spec = made.folder.layout()[1]
    path = made.folder.tar(spec).with_suffix(f".{ending}")
    whole = path.read_bytes()
    harm(path)
    assert not made.folder.done(spec, made.identity)
    made.draw()
    assert path.read_bytes() == whole


def test_no_flipped_byte_of_a_parquet_changes_rows_unseen(made: ShardRun) -> None:
    spec = made.folder.layout()[0]
    path = made.folder.parquet(spec)
    whole, rows = path.read_bytes(), made.folder.rows()
    unseen = []
    for place in range(0, len(whole), 61):
        flip(path, place)
        if made.folder.done(spec, made.identity) and not made.folder.rows().equals(rows):
            unseen.append(place)
        path.write_bytes(whole)
    assert unseen == []


def test_a_finished_shard_that_has_not_changed_is_not_read_again(
    made: ShardRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "_SETTLED", -1.0)
    monkeypatch.setattr(checked, "_LARGE", 1)
    folder, layout = made.folder, made.folder.layout()
    assert all(folder.done(spec, made.identity) for spec in layout)
    folder.publish()

    def refuse(*_: object) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr(shards.files, "sha256", refuse)
    monkeypatch.setattr(shard_rows, "check", refuse)
    later = made.folder
    assert all(later.done(spec, made.identity) for spec in layout)
    assert later.info() == folder.info()
    flip(made.folder.tar(layout[1]), 700)
    with pytest.raises(AssertionError, match="read again"):
        later.done(layout[1], made.identity)


def test_rows_that_were_damaged_behind_their_times_are_a_shard_error(
    made: ShardRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, spec = made.folder, made.folder.layout()[0]
    monkeypatch.setattr(folder._checked, "find", lambda path, check: {"tar_sha256": "", "images": 4})
    truncate(folder.parquet(spec))
    for read in (lambda: folder.load(spec), folder.rows, lambda: folder.done(spec, made.identity)):
        with pytest.raises(ShardError, match=r"000000\.parquet cannot be read"):
            read()


def test_two_shards_in_each_others_place_are_not_done(made: ShardRun) -> None:
    one, other, *_ = made.folder.layout()
    for path in (made.folder.tar, made.folder.parquet):
        spare = made.root / "spare"
        path(one).rename(spare)
        path(other).rename(path(one))
        spare.rename(path(other))
    assert not any(made.folder.done(spec, made.identity) for spec in (one, other))
    problems = said_of(made)
    assert "shards/tiny-train-000000.parquet: damaged" in problems  # the name of a table is in its hash


def test_other_settings_are_refused_by_name(made: ShardRun) -> None:
    spec = made.folder.layout()[0]
    other = {"schema": 1, "generation": {"seed": 5, "image_format": "png"}}
    with pytest.raises(
        StaleRunError, match=r"tiny-train-000000\.tar.*: generation\.seed: 0 -> 5\. Use another --output"
    ):
        made.folder.done(spec, other)


def test_a_class_whose_label_changed_is_refused(made: ShardRun) -> None:
    """The labels in a shard are what training code reads: another order of classes must not pass for the same."""
    labels = {info.slug: info.index for info in CLASSES}
    for folder in (made.folder, made.comparison):
        assert all(folder.done(spec, made.identity, labels) for spec in folder.layout())
        for spec in folder.layout():
            changed = labels | dict.fromkeys(spec.ranges, 17)
            with pytest.raises(StaleRunError, match=r"was made when class '[a-z-]+' had label [0-2]; it has 17 now"):
                folder.done(spec, made.identity, changed)


def test_a_killed_writer_leaves_no_half_shard(shard_run: ShardRun, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = shard_run.draw(per_class=1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", interrupted)
    shard_run.folder.parquet(layout[0]).unlink()
    with pytest.raises(KeyboardInterrupt):
        shard_run.write(layout[0])
    assert not shard_run.folder.done(layout[0], shard_run.identity)
    assert [path.name for path in (shard_run.root / "shards").glob(".*")] == []


def test_noise_on_a_token_is_in_the_row_and_a_tar_without_it_stays_what_it_was(made: ShardRun) -> None:
    folder, spec = made.folder, made.folder.layout()[0]
    before = folder.tar(spec).read_bytes()
    rows = made.rows(spec)
    noisy = [replace(rows[0], token_noise=0.2), *rows[1:]]
    images = [GeneratedImage(row, drawn(row), guide_label=row.class_name, guide_confidence=0.9) for row in noisy]
    folder.write(spec, images, made.identity, "png")
    assert folder.rows()["token_noise"].tolist()[: len(rows)] == [0.2] + [0.0] * (len(rows) - 1)
    written = []
    for tar in (io.BytesIO(before), io.BytesIO(folder.tar(spec).read_bytes())):
        with tarfile.open(fileobj=tar) as archive:
            written.append({member.name: archive.extractfile(member).read() for member in archive})
    changed = {name for name, content in written[1].items() if written[0][name] != content}
    assert changed == {f"{rows[0].key}.json"}
    assert json.loads(written[1][f"{rows[0].key}.json"])["token_noise"] == 0.2
    assert "token_noise" not in json.loads(written[0][f"{rows[0].key}.json"])


# Reading damaged shards.


@pytest.mark.parametrize("share", [0.02, 0.1, 0.35, 0.6, 0.9])
def test_reading_a_truncated_tar_is_a_shard_error(made: ShardRun, share: float) -> None:
    tar = made.folder.tar(made.folder.layout()[0])
    with tarfile.open(tar) as archive:
        end = archive.getmembers()[-1].offset_data
    tar.write_bytes(tar.read_bytes()[: int(share * end)])
    with pytest.raises(ShardError, match=r"tiny-train-000000\.tar"):
        list(shards.read(tar))


def test_reading_a_sample_without_a_label_is_a_shard_error(made: ShardRun) -> None:
    tar = made.folder.tar(made.folder.layout()[0])
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("crane-000000.png"), io.BytesIO())
    with pytest.raises(ShardError, match="'crane-000000' lacks its image or label"):
        list(shards.read(tar))


def test_reading_a_picture_that_is_none_is_a_shard_error(made: ShardRun) -> None:
    tar = made.folder.tar(made.folder.layout()[0])
    with tarfile.open(tar) as archive:
        picture = archive.getmember("crane-000000.png")
    flip(tar, picture.offset_data)
    with pytest.raises(ShardError, match="cannot be read"):
        list(shards.read(tar))


@pytest.mark.parametrize(
    "text",
    [
        '{"train": [',
        "[1]",
        "3",
        '{"train": 3}',
        '{"train": [3]}',
        '{"train": [{"gull": 3}]}',
        "[" * 9000,
        "[]",
        '{"train": [{"gull": [5, -5]}]}',
    ],
)
def test_a_damaged_plan_is_a_shard_error(made: ShardRun, text: str) -> None:
    (made.root / "shards" / "plan.json").write_text(text)
    with pytest.raises(ShardError, match=r"plan\.json is damaged"):
        made.folder.layout()


# Verification of whole runs.


def test_a_good_run_has_no_problems(made: ShardRun) -> None:
    assert found_in(made) == Findings(shards=6, images=21, tokens=3, problems=())


def test_hidden_files_are_no_damage(made: ShardRun) -> None:
    (made.root / "shards" / ".tiny.tar.1.partial").touch()
    assert found_in(made).problems == ()


def in_shards(name: str, harm: Callable[[Path], object]) -> Callable[[ShardRun], object]:
    return lambda run: harm(run.root / "shards" / name)


def in_comparison(name: str, harm: Callable[[Path], object]) -> Callable[[ShardRun], object]:
    return lambda run: harm(run.root / "comparison" / name)


def in_tokens(name: str, harm: Callable[[Path], object]) -> Callable[[ShardRun], object]:
    return lambda run: harm(run.root / "tokens" / name)


def in_rows(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[ShardRun], object]:
    return in_shards("tiny-train-000000.parquet", lambda path: rewrite_rows(path, change))


def in_info(change: Callable[[dict[str, Any]], object], folder: str = "shards") -> Callable[[ShardRun], object]:
    return lambda run: edit_info(run.root / folder / "_info.json", change)


DAMAGES: dict[str, tuple[Callable[[ShardRun], object], str]] = {
    "byte of a tar": (in_shards("tiny-train-000002.tar", lambda path: flip(path, 900)), "000002.tar: its SHA-256"),
    "tar cut": (in_shards("tiny-train-000001.tar", truncate), "tiny-train-000001.tar: its SHA-256"),
    "tar gone": (in_comparison("tiny-plain_prompt-000001.tar", Path.unlink), "tiny-plain_prompt-000001.tar: missing"),
    "parquet gone": (in_shards("tiny-train-000001.parquet", Path.unlink), "tiny-train-000001.tar: not finished"),
    "parquet cut": (in_shards("tiny-train-000001.parquet", truncate), "tiny-train-000001.parquet: damaged"),
    "row gone": (in_rows(lambda rows: rows[1:]), "tiny-train-000000.parquet: damaged"),
    "row twice": (in_rows(lambda rows: rows.iloc[[0, 0, 2, 3]]), "tiny-train-000000.parquet: damaged"),
    "other label": (in_rows(lambda rows: rows.assign(class_index=2)), "tiny-train-000000.parquet: damaged"),
    "other seed": (in_rows(lambda rows: rows.assign(seed=2)), "tiny-train-000000.parquet: damaged"),
    "info count": (
        in_info(lambda info: info["train"].update(num_samples=9)),
        "_info.json: what it says of split train",
    ),
    "info files": (
        in_info(lambda info: info["plain_prompt"]["filenames"].pop(), "comparison"),
        "_info.json: what it says of split plain_prompt",
    ),
    "info split": (
        in_info(lambda info: info.pop("plain_prompt"), "comparison"),
        "_info.json: what it says of split plain_prompt",
    ),
    "info gone": (in_shards("_info.json", Path.unlink), "_info.json: missing"),
    "info cut": (in_shards("_info.json", truncate), "_info.json: cannot be read"),
    "stray file": (in_shards("tiny-train-000099.tar", Path.touch), "tiny-train-000099.tar: no part of the plan"),
    "token byte": (in_tokens("crane.safetensors", lambda path: flip(path, -1)), "images of 'crane'"),
    "token cut": (in_tokens("gull.safetensors", truncate), "gull.safetensors: "),
    "token gone": (in_tokens("ca-bird.safetensors", Path.unlink), "images of 'ca-bird'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds(made: ShardRun, damage: str) -> None:
    harm, said = DAMAGES[damage]
    harm(made)
    problems = said_of(made)
    assert any(said in problem for problem in problems), problems
    if damage in ("byte of a tar", "tar cut"):  # told once
        assert len(problems) == 1, problems


def test_verify_reports_all_damage_at_once(made: ShardRun) -> None:
    for damage in ("byte of a tar", "tar gone", "parquet cut", "info files", "stray file", "token byte"):
        DAMAGES[damage][0](made)
    assert len(said_of(made)) >= 6


def test_verify_finds_a_plan_that_asks_for_more(made: ShardRun) -> None:
    first, *rest = made.folder.layout()
    made.folder.record((replace(first, ranges=dict(first.ranges) | {"gull": (0, 9)}), *rest))
    assert any("4 rows, but the plan has 12" in problem for problem in said_of(made))


def test_another_runs_shards_are_strays(made: ShardRun) -> None:
    renamed = replace(made, name="other")
    problems = said_of(renamed)
    assert sum("no part of the plan" in problem for problem in problems) == 12  # tars and parquets of both folders


def test_a_folder_object_needs_no_folder(tmp_path: Path) -> None:
    assert ShardFolder(tmp_path / "gone", "x", "train").layout() == ()


# Run folders of version 0.1.0.


@pytest.fixture
def old_run(made: ShardRun) -> ShardRun:
    """A run folder as version 0.1.0 left it: both kinds in `shards/`, keys not unique, a column called source."""
    specs = {"train": made.folder.layout(), "plain": made.comparison.layout()}
    plans: dict[str, Any] = {}
    infos: dict[str, Any] = {}
    for split, layout in specs.items():
        kind = ImageKind.CLASS_TOKEN if split == "train" else ImageKind.PLAIN_PROMPT
        folder = ShardFolder(made.root / "shards", made.name, split)
        for spec in layout:
            images = [
                GeneratedImage(replace(row, key=row.key.removeprefix("plain_")), drawn(row))
                for row in made.rows(spec, kind)
            ]
            folder.write(spec, images, {"split": split}, "png")
            rename_column(folder.parquet(spec), "kind", "source")
        plans[split] = [dict(spec.ranges) for spec in layout]
        folder.record(layout)
        infos |= folder.info()
    (made.root / "shards" / "plan.json").write_text(json.dumps(plans))
    (made.root / "shards" / "_info.json").write_text(json.dumps({"splits": infos}))
    shutil.rmtree(made.root / "comparison")
    return made


def rename_column(path: Path, old: str, new: str) -> None:
    """Rename a column of a shard's parquet, and sign the file again."""
    table = pq.read_table(path)
    metadata = json.loads(table.schema.metadata[b"dct_augment"])
    del metadata["sha256"]
    renamed = table.rename_columns([new if name == old else name for name in table.column_names])
    metadata["sha256"] = fingerprint(metadata, renamed.to_pylist())
    pq.write_table(renamed.replace_schema_metadata({b"dct_augment": json.dumps(metadata).encode()}), path)


def test_an_old_run_folder_is_read_by_kind_and_verified(old_run: ShardRun) -> None:
    folders = shard_folders(old_run.root, old_run.name)
    assert {kind: len(list(folder.images())) for kind, folder in folders.items()} == {
        ImageKind.CLASS_TOKEN: 15,
        ImageKind.PLAIN_PROMPT: 6,
    }
    assert {kind: set(folder.rows()["kind"]) for kind, folder in folders.items()} == {
        ImageKind.CLASS_TOKEN: {"class_token"},
        ImageKind.PLAIN_PROMPT: {"plain_prompt"},
    }
    assert found_in(old_run) == Findings(shards=6, images=21, tokens=3, problems=())


def test_damage_of_an_old_run_folder_is_found(old_run: ShardRun) -> None:
    (old_run.root / "shards" / "tiny-plain-000001.tar").unlink()
    assert said_of(old_run) == ["shards/tiny-plain-000001.tar: missing"]


def test_synthetic_images_of_an_old_shards_folder_are_the_class_token_images(old_run: ShardRun) -> None:
    images = SyntheticImages(old_run.root / "shards")
    stored = {key: picture.tobytes() for key, _, picture in old_run.folder.images()}
    assert {key: images[index][0].tobytes() for index, key in enumerate(images.keys)} == stored


@pytest.mark.parametrize("kind", ImageKind)
def test_nothing_is_added_to_an_old_shards_folder(old_run: ShardRun, kind: ImageKind) -> None:
    with pytest.raises(
        StaleRunError, match=r"shards was made by dct-augment 0\.1\.0.* Use another --output, or delete"
    ):
        shard_folder(old_run.root, old_run.name, kind).refuse_old_layout()


def test_a_plan_that_is_lost_is_read_from_the_finished_shards(made: ShardRun) -> None:
    folder = shard_folder(made.root, made.name, ImageKind.CLASS_TOKEN)
    layout, info, written = folder.layout(), folder.info(), (folder.path / "plan.json").read_bytes()
    (folder.path / "plan.json").unlink()
    lost = shard_folder(made.root, made.name, ImageKind.CLASS_TOKEN)
    assert (lost.layout(), lost.info(), lost.is_recorded) == (layout, info, False)
    assert said_of(made) == ["shards/plan.json: missing"]
    lost.record(lost.layout())
    assert (folder.path / "plan.json").read_bytes() == written


def test_a_plan_of_the_other_kind_of_images_is_damaged_and_comes_back(made: ShardRun) -> None:
    folder, other = (shard_folder(made.root, made.name, kind) for kind in ImageKind)
    written = [(each.path / "plan.json").read_bytes() for each in (folder, other)]
    (folder.path / "plan.json").write_bytes(written[1])
    (other.path / "plan.json").write_bytes(written[0])
    for each in (folder, other):
        with pytest.raises(ShardError, match=r"plan\.json is damaged: it is of .*, not of "):
            each.layout()
        assert "is damaged (it is of" in each.restore_plan([])
    assert [(each.path / "plan.json").read_bytes() for each in (folder, other)] == written
