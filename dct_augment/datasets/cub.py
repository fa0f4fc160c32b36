"""Reads CUB-200-2011 as published: images and text files (Wah et al., Caltech, 2011)."""

from pathlib import Path

from dct_augment.config import CubDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.image_files import Box
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError

_FILES = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
_SPLIT_FLAGS = {"train": "1", "test": "0"}
_PUBLISHED = "CUB-200-2011 as published by Caltech Vision (CUB_200_2011.tgz, unpacked)"


def load(settings: CubDataset) -> ImageDataset:
    """Index the images; the official test split stays, `val` is held out of train.

    Raises:
        DatasetError: the folder or one of its files is missing or damaged.
    """
    root = settings.path.expanduser()
    if (root / "CUB_200_2011").is_dir():
        root = root / "CUB_200_2011"
    image_files.require(root, *_FILES, "images", published=_PUBLISHED)
    names, paths, labels, flags = (_table(root / file) for file in _FILES)
    boxes = _boxes(root, paths) if settings.crop else {}
    numbers = {label: number for number, label in enumerate(names)}
    splits = {}
    try:
        for split, split_flag in _SPLIT_FLAGS.items():
            rows = [
                (f"images/{path}", numbers[labels[image]])
                for image, path in paths.items()
                if flags[image] == split_flag
            ]
            splits[split] = image_files.index(root, rows, image_reader(settings), boxes)
    except KeyError as error:
        raise DatasetError(
            f"the text files in {str(root)!r} do not agree: {error} is in one but not another"
        ) from error
    classes = class_infos(list(names.values()), settings.words)
    return complete("cub", classes, splits, settings)


def _table(path: Path) -> dict[str, str]:
    """Read lines `number value...` as a mapping."""
    lines = path.read_text(encoding="utf-8").splitlines()
    parts = (line.split(maxsplit=1) for line in lines if line.strip())
    try:
        return {number: value.strip() for number, value in parts}
    except ValueError as error:
        raise DatasetError(f"{str(path)!r} is damaged: every line must be `number value`") from error


def _boxes(root: Path, paths: dict[str, str]) -> dict[str, Box]:
    """Read the bounding box of every image path."""
    image_files.require(root, "bounding_boxes.txt", published=_PUBLISHED)
    return {f"images/{paths[image]}": _box(text) for image, text in _table(root / "bounding_boxes.txt").items()}


def _box(text: str) -> Box:
    try:
        left, top, width, height = map(float, text.split())
    except ValueError as error:
        raise DatasetError(f"bounding_boxes.txt: {text!r} is not `x y width height`") from error
    return left, top, width, height
