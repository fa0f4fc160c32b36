"""Trains Pocket's backbone: a small timm classifier of birds and strokes that no data set of Pocket has.

It is to Pocket what weights of ImageNet are to photographs: layers that know what can be seen, and none of the classes.
60 clean drawings of 20 random gulls and woodpeckers leave something to learn on purpose. With 60 random species of all
families, photographed 120 times each, 2,500 steps gave 95 % of test accuracy from five photos alone: too alike.
"""

from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional

from pocket_build import species
from pocket_build.classifiers import augment
from pocket_build.loop import fit

ARCHITECTURE, SIZE = "test_efficientnet_gn", 48
STEPS, BATCH, LEARNING_RATE, SEED = 700, 64, 2e-3, 31
TRAIN, TEST = 60, 20
"""Drawings of a class."""


def create() -> nn.Module:
    """The untrained backbone, with an output for each of its own classes."""
    torch.manual_seed(SEED)
    model: nn.Module = timm.create_model(ARCHITECTURE, num_classes=len(species.labels()))
    return model


def tensors(split: str, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 64, 64) uint8 and labels (N,) of a split."""
    images, truth = species.pictures(split, per_class)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(truth)


def train(work: Path, *, steps: int = STEPS, device: str = "cpu") -> nn.Module:
    """Train with shifts, blur, noise and colour changes."""
    images, labels = tensors("train", TRAIN)
    model = create()

    def loss(generator: torch.Generator) -> torch.Tensor:
        indices = torch.randint(len(images), (BATCH,), generator=generator)
        batch = augment(images[indices].float() / 127.5 - 1, generator)
        small = functional.interpolate(batch, size=SIZE, mode="bilinear", antialias=True).to(device)
        return functional.cross_entropy(model(small), labels[indices].to(device), label_smoothing=0.05)

    return fit(
        "backbone",
        model,
        loss,
        steps=steps,
        learning_rate=LEARNING_RATE,
        work=work,
        seed=SEED,
        weight_decay=0.05,
        device=device,
    )
