"""Whether the images of a run fit on its disk: said before any work."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from dct_augment import config
from dct_augment.errors import InputError
from dct_augment.pipeline.disk_space import bytes_of_images, free_bytes_at, images_to_make
from dct_augment.pipeline.run import Run
from dct_augment.records import StageName


def run_in(folder: Path, *overrides: str) -> Run:
    return Run(config.load("pocket", [f"output={folder}", *overrides], classes=["crane", "kiwi"]))


def to_make(run: Run, goal: StageName) -> int:
    return images_to_make(run, run.needed_stages(goal), goal)


def test_images_of_class_tokens_and_of_draws_are_counted(tmp_path: Path) -> None:
    generated = run_in(tmp_path, "generation.per_class=7")
    assert to_make(generated, StageName.CLASS_TOKEN_IMAGES) == 14
    arms = ["benchmark.arms=[real,class_token_few_shot_guide]", "benchmark.seeds=3", "benchmark.per_class=5"]
    of_draws = run_in(tmp_path, "generation.per_class=7", *arms)
    assert to_make(of_draws, StageName.REPORT) == 14 + 3 * 2 * 5
    assert to_make(of_draws, StageName.TOKENS) == 0


def test_more_images_than_the_disk_holds_are_refused_before_any_work(tmp_path: Path) -> None:
    run = run_in(tmp_path, "generation.per_class=100000000000")
    with pytest.raises(InputError, match=r"200,000,000,000 images of 64 pixels take about [\d,.]+ GB.*per_class"):
        run.generate()
    assert not list(tmp_path.rglob("*.json"))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_disk_that_just_holds_the_images_is_large_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(tmp_path, "generation.per_class=50")
    needed = bytes_of_images(run.config, 100)
    for free, is_refused in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        stages = run.stages(StageName.CLASS_TOKEN_IMAGES)
        if is_refused:
            with pytest.raises(InputError, match="100 images"):
                next(stages)
        else:
            assert next(stages).name == StageName.TOKENS


def test_the_free_space_of_a_folder_that_is_not_there_is_that_of_its_parent(tmp_path: Path) -> None:
    assert free_bytes_at(tmp_path / "not" / "yet") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
