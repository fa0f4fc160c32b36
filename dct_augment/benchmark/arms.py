"""The arms of the benchmark: which have synthetic images, and where these lie."""

from collections.abc import Mapping
from pathlib import Path

from dct_augment.config import Arm, BenchmarkConfig
from dct_augment.records import ImageKind

SYNTHETIC = {
    "plain_prompt": ImageKind.PLAIN_PROMPT,
    "textual_inversion": ImageKind.CLASS_TOKEN,
    "class_token": ImageKind.CLASS_TOKEN,
    "class_token_few_shot_guide": ImageKind.CLASS_TOKEN,
    "class_token_filtered": ImageKind.CLASS_TOKEN,
}
"""Arms with synthetic images, and the kind of these. They keep the strong augmentation."""

OWN_IMAGES = ("textual_inversion", "class_token_few_shot_guide")
"""Arms whose images are made anew from the real images of each draw."""


def arm_draws(settings: BenchmarkConfig) -> tuple[tuple[Arm, int, int], ...]:
    """Arm, shots and seed of everything that needs images of its own."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return tuple((arm, settings.shots, seed) for seed in seeds for arm in settings.arms if arm in OWN_IMAGES)


ArmFolders = Mapping[str, Path]
"""Where the synthetic images of each arm are: a run folder, or for `OWN_IMAGES` a folder of one for each draw."""


def arm_folder(arm_folders: ArmFolders, arm: str, shots: int, seed: int) -> Path:
    """The run folder that holds the synthetic images of an arm on a draw: tokens/, shards/ and the rest."""
    return arm_folders[arm] / f"{shots}-{seed}" if arm in OWN_IMAGES else arm_folders[arm]
