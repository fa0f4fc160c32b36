import math
import os
import pickle
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment import config
from dct_augment.benchmark import pool
from dct_augment.benchmark.arms import ARMS, Arm, ArmDraw, arm_draws
from dct_augment.benchmark.draws import Draws
from dct_augment.benchmark.leaks import refuse_leaks
from dct_augment.benchmark.pool import TrialInputs
from dct_augment.benchmark.requirements import arms_without, empty_fold, missing_synthetic_images, without_effect
from dct_augment.benchmark.trials import TrialPlan, TrialRunner, plan_trials
from dct_augment.config import BenchmarkConfig, DownstreamConfig, seed_from
from dct_augment.datasets import few_shot
from dct_augment.downstream import training
from dct_augment.downstream.loading import ItemsOfOneSeed
from dct_augment.downstream.mixing import Mixture, SyntheticImages
from dct_augment.errors import DatasetError, DctAugmentError, LeakError
from dct_augment.images import content
from dct_augment.records import ClassInfo, Example, ImageKind, Split, Trial
from tests.conftest import CLASSES, ShardRun, speckled

BENCHMARK = BenchmarkConfig(shots=2, seeds=2, per_class=3)
DOWNSTREAM = DownstreamConfig(image_size=32, steps=3, batch_size=8)
OWN_IMAGES = [name for name, arm in ARMS.items() if arm.own_images]
SYNTHETIC = [name for name, arm in ARMS.items() if arm.images is not None]
SEEDS = {"train": 1000, "val": 2000, "test": 3000}


@dataclass(frozen=True)
class Colors:
    """A made-up data set of obviously different classes: each has its colour."""

    name: str = "colors"
    classes: tuple[ClassInfo, ...] = CLASSES
    notes: tuple[str, ...] = ()

    def examples(self, split: str) -> Sequence[Example]:
        return [
            Example(f"{split}-{info.slug}-{n}", info.index, partial(speckled, info.index, SEEDS[split] + n))
            for info in self.classes
            for n in range(4)
        ]


@dataclass(frozen=True)
class Photos(Colors):
    """Four photos of each class, and neither validation nor test images."""

    def examples(self, split: str) -> Sequence[Example]:
        return super().examples(split) if split == "train" else []


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


def arm_folders(made: ShardRun) -> dict[str, Path]:
    """Where the images of each arm are."""
    return {arm: made.root / arm if arm in OWN_IMAGES else made.root for arm in SYNTHETIC}


@pytest.fixture
def bench(made: ShardRun) -> TrialRunner:
    """A benchmark of three training steps on three colours."""
    return TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), DOWNSTREAM)


def test_the_plan_runs_every_arm_on_every_seed() -> None:
    settings = BenchmarkConfig(arms=("real", "class_token"), seeds=3, seed=7)
    assert plan_trials(settings) == tuple(
        TrialPlan(arm, seed, 5, 50 if arm == "class_token" else 0)
        for seed in (7, 8, 9)
        for arm in ("real", "class_token")
    )


def test_a_trial_records_how_many_synthetic_images_it_was_trained_with(shard_run: ShardRun) -> None:
    layout = shard_run.draw(per_class=4, failed=("crane-000001",))
    assert sum(map(len, layout)) == 12
    runner = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(shard_run), DOWNSTREAM)
    made = [
        runner.trial(plan).synthetic_images for plan in (TrialPlan("class_token", 0, 2, 4), TrialPlan("real", 0, 2))
    ]
    assert made == [11, 0]
    assert runner.trial(TrialPlan("class_token", 0, 2, 3)).synthetic_images == 9


def test_more_seeds_add_to_the_plan_and_change_nothing() -> None:
    few, many = (plan_trials(BenchmarkConfig(seeds=seeds)) for seeds in (2, 5))
    assert many[: len(few)] == few


def test_other_models_add_the_trials_of_every_arm_at_the_base_setting() -> None:
    settings = BenchmarkConfig(arms=("real", "class_token"), seeds=2, shots_curve=(2,))
    alone, found = plan_trials(settings), plan_trials(settings, ["b", "c"])
    assert found[: len(alone)] == alone
    assert found[len(alone) :] == tuple(
        TrialPlan(arm, seed, 5, 50 if arm == "class_token" else 0, model)
        for model in ("b", "c")
        for seed in (0, 1)
        for arm in ("real", "class_token")
    )
    assert found[-1].title(settings) == "class_token, 5 shots, seed 1, 50 per class, c"


