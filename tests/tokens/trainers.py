"""Both token trainers on the tiny models: one keyword function builds either, with the same classes and prompts."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from dct_augment.classifiers import Classifier, Preprocess, SingleClassifier
from dct_augment.config import PromptsConfig, SamplingConfig, TextualInversionConfig, TokensConfig
from dct_augment.diffusion import Backend, Sampler
from dct_augment.records import ClassInfo
from dct_augment.tokens.class_token_trainer import ClassTokenTrainer
from dct_augment.tokens.state import TrainedToken
from dct_augment.tokens.textual_inversion import TextualInversionTrainer
from dct_augment.tokens.trainer import Trainer
from tests import tiny

OBJECTIVES = ("classifier", "textual_inversion")
"""Whose gradient trains, as `tokens.objective` names it: that of `ClassTokenTrainer`, of `TextualInversionTrainer`."""

UPDATES, IMAGES = 4, 2
"""Updates of a class, and images of a class in one update, where a test does not say otherwise."""

LABELS = ("stone", "crane", "kiwi", "red bird")
SAMPLING = SamplingConfig(num_inference_steps=3, guidance_scale=8.0)
PROMPTS = PromptsConfig(templates=("a photo of a {token} {class}{context}", "a drawing of a {token} {class}{context}"))
TOKENS = TokensConfig(
    learning_rate=0.1,
    validate_every=2,
    validation_images=4,
    target_probability=1.0,
    restarts=0,
    restart_words=4,
    classes_per_batch=3,
    certificate_images=2,
    certificate_looks=1,
    plain_first=False,
)
INVERSION = TextualInversionConfig()


def build(
    objective: str,
    *,
    updates: int = UPDATES,
    images: int = IMAGES,
    seed: int = 0,
    backend: Backend | None = None,
    sampling: SamplingConfig = SAMPLING,
    prompts: PromptsConfig = PROMPTS,
    guide: Classifier | None = None,
    judge: Classifier | None = None,
    starts: Mapping[str, torch.Tensor] | None = None,
    few_shot_images: Mapping[str, Sequence[Image.Image]] | None = None,
    inversion: Mapping[str, Any] | None = None,
    **tokens: Any,
) -> Trainer[Any]:
    """Build the trainer of an objective.

    Args:
        objective: one of `OBJECTIVES`.
        updates: of each class.
        images: of each class in one update.
        seed: of the objective.
        backend: double precision if unset, so that another batch shape changes no bit that counts.
        sampling: steps and guidance.
        prompts: templates and contexts.
        guide: `Directions` if unset.
        judge: which only measures.
        starts: vectors to begin from, by class slug.
        few_shot_images: the photos of each class; of textual inversion `pictures` of all classes if unset.
        inversion: what else differs from `INVERSION`.
        tokens: what else differs from `TOKENS`.
    """
    backend = backend or tiny.backend(tiny.ONE_LEVEL, "float64")
    sampler = Sampler.from_config(backend, sampling, negative_prompt=prompts.negatives[0])
    guide = guide or classifier(Directions())
    lengths = {"max_updates": updates, "images_per_update": images, "seed": seed}
    tokens_config = tiny.changed(TOKENS, **lengths, **tokens)
    if objective == "classifier":
        return ClassTokenTrainer(
            sampler,
            guide,
            judge=judge,
            tokens_config=tokens_config,
            prompts_config=prompts,
            starts=starts,
            photos=few_shot_images,
        )
    if few_shot_images is None:
        few_shot_images = {info.slug: pictures(info) for info in tiny.CLASSES}
    lengths = {"steps": updates, "batch_size": images, "seed": seed}
    return TextualInversionTrainer(
        sampler,
        guide,
        images=few_shot_images,
        judge=judge,
        inversion_config=tiny.changed(INVERSION, **lengths, **(inversion or {})),
        tokens_config=tokens_config,
        prompts_config=prompts,
        starts=starts,
    )


def train(objective: str, classes: Sequence[ClassInfo] = tiny.CLASSES, **changes: Any) -> dict[str, TrainedToken]:
    """Train with the trainer that `build` makes of the changes; the tokens by class slug."""
    return {trained.info.slug: trained for trained in build(objective, **changes).train(classes)}


def classifier(model: torch.nn.Module, labels: Sequence[str] = LABELS) -> SingleClassifier:
    """A classifier of the tiny images."""
    return SingleClassifier(model, Preprocess.square(tiny.IMAGE, (0, 0, 0), (1, 1, 1)), labels)


def pictures(info: ClassInfo, count: int = 3) -> list[Image.Image]:
    """Spots of a class's own, larger than the images of the tiny model; the first is grey."""
    spots = np.random.default_rng([info.index, 5]).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    large = [Image.fromarray(spot).resize((20, 20), Image.Resampling.BICUBIC) for spot in spots]
    return [large[0].convert("L"), *large[1:]]


@cache
def directions() -> tuple[torch.Tensor, torch.Tensor]:
    """What a token can do for each class: the mean image (K, D) of the first vector, and a direction (K, D) from there.

    The direction is the change of the image for a step in some direction of the embedding space, and leads
    away from the image of the plain prompt.
    """
    backend, generator = tiny.backend(tiny.ONE_LEVEL), torch.Generator().manual_seed(28)
    sampler = Sampler.from_config(backend, SAMPLING, negative_prompt=PROMPTS.negatives[0])
    start = backend.word("a")[None]

    def mean_image(prompt: str, vector: torch.Tensor | None = None) -> torch.Tensor:
        encoding = backend.encode([prompt], None if vector is None else vector[None])
        seeds = list(range(40, 48))
        return sampler.generate(seeds, encoding.expand(len(seeds))).flatten(1).mean(0)

    origins, scaled = [], []
    for info in tiny.CLASSES:
        prompt = f"a photo of a <dct-x-y> {info.name}"
        step = torch.randn(1, tiny.WIDTH, generator=generator) / 8
        origin = mean_image(prompt, start)
        direction = mean_image(prompt, start + step) - origin
        if direction @ (origin - mean_image(f"a photo of a {info.name}")) <= 0:
            direction = -direction
        origins.append(origin)
        scaled.append(direction / direction.square().sum())
    return torch.stack(origins), torch.stack(scaled)


class Directions(torch.nn.Module):
    """A linear guide that a token can please: how far an image has gone in the direction of each class."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.origins, self.directions = directions()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, 4): zero for the stone, a distance for each class."""
        images = pixels.flatten(1) * 2 - 1
        scores = self.gain * ((images[:, None] - self.origins) * self.directions).sum(2)
        return torch.cat([torch.zeros_like(scores[:, :1]), scores], 1)
