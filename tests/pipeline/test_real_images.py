"""What a run does with images that cannot be read, and with those that are there twice."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from dct_augment import config, datasets
from dct_augment.benchmark.leaks import refuse_leaks
from dct_augment.errors import DatasetError, ModelError
from dct_augment.pipeline import Run
from dct_augment.records import Progress, StageName
from tests.datasets.layouts import keys
from tests.datasets.photographs import photograph_tree, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photographs, one of which is in test and in train."""
    folder = photograph_tree(tmp_path / "data")
    shutil.copy(folder / "test" / "china" / "06.png", folder / "train" / "china" / "copy.png")
    return folder


def run_on(root: Path, output: Path, **settings: Any) -> tuple[Run, list[Progress]]:
    data = {
        "name": "x",
        "output": str(output),
        "dataset": {"name": "folder", "path": str(root), **settings},
        "guide": {"name": "pocket/birds-guide", "match": "index"},
        "benchmark": {"shots": 2},
    }
    told: list[Progress] = []
    return Run(config.validate(data), told.append), told


def test_a_picture_in_two_splits_stops_a_benchmark_before_any_work(root: Path, tmp_path: Path) -> None:
    run, told = run_on(root, tmp_path / "out")
    with pytest.raises(DatasetError, match=r"train/china/copy\.png = test/china/06\.png \(exact\)"):
        run.benchmark()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "data"}
    remarks = [progress.note for progress in told if not progress.total]
    assert remarks[0].startswith("searching duplicates among 25 images")
    assert remarks[1] == "data: 25 images of 2 classes: 13 train, 6 val, 6 test"
    assert remarks[-1] == "duplicates: 1 group of exact copies, 0 of near ones; 1 across splits"
    assert len(remarks) <= 6


def test_dropped_copies_are_in_no_few_shot_draw(root: Path, tmp_path: Path) -> None:
    save(root / "train" / "flower" / "copy.jpg", 7, quality=80)
    run, _ = run_on(root, tmp_path / "out", duplicates="drop")
    images = run.real_images()
    assert keys(run.dataset, "train") - keys(images, "train") == {"train/china/copy.png", "train/flower/copy.jpg"}
    assert keys(run.dataset, "test") == keys(images, "test")
    everything = datasets.few_shot(images, 6, seed=0).train
    assert not any("copy" in example.key for example in everything)


def test_keep_leaves_copies_where_they_are(root: Path, tmp_path: Path) -> None:
    run, _ = run_on(root, tmp_path / "out", duplicates="keep")
    assert "train/china/copy.png" in keys(run.real_images(), "train")


def test_kept_copies_of_a_photo_are_in_one_fold(tmp_path: Path) -> None:
    for name, first in (("china", 0), ("flower", 10)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            save(tmp_path / "data" / name / f"{number}.png", first + number)
    shutil.copy(tmp_path / "data" / "china" / "0.png", tmp_path / "data" / "china" / "copy.png")
    run, told = run_on(tmp_path / "data", tmp_path / "out", duplicates="keep")
    draws = run.draws()
    assert not draws.shared_test
    assert draws.copies == [frozenset({"china/0.png", "china/copy.png"})]
    for number in draws.settings.draws:
        refuse_leaks(draws.split(9, number))
    assert (
        "duplicates: 1 group of exact copies, kept in one fold; near ones not searched (dataset.duplicates: keep)"
        in [progress.note for progress in told]
    )


def test_a_model_that_does_not_exist_is_named_before_any_work(root: Path, tmp_path: Path) -> None:
    (root / "train" / "china" / "copy.png").unlink()
    run, _ = run_on(root, tmp_path / "out")
    downstream = run.config.downstream.model_copy(update={"other_models": ("test_resnet", "resnet_o")})
    benchmark = run.config.benchmark.model_copy(update={"arms": ("real",)})
    config = run.config.model_copy(update={"downstream": downstream, "benchmark": benchmark})
    with pytest.raises(ModelError, match=r"downstream.model 'resnet_o' cannot be made: Unknown model"):
        Run(config).benchmark()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "data"}


def test_a_picture_that_cannot_be_read_is_left_out_of_each_split_until_it_is_repaired(
    root: Path, tmp_path: Path
) -> None:
    broken = ["train/china/00.png", "val/flower/05.png", "test/china/06.png"]
    whole = {key: (root / key).read_bytes() for key in broken}
    for key in broken:
        (root / key).write_bytes(b"no picture")
    run, told = run_on(root, tmp_path / "out")
    for key in broken:
        assert key not in keys(run.real_images(), key.split("/", 1)[0])
    (remark,) = [progress.note for progress in told if "cannot be read" in progress.note]
    assert remark.startswith("3 images cannot be read and are left out: train/china/00.png (it is no picture")

    (root / "train" / "china" / "copy.png").unlink()
    for key, content in whole.items():
        (root / key).write_bytes(content)
    repaired, _ = run_on(root, tmp_path / "out")
    assert all(key in keys(repaired.real_images(), key.split("/", 1)[0]) for key in broken)