def test_curves_add_trials_and_repeat_none() -> None:
    settings = BenchmarkConfig(
        arms=("real", "class_token", "textual_inversion"),
        seeds=2,
        shots=5,
        per_class=50,
        ratios=(1, 5, 10, 20),
        per_class_curve=(5, 100),
        shots_curve=(2, 5),
    )
    found = plan_trials(settings)
    assert len(set(found)) == len(found)
    assert found[:6] == plan_trials(
        settings.model_copy(update={"ratios": (), "per_class_curve": (), "shots_curve": ()})
    )
    numbers = {arm: {one.per_class for one in found if one.arm == arm} for arm in settings.arms}
    assert numbers == {"real": {0}, "class_token": {5, 25, 50, 100}, "textual_inversion": {5, 25, 50}}
    fewer = {(one.arm, one.per_class) for one in found if one.shots == 2}
    assert fewer == {("real", 0), ("class_token", 50)}


@given(
    st.sets(st.sampled_from(["real", "real+strong_aug", *SYNTHETIC]), min_size=1),
    st.lists(st.integers(1, 12)),
    st.lists(st.integers(1, 60)),
    st.lists(st.integers(1, 9)),
    st.integers(2, 4),
)
def test_every_trial_has_its_partner_on_every_seed(
    arms: set[str], ratios: list[int], numbers: list[int], shots: list[int], seeds: int
) -> None:
    settings = BenchmarkConfig.model_validate(
        {"arms": sorted(arms), "ratios": ratios, "per_class_curve": numbers, "shots_curve": shots, "seeds": seeds}
    )
    found = plan_trials(settings)
    assert len(set(found)) == len(found)
    by_setting: dict[tuple[str, int, int], set[int]] = {}
    for one in found:
        by_setting.setdefault((one.arm, one.shots, one.per_class), set()).add(one.seed)
        assert (one.per_class == 0) == (one.arm not in SYNTHETIC)
    assert all(one == set(range(seeds)) for one in by_setting.values())
    drawn = {(draw.arm, draw.shots, draw.seed) for draw in arm_draws(settings)}
    assert drawn == {(one.arm, one.shots, one.seed) for one in found if one.arm in OWN_IMAGES}


def test_the_whole_benchmark_has_every_arm_and_curve() -> None:
    settings = config.load("pocket", full=True, overrides=["benchmark.seeds=7"])
    assert settings.benchmark.seeds == 7
    assert set(settings.benchmark.arms) == {"real", "real+strong_aug", *SYNTHETIC} - {
        "image_variation",
        "lora_plain_prompt",
        "lora_class_token",
    }
    plans = plan_trials(settings.benchmark)
    assert {one.shots for one in plans} == {1, 2, 5, 10, 20}
    assert {one.per_class for one in plans if one.arm == "class_token"} == {5, 25, 50, 100, 200}
    assert settings.generation.per_class == 200


def test_a_clean_split_is_no_leak() -> None:
    refuse_leaks(few_shot(Colors(), 4, 0))


def test_the_same_picture_under_another_key_is_a_leak() -> None:
    message = (
        r"test image 'twin' is the same .* image 'train-ca-bird-1'; remove one of them, or set dataset.duplicates: "
    )
    with pytest.raises(LeakError, match=message):
        refuse_leaks(few_shot(Leaky(), 4, 0))


def test_a_trial_refuses_a_leak() -> None:
    with pytest.raises(LeakError):
        TrialRunner(Draws(Leaky(), BENCHMARK), {}, DOWNSTREAM).trial(TrialPlan("real", 0, 4))


def test_a_synthetic_image_that_is_a_test_picture_is_a_leak(made: ShardRun) -> None:
    copied = SyntheticImages(made.root / "shards")[2][0]

    @dataclass(frozen=True)
    class Copied(Colors):
        def examples(self, split: str) -> Sequence[Example]:
            extra = [Example("copy", 0, lambda: copied)] if split == "test" else []
            return [*super().examples(split), *extra]

    bench = TrialRunner(Draws(Copied(), BENCHMARK), arm_folders(made), DOWNSTREAM)
    bench.trial(TrialPlan("real", 0, 2))
    with pytest.raises(
        LeakError, match=r"test image 'copy' is the same picture as training image 'crane-000002', which was gen"
    ):
        bench.trial(TrialPlan("class_token", 0, 2, 3))


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_few_shot_guide_refuses_a_leak(split: str, made: ShardRun) -> None:
    @dataclass(frozen=True)
    class Copied(Colors):
        def examples(self, name: str) -> Sequence[Example]:
            extra = [Example("copy", 0, super().examples("train")[0].open)] if name == split else []
            return [*super().examples(name), *extra]

    with pytest.raises(LeakError, match=f"{split} image 'copy'"):
        TrialRunner(Draws(Copied(), BENCHMARK), arm_folders(made), DOWNSTREAM).guide(4, 0, 3)


