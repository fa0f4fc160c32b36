"""Which images are exported, and as which classes."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dct_augment.errors import InputError, ShardError
from dct_augment.export import ExportResult, export_images
from dct_augment.generation import plan
from dct_augment.generation.shards import ShardFolder
from dct_augment.records import ClassInfo
from tests.conftest import ShardRun
from tests.export.finished_runs import BIRDS, finish, stored_files

SHORT = (ClassInfo(0, "gull", "gull"), ClassInfo(1, "tern", "tern"))


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of an export in the format `parquet`, by key."""
    return {row["key"]: row for row in pq.read_table(folder / "train-00000-of-00001.parquet").to_pylist()}


def export(runs: Path | list[Path], to: Path, **options: Any) -> ExportResult:
    return export_images(runs, to, "parquet", **options)


def test_images_of_plain_prompts_to_compare_with_are_not_exported(run: Path, tmp_path: Path) -> None:
    result = export(run, tmp_path / "out")
    assert result.images == {"song sparrow": 3, "Çà bird": 3, "gull": 3}
    assert not any(key.startswith("plain_") for key in rows(tmp_path / "out"))


def test_images_of_plain_prompts_that_stand_for_a_missing_token_are_counted_and_not_exported(tmp_path: Path) -> None:
    root = finish(tmp_path / "run", without_token=["gull"])
    result = export(root, tmp_path / "out")
    assert result.left_out == {"made with the plain prompt, as the class has no certified token": 3}
    assert result.without_images == ("gull",)
    assert {row["class_name"] for row in rows(tmp_path / "out").values()} == {"song sparrow", "Çà bird"}
    assert all(row["token_sha256"] for row in rows(tmp_path / "out").values())


def test_failed_images_are_counted_and_not_exported(tmp_path: Path) -> None:
    root = finish(tmp_path / "run", failed=["gull-000001"])
    result = export(root, tmp_path / "out")
    assert result.left_out == {"not generated": 1}
    assert result.images["gull"] == 2


def test_the_filter_leaves_out_and_counts_by_reason(tmp_path: Path) -> None:
    root = finish(tmp_path / "run", wrong=["gull-000000"], unsure=["gull-000002", "ca-bird-000001"])
    result = export(root, tmp_path / "out", filter_confidence=0.5)
    assert result.left_out == {"taken for another class": 1, "confidence below 0.5": 2}
    assert result.images == {"song sparrow": 3, "Çà bird": 2, "gull": 1}
    assert "gull-000001" in rows(tmp_path / "out")


def test_a_class_of_which_the_filter_leaves_nothing_has_no_label(tmp_path: Path) -> None:
    root = finish(tmp_path / "run", wrong=[f"song-sparrow-00000{number}" for number in range(3)])
    assert export(root, tmp_path / "out", filter_confidence=0.5).without_images == ("song sparrow",)
    labels = {(row["class_name"], row["label"], row["class_index"]) for row in rows(tmp_path / "out").values()}
    assert labels == {("Çà bird", 0, 1), ("gull", 1, 2)}


def test_a_filter_that_leaves_nothing_says_why_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image is left to export: 9 confidence below 0\.95.*lower --filter"):
        export(run, tmp_path / "out", filter_confidence=0.95)
    assert not (tmp_path / "out").exists()


def test_the_filter_of_the_benchmark_of_a_run_is_used_unless_it_is_refused(tmp_path: Path) -> None:
    root = finish(tmp_path / "run", unsure=["gull-000002"], filtered=True)
    assert export(root, tmp_path / "a").left_out == {"confidence below 0.5": 1}
    assert export(root, tmp_path / "b", run_filter=False).left_out == {}
    assert export(root, tmp_path / "c", filter_confidence=0.2).left_out == {}


def test_the_filter_leaves_out_images_with_the_pixels_of_an_earlier_one(tmp_path: Path) -> None:
    first = finish(tmp_path / "a", image_format="png")
    second = finish(tmp_path / "b", image_format="webp")  # other files, without loss: the same pixels
    assert export([first, second], tmp_path / "all").left_out == {}
    assert export([first, second], tmp_path / "out", filter_confidence=0.5).left_out == {"duplicate": 9}


def test_chosen_classes_are_labelled_without_gaps(run: Path, tmp_path: Path) -> None:
    result = export(run, tmp_path / "out", classes=["gull", "CA-BIRD"])
    assert result.images == {"Çà bird": 3, "gull": 3}
    assert {row["label"] for row in rows(tmp_path / "out").values()} == {0, 1}


def test_a_class_that_is_in_no_run_is_named_with_those_that_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'dodo' are in none of the runs; there are: song sparrow, Çà bird, gull"):
        export(run, tmp_path / "out", classes=["gull", "dodo"])


def test_homonyms_are_told_apart_by_their_slugs(tmp_path: Path) -> None:
    classes = (ClassInfo(0, "crane", "crane", True), ClassInfo(1, "crane", "crane-2", True), BIRDS[2])
    result = export(finish(tmp_path / "run", classes=classes), tmp_path / "out")
    assert list(result.images) == ["crane", "crane-2", "gull"]