def test_a_benchmark_without_a_readable_test_image_is_refused_at_once(root: Path, tmp_path: Path) -> None:
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"no picture")
    run, _ = run_on(root, tmp_path / "out")
    with pytest.raises(DatasetError, match="has no test image that can be read"):
        list(run.stages(StageName.BENCHMARK))


def test_training_reads_no_real_image(root: Path, tmp_path: Path) -> None:
    run, told = run_on(root, tmp_path / "out")
    next(iter(run.stages(StageName.CLASS_TOKEN_IMAGES)))
    assert told == []
    assert not (tmp_path / "out" / "data").exists()


def test_an_arm_takes_over_what_its_run_knows_of_the_images(root: Path, tmp_path: Path) -> None:
    run, _ = run_on(root, tmp_path / "out", duplicates="drop")
    inner, told = run_on(root, tmp_path / "inner", duplicates="drop")
    inner.use_data(run)
    assert keys(inner.real_images(), "train") == keys(run.real_images(), "train")
    assert told == []
    assert not (tmp_path / "inner").exists()


@pytest.mark.parametrize("part", ["benchmark", "metrics", "arms"])
def test_another_picture_makes_another_result(part: Any, root: Path, tmp_path: Path) -> None:
    before = run_on(root, tmp_path / "out")[0].identity(part)
    assert run_on(root, tmp_path / "out")[0].identity(part) == before
    shutil.copy(root / "test" / "china" / "06.png", root / "test" / "flower" / "new.png")
    after = run_on(root, tmp_path / "out")[0].identity(part)
    (line,) = config.differences(before, after)
    assert line.startswith("dataset.images: ")


def test_a_repaired_picture_makes_another_result(root: Path, tmp_path: Path) -> None:
    broken = root / "train" / "china" / "copy.png"
    sound = (root / "train" / "flower" / "03.png").read_bytes()
    broken.write_bytes(b"no picture")
    run, _ = run_on(root, tmp_path / "out", duplicates="drop")
    run.real_images()
    before = run.identity("benchmark")
    broken.write_bytes(sound[:-1] + b"\0")
    again, _ = run_on(root, tmp_path / "out", duplicates="drop")
    assert again.identity("benchmark") == before  # until somebody looks
    again.real_images()
    assert again.identity("benchmark") != before


def test_a_look_at_one_class_is_not_taken_for_that_of_the_run(root: Path, tmp_path: Path) -> None:
    run, _ = run_on(root, tmp_path / "out", duplicates="drop")
    run.real_images()
    before = run.identity("benchmark")
    one_class, _ = run_on(root, tmp_path / "out", duplicates="drop", classes=["china"])
    assert [info.name for info in one_class.data.classes] == ["china"]
    again, _ = run_on(root, tmp_path / "out", duplicates="drop")
    assert again.identity("benchmark") == before


def test_one_class_can_be_generated_for_and_not_be_tested(root: Path, tmp_path: Path) -> None:
    run, _ = run_on(root, tmp_path / "out", duplicates="drop", classes=["china"])
    next(iter(run.stages(StageName.CLASS_TOKEN_IMAGES)))
    with pytest.raises(DatasetError, match=r"needs two or more, and of 'data' it has 'china'\. Add a class"):
        list(run.stages(StageName.BENCHMARK))


def test_a_split_that_a_layout_never_had_is_held_out_without_a_word(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "val")
    assert run_on(root, tmp_path / "out")[0].dataset.notes == ()
    (root / "val" / "china").mkdir(parents=True)
    (note,) = run_on(root, tmp_path / "out")[0].dataset.notes
    assert note == "split val: 'val' holds no picture; the split is left out"


@pytest.mark.slow
def test_a_report_looks_at_the_images_before_it_says_which_trials_are_of_today(root: Path, tmp_path: Path) -> None:
    quick = {
        "downstream": {"image_size": 32, "batch_size": 4, "steps": 2},
        "benchmark": {"arms": ["real"], "shots": 1, "seeds": 2, "processes": 1},
        "metrics": {"features": None},
    }
    data = {"name": "x", "output": str(tmp_path / "out"), "guide": {"name": "pocket/birds-guide", "match": "index"}}
    section = {"name": "folder", "path": str(root), "duplicates": "drop"}

    def reported() -> str | None:
        told: list[Progress] = []
        Run(config.validate({**data, **quick, "dataset": section}), told.append).report()
        return next((progress.note for progress in told if progress.stage == StageName.REPORT), None)

    Run(config.validate({**data, **quick, "dataset": section})).benchmark()
    _ = Run(config.validate({**data, **quick, "dataset": {**section, "classes": ["china"]}})).data
    assert reported() is None
    (root / "test" / "china" / "06.png").write_bytes(b"no picture")
    remark = reported()
    assert remark is not None
    assert remark.startswith("2 recorded trials were made with other settings or images (the real images)")