def test_a_few_shot_guide_sees_the_images_of_its_draw_alone(made: ShardRun) -> None:
    opened: list[str] = []

    @dataclass(frozen=True)
    class Watched(Colors):
        def examples(self, split: str) -> Sequence[Example]:
            def watched(one: Example) -> Example:
                return Example(one.key, one.label, lambda: (opened.append(one.key), one.open())[1])

            return [watched(one) for one in super().examples(split)]

    bench = TrialRunner(Draws(Watched(), BENCHMARK), arm_folders(made), DOWNSTREAM)
    opened.clear()
    batches: list[torch.Tensor] = []
    keep = bench._mixture
    bench._mixture = lambda *arguments: _recording(keep(*arguments), batches)  # type: ignore[method-assign]
    guide = bench.guide(2, 5, 7)
    assert guide(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert not any(weight.requires_grad for weight in guide.parameters())
    drawn = {one.key for one in few_shot(Colors(), 2, 5).train}
    # Every other picture is opened once, to be compared with these by content; drawn ones also to be seen.
    counts = Counter(opened)
    assert {key for key, count in counts.items() if count > 2} <= drawn
    assert len(batches) == DOWNSTREAM.steps * DOWNSTREAM.batch_size


def _recording(data: Mixture, seen: list[torch.Tensor]) -> Mixture:
    class Recording:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            item = data[index]
            seen.append(item[0])
            return item

    return Recording()  # type: ignore[return-value]


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_gives_a_trial(made: ShardRun, new_run: Callable[[str], ShardRun], arm: str) -> None:
    if arm in OWN_IMAGES:
        new_run(f"run/{arm}/2-4").draw(ARMS[arm].images or ImageKind.CLASS_TOKEN)
    accepted = frozenset({"crane-000001", "gull-000000"})
    bench = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), DOWNSTREAM, accepted=accepted)
    trial = bench.trial(TrialPlan(arm, 4, 2, 3 if arm in SYNTHETIC else 0))
    assert (trial.arm, trial.shots, trial.seed, trial.steps) == (arm, 2, 4, 3)
    assert trial.accuracy * 12 == sum(a == b for a, b in zip(trial.truth, trial.predicted, strict=True))
    assert list(trial.truth) == [one.label for one in Colors().examples("test")]
    assert 0 <= trial.val_accuracy <= 1


@pytest.mark.parametrize("arm", ["real", "real+strong_aug", "class_token"])
def test_what_a_trial_is_trained_on_may_be_read_by_other_processes(bench: TrialRunner, arm: str) -> None:
    mixture = bench._mixture(TrialPlan(arm, 0, 2, 3 if arm in SYNTHETIC else 0), few_shot(Colors(), 2, 0), 3)
    items = [ItemsOfOneSeed(data, 1)[7] for data in (mixture, pickle.loads(pickle.dumps(mixture)))]
    assert torch.equal(items[0][0], items[1][0])
    assert items[0][1] == items[1][1]


def test_an_arm_with_images_of_its_own_does_not_use_those_of_another_draw(made: ShardRun) -> None:
    with pytest.raises(DatasetError, match=r"textual_inversion/2-4/shards holds no _info.json"):
        TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), DOWNSTREAM).trial(
            TrialPlan("textual_inversion", 4, 2, 3)
        )


def test_the_filtered_arm_draws_accepted_images_alone(made: ShardRun) -> None:
    accepted = frozenset({"crane-000001", "gull-000000"})
    bench = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), DOWNSTREAM, accepted=accepted)
    split = few_shot(Colors(), 2, 0)
    for arm, expected in (("class_token_filtered", accepted), ("class_token", None)):
        keys = set(bench._mixture(TrialPlan(arm, 0, 2, 4), split, 3)._synthetic._source.keys)
        assert keys == expected if expected else len(keys) == 12


