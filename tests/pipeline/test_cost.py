"""What a run will cost: counted work, and the speed of this machine."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dct_augment import config, datasets
from dct_augment.classifiers.names import ResolvedName
from dct_augment.downstream import training
from dct_augment.errors import ModelError
from dct_augment.pipeline import cost, speed
from dct_augment.pipeline.cost import count, estimate
from dct_augment.pipeline.effort import guide_effort, token_effort
from dct_augment.pipeline.first_config.models import Machine
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import TrialStage, trials
from dct_augment.records import StageName
from tests.pipeline.test_protocol import settings_of, write_photos

LACKING = "nobody/has-this-model"


def test_a_token_is_counted_with_its_plain_validation_and_all_looks_of_its_certificate() -> None:
    settings = config.load(
        "pocket",
        [
            "tokens.method=full",
            "sampling.num_inference_steps=5",
            "tokens.max_updates=20",
            "tokens.validate_every=10",
            "tokens.validation_images=4",
            "tokens.images_per_update=2",
            "tokens.certificate_images=3",
            "tokens.certificate_looks=3",
        ],
    )
    effort = token_effort(settings, 2)
    # Images: 3 validations of 4, that of the plain prompt among them, and 2 x (3 + 3 + 6) of the certificate.
    # Each of 20 x 2 images with gradient counts three times.
    assert effort.decoded == effort.recognised == 12 + 24 + 3 * 40
    without = settings.tokens.model_copy(update={"plain_first": False, "certificate_looks": 1})
    less = token_effort(settings.model_copy(update={"tokens": without}), 2)
    assert effort.evaluations - less.evaluations == 5 * 2 * (4 + 18)


def test_a_guide_of_photos_is_counted_by_the_views_that_its_backbone_sees() -> None:
    few = config.load("pocket", ["guide={name: few_shot, backbone: pocket/backbone, augmentations: 3, flips: false}"])
    assert guide_effort(few, 10).recognised == 40
    assert guide_effort(config.load("pocket"), 10).recognised == 0


def test_trials_are_timed_side_by_side_and_those_of_absent_models_left_out() -> None:
    settings = config.load("pocket", ["benchmark.processes=1", "benchmark.arms=[real]"])
    machine = Machine(None, 2, {}, offline=True)
    work, timed = count(settings, 4, machine), count(settings, 4, machine, {settings.downstream.model: 7.0})
    assert timed.seconds - work.seconds == pytest.approx(7.0 * timed.trials)
    assert work.left_out == f"the trainings of {settings.downstream.model}, not here"
    assert timed.left_out == ""


def test_a_plan_needs_no_model_that_is_not_here_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos", 3)
    settings = settings_of(
        tmp_path / "photos",
        f"model.path={LACKING}",
        f"guide.backbone=hf-hub:{LACKING}",
        "benchmark.protocol=cross_validation",
        "downstream={model: pocket/backbone, pretrained: true, steps: 4, batch_size: 2}",
    )
    run = Run(settings)
    with run.without_writing():
        plan = estimate(run, tuple(StageName))
    assert [line.seconds > 0 for line in plan.lines if line.part in (StageName.TOKENS, StageName.BENCHMARK)] == [
        True
    ] * 2
    assert plan.left_out[0] == f"{LACKING} is not here: its seconds are a guess by its kind"
    assert LACKING in plan.left_out[1]
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_models_that_cannot_be_had_stop_a_new_run_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_waiting = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", without_waiting)  # between tries to reach the Hub
    write_photos(tmp_path / "photos", 3)
    for change in (
        f"model.path={LACKING}",
        f"guide.backbone=hf-hub:{LACKING}",
        f"judge={{name: zero_shot, model: {LACKING}}}",
        f"guide={{name: zero_shot, model: {LACKING}}}",
    ):
        settings = settings_of(tmp_path / "photos", "benchmark.protocol=cross_validation", change)
        with pytest.raises(ModelError, match=LACKING) as refused:
            Run(settings).train()
        assert ".." not in str(refused.value)
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_weights_in_a_folder_are_here_and_those_of_an_empty_one_are_not(tmp_path: Path) -> None:
    resolved = ResolvedName("x", "folder", str(tmp_path), "timm")
    assert not resolved.is_here()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert resolved.is_here()


@pytest.mark.parametrize(
    ("pairs", "seconds"),
    [
        ([(1.0, 0.5), (0.3, 0.5), (0.2, 0.6)], (0.1, 0.1)),  # other work came between in the first
        ([(0.6, 0.6), (0.6, 0.6), (0.6, 0.6)], (0.4, 0.2)),
    ],
)
def test_a_step_that_other_work_hides_never_takes_no_time(
    pairs: list[tuple[float, float]], seconds: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = iter([0.5, *(length for pair in pairs for length in pair)])
    now = [0.0]
    monkeypatch.setattr(training, "fit", lambda *data, **options: now.append(now[-1] + next(lengths)))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[-1])
    photos = datasets.few_shot(datasets.load("digits"), 1, seed=0).train[:8]
    settings = config.load("digits", ["downstream.batch_size=8"]).downstream
    assert speed._seconds_of_steps(settings, photos, 10, "cpu") == pytest.approx(seconds)


@pytest.mark.parametrize(("seconds", "batches"), [(10.0, [1]), (0.01, [1, 8, 8, 8])])
def test_an_image_that_takes_long_is_timed_once(
    seconds: float, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: seconds * sum(done))
    assert speed._seconds_of_an_image(done.append) == pytest.approx(seconds)
    assert done == batches


@pytest.mark.parametrize(("free", "side_by_side"), [(10**12, 2), (1, 1)])
def test_trials_are_estimated_side_by_side_as_far_as_memory_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, side_by_side: int
) -> None:
    write_photos(tmp_path / "photos", 3)
    settings = settings_of(
        tmp_path / "photos",
        "benchmark.protocol=cross_validation",
        "benchmark.arms=[real]",
        "benchmark.processes=2",
        "downstream={model: pocket/backbone, pretrained: true, steps: 4, batch_size: 2}",
    )
    monkeypatch.setattr(cost, "measure_trials", lambda *_: {"pocket/backbone": 10.0})
    monkeypatch.setattr(trials, "free_bytes", lambda _: free)
    run = Run(settings)
    with run.without_writing():
        (line,) = estimate(run, [StageName.BENCHMARK]).lines
    count = len(TrialStage(run).missing)
    assert line.todo.startswith(f"{count} trials")
    assert line.seconds == 10.0 * count / side_by_side


def test_metrics_are_timed_with_their_features_and_resamples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "photos", 3)
    asked: list[tuple[int, int, int]] = []

    def metric_seconds(real: int, synthetic: int, width: int, **_: object) -> float:
        asked.append((real, synthetic, width))
        return 7.0

    monkeypatch.setattr("dct_augment.metrics.duration.metric_seconds", metric_seconds)
    monkeypatch.setattr(speed, "_least_seconds", lambda work: work() is None or 8.0)
    settings = settings_of(
        tmp_path / "photos", "benchmark.arms=[real, plain_prompt, class_token]", "metrics.features=guide"
    )
    run = Run(settings)
    with run.without_writing():
        plan = estimate(run, [StageName.METRICS])
    (line,) = plan.lines
    assert not [text for text in plan.left_out if "metrics" in text]
    sizes = cost._images_to_embed(settings, len(run.classes), run.dataset)
    assert {size for _, size, _ in asked} == set(sizes.of_kind.values())
    assert {(real, width) for real, _, width in asked} == {
        (sizes.real, 256)
    }  # the length of the features of pocket/backbone
    assert line.seconds == pytest.approx(2 * sizes.all + 7.0 * len(sizes.of_kind))


def test_metrics_of_a_model_that_is_not_here_are_left_out(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 3)
    settings = settings_of(
        tmp_path / "photos", "benchmark.arms=[real, plain_prompt]", f"metrics.features=hf-hub:{LACKING}"
    )
    run = Run(settings)
    with run.without_writing():
        plan = estimate(run, [StageName.METRICS])
    assert plan.left_out == ("the features and resamples of the metrics",)
