"""Formats of parquet: the layout of the Hub, and a plain table."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dct_augment.export.hub_yaml import configs, features, hub_type
from dct_augment.export.rows import COLUMNS, SPLIT, ExportClass, ExportImage, Images

ROWS_OF_A_GROUP = 100
BYTES_OF_A_FILE = 400 * 2**20

PARTS = f"data/{SPLIT}-*.parquet"
"""The files in the layout of the Hub."""

_REPETITIVE = ["class_name", "run", "prompt", "token_sha256", "guide_label", "judge_label"]
_HUB_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_huggingface(images: Images, folder: Path, classes: Sequence[ExportClass]) -> dict[str, Any]:
    """Write `data/train-00000-of-0000N.parquet` with the features Image and ClassLabel, as the Hub has data sets."""
    names = [target.name for target in classes]
    types = {name: {"dtype": hub_type(name), "_type": "Value"} for name in COLUMNS}
    described = {"image": {"_type": "Image"}, **types, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema([("image", _HUB_IMAGE), *COLUMNS.items()])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": described}})})
    size = _write_parts(images, folder / "data", schema, _hub_record)
    listed = [{"name": "image", "dtype": "image"}, *features(names)]
    return {"dataset_info": {"features": listed, **size}, **configs(PARTS)}


def write_parquet(images: Images, folder: Path) -> dict[str, Any]:
    """Write `train-00000-of-0000N.parquet`: file name, bytes of the file, and the row of every image."""
    schema = pa.schema([("file_name", pa.string()), ("image", pa.binary()), *COLUMNS.items()])
    _write_parts(images, folder, schema, _plain_record)
    return configs(f"{SPLIT}-*.parquet")


def _hub_record(image: ExportImage) -> dict[str, Any]:
    return {"image": {"bytes": image.data, "path": image.file_name}, **image.row}


def _plain_record(image: ExportImage) -> dict[str, Any]:
    return {"file_name": image.file_name, "image": image.data, **image.row}


def _write_parts(
    images: Images, folder: Path, schema: pa.Schema, record: Callable[[ExportImage], Mapping[str, Any]]
) -> dict[str, Any]:
    """Write records into as many files as their size asks for; return the sizes as `dataset_info` states them."""
    folder.mkdir(exist_ok=True)
    parts: list[Path] = []
    count = in_memory = 0
    batches = _Batches(images, record, schema)
    while batches.has_more():
        parts.append(folder / f"part-{len(parts):05d}")
        written = 0
        with pq.ParquetWriter(parts[-1], schema, use_dictionary=_REPETITIVE) as writer:
            while written < BYTES_OF_A_FILE and (batch := batches.next()) is not None:
                writer.write_table(batch)
                written += batch.nbytes
                count += batch.num_rows
        in_memory += written
    for number, part in enumerate(parts):
        part.rename(folder / f"{SPLIT}-{number:05d}-of-{len(parts):05d}.parquet")
    on_disk = sum(path.stat().st_size for path in folder.glob(f"{SPLIT}-*.parquet"))
    split = {"name": SPLIT, "num_bytes": in_memory, "num_examples": count}
    return {"splits": [split], "download_size": on_disk, "dataset_size": in_memory}


class _Batches:
    """Groups records into tables of `ROWS_OF_A_GROUP` rows, and knows whether there is another one."""

    def __init__(self, images: Images, record: Callable[[ExportImage], Mapping[str, Any]], schema: pa.Schema) -> None:
        self._images, self._record, self._schema = images, record, schema
        self._ahead = next(images, None)

    def has_more(self) -> bool:
        return self._ahead is not None

    def next(self) -> pa.Table | None:
        """Return the next table; None if there is no more."""
        records: list[Mapping[str, Any]] = []
        while self._ahead is not None and len(records) < ROWS_OF_A_GROUP:
            records.append(self._record(self._ahead))
            self._ahead = next(self._images, None)
        return pa.Table.from_pylist(records, schema=self._schema) if records else None