@pytest.mark.parametrize("arm", ["real", "class_token"])
def test_a_repeated_trial_trains_the_same_classifier(bench: TrialRunner, arm: str) -> None:
    planned = TrialPlan(arm, 1, 2, 3 if arm == "class_token" else 0)
    weights = []
    for disturbance in (1, 2):
        random.seed(disturbance)
        split = few_shot(Colors(), planned.shots, planned.seed)
        fitted = bench._fit(planned, split, bench._mixture(planned, split, 3), 3, validation=None)
        weights.append(fitted.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_model_is_trained_on_the_same_images_with_its_own_preprocessing(made: ShardRun) -> None:
    settings = DOWNSTREAM.model_copy(update={"other_models": ("test_resnet",)})
    bench = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), settings)
    alone = DownstreamConfig(image_size=32, steps=3, batch_size=8, model="test_resnet")
    other = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), alone)
    trial = bench.trial(TrialPlan("real", 0, 2, other_model="test_resnet"))
    assert trial.other_model == "test_resnet"
    assert replace(trial, other_model="") == other.trial(TrialPlan("real", 0, 2))
    outputs = {label: label for label in range(3)}
    kept = bench.classifier("real", few_shot(Colors(), "all", 0), outputs, 0, "test_resnet").model
    assert type(kept).__name__ == "ResNet"


def test_a_linear_probe_trains_the_last_layer_alone(bench: TrialRunner) -> None:
    plan = TrialPlan("real+linear_probe", 0, 2)
    split = few_shot(Colors(), 2, 0)
    trained = bench._fit(plan, split, bench._mixture(plan, split, 3), 3, validation=None).model.state_dict()
    torch.manual_seed(seed_from("classifier", 0) % 2**32)
    before = training.create(DOWNSTREAM, 3).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, trained[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_arms_with_synthetic_images_are_augmented_as_the_setting_says(made: ShardRun) -> None:
    def answers(arm: str, augmentation: str) -> Trial:
        update = {"synthetic_augmentation": augmentation, "synthetic_probability": 0.0}
        downstream = DOWNSTREAM.model_copy(update=update)
        runner = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), downstream)
        trial = runner.trial(TrialPlan(arm, 0, 2, 2 if arm == "class_token" else 0))
        return replace(trial, arm="", per_class=0, synthetic_images=0)

    light, strong = answers("real", "strong"), answers("real+strong_aug", "light")
    assert answers("class_token", "light") == light
    assert answers("class_token", "strong") == strong
    assert light.predicted != strong.predicted


def test_the_last_steps_can_see_real_images_alone(made: ShardRun) -> None:
    def answers(probability: float, real_images_last: float) -> Trial:
        update = {"synthetic_probability": probability, "real_images_last": real_images_last}
        downstream = DOWNSTREAM.model_copy(update=update)
        runner = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), downstream)
        return replace(runner.trial(TrialPlan("class_token", 0, 2, 2)), synthetic_probability=0)

    assert answers(1.0, 1.0).val_accuracy == answers(0.0, 0.0).val_accuracy
    assert answers(1.0, 1.0) == answers(0.0, 0.0)


@pytest.mark.parametrize(
    ("shots", "share"), [(1, 0.9), (2, 0.5), (4, 0.1), ("all", 0.1)], ids=["one", "two", "four", "all photos"]
)
def test_the_share_of_synthetic_images_is_that_of_the_shots(made: ShardRun, shots: Any, share: float) -> None:
    downstream = DownstreamConfig.model_validate(DOWNSTREAM.model_dump() | {"synthetic_probability": {1: 0.9, 4: 0.1}})
    runner = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), downstream)
    split = few_shot(Colors(), shots, 0)
    assert runner._mixture(TrialPlan("class_token", 0, 7, 2), split, 3).probability == pytest.approx(share)


def test_of_a_long_tail_synthetic_images_are_what_each_class_lacks(made: ShardRun) -> None:
    settings = DOWNSTREAM.model_dump() | {"synthetic_probability": "need", "class_balance": "even"}
    runner = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), DownstreamConfig.model_validate(settings))
    mixture = runner._mixture(TrialPlan("class_token", 0, 4, 2), few_shot(Colors(), 4, 0, imbalance=4), 3)
    assert mixture._shares == {0: 0, 1: 0.5, 2: 0.75}  # of 4, 2 and 1 photos
    assert mixture.probability == pytest.approx(1.25 / 3)


def test_a_trial_records_the_share_that_it_used(made: ShardRun) -> None:
    downstream = DownstreamConfig.model_validate(DOWNSTREAM.model_dump() | {"synthetic_probability": {1: 0.9, 4: 0.1}})
    runner = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), downstream)
    plans = TrialPlan("class_token", 0, 2, 2), TrialPlan("real", 0, 2)
    assert [runner.trial(plan).synthetic_probability for plan in plans] == [pytest.approx(0.5), 0.0]


