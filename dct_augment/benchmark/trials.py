"""The benchmark: one low-resource classifier, trained in several arms on paired few-shot draws.

Every arm takes the same number of gradient steps on batches of the same size; arms differ in their images alone. The
validation split chooses the state that is tested, and the test split is read once, after the last step.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dct_augment.benchmark.arms import ARMS, Arm, ArmDraw, ArmFolders, arm_folder
from dct_augment.benchmark.draws import Draws, draw_title
from dct_augment.benchmark.leaks import refuse_leaks
from dct_augment.config import BenchmarkConfig, DownstreamConfig, seed_from
from dct_augment.downstream import training
from dct_augment.downstream.in_memory import PicturesInMemory
from dct_augment.downstream.mixing import Mixture, RealImages, SoftLabels, SyntheticImages
from dct_augment.downstream.prediction import answer, predict
from dct_augment.downstream.prepared import PixelFiles, PreparedImages
from dct_augment.downstream.transforms import Transforms
from dct_augment.generation.shards import FOLDERS
from dct_augment.images import content
from dct_augment.processes import one_thread
from dct_augment.records import Example, Split, Trial


@dataclass(frozen=True)
class TrialPlan:
    """One trial to run: an arm on the few-shot draw of a seed; `per_class` is 0 for arms without synthetic images.

    `other_model` is one of `downstream.other_models`; empty for `downstream.model`.
    """

    arm: str
    seed: int
    shots: int
    per_class: int = 0
    other_model: str = ""

    def title(self, settings: BenchmarkConfig) -> str:
        """Name the trial for a person."""
        number = f", {self.per_class} per class" if self.per_class else ""
        model = f", {self.other_model}" if self.other_model else ""
        return f"{self.arm}, {self.shots} shots, {draw_title(settings, self.seed)}{number}{model}"


def plan_trials(settings: BenchmarkConfig, other_models: Sequence[str] = ()) -> tuple[TrialPlan, ...]:
    """List every trial, seed by seed, then those of the curves; the trials of one draw share their real images.

    Other models are trained at the base setting alone, last.
    """
    seeds = settings.draws
    arms = [ARMS[name] for name in settings.arms]
    plans = [_plan(arm, seed, settings.shot_count, settings.per_class) for seed in seeds for arm in arms]
    image_counts = sorted({*(ratio * settings.shot_count for ratio in settings.ratios), *settings.per_class_curve})
    for count in image_counts:
        for seed in seeds:
            for arm in arms:
                has_images = not arm.own_images or count <= settings.per_class
                if arm.images is not None and has_images:
                    plans.append(_plan(arm, seed, settings.shot_count, count))
    for shots in settings.shots_curve:
        for seed in seeds:
            plans += [_plan(arm, seed, shots, settings.per_class) for arm in arms if not arm.own_images]
    for model in other_models:
        for seed in seeds:
            plans += [_plan(arm, seed, settings.shot_count, settings.per_class, model) for arm in arms]
    return tuple(dict.fromkeys(plans))


def _plan(arm: Arm, seed: int, shots: int, per_class: int, other_model: str = "") -> TrialPlan:
    return TrialPlan(arm.name, seed, shots, per_class if arm.images is not None else 0, other_model)


def recipe(settings: DownstreamConfig, arm: str, other_model: str = "") -> DownstreamConfig:
    """Return the settings of one model in one arm."""
    update: dict[str, object] = {"model": other_model or settings.model, "other_models": ()}
    if ARMS[arm].linear_probe:
        update["train"] = "linear_probe"
    return settings.model_copy(update=update)


@dataclass(frozen=True)
class FinalClassifier:
    """A classifier of all photos, frozen; labels (N,) and logits (N, K) of its validation images, if it has any."""

    model: nn.Module
    truth: Sequence[int] = ()
    logits: NDArray[np.float32] | None = None


class TrialRunner:
    """Runs trials of the draws of one data set against the images in the `arm_folders` of its arms.

    `accepted` are the keys of the images that the filter let through. `ranks` has the arms and draws whose images are
    chosen: the place of each image in its class, by key. `contents` are the hashes of real images (`images.content`),
    by key, as far as they are known: others are opened for them. `pixels` is where prepared validation and test images
    are kept; a temporary folder if None.
    """

    def __init__(
        self,
        draws: Draws,
        arm_folders: ArmFolders,
        downstream: DownstreamConfig,
        device: str = "cpu",
        accepted: frozenset[str] = frozenset(),
        ranks: Mapping[ArmDraw, Mapping[str, int]] | None = None,
        contents: Mapping[str, str] | None = None,
        pixels: Path | None = None,
    ) -> None:
        self._draws, self._arm_folders, self._device = draws, arm_folders, device
        self._downstream = downstream
        self._accepted, self._ranks = accepted, ranks or {}
        self._transforms_of: dict[str, Transforms] = {}
        self._hashes = dict(contents or {})
        self._pixel_files = PixelFiles(pixels, self._content_of)
        self._keys_by_content: dict[Path, Mapping[str, str]] = {}

    def prepare(self, plans: Sequence[TrialPlan]) -> None:
        """Write the files of prepared images that trials need, and remove others; trials then only read them.

        Raises:
            InputError: the disk is too small, or an image is not what it was.
        """
        paths = set()
        for plan in {plan.other_model: plan for plan in plans}.values():
            for images in filter(len, self._draws.held_out):
                paths.add(self._pixel_files.make(images, self._transforms(plan)))
        self._pixel_files.keep_only(paths)

    def trial(self, plan: TrialPlan) -> Trial:
        """Train one classifier from its seed and measure it on the test split, once.

        Raises:
            LeakError: a validation or test image is among the training images, real or synthetic.
            ModelError: unknown model.
            DctAugmentError: the loss is not finite.
        """
        with one_thread() if self._device == "cpu" else nullcontext():
            return self._trial(plan)

    def guide(self, shots: int, seed: int, classes: int) -> nn.Module:
        """A classifier of `classes` outputs that has seen the few-shot images of a draw, and nothing to choose it by.

        Raises:
            LeakError: a validation or test image is among them.
        """
        with one_thread() if self._device == "cpu" else nullcontext():
            split, plan = self._draws.split(shots, seed), TrialPlan("real+strong_aug", seed, shots)
            return self._fit(plan, split, self._mixture(plan, split, classes), classes, validation=None).model

    def classifier(
        self,
        arm: str,
        split: Split,
        labels: Mapping[int, int],
        per_class: int,
        other_model: str = "",
        ranks: Mapping[str, int] | None = None,
    ) -> FinalClassifier:
        """Train the classifier that the user keeps, in an arm whose images are not of one draw.

        Args:
            arm: one of `ARMS`.
            split: `train` are all photos that it may learn from; `val`, if there is any, chooses the state of training.
            labels: the output of each class, by its index; images of other classes are left out.
            per_class: synthetic images of each class, if the arm has any.
            other_model: one of `downstream.other_models`; empty for `downstream.model`.
            ranks: the place of each image in its class, by key, where images are chosen.

        Raises:
            LeakError: a validation image is among the training images, real or synthetic.
        """
        train, val = _relabel(split.train, labels), _relabel(split.val, labels)
        with one_thread() if self._device == "cpu" else nullcontext():
            split = Split(split.shots, split.seed, train, val, ())
            plan = TrialPlan(arm, split.seed, split.shots, per_class, other_model)
            validation = self._pixel_files.images(val, self._transforms(plan)) if val else None
            mixture = self._mixture(plan, split, len(labels), labels, ranks)
            fitted = self._fit(plan, split, mixture, len(labels), validation=validation)
            if validation is None:
                return FinalClassifier(fitted.model)
            logits = answer(fitted.model, validation, self._device)
            return FinalClassifier(fitted.model, validation.labels, logits.numpy())

    def _trial(self, plan: TrialPlan) -> Trial:
        split = self._draws.split(plan.shots, plan.seed)
        classes = 1 + max(info.index for info in self._draws.dataset.classes)
        transforms = self._transforms(plan)
        validation = self._pixel_files.images(split.val, transforms) if split.val else None
        mixture = self._mixture(plan, split, classes)
        fitted = self._fit(plan, split, mixture, classes, validation=validation)
        test = self._pixel_files.images(split.test, transforms, among=self._draws.tested)
        logits = None if self._draws.shared_test else answer(fitted.model, test, self._device)
        predicted = predict(fitted.model, test, self._device) if logits is None else logits.argmax(1).tolist()
        right = sum(label == prediction for label, prediction in zip(test.labels, predicted, strict=True))
        return Trial(
            plan.arm,
            plan.shots,
            plan.seed,
            plan.per_class,
            self._downstream.steps,
            right / len(test),
            fitted.val_accuracy,
            test.labels,
            tuple(predicted),
            () if logits is None else tuple(tuple(row) for row in logits.double().numpy().round(4).tolist()),
            plan.other_model,
            mixture.synthetic_count,
            mixture.probability if mixture.synthetic_count else 0.0,
        )

    def _fit(
        self,
        plan: TrialPlan,
        split: Split,
        mixture: Mixture,
        classes: int,
        *,
        validation: PreparedImages | None,
    ) -> training.TrainedClassifier:
        refuse_leaks(split, self._contents(plan), self._content_of)
        return training.fit(
            mixture,
            recipe(self._downstream, plan.arm, plan.other_model),
            classes=classes,
            seed=seed_from("classifier", plan.seed) % 2**32,
            mixed=self._is_strong(plan),
            validation=validation,
            device=self._device,
        )

    def _transforms(self, plan: TrialPlan) -> Transforms:
        """How images become the input of the model of a trial."""
        if plan.other_model not in self._transforms_of:
            settings = recipe(self._downstream, plan.arm, plan.other_model)
            self._transforms_of[plan.other_model] = Transforms(settings)
        return self._transforms_of[plan.other_model]

    def _contents(self, plan: TrialPlan) -> Mapping[str, str]:
        """The keys of the synthetic images that a trial may train on, by the hash of their pixels."""
        folder = self._shards(plan)
        if folder is None:
            return {}
        if folder not in self._keys_by_content:
            images = SyntheticImages(folder)
            self._keys_by_content[folder] = dict(zip(images.contents(), images.keys, strict=True))
        return self._keys_by_content[folder]

    def _shards(self, plan: TrialPlan) -> Path | None:
        """The folder of the synthetic images of a trial; None if its arm has none."""
        kind = ARMS[plan.arm].images
        if kind is None:
            return None
        return arm_folder(self._arm_folders, plan.arm, plan.shots, plan.seed) / FOLDERS[kind]

    def _mixture(
        self,
        plan: TrialPlan,
        split: Split,
        classes: int,
        labels: Mapping[int, int] | None = None,
        ranks: Mapping[str, int] | None = None,
    ) -> Mixture:
        """Mix the images of a trial, for a classifier of `classes` outputs."""
        settings, arm, folder = self._downstream, ARMS[plan.arm], self._shards(plan)
        transforms = self._transforms(plan)
        transform = transforms.strong if self._is_strong(plan) else transforms.light
        synthetic, soft_labels = None, None
        if folder is not None:
            ranks = ranks or self._ranks.get(ArmDraw(arm.name, plan.shots, plan.seed))
            stored = SyntheticImages(folder, **self._chosen(plan, ranks), labels=labels)
            synthetic = PicturesInMemory(stored, transform, side=transforms.side)
            if arm.soft_labels and settings.synthetic_labels == "soft":
                soft_labels = SoftLabels(classes, stored.guide_confidences())
        return Mixture(
            PicturesInMemory(RealImages(split.train), transform, side=transforms.side),
            synthetic,
            probability=settings.synthetic_shares(Counter(example.label for example in split.train)),
            balanced=settings.class_balance == "even",
            length=settings.steps * settings.batch_size,
            real_last=round(settings.real_images_last * settings.steps) * settings.batch_size,
            seed=seed_from("mixture", plan.seed),
            soft_labels=soft_labels,
        )

    def _chosen(self, plan: TrialPlan, ranks: Mapping[str, int] | None) -> dict[str, Any]:
        """Say which images of its folder a trial uses: the first of each class, or those of the first ranks."""
        if ranks is not None:
            return {"only": {key for key, rank in ranks.items() if rank < plan.per_class}}
        return {"per_class": plan.per_class, "only": self._accepted if ARMS[plan.arm].filtered else None}

    def _is_strong(self, plan: TrialPlan) -> bool:
        """Whether a trial augments its training images strongly."""
        arm = ARMS[plan.arm]
        if arm.images is not None:
            return self._downstream.synthetic_augmentation == "strong"
        return arm.strong_augmentation

    def _content_of(self, example: Example) -> str:
        if example.key not in self._hashes:
            self._hashes[example.key] = content(example.open())
        return self._hashes[example.key]


def _relabel(examples: Sequence[Example], labels: Mapping[int, int]) -> tuple[Example, ...]:
    """Give each example the output of its class as label; leave out those of other classes."""
    return tuple(
        dataclasses.replace(example, label=labels[example.label]) for example in examples if example.label in labels
    )
