"""Counts the work of a run: evaluations of the denoiser, decodings, and images shown to the guide."""

from dataclasses import dataclass

from dct_augment.benchmark.arms import ARMS, arm_draws, images_of_a_class
from dct_augment.config import Config, steps_of_strength
from dct_augment.pipeline import few_shot_guide
from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.speed import Pace


@dataclass(frozen=True)
class Effort:
    """Counted work: denoiser evaluations of an image, decodings of one, and images shown to the guide.

    What has a gradient counts three times: forward, and backward for two.
    """

    evaluations: float = 0
    decoded: float = 0
    recognised: float = 0

    def __add__(self, other: "Effort") -> "Effort":
        return Effort(
            self.evaluations + other.evaluations, self.decoded + other.decoded, self.recognised + other.recognised
        )

    def __mul__(self, times: float) -> "Effort":
        return Effort(self.evaluations * times, self.decoded * times, self.recognised * times)

    def seconds(self, pace: Pace) -> float:
        """How long it takes."""
        return self.evaluations * pace.evaluation + self.decoded * pace.decode + self.recognised * pace.recognise


def evaluations_per_step(config: Config, guidance_scale: float | None = None) -> int:
    """Count the denoiser evaluations of one step of one image, by the files of the model; none is loaded."""
    from dct_augment.diffusion import evaluations_per_step

    embedded = models.takes_guidance(config.model.path, config.model.revision)
    return evaluations_per_step(guidance_scale or config.sampling.guidance_scale, guidance_embedded=embedded)


def arm_effort(config: Config, classes: int, photos: int) -> Effort:
    """Count the tokens and images of all draws, their guides, and one LoRA of each draw for the arms that have one."""
    per_step = evaluations_per_step(config)
    with_lora = {(draw.shots, draw.seed) for draw in arm_draws(config.benchmark) if ARMS[draw.arm].lora}
    effort = lora_effort(config) * len(with_lora)
    for draw in arm_draws(config.benchmark):
        effort += image_effort(config) * (classes * images_of_a_class(config.benchmark, draw.arm))
        tokens_from = ARMS[draw.arm].tokens_from
        if tokens_from == "textual_inversion":
            effort += _inversion_effort(config, per_step) * classes
        elif tokens_from is not None:
            effort += token_effort(config, per_step) * classes
        if ARMS[draw.arm].guide_of_draw:
            effort += guide_effort(config, photos)
    return effort


def lora_effort(config: Config) -> Effort:
    """Count the training of one LoRA: each noised photo forward and backward."""
    return Effort(3 * config.lora.steps * config.lora.batch_size)


def guide_effort(config: Config, photos: int) -> Effort:
    """Count the views of photos that the backbone of a few-shot guide sees; nothing for another guide."""
    member = few_shot_guide.few_shot_member(config.guide)
    if member is None:
        return Effort()
    mirrored = 1.5 if member.flips is None else 1.0  # half of the views, a second time
    return Effort(recognised=photos * (1 + member.augmentations) * mirrored)


def image_effort(config: Config) -> Effort:
    """Count the work of one generated image."""
    embedded = models.takes_guidance(config.model.path, config.model.revision)
    return Effort(image_evaluations(config, guidance_embedded=embedded), decoded=1)


def image_evaluations(config: Config, *, guidance_embedded: bool) -> int:
    """Denoiser evaluations of one generated image: one from a start image goes through a part of the steps."""
    from dct_augment.diffusion import evaluations_per_step

    steps, settings = config.sampling.num_inference_steps, config.generation
    if settings.start != "noise":
        counts = [steps_of_strength(strength, steps) for strength in settings.strengths]
        steps = round(sum(counts) / len(counts))
    scale = settings.guidance_scale or config.sampling.guidance_scale
    return steps * evaluations_per_step(scale, guidance_embedded=guidance_embedded)


def token_effort(config: Config, per_step: int) -> Effort:
    """Count one whole attempt at one class: its updates, validations, and all looks of its certificate.

    Args:
        config: of the run.
        per_step: denoiser evaluations of one step of one image without gradient.
    """
    from dct_augment.tokens.gradients import gradient_method

    tokens, steps = config.tokens, config.sampling.num_inference_steps
    if tokens.objective == "textual_inversion":
        return _inversion_effort(config, per_step)
    update = gradient_method(tokens.method).evaluations_per_image(steps, per_step)
    updates = Effort(update, decoded=3, recognised=3) * (tokens.max_updates * tokens.images_per_update)
    if tokens.photo_weight:  # noised photos, forward and backward
        updates += Effort(3) * (tokens.max_updates * tokens.photos_per_update)
    rounds = tokens.max_updates / tokens.validate_every + tokens.plain_first
    validation = Effort(steps * per_step, decoded=1, recognised=1)
    return updates + validation * (rounds * tokens.validation_images) + _certificate_effort(config, per_step)


def _certificate_effort(config: Config, per_step: int) -> Effort:
    """Count all looks of a certificate: each doubles the pairs of images."""
    tokens = config.tokens
    images = 2 * tokens.certificate_images * 2 ** (tokens.certificate_looks - 1)
    return Effort(config.sampling.num_inference_steps * per_step, decoded=1, recognised=1) * images


def _inversion_effort(config: Config, per_step: int) -> Effort:
    """Count the textual inversion of one class, and its certificate."""
    settings = config.textual_inversion
    return Effort(3 * settings.steps * settings.batch_size) + _certificate_effort(config, per_step)