def soft(made: ShardRun, **changes: Any) -> TrialRunner:
    downstream = DownstreamConfig.model_validate(DOWNSTREAM.model_dump() | {"synthetic_labels": "soft"} | changes)
    return TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), downstream)


def test_soft_labels_are_those_of_a_guide_that_knows_no_more_than_the_images(made: ShardRun) -> None:
    assert {name for name in SYNTHETIC if ARMS[name].soft_labels} == {
        "image_variation",
        "lora_plain_prompt",
        "class_token",
        "class_token_few_shot_guide",
        "lora_class_token",
        "class_token_filtered",
    }
    runner, split = soft(made, synthetic_probability=1.0), few_shot(Colors(), 2, 0)
    _, label = runner._mixture(TrialPlan("class_token", 0, 2, 2), split, 3)[0]
    assert sorted(label.tolist()) == pytest.approx([0.05, 0.05, 0.9])  # every image has a confidence of 0.9
    hard = {
        type(runner._mixture(TrialPlan(arm, 0, 2, count), split, 3)[0][1])
        for arm, count in (("real", 0), ("plain_prompt", 2))
    }
    assert hard == {int}


@pytest.mark.slow
def test_a_trial_with_soft_labels_learns_colours(made: ShardRun) -> None:
    assert soft(made, steps=40, preprocessing="imagenet").trial(TrialPlan("class_token", 0, 2, 5)).accuracy > 0.8


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_soft_labels_are_mixed_and_change_what_is_learned(made: ShardRun, mixing: dict[str, float]) -> None:
    plan, split = TrialPlan("class_token", 0, 2, 5), few_shot(Colors(), 2, 0)
    weights = []
    for labels in ("soft", "soft", "hard"):
        runner = soft(made, synthetic_labels=labels, synthetic_probability=1.0, steps=1, **mixing)
        fitted = runner._fit(plan, split, runner._mixture(plan, split, 3), 3, validation=None)
        weights.append(fitted.model.state_dict()["classifier.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_classifier_that_is_kept_has_soft_labels_of_its_own_outputs(made: ShardRun) -> None:
    outputs = {2: 0, 0: 1}
    kept = soft(made, steps=1).classifier("class_token", few_shot(Colors(), "all", 0), outputs, 2)
    assert kept.logits is not None
    assert kept.logits.shape[1] == 2


def test_a_setting_of_guides_without_effect_is_refused_and_arms_without_it_are_named() -> None:
    def has_effect(arm: Arm) -> bool:
        return arm.soft_labels

    nowhere = BenchmarkConfig(arms=("real", "plain_prompt", "textual_inversion"))
    assert without_effect(nowhere, "labels: soft", has_effect) == (
        "labels: soft has no effect on real, plain_prompt, textual_inversion: these arms have no images, or none that "
        "a guide which knows their photos alone has seen. Leave it out, or add one of these to benchmark.arms: "
        "image_variation, lora_plain_prompt, class_token, class_token_few_shot_guide, lora_class_token, "
        "class_token_filtered"
    )
    somewhere = BenchmarkConfig(arms=("real", "plain_prompt", "class_token"))
    assert without_effect(somewhere, "labels: soft", has_effect) == ""
    assert arms_without(somewhere, "labels: soft", has_effect) == (
        "labels: soft has no effect on plain_prompt: no guide that knows their photos alone has seen their images"
    )
    assert arms_without(BenchmarkConfig(arms=("real", "class_token")), "labels: soft", has_effect) == ""


def test_a_trial_uses_the_images_of_the_first_ranks(made: ShardRun) -> None:
    arm, split = "class_token_few_shot_guide", few_shot(Colors(), 2, 0)
    shutil.copytree(made.root / "shards", made.root / arm / "2-0" / "shards")
    ranks = {f"{info.slug}-{number:06d}": 4 - number for info in CLASSES for number in range(5)}
    runner = TrialRunner(
        Draws(Colors(), BENCHMARK),
        arm_folders(made),
        DOWNSTREAM,
        ranks={ArmDraw("class_token_few_shot_guide", 2, 0): ranks},
    )
    for plan, numbers in ((TrialPlan(arm, 0, 2, 2), (4, 3)), (TrialPlan("class_token", 0, 2, 2), (0, 1))):
        used = set(runner._mixture(plan, split, 3)._synthetic._source.keys)
        assert used == {f"{info.slug}-{number:06d}" for info in CLASSES for number in numbers}
    of_all = runner._mixture(TrialPlan("class_token", 0, 2, 1), split, 3, {0: 0, 1: 1}, ranks)
    assert of_all._synthetic._source.keys == ("crane-000004", "ca-bird-000004")


def test_the_kept_classifier_needs_all_candidates() -> None:
    settings = BenchmarkConfig(arms=("class_token_few_shot_guide",), per_class=10, selection="coverage", candidates=3)
    assert missing_synthetic_images(settings, 30, few_shot_guide=True) == ""
    assert missing_synthetic_images(settings, 29, few_shot_guide=True) == (
        "benchmark.candidates asks for 30 synthetic images of a class, but generation.per_class is 29 "
        "(class_token_few_shot_guide). Set generation.per_class=30, or lower benchmark.candidates"
    )
    assert missing_synthetic_images(settings, 10) == ""


@pytest.mark.slow
def test_trials_side_by_side_are_the_same_trials(made: ShardRun) -> None:
    downstream = DOWNSTREAM.model_copy(update={"steps": 12})
    plans = [TrialPlan("real", 3, 2), TrialPlan("class_token", 3, 2, 3), TrialPlan("real", 4, 2)]
    source, before = TrialInputs(Draws(Colors(), BENCHMARK), arm_folders(made), downstream), torch.get_num_threads()
    found = [dict(pool.run(source, plans, processes=processes)) for processes in (1, 2, 9)]
    assert found[0] == found[1] == found[2]
    assert all((trial.arm, trial.seed) == (plan.arm, plan.seed) for plan, trial in found[0].items())
    assert list(found[0]) == plans
    assert torch.get_num_threads() == before


def test_a_leak_is_found_in_every_process(made: ShardRun) -> None:
    inputs = TrialInputs(Draws(Leaky(), BENCHMARK), arm_folders(made), DOWNSTREAM)
    with pytest.raises(LeakError):
        list(pool.run(inputs, [TrialPlan("real", 0, 4)] * 2, processes=2))


def test_a_trial_that_fails_takes_no_other_with_it(made: ShardRun) -> None:
    """The images of draw 4 are missing; its trial is the first, and its error comes last."""
    inputs = TrialInputs(Draws(Colors(), BENCHMARK), arm_folders(made), DOWNSTREAM)
    plans = [TrialPlan("textual_inversion", 4, 2, 3), TrialPlan("real", 0, 2), TrialPlan("real", 1, 2)]
    done: list[TrialPlan] = []
    with pytest.raises(DatasetError, match=r"holds no _info\.json"):
        done.extend(plan for plan, _ in pool.run(inputs, plans, processes=2))
    assert sorted(done, key=plans.index) == plans[1:]


def test_a_process_that_dies_is_one_message(made: ShardRun) -> None:
    inputs = TrialInputs(Draws(Deadly(), BENCHMARK), arm_folders(made), DOWNSTREAM)
    with pytest.raises(DctAugmentError, match=r"one of 2 benchmark processes died"):
        list(pool.run(inputs, [TrialPlan("real", 0, 2)] * 2, processes=2))


def test_the_classifier_learns_colours(made: ShardRun) -> None:
    downstream = DOWNSTREAM.model_copy(update={"steps": 40})
    assert (
        TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), downstream).trial(TrialPlan("real", 0, 2)).accuracy
        > 0.8
    )


