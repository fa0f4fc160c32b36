"""What a run will cost before it starts: counted work, times the measured speed of one step."""

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dct_augment.benchmark import pool
from dct_augment.benchmark.arms import ARMS, REAL, arm_draws, images_of_a_class, measured_kinds
from dct_augment.benchmark.trials import TrialPlan, plan_trials
from dct_augment.config import Config, classifier_title
from dct_augment.diffusion.memory import free_bytes
from dct_augment.errors import ModelError
from dct_augment.pipeline.effort import (
    Effort,
    arm_effort,
    evaluations_per_step,
    guide_effort,
    image_effort,
    token_effort,
)
from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.first_config.models import Machine
from dct_augment.pipeline.memory_needs import model_needs
from dct_augment.pipeline.speed import Pace, measure_features, measure_generation, measure_guide, measure_trials
from dct_augment.pipeline.unit_pool import processes_for, threads_of_units
from dct_augment.records import Dataset, ImageKind, StageName
from dct_augment.tokens.groups import extend_groups
from dct_augment.wording import counted

if TYPE_CHECKING:
    from dct_augment.pipeline.run import Run

_DECODE = 1.0
"""How long it takes to decode an image, in evaluations of the denoiser: a guess, where none is measured."""


@dataclass(frozen=True)
class Line:
    """One part of the plan. A denoiser evaluation is one image forward; backward counts two.

    `memory` is how many bytes of the device all its processes take, with their weights; None if it is not known.
    """

    part: StageName
    todo: str
    evaluations: int
    seconds: float
    memory: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is left to do, line by line, and what is not in the seconds, in words."""

    lines: tuple[Line, ...]
    left_out: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The sum of the seconds that are known."""
        return sum(line.seconds for line in self.lines if not math.isnan(line.seconds))


def estimate(run: "Run", parts: Collection[StageName], goal: StageName = StageName.REPORT) -> Plan:
    """Count the work that is left in each part, times the measured speed of this machine.

    For tokens it is one whole attempt at a class, with all looks of its certificate: stops save, restarts add. Models
    that are not here are not downloaded: the speed of the text-to-image model is then a guess, and of others the
    work is left out. `goal` decides how many images of a class there are to be.
    """
    from dct_augment.pipeline.stages import ImageStage, TokenStage, TrialStage

    config, lines = run.config, []
    per_step = evaluations_per_step(config)
    image = image_effort(config)
    with threads_of_units(config, run.device):
        pace, left_out = _measured(run)
    needs = model_needs(config, run.device, free_bytes(run.device))
    of_tokens, of_images = (None, None) if needs is None else (needs.tokens, needs.images)
    if StageName.TOKENS in parts:
        missing = TokenStage(run).missing()
        effort = token_effort(config, per_step) * len(missing)
        if missing:
            effort += guide_effort(config, len(run.dataset.examples("train")))
        work = f"{counted(len(missing), 'class')}, up to {counted(config.tokens.max_updates, 'update')} an attempt"
        groups = extend_groups((), [info.slug for info in missing], config.tokens.classes_per_work_unit)
        sizes = [len(group) * config.tokens.max_updates for group in groups]
        lines.append(_line(StageName.TOKENS, work, effort, pace, processes_for(config, run.device, sizes), of_tokens))
    for kind in ImageKind:
        stage = ImageStage(run, kind, run.images_per_class(goal))
        if stage.name in parts:
            layout = stage.layout(run.classes)
            todo = [spec for spec in layout if not run.shards[kind].parquet(spec).is_file()]
            images = sum(map(len, todo))
            work = f"{counted(images, 'image')}, {counted(len(todo), 'shard')}"
            processes = processes_for(config, run.device, [len(spec) for spec in todo])
            lines.append(_line(stage.name, work, image * images, pace, processes, of_images))
    if StageName.ARMS in parts and (draws := arm_draws(config.benchmark)):
        effort = arm_effort(config, len(run.classes), len(run.dataset.examples("train")))
        made = "LoRAs, tokens and images" if any(ARMS[draw.arm].lora for draw in draws) else "tokens and images"
        work = f"{made} of {counted(len(draws), 'few-shot draw')}"
        sizes = [len(run.classes) * (config.tokens.max_updates + config.benchmark.per_class)] * len(draws)
        lines.append(_line(StageName.ARMS, work, effort, pace, processes_for(config, run.device, sizes), of_tokens))
    if StageName.BENCHMARK in parts:
        trials = measure_trials(config, run.dataset, _outputs(run.dataset), run.device)
        trial_stage = TrialStage(run)
        missing_trials = trial_stage.missing
        work = f"{counted(len(missing_trials), 'trial')} of {counted(config.downstream.steps, 'step')}"
        side_by_side = trial_stage.parallel(len(missing_trials))
        seconds = _trial_seconds(missing_trials, config, trials, side_by_side)
        # What is known of a training is its memory on a CPU.
        of_trial = trial_stage.bytes_of_a_trial if run.device == "cpu" else None
        memory = None if of_trial is None else of_trial * max(side_by_side, 1)
        lines.append(Line(StageName.BENCHMARK, work, 0, seconds, memory))
        if StageName.CLASSIFIER in parts:
            seconds = trials.get(config.downstream.model, float("nan"))
            lines.append(Line(StageName.CLASSIFIER, "1 training on all photos", 0, seconds, of_trial))
        left_out += _models_left_out(config, trials)
    if StageName.METRICS in parts and (work := metric_work(config, len(run.classes), run.dataset)):
        embedded = _images_to_embed(config, len(run.classes), run.dataset)
        measured = measure_features(config, run.dataset.classes, run.device)
        seconds = pace.recognise * embedded.all
        if measured is None:
            left_out.append("the features and resamples of the metrics")
        else:
            of_image, width = measured
            seconds += of_image * embedded.all + _resample_seconds(config, embedded, width, run.device)
        lines.append(Line(StageName.METRICS, work, 0, seconds))
    return Plan(tuple(lines), tuple(left_out))