def test_runs_of_one_data_set_share_their_classes_and_keep_their_keys_apart(tmp_path: Path) -> None:
    first = finish(tmp_path / "a", classes=BIRDS[1:])
    second = finish(tmp_path / "b", classes=BIRDS[:2], seed=1)
    result = export([first, second], tmp_path / "out")
    assert result.images == {"song sparrow": 3, "Çà bird": 6, "gull": 3}
    found = rows(tmp_path / "out")
    assert {key.partition("_")[0] for key in found} == {"birds", "birds-2"}
    assert {found["birds_ca-bird-000000"]["label"], found["birds-2_ca-bird-000000"]["label"]} == {1}
    bytes_of_both = [*stored_files(first).values(), *stored_files(second).values()]
    assert sorted(row["image"] for row in found.values()) == sorted(bytes_of_both)


def test_keys_of_merged_runs_are_unique_whatever_runs_and_classes_are_called(tmp_path: Path) -> None:
    first = finish(tmp_path / "a", name="a", classes=(ClassInfo(0, "b c", "b-c"),))
    second = finish(tmp_path / "b", name="a-b", classes=(ClassInfo(1, "c", "c"),), seed=1)
    export([first, second], tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 6


def test_images_that_two_runs_have_alike_are_exported_once(tmp_path: Path) -> None:
    first, second = finish(tmp_path / "a", per_class=2), finish(tmp_path / "b", per_class=3)
    result = export([first, second], tmp_path / "out")
    assert result.left_out == {"the same file as an earlier run's": 6}
    assert sum(result.images.values()) == 9


def test_a_class_name_that_two_data_sets_share_needs_a_decision(tmp_path: Path) -> None:
    first = finish(tmp_path / "a")
    second = finish(tmp_path / "b", name="short", classes=SHORT, dataset="data/short", seed=1)
    with pytest.raises(InputError, match=r"share 1 class name: 'gull' of 'folder data/birds' and of 'folder data/sho"):
        export([first, second], tmp_path / "out")
    merged = export([first, second], tmp_path / "merged", shared_names="merge")
    assert merged.images == {"song sparrow": 3, "Çà bird": 3, "gull": 6, "tern": 3}
    apart = export([first, second], tmp_path / "apart", shared_names="separate")
    assert apart.images == {"song sparrow": 3, "Çà bird": 3, "gull": 3, "gull (short)": 3, "tern": 3}


def test_homonyms_of_another_data_set_are_not_made_one_class(tmp_path: Path) -> None:
    first = finish(tmp_path / "a", classes=(ClassInfo(0, "crane", "crane"),))
    cranes = (ClassInfo(0, "crane", "crane", True), ClassInfo(1, "crane", "crane-2", True))
    second = finish(tmp_path / "b", name="b", classes=cranes, dataset="data/b", seed=1)
    result = export([first, second], tmp_path / "out", shared_names="merge")
    assert result.images == {"crane": 6, "crane-2": 3}


def test_runs_of_different_data_sets_without_shared_names_need_no_decision(tmp_path: Path) -> None:
    first = finish(tmp_path / "a", classes=BIRDS[:2])
    second = finish(tmp_path / "b", name="short", classes=SHORT, dataset="data/short", seed=1)
    assert list(export([first, second], tmp_path / "out").images) == ["song sparrow", "Çà bird", "gull", "tern"]


def test_a_run_that_is_given_twice_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is given twice"):
        export([run, run / ".." / "run"], tmp_path / "out")


@pytest.mark.parametrize("what", ["missing", "empty", "without shards"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    if what != "missing":
        folder.mkdir()
    if what == "without shards":
        (folder / "shards").mkdir()
    with pytest.raises(InputError, match="dct-augment generate"):
        export(folder, tmp_path / "out")


def test_a_shard_that_is_not_finished_is_counted_and_left_out(run: Path, tmp_path: Path) -> None:
    (run / "shards" / "birds-train-000002.parquet").unlink()
    result = export(run, tmp_path / "out")
    assert (result.unfinished, sum(result.images.values())) == (1, 8)


@pytest.mark.parametrize("damage", ["tar changed", "tar missing", "parquet damaged"])
def test_a_damaged_shard_is_named_and_nothing_is_exported(run: Path, tmp_path: Path, damage: str) -> None:
    tar = run / "shards" / "birds-train-000001.tar"
    if damage == "tar missing":
        tar.unlink()
    elif damage == "tar changed":
        data = bytearray(tar.read_bytes())
        data[600] ^= 1
        tar.write_bytes(data)
    else:
        tar.with_suffix(".parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match=r"birds-train-000001.*Nothing was exported"):
        export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_configuration_and_identity_is_exported(made: ShardRun, tmp_path: Path) -> None:
    assert export(made.root, tmp_path / "out").images == {"crane": 5, "Çà bird": 5, "gull": 5}
    assert {row["guide_right"] for row in rows(tmp_path / "out").values()} == {None}


def test_a_run_of_version_0_1_0_gives_its_class_token_images_alone(made: ShardRun, tmp_path: Path) -> None:
    old = ShardFolder(made.root / "shards", "tiny", "plain")
    layout = plan.extend((), made.classes, 1, 4)
    for spec in layout:
        old.write(spec, [], made.identity, "png")
    shutil.rmtree(made.root / "comparison")
    assert sum(export(made.root, tmp_path / "out").images.values()) == 15