FOLDS = BenchmarkConfig(protocol="cross_validation", folds=2, repeats=2, arms=("real", "class_token"), shots=2)


def test_a_repeat_of_cross_validation_has_a_trial_per_fold_and_arm() -> None:
    assert [(plan.arm, plan.seed) for plan in plan_trials(FOLDS)] == [
        (arm, draw) for draw in range(4) for arm in ("real", "class_token")
    ]
    with_own_images = FOLDS.model_copy(update={"arms": ("textual_inversion",)})
    assert [draw.seed for draw in arm_draws(with_own_images)] == [0, 1, 2, 3]


def test_a_trial_of_a_fold_is_named_by_it() -> None:
    assert TrialPlan("real", 3, 2).title(FOLDS) == "real, 2 shots, fold 2 of 2, repeat 2"
    with_own_images = FOLDS.model_copy(update={"arms": ("textual_inversion",)})
    assert arm_draws(with_own_images)[0].title(with_own_images) == "textual_inversion, 2 shots, fold 1 of 2"


def test_a_fold_without_a_photo_is_named_with_the_fix_before_any_work() -> None:
    """Three of the four photos of each class are one picture, so there are two different ones for four folds."""
    copies = [frozenset(f"train-{info.slug}-{n}" for n in (1, 2, 3)) for info in CLASSES]
    four = FOLDS.model_copy(update={"folds": 4, "repeats": 9})
    problem = empty_fold(Draws(Photos(), four, copies))
    assert re.match(r"fold \d of 4(, repeat \d)? has no photo to test: there are 12 photos that can be read", problem)
    assert "Set benchmark.folds=2, or add photos" in problem
    assert empty_fold(Draws(Photos(), FOLDS, copies)) == ""
    assert empty_fold(Draws(Photos(), four)) == ""
    assert empty_fold(Draws(Colors(), BENCHMARK)) == ""


