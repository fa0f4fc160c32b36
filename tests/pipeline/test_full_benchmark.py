"""Every arm, ratio and curve through the pipeline on Pocket: images of their own, filter, metrics, resume, report."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from dct_augment import config
from dct_augment.benchmark.arms import ARMS, ArmDraw, arm_draws, arm_folder
from dct_augment.benchmark.trials import plan_trials
from dct_augment.classifiers import Classifier
from dct_augment.config import Arm as ArmName
from dct_augment.downstream.mixing import SyntheticImages
from dct_augment.errors import ModelError
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import ArmStage, MetricStage, TrialStage
from dct_augment.records import ImageKind

pytestmark = pytest.mark.slow

SMALL = [
    "tokens.max_updates=2",
    "tokens.validate_every=2",
    "tokens.validation_images=2",
    "tokens.images_per_update=2",
    "tokens.restarts=0",
    "tokens.certificate_images=3",
    "sampling.num_inference_steps=2",
    "generation.shard_size=5",
    "textual_inversion.steps=2",
    "textual_inversion.batch_size=2",
    "downstream.image_size=32",
    "downstream.steps=2",
    "downstream.batch_size=4",
    "benchmark.processes=1",
    "benchmark.seeds=2",
    "benchmark.shots=2",
    "report.images_per_class=2",
    "benchmark.per_class=3",
    "benchmark.ratios=[1]",
    "benchmark.per_class_curve=[5]",
    "benchmark.shots_curve=[1]",
    "generation.per_class=5",
    "benchmark.filter_confidence=0.0",
    "metrics.per_class=3",
    "metrics.bootstrap_resamples=20",
    "metrics.real_images=24",
    "metrics.nearest_neighbours=2",
]

FULL = config.load("digits", full=True).benchmark.arms
OWN_IMAGES = [name for name in FULL if ARMS[name].tokens_from]
SYNTHETIC = [name for name in FULL if ARMS[name].images is not None]


def run(output: Path, *more: str) -> Run:
    return Run(config.load("digits", [*SMALL, *more], full=True, classes=["three", "eight"], output=output))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished benchmark of everything."""
    torch.set_num_threads(1)
    done = run(tmp_path_factory.mktemp("full") / "run")
    done.benchmark()
    done.report()
    return done


def arm_home(one: Run, arm: str, seed: int) -> Path:
    return arm_folder(one.arm_paths.images, arm, 2, seed)


def arm_tokens(one: Run, arm: ArmName, seed: int) -> Path:
    return one.arm_paths.tokens(ArmDraw(arm, 2, seed))


def trials(one: Run) -> pd.DataFrame:
    return pd.read_parquet(one.config.root / "benchmark" / "trials.parquet")


def test_every_planned_trial_is_recorded_with_its_answers(whole: Run) -> None:
    table, plans = trials(whole), plan_trials(whole.config.benchmark)
    recorded = [tuple(row) for row in table[["arm", "seed", "shots", "per_class"]].itertuples(index=False)]
    assert recorded == [(one.arm, one.seed, one.shots, one.per_class) for one in plans]
    assert set(table["steps"]) == {2}
    labels = [one.label for one in whole.real_images().examples("test")]
    for row in table.to_dict("records"):
        assert list(row["truth"]) == labels
        right = sum(a == b for a, b in zip(row["truth"], row["predicted"], strict=True))
        assert row["accuracy"] == pytest.approx(right / len(labels))


def test_arms_of_their_own_are_runs_inside_the_run(whole: Run) -> None:
    root = whole.config.root
    assert {path.parent.name.rpartition("-")[0] + " " + path.name for path in (root / "arms").glob("*/*")} == {
        f"{folder} 2-{seed}" for arm in OWN_IMAGES for folder in (arm, f"tokens-{arm}") for seed in (0, 1)
    }
    drawn = {}
    for draw in arm_draws(whole.config.benchmark):
        arm, seed = draw.arm, draw.seed
        images = SyntheticImages(arm_home(whole, arm, seed) / "shards")
        assert sorted(images.labels) == [3] * 3 + [8] * 3
        drawn[arm, seed] = [images[index][0].tobytes() for index in range(len(images))]
    # Textual inversion is used whatever the certificate says, so each draw gives images of its own.
    assert drawn["textual_inversion", 0] != drawn["textual_inversion", 1]
    inner = config.load(str(arm_home(whole, "textual_inversion", 1) / "config.yaml"))
    assert (inner.tokens.objective, inner.textual_inversion.shots, inner.textual_inversion.few_shot_seed) == (
        "textual_inversion",
        2,
        1,
    )
    few_shot: ArmName = "class_token_few_shot_guide"
    guides = [arm_tokens(whole, few_shot, seed) / "guide" / "model.safetensors" for seed in (0, 1)]
    assert guides[0].read_bytes() != guides[1].read_bytes()


