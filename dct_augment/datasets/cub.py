"""CUB-200-2011 as published: pictures and text files (Wah et al., Caltech, 2011)."""

from pathlib import Path

from dct_augment.config import CubDataset
from dct_augment.datasets import pictures
from dct_augment.datasets.naming import infos
from dct_augment.datasets.pictures import OnDisk
from dct_augment.errors import DatasetError

_FILES = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
_PUBLISHED = "CUB-200-2011 as published by Caltech Vision (CUB_200_2011.tgz, unpacked)"


def load(settings: CubDataset) -> OnDisk:
    """Index the pictures; the official test split stays, `val` is held out of train.

    Raises:
        DatasetError: the folder or one of its files is missing or damaged.
    """
    root = settings.path.expanduser()
    if (root / "CUB_200_2011").is_dir():
        root = root / "CUB_200_2011"
    pictures.require(root, *_FILES, "images", published=_PUBLISHED)
    names, files, labels, splits = (_table(root / name) for name in _FILES)
    order = {number: index for index, number in enumerate(names)}
    classes = infos(list(names.values()), settings.words)
    boxes = {}
    if settings.crop:
        pictures.require(root, "bounding_boxes.txt", published=_PUBLISHED)
        boxes = {f"images/{files[key]}": _box(text) for key, text in _table(root / "bounding_boxes.txt").items()}
    try:
        rows = {
            flag: [(f"images/{path}", order[labels[key]]) for key, path in files.items() if splits[key] == flag]
            for flag in ("1", "0")
        }
    except KeyError as error:
        raise DatasetError(
            f"the text files in {str(root)!r} do not agree: {error} is in one but not another"
        ) from error
    known = {"train": pictures.build(root, rows["1"], boxes), "test": pictures.build(root, rows["0"], boxes)}
    found = pictures.complete(known, val=settings.val, test=settings.test, seed=settings.seed)
    pictures.refuse_empty(classes, found["train"], root)
    return OnDisk("cub", classes, found)


def _table(path: Path) -> dict[str, str]:
    """Lines `key value...` as a mapping."""
    lines = path.read_text(encoding="utf-8").splitlines()
    parts = (line.split(maxsplit=1) for line in lines if line.strip())
    try:
        return {key: value.strip() for key, value in parts}
    except ValueError as error:
        raise DatasetError(f"{str(path)!r} is damaged: every line must be `number value`") from error


def _box(text: str) -> pictures.Box:
    try:
        left, top, width, height = map(float, text.split())
    except ValueError as error:
        raise DatasetError(f"bounding_boxes.txt: {text!r} is not `x y width height`") from error
    return left, top, width, height
