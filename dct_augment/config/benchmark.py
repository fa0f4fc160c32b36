"""The benchmark's sections: the classifier, the arms and draws that it is trained on, and the metrics of images."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from dct_augment.config.base import (
    FewShotSection,
    Fraction,
    ImageSize,
    NotNegative,
    PositiveInt,
    Rate,
    Section,
    Seed,
    UserPath,
)

Arm = Literal[
    "real",
    "real+strong_aug",
    "real+linear_probe",
    "plain_prompt",
    "image_variation",
    "lora_plain_prompt",
    "textual_inversion",
    "class_token",
    "class_token_few_shot_guide",
    "lora_class_token",
    "class_token_filtered",
]

NEED = "need"
"""Instead of a share: as many synthetic images of a class as it lacks photos."""

_MOST_DRAWS = 10_000
"""More draws or folds take hours to plan, and nobody has so many photos."""

MAGNITUDES = 31
"""How many magnitudes torchvision's RandAugment has; the strongest is 30."""


def _check_share(value: Any) -> Any:
    """Refuse what is neither a share, shares by shots nor `need` with one message, not with one for each of them."""
    form = f"must be a share from 0 to 1, shares by shots, e.g. {{1: 0.7, 5: 0.3}}, or {NEED}"
    if value == NEED:
        return value
    if not isinstance(value, Mapping):
        if not _is_share(value):
            raise ValueError(form)
        return value
    if not value:
        raise ValueError(f"{form}; the mapping is empty")
    for shots, share in value.items():
        if not _is_count(shots):
            raise ValueError(f"{form}; {shots!r} is no number of shots, a whole number from 1")
        if not _is_share(share):
            raise ValueError(f"{form}; that of {shots} is {share!r}")
    return value