@pytest.mark.parametrize(
    ("changes", "setting", "count"),
    [
        ({"per_class": 11}, "benchmark.per_class", 11),
        ({"per_class_curve": (5, 12)}, "benchmark.per_class_curve", 12),
        ({"ratios": (1, 5), "shots": 3}, "benchmark.ratios", 15),
    ],
)
def test_more_synthetic_images_than_are_generated_are_refused_by_both_settings(
    changes: dict[str, object], setting: str, count: int
) -> None:
    given = {"arms": ("real", "plain_prompt"), "per_class": 10, **changes}
    settings = BenchmarkConfig.model_validate(given)
    assert missing_synthetic_images(settings, 10) == (
        f"{setting} asks for {count} synthetic images of a class, but generation.per_class is 10 (plain_prompt). Set "
        f"generation.per_class={count}, or lower {setting}"
    )
    assert missing_synthetic_images(settings, count) == ""
    for arms in (("real",), ("real", "class_token_few_shot_guide")):
        assert missing_synthetic_images(settings.model_copy(update={"arms": arms}), 1) == ""


def test_images_of_all_photos_are_as_many_as_those_of_a_fold_if_the_classifier_may_learn_from_them() -> None:
    settings = BenchmarkConfig(arms=("class_token_few_shot_guide",), per_class=20, per_class_curve=(90,))
    problem = missing_synthetic_images(settings, 10, few_shot_guide=True)
    assert problem.startswith("benchmark.per_class asks for 20 synthetic images of a class")


@dataclass(frozen=True)
class Watched(Colors):
    """Notes each image that is opened."""

    opened: list[str] = field(default_factory=list)

    def examples(self, split: str) -> Sequence[Example]:
        return [replace(example, open=partial(_noted, self.opened, example)) for example in super().examples(split)]


CONTENTS = {
    example.key: content(example.open()) for split in ("train", "val", "test") for example in Colors().examples(split)
}


def test_a_guide_opens_no_validation_or_test_image_whose_content_is_known(made: ShardRun) -> None:
    watched = Watched()
    TrialRunner(Draws(watched, BENCHMARK), arm_folders(made), DOWNSTREAM, contents=CONTENTS).guide(2, 0, 3)
    assert set(watched.opened) == {example.key for example in few_shot(Colors(), 2, 0).train}


def test_a_leak_is_found_by_what_is_known_of_contents() -> None:
    contents = CONTENTS | {"val-gull-1": CONTENTS["train-crane-0"]}
    with pytest.raises(LeakError, match=r"val image 'val-gull-1' .* training image 'train-crane-0'"):
        TrialRunner(Draws(Colors(), BENCHMARK), {}, DOWNSTREAM, contents=contents).guide(4, 0, 3)


def test_held_out_images_are_prepared_once_for_all_trials_models_and_processes(tmp_path: Path) -> None:
    watched, plans = Watched(), [TrialPlan("real", seed, 2) for seed in (0, 1)]
    inputs = TrialInputs(Draws(watched, BENCHMARK), {}, DOWNSTREAM, contents=CONTENTS, pixels=tmp_path / "pixels")
    inputs.make().prepare(plans)
    held_out = Counter(key for key in watched.opened if not key.startswith("train"))
    assert set(held_out.values()) == {1}
    watched.opened.clear()
    for plan in plans:
        inputs.make().trial(plan)
    assert all(key.startswith("train") for key in watched.opened)
    before = set((tmp_path / "pixels").glob("*.npy"))
    assert len(before) == 2
    smaller = replace(inputs, downstream=DOWNSTREAM.model_copy(update={"image_size": 24, "other_models": ("b",)}))
    smaller.make().prepare(plans)
    after = set((tmp_path / "pixels").glob("*.npy"))
    assert len(after) == 2
    assert not before & after  # what no trial needs goes


