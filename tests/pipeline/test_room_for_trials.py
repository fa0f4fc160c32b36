"""Trials get the memory and the disk that they need, or a message with the numbers and the setting."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dct_augment import config
from dct_augment.downstream import prepared
from dct_augment.errors import InputError
from dct_augment.images import content
from dct_augment.pipeline import Run
from dct_augment.pipeline.stages import TrialStage, trials
from dct_augment.records import Progress

SMALL = (
    "benchmark.arms=[real]",
    "benchmark.protocol=holdout",
    "benchmark.shots=1",
    "benchmark.seeds=2",
    "benchmark.processes=1",
    "downstream={model: pocket/backbone, image_size: 32, steps: 1, batch_size: 4, validation_rounds: 1}",
)


def pictures(folder: Path, count: int = 3) -> Path:
    """A data set of two classes with three splits, as a folder."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("crane", "kiwi"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def run(output: Path, *changes: str, photos: Path | None = None) -> tuple[Run, list[Progress]]:
    told: list[Progress] = []
    dataset = [f"dataset={{name: folder, path: {photos}}}"] if photos else []
    settings = config.load("pocket", [*SMALL, *dataset, *changes], classes=["crane", "kiwi"], output=output)
    return Run(settings, told.append), told


@pytest.mark.parametrize(
    ("asked", "free", "count", "beginning"),
    [
        ("benchmark.processes=6", 1.3e9, 2, "2 trials side by side, not 6 (benchmark.processes): each takes about 0.5"),
        ("benchmark.processes=6", 1e8, 1, "1 trial side by side, not 6 (benchmark.processes): each takes about 0.5"),
        ("benchmark.processes=6", 1e11, 6, ""),
        ("benchmark.processes=null", 1.3e9, 2, "2 trials side by side: each takes about 0.5"),
        ("benchmark.processes=1", 1e8, 1, ""),
    ],
)
def test_no_more_trials_run_side_by_side_than_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, free: float, count: int, beginning: str
) -> None:
    monkeypatch.setattr(trials, "free_bytes", lambda _: int(free))
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    context, told = run(tmp_path, asked, "benchmark.seeds=9", "device=cpu")
    stage = TrialStage(context)
    units = stage.pending()
    told.clear()
    assert stage.side_by_side(units) == count
    notes = [progress.note for progress in told]
    if not beginning:
        assert notes == []
        return
    (note,) = notes
    assert note.startswith(beginning)
    assert note.endswith(f"GB, and {free / 1e9:.1f} GB of memory are free. Lower downstream.batch_size for more")


def test_a_disk_without_room_for_the_held_out_images_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    context, _ = run(tmp_path / "run", photos=pictures(tmp_path / "photos"))
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"^12 prepared pictures of 32 x 32 pixels .* lower downstream.image_size$"):
        list(context.stages(TrialStage.name))
    assert not (tmp_path / "run" / "benchmark").exists()


def test_held_out_images_are_prepared_before_the_first_trial_and_gone_after_the_last(tmp_path: Path) -> None:
    context, _ = run(tmp_path / "run", photos=pictures(tmp_path / "photos"))
    context.real_images()  # the look comes first: what it finds decides which trials are done
    stage, folder = TrialStage(context), tmp_path / "run" / "benchmark" / "pixels"
    first, second = stage.pending()
    files = set(folder.glob("*.npy"))
    assert len(files) == 2
    stage.do(first)
    stage.publish()
    assert set(folder.glob("*.npy")) == files  # the second needs them
    assert set(TrialStage(context).pending()) == {second}
    stage.do(second)
    stage.publish()
    assert not folder.exists()
    assert TrialStage(context).pending() == ()
    assert not folder.exists()


def test_the_look_at_the_data_says_what_is_in_held_out_images(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos")
    context, _ = run(tmp_path / "run", photos=photos)
    expected = {
        f"{split}/{name}/{number}.png": content(Image.open(photos / split / name / f"{number}.png"))
        for split in ("val", "test")
        for name in ("crane", "kiwi")
        for number in range(3)
    }
    assert context.held_out_contents == expected
    folds, _ = run(tmp_path / "folds", "benchmark.protocol=cross_validation", photos=photos)
    assert {key.partition("/")[0] for key in folds.held_out_contents} == {"train", "val"}
    shipped, _ = run(tmp_path / "shipped")
    assert shipped.held_out_contents == {}