def _line(part: StageName, work: str, effort: Effort, pace: Pace, processes: int, memory_of_one: int | None) -> Line:
    processes = max(processes, 1)
    memory = None if memory_of_one is None else memory_of_one * processes
    return Line(part, work, round(effort.evaluations), effort.seconds(pace) / processes, memory)


def _measured(run: "Run") -> tuple[Pace, list[str]]:
    """Measure the pace of the models that are here; say what is left out, or is a guess, for want of others."""
    from dct_augment.diffusion.names import folder_here

    left_out, model = [], run.config.model
    if folder_here(model.path, model.revision) is None:
        machine = machine_of(run.config)
        family, size = models.family_of(model.path), models.size_of(model.path, None, model.image_size)
        evaluation = machine.seconds(family, 1, size)
        decode = evaluation * _DECODE
        left_out.append(f"{model.path} is not here: its seconds are a guess by its kind")
    else:
        evaluation, decode = measure_generation(run.backend)
    members = (*run.config.guide, *(run.config.judge or ()))
    try:
        recognise = measure_guide(members, run.dataset.classes, run.device)
    except ModelError:  # a run says what is wrong with it
        recognise = None
    if recognise is None:
        left_out.append(f"the work of {' and '.join(map(classifier_title, members))}, not here")
    return Pace(evaluation, decode, recognise or 0.0), left_out


def machine_of(config: Config) -> Machine:
    """Look at the machine as this configuration uses it: `device: cpu` leaves its GPU alone."""
    machine = Machine.here()
    return replace(machine, gpu_bytes=None) if config.device == "cpu" else machine


def _outputs(dataset: Dataset) -> int:
    return 1 + max(info.index for info in dataset.classes)


def benchmark_seconds(config: Config, trials: Mapping[str, float], device: str) -> float:
    """Say how long all trials take side by side; not a number if no model was measured.

    Args:
        config: its protocol is known.
        trials: the seconds of one trial, by model.
        device: torch device.
    """
    plans = plan_trials(config.benchmark, config.downstream.other_models)
    return _trial_seconds(plans, config, trials, pool.parallel_trials(config.benchmark, device))


def _trial_seconds(plans: Sequence[TrialPlan], config: Config, trials: Mapping[str, float], side_by_side: int) -> float:
    """Say how long trials take, so many at a time; not a number if no model of them was measured."""
    known = [trials[model] for plan in plans if (model := plan.other_model or config.downstream.model) in trials]
    if plans and not known:
        return float("nan")
    side_by_side = min(side_by_side, len(os.sched_getaffinity(0)), len(known))
    return sum(known) / max(side_by_side, 1)


def _models_left_out(config: Config, trials: Mapping[str, float]) -> list[str]:
    missing = [model for model in config.downstream.models if model not in trials]
    return [f"the trainings of {', '.join(missing)}, not here"] if missing else []


def folds_hint(config: Config, classes: int) -> str:
    """Say what cross-validation costs, what is cheaper, and what is lost by it; empty for a holdout.

    Args:
        config: of a run, whose protocol is known.
        classes: how many there are.
    """
    settings = config.benchmark
    if settings.protocol != "cross_validation":
        return ""
    sets = sum(ARMS[draw.arm].tokens_from is not None for draw in arm_draws(settings))
    folds = counted(settings.folds, "fold")
    if not sets:
        return f"cross-validation: {folds}; class tokens are trained once, of all photos: {classes:,}."
    times = f" x {settings.repeats} repeats" if settings.repeats > 1 else ""
    arms = sets // len(settings.draws)
    times += f" x {arms} arms" if arms > 1 else ""
    hint = (
        f"cross-validation: {folds}{times} x {counted(classes, 'class token')}, and {classes:,} of all photos: "
        f"{(sets + 1) * classes:,}."
    )
    if settings.folds > 2:
        hint += (
            " Cheaper: --set benchmark.folds=2; then each classifier learns from half of the photos, and its accuracy "
            "looks lower than that of the one you keep."
        )
    return hint


