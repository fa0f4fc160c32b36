"""The arms of the benchmark: what each trains on, and where its synthetic images lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dct_augment.benchmark.draws import draw_title
from dct_augment.config import Arm as ArmName
from dct_augment.config import BenchmarkConfig
from dct_augment.records import ImageKind

GUIDE_OF_DRAW = "few-shot/"
"""What the name of a guide begins with that was made for a draw; the folders of its arm and draw follow."""


@dataclass(frozen=True)
class Arm:
    """What the classifier of one arm trains on, beside the few-shot images that all arms have.

    `images` is the kind of its synthetic images, if it has any. `tokens_from` says how their class tokens are learned
    anew from each few-shot draw; if it is None, they are those of the run. With `starts_from_photos`, images are
    variations of the photos of the draw. `strong_augmentation` is of arms without synthetic images; of the others,
    `downstream.synthetic_augmentation` says it. With `lora`, tokens and images are made by the text-to-image model with
    a LoRA that is trained on the photos of the draw. With `filtered`, only the images that the filter accepts are used.
    With `linear_probe`, only the last layer is trained, whatever `downstream.train` says.
    """

    name: ArmName
    images: ImageKind | None = None
    tokens_from: Literal["few_shot_guide", "textual_inversion"] | None = None
    starts_from_photos: bool = False
    lora: bool = False
    strong_augmentation: bool = False
    filtered: bool = False
    linear_probe: bool = False

    @property
    def own_images(self) -> bool:
        """Whether the images are generated anew for each few-shot draw."""
        return self.tokens_from is not None or self.starts_from_photos or self.lora

    @property
    def can_be_repeated(self) -> bool:
        """Whether a run with a guide of all photos makes tokens and images in the same way: then it can be kept."""
        return self.tokens_from == "few_shot_guide" and not self.lora

    @property
    def guide_of_draw(self) -> bool:
        """Whether a guide that knows the photos of the draw alone trains its tokens, or scores its images."""
        return self.own_images and self.tokens_from != "textual_inversion"

    @property
    def soft_labels(self) -> bool:
        """Whether a guide that knows no more than its images do scores them: that of the draw, or that of the tokens.

        What the guide of the run says of the images of other arms may come from photos that their draw does not have.
        """
        return self.guide_of_draw if self.own_images else self.images is ImageKind.CLASS_TOKEN


_ARMS = (
    Arm("real"),
    Arm("real+strong_aug", strong_augmentation=True),
    Arm("real+linear_probe", linear_probe=True),
    Arm("plain_prompt", ImageKind.PLAIN_PROMPT),
    Arm("image_variation", ImageKind.PLAIN_PROMPT, starts_from_photos=True),
    Arm("lora_plain_prompt", ImageKind.PLAIN_PROMPT, lora=True),
    Arm("textual_inversion", ImageKind.CLASS_TOKEN, tokens_from="textual_inversion"),
    Arm("class_token", ImageKind.CLASS_TOKEN),
    Arm("class_token_few_shot_guide", ImageKind.CLASS_TOKEN, tokens_from="few_shot_guide"),
    Arm("lora_class_token", ImageKind.CLASS_TOKEN, tokens_from="few_shot_guide", lora=True),
    Arm("class_token_filtered", ImageKind.CLASS_TOKEN, filtered=True),
)

ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _ARMS}
"""All arms, by name."""


def selected_by_guide(settings: BenchmarkConfig, arm: str) -> bool:
    """Whether the guide selects the images of an arm: it is there, and knows the photos of the draw alone."""
    return settings.selection != "first" and ARMS[arm].guide_of_draw


def images_of_a_class(settings: BenchmarkConfig, arm: str) -> int:
    """Say how many images of a class an arm with images of its own has for each draw."""
    return settings.candidate_count if selected_by_guide(settings, arm) else settings.per_class


@dataclass(frozen=True)
class ArmDraw:
    """An arm with images of its own, on one few-shot draw."""

    arm: ArmName
    shots: int
    seed: int

    def title(self, settings: BenchmarkConfig) -> str:
        """Name the arm and the draw for a person."""
        return f"{self.arm}, {self.shots} shots, {draw_title(settings, self.seed)}"


def arm_draws(settings: BenchmarkConfig) -> tuple[ArmDraw, ...]:
    """List every arm with images of its own on every draw, draw by draw."""
    draws = []
    for seed in settings.draws:
        for arm in settings.arms:
            if ARMS[arm].own_images:
                draws.append(ArmDraw(arm, settings.shot_count, seed))
    return tuple(draws)


REAL = "real"
"""The kind of images that real test images are, measured as if they were generated: what can be reached."""


def measured_kinds(settings: BenchmarkConfig) -> tuple[str, ...]:
    """List the kinds of images whose metrics are measured: those of the arms, and the real test images.

    In cross-validation every real image is among those compared with, so none is left to be measured.
    """
    arms = tuple(arm for arm in settings.arms if ARMS[arm].images is not None and not ARMS[arm].filtered)
    if not arms or settings.protocol == "cross_validation":
        return arms
    return (REAL, *arms)


ArmFolders = Mapping[str, Path]
"""Where the synthetic images of each arm are: a run folder, or one for each draw in this folder (`own_images`)."""


def arm_folder(arm_folders: ArmFolders, arm: str, shots: int, seed: int) -> Path:
    """Give the run folder that holds the synthetic images of an arm on a draw: tokens/, shards/ and the rest."""
    return arm_folders[arm] / f"{shots}-{seed}" if ARMS[arm].own_images else arm_folders[arm]
