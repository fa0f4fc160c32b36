"""What a run will cost before it starts: counted work, times the measured speed of one step."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dct_augment.benchmark.arms import ARMS, REAL, arm_draws, measured_kinds
from dct_augment.benchmark.trials import plan_trials
from dct_augment.config import Config, steps_of_strength
from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.first_config.models import Machine
from dct_augment.records import Dataset, ImageKind, StageName
from dct_augment.wording import counted

if TYPE_CHECKING:
    from dct_augment.pipeline.run import Run


@dataclass(frozen=True)
class Line:
    """One part of the plan. A U-Net evaluation is one image forward; backward counts two."""

    part: StageName
    todo: str
    evaluations: int
    seconds: float


def estimate(run: "Run", parts: Collection[StageName], goal: StageName = StageName.REPORT) -> list[Line]:
    """The work that is left in each part; for tokens one whole attempt a class: stops save, restarts add.

    `goal` decides how many images of a class there are to be.
    """
    from dct_augment.pipeline.stages import ImageStage, TokenStage

    config, lines = run.config, []
    per_step = run.sampler.evaluations_per_step
    per_image = image_evaluations(config, guidance_embedded=run.backend.guidance_embedded)
    pace = _seconds_per_evaluation(run)
    if StageName.TOKENS in parts:
        settings = config.tokens
        missing = TokenStage(run).missing()
        total = token_evaluations(config, per_step) * len(missing)
        lines.append(
            Line(
                StageName.TOKENS,
                f"{counted(len(missing), 'class')}, up to {counted(settings.max_updates, 'update')} an attempt",
                total,
                total * pace,
            )
        )
    for kind in ImageKind:
        stage = ImageStage(run, kind, run.images_per_class(goal))
        if stage.name in parts:
            layout = stage.layout(run.classes)
            todo = [spec for spec in layout if not run.shards[kind].parquet(spec).is_file()]
            images = sum(map(len, todo))
            work = f"{counted(images, 'image')}, {counted(len(todo), 'shard')}"
            lines.append(Line(stage.name, work, images * per_image, images * per_image * pace))
    if StageName.ARMS in parts and (draws := arm_draws(config.benchmark)):
        images = len(run.classes) * config.benchmark.per_class * per_image
        tokens = _arm_token_evaluations(config, per_step)
        total = sum(images + len(run.classes) * tokens[draw.arm] for draw in draws)
        lines.append(
            Line(StageName.ARMS, f"tokens and images of {counted(len(draws), 'few-shot draw')}", total, total * pace)
        )
    if StageName.BENCHMARK in parts:
        trials = len(plan_trials(config.benchmark, config.downstream.other_models))
        lines.append(
            Line(
                StageName.BENCHMARK,
                f"{counted(trials, 'trial')} of {counted(config.downstream.steps, 'step')}",
                0,
                float("nan"),
            )
        )
    if StageName.METRICS in parts and (embedded := metric_work(config, len(run.classes), run.dataset)):
        lines.append(Line(StageName.METRICS, embedded, 0, float("nan")))
    return lines


def folds_hint(config: Config) -> str:
    """Say what cross-validation costs, what is cheaper, and what is lost by it; empty for a holdout.

    Args:
        config: of a run, whose protocol is known.
    """
    settings = config.benchmark
    draws = arm_draws(settings)
    if settings.protocol != "cross_validation" or not draws:
        return ""
    hint = f"cross-validation: {counted(len(draws), 'set')} of class tokens for the folds, and one of all photos."
    if settings.folds > 2:
        hint += (
            " Cheaper: --set benchmark.folds=2; then each classifier learns from half of the photos, and its accuracy "
            "looks lower than that of the one you keep."
        )
    return hint


def _arm_token_evaluations(config: Config, per_step: int) -> dict[str, int]:
    """U-Net evaluations of one class token of each arm with images of its own; 0 without tokens."""
    inversion = config.textual_inversion
    per_image = config.sampling.num_inference_steps * per_step
    certificate = 2 * config.tokens.certificate_images * per_image
    return {
        "image_variation": 0,
        "textual_inversion": 3 * inversion.steps * inversion.batch_size + certificate,
        "class_token_few_shot_guide": token_evaluations(config, per_step),
    }


def image_evaluations(config: Config, *, guidance_embedded: bool) -> int:
    """U-Net evaluations of one generated image: one from a start image goes through a part of the steps."""
    from dct_augment.diffusion import evaluations_per_step

    steps, settings = config.sampling.num_inference_steps, config.generation
    if settings.start != "noise":
        counts = [steps_of_strength(strength, steps) for strength in settings.strengths]
        steps = round(sum(counts) / len(counts))
    scale = settings.guidance_scale or config.sampling.guidance_scale
    return steps * evaluations_per_step(scale, guidance_embedded=guidance_embedded)


def token_evaluations(config: Config, per_step: int) -> int:
    """U-Net evaluations of one whole attempt at one class; `per_step` of one step of one image without gradient."""
    from dct_augment.tokens.gradients import gradient_method

    tokens, steps = config.tokens, config.sampling.num_inference_steps
    per_image = steps * per_step
    update = tokens.images_per_update * gradient_method(tokens.method).evaluations_per_image(steps, per_step)
    validations = tokens.max_updates / tokens.validate_every * tokens.validation_images * per_image
    certificate = 2 * tokens.certificate_images * per_image
    return int(tokens.max_updates * update + validations + certificate)


def _seconds_per_evaluation(run: "Run", batch: int = 8) -> float:
    import torch

    backend = run.backend
    empty = backend.encode([""]).expand(batch)
    latents = backend.latents(range(batch))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with torch.no_grad():
            backend.denoise(latents, torch.full((batch,), 500, device=latents.device), empty, 1.0)
        times.append(time.perf_counter() - began)
    return min(times) / batch


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
    real = {split: len(dataset.examples(split)) for split in ("train", "val", "test")}
    images = min(settings.real_images, real["train"] + real["val"])
    for kind in kinds:
        if kind == REAL:
            images += min(settings.real_images, real["test"])
        else:
            own = ARMS[kind].own_images
            made = config.benchmark.per_class if own else config.generation.per_class
            images += classes * min(settings.per_class, made)
    return (
        f"up to {counted(images, 'image')} to embed; {counted(settings.bootstrap_resamples, 'resample')} of FID and of "
        f"KID for {counted(len(kinds), 'kind')} of images"
    )


@dataclass(frozen=True)
class Work:
    """What a whole run makes: class tokens, images, trained classifiers, and the U-Net evaluations of all of it.

    `seconds` is about how long the evaluations take on a machine.
    """

    tokens: int
    images: int
    trials: int
    evaluations: int
    seconds: float

    @property
    def in_words(self) -> str:
        """Say all of it in a line: what `init` and `doctor` print."""
        return (
            f"{counted(self.tokens, 'class token')}, {counted(self.images, 'image')}, "
            f"{counted(self.trials, 'training')} of the classifier; about {self.evaluations:,} U-Net evaluations (one "
            f"whole attempt at each token), {duration(self.seconds)} here (an estimate; --dry-run measures)"
        )


def duration(seconds: float) -> str:
    """Say roughly how long something takes."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.0f} {unit}s"
    return "a minute"


def count(config: Config, classes: int, machine: Machine) -> Work:
    """Count the work of a whole run by its configuration and the files of its model, one whole attempt for each token.

    No model is loaded.

    Args:
        config: its protocol is known.
        classes: how many there are.
        machine: where it is to run.
    """
    from dct_augment.diffusion import evaluations_per_step

    model, draws = config.model, arm_draws(config.benchmark)
    embedded = models.takes_guidance(model.path, model.revision)
    per_step = evaluations_per_step(config.sampling.guidance_scale, guidance_embedded=embedded)
    images = classes * (len(ImageKind) * config.generation.per_class + len(draws) * config.benchmark.per_class)
    of_arm = _arm_token_evaluations(config, per_step)
    of_tokens = token_evaluations(config, per_step) + sum(of_arm[draw.arm] for draw in draws)
    evaluations = classes * of_tokens + images * image_evaluations(config, guidance_embedded=embedded)
    family, size = models.family_of(model.path, model.revision), models.size_of(model.path, model.revision)
    return Work(
        classes * (1 + sum(ARMS[draw.arm].tokens_from is not None for draw in draws)),
        images,
        len(plan_trials(config.benchmark, config.downstream.other_models)),
        evaluations,
        machine.seconds(family, evaluations, size),
    )
