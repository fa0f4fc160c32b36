"""A Hugging Face `datasets` directory, as `save_to_disk` writes it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dct_augment.config import HuggingFaceDataset
from dct_augment.datasets import pictures
from dct_augment.datasets.folder import SPLITS
from dct_augment.datasets.naming import infos
from dct_augment.datasets.pictures import OnDisk
from dct_augment.errors import DatasetError
from dct_augment.records import Example


def load(settings: HuggingFaceDataset) -> OnDisk:
    """Index the rows of the directory; splits it lacks are held out of train.

    Raises:
        DatasetError: the `datasets` package or the directory is missing, or a column is not there or of another kind.
    """
    root = settings.path.expanduser()
    pictures.require(root, published="a directory written by datasets' save_to_disk")
    try:
        import datasets  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DatasetError(
            "dataset.name huggingface needs the package datasets: pip install 'dct-augment[huggingface]'"
        ) from error
    try:
        stored = datasets.load_from_disk(str(root))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise DatasetError(f"dataset.path {str(root)!r} was not written by save_to_disk: {error}") from error
    tables = dict(stored) if isinstance(stored, datasets.DatasetDict) else {"train": stored}
    tables = {SPLITS[name.lower()]: table for name, table in tables.items() if name.lower() in SPLITS}
    if "train" not in tables:
        raise DatasetError(f"dataset.path {str(root)!r} has no split train; it has {', '.join(stored)}")
    for column in (settings.image, settings.label):
        if column not in tables["train"].column_names:
            there = ", ".join(tables["train"].column_names)
            raise DatasetError(
                f"dataset.path {str(root)!r} has no column {column!r}; it has {there}. Name them: dataset.image, "
                "dataset.label"
            )
    return _build(root, tables, settings)


def _build(root: Path, tables: Mapping[str, Any], settings: HuggingFaceDataset) -> OnDisk:
    feature = tables["train"].features[settings.label]
    values = {split: list(table[settings.label]) for split, table in tables.items()}
    names = getattr(feature, "names", None)
    if names is None:
        names = sorted({value for column in values.values() for value in column}, key=str)
        places = {value: index for index, value in enumerate(names)}
        values = {split: [places[value] for value in column] for split, column in values.items()}
    classes = infos([str(name) for name in names], settings.words)
    splits: dict[str, Sequence[Example]] = {
        split: [
            Example(f"{split}/{row:07d}", label, partial(_open, tables[split], row, settings.image))
            for row, label in enumerate(column)
        ]
        for split, column in values.items()
    }
    held = {"val": settings.val, "test": settings.test}
    whole = pictures.complete_listed(splits, held, settings.seed, classes, root)
    return OnDisk(settings.title or root.resolve().name, classes, whole)


def _open(table: Any, row: int, column: str) -> Image.Image:
    value = table[row][column]
    if isinstance(value, Image.Image):
        return value
    return Image.fromarray(np.asarray(value, np.uint8))