def metric_work(config: Config, classes: int, dataset: Dataset) -> str:
    """Say what the metrics of images take: images to embed, and resamples; empty if none are measured.

    Args:
        config: its protocol is known.
        classes: how many there are.
        dataset: the real images; those of all its classes are counted.
    """
    settings, kinds = config.metrics, measured_kinds(config.benchmark)
    if not settings.features or not kinds:
        return ""
    images = _images_to_embed(config, classes, dataset).all
    return (
        f"up to {counted(images, 'image')} to embed; {counted(settings.bootstrap_resamples, 'resample')} of FID and of "
        f"KID for {counted(len(kinds), 'kind')} of images"
    )


@dataclass(frozen=True)
class _Embedded:
    """How many real images are compared with, and how many of each kind are compared."""

    real: int
    of_kind: Mapping[str, int]

    @property
    def all(self) -> int:
        return self.real + sum(self.of_kind.values())


def _images_to_embed(config: Config, classes: int, dataset: Dataset) -> _Embedded:
    settings = config.metrics
    real = {split: len(dataset.examples(split)) for split in ("train", "val", "test")}
    of_kind = {}
    for kind in measured_kinds(config.benchmark):
        if kind == REAL:
            of_kind[kind] = min(settings.real_images, real["test"])
        else:
            own = ARMS[kind].own_images
            made = images_of_a_class(config.benchmark, kind) if own else config.generation.per_class
            of_kind[kind] = min(settings.synthetic_images, classes * min(settings.per_class, made))
    return _Embedded(min(settings.real_images, real["train"] + real["val"]), of_kind)


def _resample_seconds(config: Config, sizes: _Embedded, width: int, device: str) -> float:
    """Say how long the metrics of all kinds take once their features are there; each size is measured once."""
    from dct_augment.metrics.duration import metric_seconds

    settings, seconds = config.metrics, 0.0
    for images, kinds in Counter(sizes.of_kind.values()).items():
        seconds += kinds * metric_seconds(
            sizes.real,
            images,
            width,
            k=settings.nearest_neighbours,
            resamples=settings.bootstrap_resamples,
            device=device,
        )
    return seconds


@dataclass(frozen=True)
class Work:
    """What a whole run makes: class tokens, images, trained classifiers, and the denoiser evaluations of all of it.

    `seconds` is about how long all of it takes on a machine, but for what is `left_out`, in words.
    """

    tokens: int
    images: int
    trials: int
    evaluations: int
    seconds: float
    left_out: str = ""

    @property
    def in_words(self) -> str:
        """Say all of it in a line: what `init` and `doctor` print."""
        left_out = f", without {self.left_out}" if self.left_out else ""
        return (
            f"{counted(self.tokens, 'class token')}, {counted(self.images, 'image')}, "
            f"{counted(self.trials, 'training')} of the classifier; up to {self.evaluations:,} denoiser evaluations "
            f"(one whole attempt at each token), about {duration(self.seconds)} here{left_out} (an estimate; --dry-run "
            "measures)"
        )


def duration(seconds: float) -> str:
    """Say roughly how long something takes."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.0f} {unit}s"
    return "a minute"


def count(config: Config, classes: int, machine: Machine, trials: Mapping[str, float] | None = None) -> Work:
    """Count the work of a whole run by its configuration and the files of its model, one whole attempt for each token.

    No text-to-image model is loaded.

    Args:
        config: its protocol is known.
        classes: how many there are.
        machine: where it is to run.
        trials: the seconds of one trial here, by model (`speed.measure_trials`); those of others are left out.
    """
    model, draws, trials = config.model, arm_draws(config.benchmark), trials or {}
    of_draws = sum(images_of_a_class(config.benchmark, draw.arm) for draw in draws)
    images = classes * (len(ImageKind) * config.generation.per_class + of_draws)
    effort = token_effort(config, evaluations_per_step(config)) * classes + arm_effort(config, classes, 0)
    effort += image_effort(config) * (classes * len(ImageKind) * config.generation.per_class)
    family = models.family_of(model.path, model.revision)
    size = models.size_of(model.path, model.revision, model.image_size)
    evaluation = machine.seconds(family, 1, size)
    seconds = effort.seconds(Pace(evaluation, evaluation * _DECODE, 0.0))
    device = "cpu" if machine.gpu_bytes is None else "cuda"
    of_trials = benchmark_seconds(config, trials, device)
    return Work(
        classes * (1 + sum(ARMS[draw.arm].tokens_from is not None for draw in draws)),
        images,
        len(plan_trials(config.benchmark, config.downstream.other_models)),
        round(effort.evaluations),
        seconds + (0.0 if math.isnan(of_trials) else of_trials),
        "; ".join(_models_left_out(config, trials)),
    )
