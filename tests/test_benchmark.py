import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import CLASSES, ShardRun, speckled

from dct_augment import benchmark
from dct_augment.benchmark import Benchmark, TrialPlan
from dct_augment.config import BenchmarkConfig
from dct_augment.datasets import few_shot
from dct_augment.errors import DctAugmentError, LeakError
from dct_augment.records import ClassInfo, Example
from dct_augment.training import SyntheticImages

SETTINGS = BenchmarkConfig(shots=2, seeds=2, per_class=3, image_size=32, steps=3, batch_size=8)
SEEDS = {"train": 1000, "val": 2000, "test": 3000}


@dataclass(frozen=True)
class Colors:
    """A made-up data set of obviously different classes: each has its colour."""

    name: str = "colors"
    classes: tuple[ClassInfo, ...] = CLASSES

    def examples(self, split: str) -> Sequence[Example]:
        return [
            Example(f"{split}-{info.slug}-{n}", info.index, partial(speckled, info.index, SEEDS[split] + n))
            for info in self.classes
            for n in range(4)
        ]


@dataclass(frozen=True)
class Leaky(Colors):
    """One of its test pictures is a training picture, under another key."""

    def examples(self, split: str) -> Sequence[Example]:
        found = list(super().examples(split))
        if split == "test":
            found[5] = Example("twin", found[5].label, super().examples("train")[5].open)
        return found


@dataclass(frozen=True)
class Deadly(Colors):
    """Opening it ends the process, as the kernel does when memory is short."""

    def examples(self, split: str) -> Sequence[Example]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


@pytest.fixture
def bench(made: ShardRun) -> Benchmark:
    """A benchmark of three training steps on three colours."""
    return Benchmark(Colors(), made.root / "shards", SETTINGS)


def trials(accuracies: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "accuracy": share}
            for arm, row in accuracies.items()
            for seed, share in enumerate(row)
        ]
    )


def test_the_plan_runs_every_arm_on_every_seed() -> None:
    settings = BenchmarkConfig(arms=("real", "class_token"), seeds=3, seed=7)
    assert benchmark.plan(settings) == tuple(
        TrialPlan(arm, seed) for seed in (7, 8, 9) for arm in ("real", "class_token")
    )


def test_more_seeds_add_to_the_plan_and_change_nothing() -> None:
    few, many = (benchmark.plan(BenchmarkConfig(seeds=seeds)) for seeds in (2, 5))
    assert many[: len(few)] == few


def test_arms_are_means_with_students_interval() -> None:
    found = benchmark.arms(trials({"real": [0.1, 0.2, 0.3], "class_token": [0.5, 0.5, 0.5]}))
    assert list(found) == ["real", "class_token"]
    assert found["real"].mean == pytest.approx(0.2)
    assert found["real"].high == pytest.approx(0.2 + 4.302653 * 0.1 / 3**0.5)
    assert (found["class_token"].low, found["class_token"].count) == (0.5, 3)


def test_paired_is_the_mean_gap_over_shared_seeds() -> None:
    table = trials({"real": [0.5, 0.1, 0.3], "class_token": [0.6, 0.3, 0.6, 0.9]})
    found = benchmark.paired(table, "class_token", "real")
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx(0.2), 3)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.248414, 0.2 + 0.248414), abs=1e-5)


def test_paired_needs_both_arms_and_a_shared_seed() -> None:
    assert benchmark.paired(trials({"real": [0.5]}), "class_token", "real") is None
    apart = pd.DataFrame({"arm": ["real", "class_token"], "seed": [0, 1], "accuracy": [0.1, 0.2]})
    assert benchmark.paired(apart, "class_token", "real") is None


def test_a_clean_split_is_no_leak() -> None:
    benchmark.refuse_leaks(few_shot(Colors(), 4, 0))


def test_the_same_picture_under_another_key_is_a_leak() -> None:
    with pytest.raises(LeakError, match=r"test image 'twin' is the same picture as training image 'train-ca-bird-1'"):
        benchmark.refuse_leaks(few_shot(Leaky(), 4, 0))


def test_a_trial_refuses_a_leak(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"shots": 4})
    with pytest.raises(LeakError):
        Benchmark(Leaky(), tmp_path, settings).trial(TrialPlan("real", 0))


def test_a_synthetic_image_that_is_a_test_picture_is_a_leak(made: ShardRun) -> None:
    copied = SyntheticImages(made.root / "shards")[2][0]

    @dataclass(frozen=True)
    class Copied(Colors):
        def examples(self, split: str) -> Sequence[Example]:
            extra = [Example("copy", 0, lambda: copied)] if split == "test" else []
            return [*super().examples(split), *extra]

    bench = Benchmark(Copied(), made.root / "shards", SETTINGS)
    bench.trial(TrialPlan("real", 0))
    with pytest.raises(LeakError, match=r"test image 'copy' is the same picture as training image 'crane-000002'"):
        bench.trial(TrialPlan("class_token", 0))


@pytest.mark.parametrize("arm", ["real", "real+strong_aug", "plain_prompt", "class_token"])
def test_every_arm_gives_a_trial(bench: Benchmark, arm: str) -> None:
    trial = bench.trial(TrialPlan(arm, 4))
    assert (trial.arm, trial.shots, trial.seed, trial.steps) == (arm, 2, 4, 3)
    assert trial.accuracy * 12 == pytest.approx(round(trial.accuracy * 12))
    assert 0 <= trial.accuracy <= 1


@pytest.mark.parametrize("arm", ["real", "class_token"])
def test_a_repeated_trial_trains_the_same_classifier(bench: Benchmark, arm: str) -> None:
    planned, split = TrialPlan(arm, 1), few_shot(Colors(), 2, 1)
    weights = []
    for disturbance in (1, 2):
        random.seed(disturbance)
        weights.append(bench._fit(bench._mixture(planned, split), planned).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_trials_side_by_side_are_the_same_trials(made: ShardRun) -> None:
    settings = SETTINGS.model_copy(update={"steps": 12})
    plans = [TrialPlan(arm, seed) for seed in (3, 4) for arm in ("real", "class_token")]
    before = torch.get_num_threads()
    found = [
        [replace(trial, seconds=0.0) for trial in benchmark.run(Colors(), made.root / "shards", settings, plans,
                                                                processes=processes)]
        for processes in (1, 2, 9)
    ]  # fmt: skip
    assert found[0] == found[1] == found[2]
    assert [(trial.arm, trial.seed) for trial in found[0]] == [(planned.arm, planned.seed) for planned in plans]
    assert torch.get_num_threads() == before


def test_a_leak_is_found_in_every_process(made: ShardRun) -> None:
    settings = SETTINGS.model_copy(update={"shots": 4})
    with pytest.raises(LeakError):
        list(benchmark.run(Leaky(), made.root / "shards", settings, [TrialPlan("real", 0)] * 2, processes=2))


def test_a_process_that_dies_is_one_message(made: ShardRun) -> None:
    with pytest.raises(DctAugmentError, match=r"one of 2 benchmark processes died"):
        list(benchmark.run(Deadly(), made.root / "shards", SETTINGS, [TrialPlan("real", 0)] * 2, processes=2))


def test_the_classifier_learns_colours(made: ShardRun) -> None:
    settings = SETTINGS.model_copy(update={"steps": 40})
    assert Benchmark(Colors(), made.root / "shards", settings).trial(TrialPlan("real", 0)).accuracy > 0.8
