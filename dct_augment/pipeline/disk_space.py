"""Whether the images of a run fit on its disk, before any of them is made."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from dct_augment.benchmark.arms import ARMS, arm_draws, arm_folder, images_of_a_class
from dct_augment.config import Config
from dct_augment.errors import InputError
from dct_augment.generation import plan
from dct_augment.generation.shards import FOLDERS
from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.stages import IMAGE_STAGES
from dct_augment.records import StageName
from dct_augment.wording import counted, size

if TYPE_CHECKING:
    from dct_augment.pipeline.run import Run

_BYTES_PER_PIXEL = {"png": 1.7, "webp": 0.25, "jpg": 0.35}  # of photographs, roughly
_OF_A_ROW = 3 * 1024
"""Bytes that an image takes beside its pixels: the headers of its members in the tar, and its row."""


def bytes_of_images(config: Config, images: int) -> float:
    """Say about how many bytes the shards of so many images take."""
    return images * (side_of(config) ** 2 * _BYTES_PER_PIXEL[config.generation.image_format] + _OF_A_ROW)


def side_of(config: Config) -> int:
    """Give the width and height of generated images, by the files of the model or else its name."""
    return models.size_of(config.model.path, config.model.revision, config.model.image_size).side


def free_bytes_at(folder: Path) -> int:
    """Say how many bytes are free where a folder is, or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


def refuse_full_disk(run: "Run", stages: Collection[StageName], goal: StageName) -> None:
    """Check that the disk has room for the images that stages would make.

    Raises:
        InputError: it has not.
    """
    images = images_to_make(run, stages, goal)
    needed, free = bytes_of_images(run.config, images), free_bytes_at(run.config.root)
    if needed > free:
        raise InputError(
            f"{counted(images, 'image')} of {side_of(run.config)} pixels take about {size(needed)}, and "
            f"{size(free)} are free at {str(run.config.root)!r}. Ask for fewer (generation.per_class, "
            "benchmark.per_class, benchmark.seeds), give an --output on a larger disk, or set "
            "generation.image_format=jpg"
        )


def images_to_make(run: "Run", stages: Collection[StageName], goal: StageName) -> int:
    """Count the images that stages would make; those of a few-shot draw whose index is written are there."""
    images = 0
    for kind, stage in IMAGE_STAGES.items():
        if stage in stages:
            layout, per_class = run.shards[kind].layout(), run.images_per_class(goal)
            images += sum(max(0, per_class - plan.covered(layout, info.slug)) for info in run.classes)
            images += sum(map(len, run.unfinished(kind)))
    if StageName.ARMS in stages:
        for draw in arm_draws(run.config.benchmark):
            kind_of_arm = ARMS[draw.arm].images
            folder = arm_folder(run.arm_paths.images, draw.arm, draw.shots, draw.seed)
            if kind_of_arm and not (folder / FOLDERS[kind_of_arm] / "_info.json").is_file():
                images += len(run.classes) * images_of_a_class(run.config.benchmark, draw.arm)
    return images