def test_all_folds_are_tested_on_one_file(made: ShardRun, tmp_path: Path) -> None:
    inputs = TrialInputs(Draws(Photos(), FOLDS), arm_folders(made), DOWNSTREAM, pixels=tmp_path)
    runner, plans = inputs.make(), plan_trials(FOLDS.model_copy(update={"arms": ("real",)}))
    runner.prepare(plans)
    trials = [runner.trial(plan) for plan in plans]
    (path,) = tmp_path.glob("*.npy")
    assert len(np.load(path, mmap_mode="r")) == 12
    assert [len(trial.truth) for trial in trials[:2]] == [6, 6]


def test_each_photo_is_tested_once_a_repeat_by_a_classifier_that_has_not_seen_it(made: ShardRun) -> None:
    class Recorded(Draws):
        def split(self, shots: int, number: int) -> Split:
            splits[number] = super().split(shots, number)
            return splits[number]

    splits: dict[int, Split] = {}
    runner = TrialRunner(Recorded(Photos(), FOLDS), arm_folders(made), DOWNSTREAM)
    for repeat in (0, 1):
        trials = [runner.trial(TrialPlan("real", 2 * repeat + fold, 2)) for fold in (0, 1)]
        tested = [example for trial in trials for example in splits[trial.seed].test]
        assert sorted(example.key for example in tested) == sorted(
            example.key for example in Photos().examples("train")
        )
        assert [label for trial in trials for label in trial.truth] == [example.label for example in tested]
        assert all(math.isnan(trial.val_accuracy) for trial in trials)


def test_a_copy_of_a_photo_in_another_fold_is_a_leak_unless_it_is_known(made: ShardRun) -> None:
    class Doubled(Photos):
        def examples(self, split: str) -> Sequence[Example]:
            found = list(super().examples(split))
            return [*found, Example("copy", found[0].label, found[0].open)] if found else found

    first = Doubled().examples("train")[0].key
    known = TrialRunner(Draws(Doubled(), FOLDS, [frozenset({first, "copy"})]), {}, DOWNSTREAM)
    for draw in FOLDS.draws:
        known.trial(TrialPlan("real", draw, 2))
    draws = Draws(Doubled(), FOLDS)
    keys = [{example.key for example in draws.split(2, draw).test} for draw in FOLDS.draws]
    apart = next(draw for draw in FOLDS.draws if len(keys[draw] & {first, "copy"}) == 1)
    with pytest.raises(LeakError, match="copy"):
        TrialRunner(draws, {}, DOWNSTREAM).trial(TrialPlan("real", apart, 2))


def test_the_kept_classifier_learns_from_all_photos_of_the_chosen_classes_alone(made: ShardRun) -> None:
    read: list[str] = []

    @dataclass(frozen=True)
    class Watched(Photos):
        def examples(self, split: str) -> Sequence[Example]:
            return [replace(example, open=partial(_noted, read, example)) for example in super().examples(split)]

    runner = TrialRunner(Draws(Watched(), FOLDS), arm_folders(made), DOWNSTREAM.model_copy(update={"steps": 9}))
    everything = tuple(Watched().examples("train"))
    photos = [example for example in everything if example.label != 1]
    final = runner.classifier("class_token", Split(4, 0, everything, (), ()), {0: 0, 2: 1}, 3)
    assert final.model(torch.zeros(2, 3, 32, 32)).shape == (2, 2)
    assert final.logits is None
    assert set(read) == {example.key for example in photos}


def _noted(read: list[str], example: Example) -> Image.Image:
    read.append(example.key)
    return example.open()


def test_validation_images_choose_and_calibrate_the_kept_classifier(made: ShardRun) -> None:
    runner = TrialRunner(Draws(Colors(), BENCHMARK), arm_folders(made), DOWNSTREAM)
    train, val = (tuple(Colors().examples(split)) for split in ("train", "val"))
    final = runner.classifier("real", Split(4, 0, train, val, ()), {0: 2, 1: 1, 2: 0}, 0)
    assert final.truth == tuple({0: 2, 1: 1, 2: 0}[example.label] for example in val)
    assert final.logits is not None
    assert final.logits.shape == (len(val), 3)
