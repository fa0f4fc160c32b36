"""A benchmark alone makes the images that its trials train on, and no more."""

from pathlib import Path

from dct_augment import config
from dct_augment.pipeline import Run
from dct_augment.pipeline.stages import ImageStage
from dct_augment.records import StageName


def run(output: Path, *changes: str) -> Run:
    small = ["benchmark.arms=[real, class_token]", "downstream.image_size=32", *changes]
    return Run(config.load("digits", small, classes=["three", "eight"], output=output))


def planned(one: Run, goal: StageName) -> int:
    """How many images of both classes a goal makes."""
    stage = next(stage for stage in one.stages(goal) if isinstance(stage, ImageStage))
    return sum(map(len, stage.layout(one.classes)))


def test_a_benchmark_makes_the_images_that_its_trials_train_on(tmp_path: Path) -> None:
    few = run(tmp_path, "benchmark.per_class=24")
    assert planned(few, StageName.BENCHMARK) == 2 * 24
    assert planned(few, StageName.REPORT) == planned(few, StageName.CLASS_TOKEN_IMAGES) == 2 * 50


def test_ratios_and_curves_are_images_that_trials_train_on(tmp_path: Path) -> None:
    assert (
        run(tmp_path, "benchmark.per_class=5", "benchmark.per_class_curve=[7, 30]").images_per_class(
            StageName.BENCHMARK
        )
        == 30
    )
    ratios = ("benchmark.per_class=5", "benchmark.shots=4", "benchmark.ratios=[1, 10]")
    assert run(tmp_path, *ratios).images_per_class(StageName.BENCHMARK) == 40
