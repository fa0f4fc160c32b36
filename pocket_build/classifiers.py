"""Trains the Pocket guides and judges: small timm classifiers on disjoint pictures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional

from dct_augment.pocket import birds, handwriting, winter
from pocket_build.loop import fit

BIRD_LABELS = (*(bird.name for bird in birds.BIRDS), *(f"{word} {noun}" for word, (noun, _) in birds.OBJECTS.items()))
LABELS = {
    "birds": BIRD_LABELS,
    "digits": handwriting.NAMES,
    "winter": tuple(bird.name for bird in winter.BIRDS),
}


@dataclass(frozen=True)
class Recipe:
    """How one classifier is made. `split` names the pictures it may see."""

    name: str
    subject: str
    architecture: str
    split: str
    seed: int
    steps: int = 1500
    batch: int = 64
    learning_rate: float = 2e-3


RECIPES = (
    Recipe("birds-guide", "birds", "test_resnet", "world", 21),
    Recipe("birds-judge", "birds", "test_efficientnet_ln", "judge", 22),
    Recipe("digits-guide", "digits", "test_resnet", "world", 23),
    Recipe("digits-judge", "digits", "test_efficientnet_ln", "judge", 24),
    Recipe("winter-guide", "winter", "test_resnet", "guide", 25),
    Recipe("winter-judge", "winter", "test_efficientnet_ln", "judge", 26),
)


def of(subject: str) -> tuple[Recipe, ...]:
    """The recipes of a subject's guide and judge."""
    return tuple(recipe for recipe in RECIPES if recipe.subject == subject)


def pictures(subject: str, split: str, per_class: int, redraws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 64, 64) uint8 and labels (N,) of one split."""
    images, labels = [], []
    if subject == "birds":
        animals: list[birds.Species | str] = [*birds.BIRDS, *birds.OBJECTS]
        for label, animal in enumerate(animals):
            for index in range(per_class):
                images.append(np.asarray(birds.picture(animal, split, index)))
                labels.append(label)
    elif subject == "winter":
        # Drawings and photographs in turn: generated images are like the former, the data set's like the latter.
        for label in range(len(winter.BIRDS)):
            for index in range(per_class):
                show = winter.photograph if index % 2 else winter.drawing
                images.append(np.asarray(show(label, split, index)))
                labels.append(label)
    else:
        digits = handwriting.writings()[1]
        for index in handwriting.splits()[split]:
            for copy in range(redraws):
                images.append(np.asarray(handwriting.picture(int(index), copy)))
                labels.append(int(digits[index]))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def create(recipe: Recipe) -> nn.Module:
    """The untrained classifier."""
    torch.manual_seed(recipe.seed)
    return timm.create_model(recipe.architecture, num_classes=len(LABELS[recipe.subject]))


def train(recipe: Recipe, work: Path, *, steps: int | None = None, device: str = "cpu") -> nn.Module:
    """Train one classifier with shifts, blur, noise and colour changes on its own split."""
    images, labels = pictures(recipe.subject, recipe.split, per_class=500, redraws=8)
    model = create(recipe)

    def loss(generator: torch.Generator) -> torch.Tensor:
        indices = torch.randint(len(images), (recipe.batch,), generator=generator)
        batch = augment(images[indices].float() / 127.5 - 1, generator).to(device)
        return functional.cross_entropy(model(batch), labels[indices].to(device), label_smoothing=0.05)

    return fit(
        recipe.name,
        model,
        loss,
        steps=steps or recipe.steps,
        learning_rate=recipe.learning_rate,
        work=work,
        seed=recipe.seed,
        weight_decay=0.05,
        ema_decay=0.99,
        device=device,
    )


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, resample, brighten and add noise; (B, 3, H, W) in [-1, 1] in and (about) out.

    Soft and noisy pictures are what an unfinished diffusion sample looks like, so a guide has to
    read them too.
    """
    count, size = len(images), images.shape[-1]
    draw = torch.rand(6, count, generator=generator)
    turn = (draw[0] - 0.5) * 0.3
    zoom = 1 + (draw[1] - 0.5) * 0.2
    theta = torch.stack(
        [turn.cos() * zoom, -turn.sin(), (draw[2] - 0.5) * 0.2, turn.sin(), turn.cos() * zoom, (draw[3] - 0.5) * 0.2], 1
    )
    grid = functional.affine_grid(theta.view(-1, 2, 3), list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = functional.interpolate(
        functional.interpolate(images, size=size // 3, mode="bilinear", antialias=True), size=size, mode="bilinear"
    )
    blend = (draw[4] * (draw[4] > 0.5)).view(-1, 1, 1, 1)
    images = images.lerp(soft, blend)
    strength = (draw[5] - 0.5).clamp(min=0).view(-1, 1, 1, 1) * 0.5
    images = images + strength * torch.randn(images.shape, generator=generator)
    gain = 1 + (torch.rand(count, 3, 1, 1, generator=generator) - 0.5) * 0.2
    return images * gain
