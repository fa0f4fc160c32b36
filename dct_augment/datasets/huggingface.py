"""Reads a Hugging Face `datasets` directory, as `save_to_disk` writes it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dct_augment.config import HuggingFaceDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.folder import SPLITS
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.reading import ImageReader
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.records import Example


def load(settings: HuggingFaceDataset) -> ImageDataset:
    """Index the rows of the directory; splits it lacks are held out of train.

    Raises:
        DatasetError: the `datasets` package or the directory is missing, or a column is not there or of another kind.
    """
    root = settings.path.expanduser()
    image_files.require(root, published="a directory written by datasets' save_to_disk")
    tables = _tables(root)
    for column in (settings.image, settings.label):
        if column not in tables["train"].column_names:
            columns = ", ".join(tables["train"].column_names)
            raise DatasetError(
                f"dataset.path {str(root)!r} has no column {column!r}; it has {columns}. Name them: dataset.image, "
                "dataset.label"
            )
    class_names, labels = _labels(tables, settings.label)
    reader = image_reader(settings)
    splits: dict[str, Sequence[Example]] = {}
    for split, table in tables.items():
        splits[split] = [
            Example(f"{split}/{row:07d}", label, partial(_open, reader, table, row, settings.image))
            for row, label in enumerate(labels[split])
        ]
    classes = class_infos(class_names, settings.words)
    return complete(settings.title or root.resolve().name, classes, splits, settings)


def _tables(root: Path) -> dict[str, Any]:
    """Open the table of each split; a directory without splits is all `train`."""
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
    if not isinstance(stored, datasets.DatasetDict):
        return {"train": stored}
    tables = {SPLITS[name.lower()]: table for name, table in stored.items() if name.lower() in SPLITS}
    if "train" not in tables:
        raise DatasetError(f"dataset.path {str(root)!r} has no split train; it has {', '.join(stored)}")
    return tables


def _labels(tables: Mapping[str, Any], column: str) -> tuple[list[str], dict[str, list[int]]]:
    """Read the class names, and the class number of each row of each split."""
    values = {split: list(table[column]) for split, table in tables.items()}
    names = getattr(tables["train"].features[column], "names", None)
    if names is not None:
        return [str(name) for name in names], values
    distinct = sorted({value for column_values in values.values() for value in column_values}, key=str)
    numbers = {value: number for number, value in enumerate(distinct)}
    labels = {split: [numbers[value] for value in column_values] for split, column_values in values.items()}
    return [str(value) for value in distinct], labels


def _open(reader: ImageReader, table: Any, row: int, column: str) -> Image.Image:
    image = table[row][column]
    return reader.convert(image) if isinstance(image, Image.Image) else reader.convert_array(np.asarray(image))
