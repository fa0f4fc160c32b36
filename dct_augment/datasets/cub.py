"""Reads CUB-200-2011 as published: images and text files (Wah et al., Caltech, 2011)."""

import math
from collections.abc import Mapping
from pathlib import Path

from dct_augment import files
from dct_augment.config import CubDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.image_files import Box
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.wording import counted

_FILES = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
_BOXES = "bounding_boxes.txt"
_SPLIT_FLAGS = {"train": "1", "test": "0"}
_PUBLISHED = "CUB-200-2011 as published by Caltech Vision (CUB_200_2011.tgz, unpacked)"


def load(settings: CubDataset) -> ImageDataset:
    """Index the images; the official test split stays, `val` is held out of train.

    Raises:
        DatasetError: the folder or one of its files is missing or damaged.
    """
    root = _root(settings)
    image_files.require(root, *_FILES, "images", published=_PUBLISHED)
    names, paths, labels, flags = (_table(root / file) for file in _FILES)
    boxes = _boxes(root, paths) if settings.crop else {}
    numbers = {label: number for number, label in enumerate(names)}
    _require_agreement(root, names, paths, labels, flags)
    splits = {}
    for split, split_flag in _SPLIT_FLAGS.items():
        rows = [
            (f"images/{path}", numbers[labels[image]]) for image, path in paths.items() if flags[image] == split_flag
        ]
        splits[split] = image_files.index(root, rows, image_reader(settings), boxes)
    classes = class_infos(list(names.values()), settings.words)
    return complete("cub", classes, splits, settings)


def boxes_hash(settings: CubDataset) -> str:
    """Hash the file that decides where pictures are cut; empty if they are not."""
    return files.sha256(_root(settings) / _BOXES) if settings.crop else ""


def _root(settings: CubDataset) -> Path:
    root = settings.path.expanduser()
    return root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root


def _require_agreement(
    root: Path, names: Mapping[str, str], paths: Mapping[str, str], labels: Mapping[str, str], flags: Mapping[str, str]
) -> None:
    """Raise DatasetError if an image of one text file is not in another, or has an unknown class or flag."""
    where = f"the text files in {str(root)!r} do not agree"
    for file, table in (("image_class_labels.txt", labels), ("train_test_split.txt", flags)):
        if differing := paths.keys() ^ table.keys():
            image = min(differing, key=lambda number: (len(number), number))
            has, lacks = ("images.txt", file) if image in paths else (file, "images.txt")
            raise DatasetError(
                f"{where}: image {image!r} is in {has} but not in {lacks} ({counted(len(differing), 'such image')})"
            )
    if unknown := sorted(set(labels.values()) - names.keys()):
        raise DatasetError(f"{where}: class {unknown[0]!r} of image_class_labels.txt is not in classes.txt")
    if unknown := sorted(set(flags.values()) - set(_SPLIT_FLAGS.values())):
        raise DatasetError(f"train_test_split.txt in {str(root)!r}: {unknown[0]!r} is neither 1 (train) nor 0 (test)")


def _table(path: Path) -> dict[str, str]:
    """Read lines `number value...` as a mapping.

    Raises:
        DatasetError: it is no text, another kind of line, or a number twice.
    """
    table: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{str(path)!r} is damaged: it is no UTF-8 text ({error})") from error
    for place, line in enumerate(text.splitlines(), 1):
        number, _, value = line.strip().partition(" ")
        if not number:
            continue
        if not value:
            raise DatasetError(f"{str(path)!r} is damaged: line {place} is {line!r}, but must be `number value`")
        if number in table:
            raise DatasetError(f"{str(path)!r} is damaged: line {place} gives number {number} again")
        table[number] = value.strip()
    return table


def _boxes(root: Path, paths: dict[str, str]) -> dict[str, Box]:
    """Read the bounding box of every image path."""
    image_files.require(root, _BOXES, published=_PUBLISHED)
    texts = _table(root / _BOXES)
    if missing := sorted(paths.keys() - texts.keys()):
        raise DatasetError(
            f"the text files in {str(root)!r} do not agree: image {missing[0]!r} is in images.txt but not in "
            f"bounding_boxes.txt ({counted(len(missing), 'such image')})"
        )
    return {f"images/{path}": _box(texts[image]) for image, path in paths.items()}


def _box(text: str) -> Box:
    try:
        left, top, width, height = map(float, text.split())
        if not all(map(math.isfinite, (left, top, width, height))):
            raise ValueError
    except ValueError as error:
        raise DatasetError(f"bounding_boxes.txt: {text!r} is not `x y width height`") from error
    return left, top, width, height
