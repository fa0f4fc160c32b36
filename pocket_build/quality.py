"""Measures shipped Pocket models, in the order in which things can go wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from dct_augment import classifiers as shipped
from dct_augment import datasets, diffusion, pocket
from dct_augment.benchmark.draws import Draws
from dct_augment.benchmark.trials import TrialPlan, TrialRunner
from dct_augment.classifiers import timm_models
from dct_augment.classifiers.names import resolve
from dct_augment.config import BenchmarkConfig, ClassifierConfig, DownstreamConfig, seed_from
from dct_augment.pocket import birds, handwriting
from dct_augment.pocket.captions import SUBJECTS, TEMPLATES, describe
from pocket_build import backbone as backbones
from pocket_build import classifiers

STEPS, SCALE, IMAGES = 10, 3.0, 40
SHOTS, SEEDS = (1, 5), 3
"""Of the few-shot classifiers by which the backbone is measured."""
STARTS: dict[str, dict[str, Any]] = {
    "from nothing": {"pretrained": False},
    "fine-tuned": {"pretrained": True},
    "linear probe": {"pretrained": True, "train": "linear_probe"},
}
"""How a few-shot classifier begins, and what of it is trained."""

Shares = dict[str, float]
"""Share of right answers by class name."""


def clean(
    weights: Path, device: str = "cpu", recipes: Sequence[classifiers.Recipe] = classifiers.RECIPES
) -> dict[str, float]:
    """(1) Accuracy of each classifier on real test pictures that trained nothing."""
    accuracies = {}
    for recipe in recipes:
        model = shipped.load(f"local-dir:{weights / recipe.name}", device=device)
        images, labels = classifiers.pictures(recipe.subject, "test", per_class=40, redraws=1)
        accuracies[recipe.name] = _accuracy(model, images.float() / 127.5 - 1, labels, device)
    return accuracies


@torch.no_grad()
def reconstructed(
    weights: Path, device: str = "cpu", recipes: Sequence[classifiers.Recipe] = classifiers.RECIPES
) -> dict[str, float]:
    """(2) Accuracy of each classifier on the autoencoder's copies of the same pictures."""
    backend = diffusion.load(str(weights / "text-to-image"), device=device)
    accuracies = {}
    for recipe in recipes:
        model = shipped.load(f"local-dir:{weights / recipe.name}", device=device)
        images, labels = classifiers.pictures(recipe.subject, "test", per_class=40, redraws=1)
        copies = []
        for chunk in images.split(64):
            latents = backend.vae.encode(chunk.float().to(device) / 127.5 - 1).latent_dist.mean
            copies.append(backend.vae.decode(latents).sample.cpu())
        accuracies[recipe.name] = _accuracy(model, torch.cat(copies), labels, device)
    return accuracies


def capability(weights: Path, device: str = "cpu", report: Callable[[str], None] = print) -> tuple[Shares, Shares]:
    """(3) Judge accuracy of the full description, and of the plain name, for every class."""
    backend = diffusion.load(str(weights / "text-to-image"), device=device)
    judges = {
        subject: shipped.load(f"local-dir:{weights / f'{subject}-judge'}", device=device)
        for subject in ("birds", "digits")
    }
    described, plain = {}, {}
    for subject in SUBJECTS:
        judge = judges["digits" if subject.key in handwriting.NAMES else "birds"]
        described[subject.key] = _judged(backend, judge, subject.key, describe(subject))
        plain[subject.key] = _judged(backend, judge, subject.key, TEMPLATES[0].format(subject.key))
        report(f"{subject.key}: described {described[subject.key]:.0%}, plain {plain[subject.key]:.0%}")
    return described, plain


@torch.no_grad()
def _judged(backend: diffusion.Backend, judge: shipped.Classifier, key: str, prompt: str) -> float:
    seeds = [seed_from("quality", key, index) for index in range(IMAGES)]
    conditioning = backend.encode([prompt]).expand(IMAGES)
    images = diffusion.Sampler(backend, steps=STEPS, guidance_scale=SCALE).generate(seeds, conditioning)
    answers = judge.logits(images).argmax(1).tolist()
    return sum(judge.labels[answer] == key for answer in answers) / IMAGES


@torch.no_grad()
def _accuracy(model: shipped.Classifier, images: torch.Tensor, labels: torch.Tensor, device: str) -> float:
    right = [
        int((model.logits(chunk.to(device)).argmax(1).cpu() == truth).sum())
        for chunk, truth in zip(images.split(128), labels.split(128), strict=True)
    ]
    return sum(right) / len(labels)


def backbone(weights: Path, device: str = "cpu", report: Callable[[str], None] = print) -> dict[str, Any]:
    """(4) The backbone: accuracy on new drawings of its own classes, and what it is worth with few photos of others.

    The mean test accuracy of the benchmark's classifier with strong augmentation, by data set, start and shots.
    """
    name = f"local-dir:{weights / pocket.BACKBONE}"
    own = timm_models.load(ClassifierConfig(name=name), resolve(name), device)
    images, labels = backbones.tensors("test", backbones.TEST)
    measured: dict[str, Any] = {"own classes": _accuracy(own, images.float() / 127.5 - 1, labels, device)}
    report(f"backbone: {measured['own classes']:.1%} of new drawings of its own classes")
    for dataset in ("pocket", "digits"):
        for start, settings in STARTS.items():
            downstream = DownstreamConfig(model=name, image_size=backbones.SIZE, **settings)
            runner = TrialRunner(Draws(datasets.load(dataset), BenchmarkConfig()), {}, downstream, device)
            for shots in SHOTS:
                plans = [TrialPlan("real+strong_aug", seed, shots) for seed in range(SEEDS)]
                share = mean(runner.trial(plan).accuracy for plan in plans)
                measured.setdefault(dataset, {}).setdefault(start, {})[str(shots)] = share
                report(f"backbone: {dataset}, {start}, {shots} shots: {share:.1%}")
    return measured


def by_group(shares: Shares) -> dict[str, float]:
    """Mean share of species, homonyms, objects and digits."""
    homonyms = {bird.name for bird in birds.BIRDS if bird.homonym}
    species = {bird.name for bird in birds.BIRDS} - homonyms
    groups: dict[str, Sequence[str]] = {
        "species": [key for key in shares if key in species],
        "homonyms": [key for key in shares if key in homonyms],
        "objects": [key for key in shares if key not in species | homonyms | set(handwriting.NAMES)],
        "digits": [key for key in shares if key in handwriting.NAMES],
    }
    return {name: sum(shares[key] for key in keys) / len(keys) for name, keys in groups.items() if keys}