def _is_share(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


def _is_count(value: Any) -> bool:
    """Whether this is a whole number from 1, or its digits: what JSON makes of a key."""
    return not isinstance(value, bool | float) and str(value).isdecimal() and int(value) >= 1


SyntheticShare = Annotated[Fraction | dict[PositiveInt, Fraction] | Literal["need"], BeforeValidator(_check_share)]
"""A share that is the same for all shots, one for each of some shots, or what each class lacks to the largest."""


class DownstreamConfig(Section):
    """The low-resource classifier, and how it is trained: the same in every arm."""

    model: str = Field(
        "test_efficientnet_gn",
        description="any timm model: name, hf-hub:ID, or local-dir:FOLDER; or a list of them, whose first is this one "
        "and whose rest take the place of other_models",
    )
    other_models: tuple[str, ...] = Field(
        (), description="models that are also trained and tested in each arm; the best one is kept"
    )
    pretrained: bool = Field(False, description="whether to start from the published weights of the model")
    train: Literal["fine_tune", "linear_probe"] = Field("fine_tune", description="all weights, or the last layer alone")
    image_size: ImageSize | None = Field(None, description="side of its input, in pixels; the model's own if unset")
    preprocessing: Literal["model", "imagenet"] = Field(
        "model",
        description="`model`: the model's own mean, deviation, interpolation and crop; `imagenet`: ImageNet's mean and "
        "deviation, bilinear, nothing cut",
    )
    steps: PositiveInt = Field(100, description="gradient steps, the same in every arm")
    batch_size: PositiveInt = Field(32, description="images of a gradient step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum 0.9")
    learning_rate: Rate = Field(5e-3, description="peak of the one-cycle schedule")
    weight_decay: NotNegative = Field(0.05, description="of the optimiser")
    validation_rounds: PositiveInt = Field(
        4, description="how often the classifier is validated, evenly; the best state is tested"
    )
    synthetic_augmentation: Literal["light", "strong"] = Field(
        "strong",
        description="of all training images in arms with synthetic ones: as in `real`, or as in `real+strong_aug`",
    )
    randaugment_operations: PositiveInt = Field(
        2, description="how many operations RandAugment applies to an image, in arms of strong augmentation"
    )
    randaugment_magnitude: Annotated[int, Field(ge=0, lt=MAGNITUDES)] = Field(
        20, description=f"how strong they are: 0 to {MAGNITUDES - 1}"
    )
    mixup: NotNegative = Field(0.0, description="alpha of mixup with strong augmentation; 0: off")
    cutmix: NotNegative = Field(0.0, description="alpha of cutmix with strong augmentation; 0: off")
    class_balance: Literal["photos", "even"] = Field(
        "photos",
        description="how often a class is seen in training: `photos`: as often as it has photos; `even`: as often as "
        "any other",
    )
    synthetic_probability: SyntheticShare = Field(
        0.7,
        description="share of training images that a synthetic image of the class replaces; or shares by shots, "
        "`{1: 0.7, 5: 0.3}`: between these it is interpolated over the logarithm of the shots, beyond them it is that "
        "of the nearest; the shots of a draw are its mean number of photos of a class; or `need`: of each class what "
        "it lacks to the one with most photos, 1 - photos / most",
    )
    synthetic_labels: Literal["hard", "soft"] = Field(
        "hard",
        description="`hard`: a synthetic image is of its class; `soft`: it is so with the probability that the guide "
        "gives its class, and the rest is spread evenly over the other classes; images that no guide had a part in "
        "(plain_prompt, textual_inversion) stay hard",
    )
    real_images_last: Fraction = Field(0.0, description="share of the steps, at the end, that see real images alone")
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="processes that read and augment pictures ahead of each training. If unset: 0 on a CPU where the "
        "training pictures fit in memory, else chosen from the cores. With 0, augmentations are drawn one after the "
        "other; else those of each image from the seed and its place, and how many processes there are changes no "
        "result",
    )

    @model_validator(mode="before")
    @classmethod
    def _list_of_models(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("model"), list | tuple):
            return data
        first, *others = data["model"] or [""]
        return {**data, "model": first, "other_models": others}

    @model_validator(mode="after")
    def _check(self) -> "DownstreamConfig":
        if (self.mixup or self.cutmix) and self.batch_size < 2:
            raise ValueError("mixup and cutmix mix images of a batch: they need a batch_size of 2 or more, not 1")
        if not all(self.models):
            raise ValueError("model must name a model, not be empty")
        if twice := sorted({name for name in self.models if self.models.count(name) > 1}):
            raise ValueError(f"model and other_models name {', '.join(twice)} twice")
        return self

    def synthetic_shares(self, photos: Mapping[int, int]) -> dict[int, float]:
        """Return the `synthetic_probability` of each class, by its number of photos, 1 or more."""
        if self.synthetic_probability == NEED:
            most = max(photos.values())
            return {label: 1 - count / most for label, count in photos.items()}
        return dict.fromkeys(photos, self._share_at(sum(photos.values()) / len(photos)))

    def _share_at(self, shots: float) -> float:
        """Return the share at a mean number of photos of a class, which need not be whole."""
        if not isinstance(self.synthetic_probability, dict):
            return float(self.synthetic_probability)
        points = sorted(self.synthetic_probability.items())
        for (fewer, before), (more, after) in pairwise(points):
            if fewer <= shots <= more:
                return before + (after - before) * math.log(shots / fewer) / math.log(more / fewer)
        return points[0][1] if shots < points[0][0] else points[-1][1]

    @property
    def models(self) -> tuple[str, ...]:
        """All models that are trained in each arm; arms are compared in charts and tables by the first."""
        return (self.model, *self.other_models)


FEW_SHOT_ARMS = ("real", "real+strong_aug", "plain_prompt", "class_token_few_shot_guide")
"""The arms of a run whose guide is made of the photos, if it names no others."""