def test_a_finished_benchmark_has_nothing_left_to_do(whole: Run) -> None:
    again = Run(whole.config)
    assert ArmStage(again).pending() == TrialStage(again).pending() == MetricStage(again).pending() == ()
    assert "backend" not in vars(again)  # and no model is loaded to find that out


def test_other_settings_redo_what_depends_on_them_and_nothing_else(whole: Run) -> None:

    def pending(*changes: str) -> tuple[set[str], set[str], set[str]]:
        """The titles of what is to be done by the stages of arms, trials and metrics."""
        other = run(whole.config.root, *changes)
        stages = (ArmStage(other), TrialStage(other), MetricStage(other))
        arms, trials, metrics = ({unit.title for unit in stage.pending()} for stage in stages)
        return arms, trials, metrics

    _, trials, _ = pending("benchmark.seeds=3", "benchmark.arms=[real]", "benchmark.shots_curve=[]")
    assert trials == {"real, 2 shots, seed 2"}
    arms, trials, _ = pending("downstream.steps=3")
    guides = {f"class_token_few_shot_guide, 2 shots, seed {seed}" for seed in (0, 1)}
    assert arms == guides  # trained by the recipe of the benchmark's classifier
    assert trials == {plan.title(whole.config.benchmark) for plan in plan_trials(whole.config.benchmark)}
    measured = {"real", *SYNTHETIC} - {"class_token_filtered"}
    assert pending("metrics.bootstrap_resamples=21") == (set(), set(), measured)


def test_trials_whose_images_are_missing_are_stale_and_run_again(whole: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.config.root, copy)
    other = run(copy)
    assert TrialStage(other).pending() == ()
    other = run(copy)
    removed = [*(arm_home(other, "textual_inversion", 1) / "shards").glob("*-000000.*")]
    assert len(removed) == 2
    for path in removed:
        path.unlink()
    stale = [plan_trials(other.config.benchmark)[unit.number] for unit in TrialStage(run(copy)).pending()]
    assert {(plan.arm, plan.seed) for plan in stale} == {("textual_inversion", 1)}
    recorded = {path: path.stat().st_mtime_ns for path in copy.glob("benchmark/trials/*.json")}
    (unit,) = ArmStage(other).pending()
    assert unit.title == "textual_inversion, 2 shots, seed 1"
    other.benchmark()
    assert trials(other).equals(trials(whole))
    # The images are the same bytes again, so no trial ran.
    assert {path: path.stat().st_mtime_ns for path in copy.glob("benchmark/trials/*.json")} == recorded
    assert all(path.is_file() for path in removed)


def test_what_a_kill_left_in_an_arm_is_swept_and_made_again(whole: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.config.root, copy)
    other = run(copy)
    tokens = arm_tokens(other, "class_token_few_shot_guide", 0)
    guide, partial = tokens / "guide", tokens / ".guide.123.partial"
    guide.rename(partial)
    for path in [*tokens.glob("*.safetensors"), *tokens.glob("*.json")]:
        path.unlink()
    other.benchmark()
    assert (guide / "model.safetensors").read_bytes() == (
        whole.config.root / guide.relative_to(copy) / "model.safetensors"
    ).read_bytes()
    assert not partial.exists()
    assert list(tokens.glob("*.safetensors")) or list(tokens.glob("*.failed.json"))


