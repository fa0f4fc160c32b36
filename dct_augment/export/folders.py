"""Formats of image files: a folder per class with a table beside it."""

import csv
from pathlib import Path
from typing import Any

from dct_augment.export.hub_yaml import configs
from dct_augment.export.rows import COLUMNS, SPLIT, Images

TABLE = "images.csv"
"""Not `metadata.csv`: where that is, `datasets` takes no labels from the folders."""

TABLE_OF_LABELS = "labels.csv"

TABLES = {TABLE: "file_name", TABLE_OF_LABELS: "path"}
"""The tables that list all image files of an export, and the column that does."""


def write_imagefolder(images: Images, folder: Path) -> dict[str, Any]:
    """Write `train/<class>/<key>.png`, and a row per image in `images.csv`."""
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([TABLES[TABLE], *COLUMNS])
        for image in images:
            path = Path(SPLIT, image.target.folder, image.file_name)
            _write_file(folder / path, image.data)
            table.writerow([path.as_posix(), *image.row.values()])
    return configs(f"{SPLIT}/**")


def write_csv(images: Images, folder: Path) -> dict[str, Any]:
    """Write `images/<class>/<key>.png`, and `labels.csv` with path, label, split and the rest of the row.

    There `label` is the name of the class, as in every such table; its number is `label_index`.
    """
    columns = [name for name in COLUMNS if name not in ("label", "class_name")]
    with (folder / TABLE_OF_LABELS).open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([TABLES[TABLE_OF_LABELS], "label", "split", "label_index", *columns])
        for image in images:
            path = Path("images", image.target.folder, image.file_name)
            _write_file(folder / path, image.data)
            row = [image.row[name] for name in columns]
            table.writerow([path.as_posix(), image.target.name, SPLIT, image.target.label, *row])
    return configs("images/**")


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