class BenchmarkConfig(FewShotSection):
    """The trials: which arms the low-resource classifier is trained in, on which few-shot draws."""

    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = Field(
        ("real", "real+strong_aug", "plain_prompt", "class_token"),
        description="ways to train the classifier that are compared",
    )
    protocol: Literal["auto", "holdout", "cross_validation"] = Field(
        "auto",
        description="`holdout` tests on the test split; `cross_validation` tests each photo once a repeat, by a "
        "classifier, guide and tokens that have not seen it; `auto` takes it where a data set has no test split of its "
        "own and a held-out one would have fewer than 10 images of a class",
    )
    seeds: Annotated[int, Field(ge=2, le=_MOST_DRAWS)] = Field(
        5, description="few-shot draws of holdout; every arm runs on each"
    )
    folds: Annotated[int, Field(ge=2, le=_MOST_DRAWS)] = Field(
        5, description="of cross-validation; at most as many as the smallest class has photos"
    )
    repeats: Annotated[int, Field(ge=1, le=_MOST_DRAWS)] = Field(
        1, description="how often the photos are divided into folds anew"
    )
    per_class: PositiveInt = Field(50, description="synthetic images per class in the synthetic arms")
    ratios: tuple[PositiveInt, ...] = Field((), description="further numbers of them, in units of shots: 1, 5, 10")
    per_class_curve: tuple[PositiveInt, ...] = Field((), description="further numbers of them")
    shots_curve: tuple[PositiveInt, ...] = Field(
        (), description="further shots, for the arms whose images do not depend on the real ones"
    )
    imbalance: Annotated[float, Field(ge=1)] = Field(
        1.0, description="long tail: the last class has shots / imbalance images"
    )
    filter_confidence: Fraction = Field(
        0.5,
        description="images that the guide gives their class less are not accepted, by class_token_filtered and by "
        "`selection`; 0: those that it takes for their class",
    )
    selection: Literal["first", "accepted", "coverage"] = Field(
        "first",
        description="which synthetic images are used in arms whose images the guide of each draw sees: `first`: the "
        "first `per_class` of a class; `accepted`: of `candidates` times as many the first that this guide accepts "
        "(`filter_confidence`), and no others; `coverage`: of these, those that are farthest from the photos and from "
        "each other in its features",
    )
    candidates: PositiveInt = Field(
        4, description="images that are generated for each one that `selection: accepted` or `coverage` uses, at most"
    )
    seed: Seed = Field(
        0, description="the first few-shot seed, or the first repeat of cross-validation; the others follow it"
    )
    arms_folder: UserPath | None = Field(
        None,
        description="where tokens and images of arms that learn from each draw are kept, `arms` in the run folder if "
        "unset; runs with one such folder share what is the same in them",
    )
    processes: PositiveInt | None = Field(
        None,
        description="trials side by side on a CPU, at most; one per core if unset. Fewer run where memory does not "
        "hold them. It changes speed, not results",
    )

    @model_validator(mode="after")
    def _candidates_have_effect(self) -> "BenchmarkConfig":
        if self.selection == "first" and self.candidates != type(self).model_fields["candidates"].default:
            raise ValueError(
                "candidates have no effect with selection: first; set selection: accepted or coverage, or leave it out"
            )
        return self

    @property
    def candidate_count(self) -> int:
        """How many images of a class there are to choose `per_class` from."""
        return self.per_class * (1 if self.selection == "first" else self.candidates)

    @property
    def draws(self) -> range:
        """The number of every draw of real images: a few-shot seed, or a fold: `repeat * folds + fold`."""
        if self.protocol == "cross_validation":
            return range(self.seed * self.folds, (self.seed + self.repeats) * self.folds)
        return range(self.seed, self.seed + self.seeds)

    def at_most(self, per_class: int) -> "BenchmarkConfig":
        """Return the settings without what needs more synthetic images of a class than these."""
        most_ratio = math.inf if self.shots == "all" else per_class / self.shot_count
        return self.model_copy(
            update={
                "per_class": min(self.per_class, per_class),
                "per_class_curve": tuple(count for count in self.per_class_curve if count <= per_class),
                "ratios": tuple(ratio for ratio in self.ratios if ratio <= most_ratio),
            }
        )


_NOT_IN_FULL = ("real+linear_probe", "image_variation", "lora_plain_prompt", "lora_class_token")
FULL_BENCHMARK = (
    f"benchmark.arms=[{', '.join(arm for arm in get_args(Arm) if arm not in _NOT_IN_FULL)}]",
    "benchmark.seeds=6",  # of five pairs no exact test can say p < 0.05
    "benchmark.ratios=[1, 5, 10]",
    "benchmark.per_class_curve=[100, 200]",
    "benchmark.shots_curve=[1, 2, 5, 10, 20]",
    "generation.per_class=200",
)
"""What `dct-augment benchmark --full` sets, before the user's own settings."""


class MetricsConfig(Section):
    """How generated images are measured against real ones."""

    features: str | None = Field(
        "auto",
        description="where images are compared: judge, guide, inception, or a timm name "
        "(vit_small_patch14_dinov2.lvd142m, local-dir:FOLDER); auto: judge or guide, whichever gives features; unset: "
        "no metrics",
    )
    inception_weights: UserPath | None = Field(
        None, description="file of the FID Inception weights; downloaded if unset"
    )
    per_class: PositiveInt = Field(50, description="images per class of each kind: equal numbers can be compared")
    real_images: Annotated[int, Field(ge=10)] = Field(10_000, description="most real images compared with")
    synthetic_images: Annotated[int, Field(ge=10)] = Field(
        10_000, description="most images of a kind that are compared, evenly over the classes"
    )
    nearest_neighbours: PositiveInt = Field(5, description="k of precision, recall, density and coverage")
    bootstrap_resamples: Annotated[int, Field(ge=20)] = Field(200, description="of the bootstrap intervals")
    seed: Seed = Field(0, description="decides which images are compared where there are more, and the bootstrap")