def test_metrics_have_every_kind_with_intervals_and_counts(whole: Run) -> None:
    table = pd.read_parquet(whole.config.root / "benchmark" / "metrics.parquet")
    assert set(table["kind"]) == {"real", *SYNTHETIC} - {"class_token_filtered"}
    named = {
        "fid",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "diversity",
        "guide_top1",
        "guide_top5",
        "judge_top1",
        "judge_top5",
    }
    assert set(table["metric"]) == named
    assert (table["low"] <= table["high"]).all()
    shares = table[table["metric"].str.contains("top|precision|recall|coverage")]
    assert shares[["value", "low", "high"]].to_numpy().min() >= 0
    assert shares[["value", "low", "high"]].to_numpy().max() <= 1
    assert set(table.loc[table["kind"] != "real", "n_synthetic"]) == {6}
    assert set(table["features"]) == {"judge (pocket/digits-judge)"}
    assert table.loc[table["metric"] == "fid", "warning"].str.contains("images are few").all()


def test_synthetic_images_are_limited_evenly_over_the_classes(whole: Run) -> None:
    other = run(whole.config.root, "metrics.synthetic_images=10")
    few = other.config.metrics.model_copy(update={"synthetic_images": 4})
    other.config = other.config.model_copy(update={"metrics": few})
    stage = MetricStage(other)
    assert [label for _, label in stage._images("plain_prompt")] == [3, 3, 8, 8]
    assert {unit.title for unit in stage.pending()} == set(stage._kinds)


def test_features_that_cannot_be_had_are_an_error_or_left_out(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"metrics.features 'resnet5O' cannot be loaded"):
        MetricStage(run(whole.config.root, "metrics.features=resnet5O")).pending()
    with pytest.raises(ModelError, match=r"metrics.features is judge, but the configuration has none"):
        MetricStage(run(whole.config.root, "metrics.features=judge", "judge=null")).pending()
    assert MetricStage(run(whole.config.root, "metrics.features=null")).pending() == ()

    def without(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        raise ModelError("no features here")

    heard: list[str] = []
    other = Run(
        config.load(
            "digits",
            [*SMALL, "metrics.bootstrap_resamples=21"],
            full=True,
            classes=["three", "eight"],
            output=whole.config.root,
        ),
        lambda one: heard.append(one.note),
    )
    monkeypatch.setattr(type(other.judge), "features", without)
    assert MetricStage(other).pending() == ()
    assert any("left out: no features here" in note for note in heard)


def test_the_filter_is_recorded_row_by_row_and_narrows_its_arm(whole: Run) -> None:
    table = pd.read_parquet(whole.config.root / "benchmark" / "filter.parquet")
    rows = whole.shards[ImageKind.CLASS_TOKEN].rows()
    assert list(table["key"]) == list(rows["key"])
    assert (table["accepted"] == (table["reason"] == "")).all()
    accepted = set(table.loc[table["accepted"], "key"])
    assert accepted <= set(rows.loc[rows["guide_right"].astype(bool), "key"])


def test_the_report_shows_all_of_it(whole: Run) -> None:
    summary = json.loads((whole.config.root / "report" / "summary.json").read_text())
    bench = summary["benchmark"]
    assert set(bench["arms"]) == {"real", "real+strong_aug", *SYNTHETIC}
    assert {point["shots"] for points in bench["curves"]["shots"]["arms"].values() for point in points} == {1, 2}
    numbers = {point["per_class"] for points in bench["curves"]["per_class"]["arms"].values() for point in points}
    assert numbers == {2, 3, 5}
    pair = bench["paired"]["class_token-class_token_few_shot_guide"]
    assert (pair["n"], pair["smallest_p"]) == (2, 0.5)
    assert summary["metrics"]["values"]["fid"].keys() == {"real", *SYNTHETIC} - {"class_token_filtered"}
    assert summary["filter"]["accepted"] + summary["filter"]["rejected"] == 10
    assert (whole.config.root / "report" / "index.html").stat().st_size < 5_000_000


def test_fewer_images_than_shots_are_counted_and_said_before_any_work(tmp_path: Path) -> None:
    notes: list[str] = []
    config = run(tmp_path / "run", "benchmark.shots_curve=[30]", "benchmark.arms=[real]").config
    TrialStage(RunContext(config, lambda progress: notes.append(progress.note))).check()
    assert [note for note in notes if "fewer" in note] == [
        "2 classes have fewer than 30 training images: three 20, eight 20"
    ]


def test_all_shots_are_those_of_the_class_that_has_most(tmp_path: Path) -> None:
    config = run(tmp_path / "run", "benchmark.shots=all", "textual_inversion.shots=all").config
    assert (config.benchmark.shots, config.textual_inversion.shots) == (20, 20)
