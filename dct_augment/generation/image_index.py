"""Where every image of a shard folder lies: as the rows beside its tars say, or as the tars themselves do."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dct_augment import files, tars
from dct_augment.errors import DatasetError, ShardError
from dct_augment.generation import shard_rows
from dct_augment.generation.checked import CheckedFiles, checked_file
from dct_augment.generation.image_files import FORMATS
from dct_augment.generation.shards import SPLITS
from dct_augment.images import UNREADABLE_IMAGE
from dct_augment.tars import Span
from dct_augment.wording import command_of, in_one_line, reason_of

IMAGE_ENDINGS = tuple(FORMATS)

_UNREADABLE = (OSError, tarfile.TarError, ValueError, KeyError, OverflowError, RecursionError, pa.ArrowException)
"""What the tars of others raise."""

_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "class_index": pa.int64(),
        "offset": pa.int64(),
        "bytes": pa.int64(),
        "content": pa.string(),
        "guide_confidence": pa.float64(),
    }
)


def read_index(folder: Path, tar_bytes: Mapping[str, int] | None = None) -> tuple[tuple[Path, ...], pa.Table]:
    """List the class-token images of a shard folder; of a folder of another kind, all images.

    Args:
        folder: of the shards.
        tar_bytes: of tars that are elsewhere, by name; their rows have to say where the images lie.

    Returns:
        The tars; and a row per image: `tar`, the place of its tar; `key`; `class_index`; `offset` and `bytes`, where
        it lies in the tar; `content`, the hash of its pixels, empty if its row does not say it; `guide_confidence`,
        NaN if there is none.

    Raises:
        DatasetError: the folder holds no `_info.json`, or a damaged one, or one of other data.
        ShardError: a tar cannot be read.
    """
    split, names = _split(folder)
    checked = CheckedFiles(checked_file(folder, split))
    paths = tuple(folder / name for name in names)
    tables = []
    for place, tar in enumerate(paths):
        table = _of_rows(tar, checked, (tar_bytes or {}).get(tar.name))
        table = _of_tar(tar) if table is None else table
        tables.append(table.append_column("tar", pa.array([place] * len(table), pa.int32())))
    empty = _SCHEMA.empty_table().append_column("tar", pa.array([], pa.int32()))
    return paths, pa.concat_tables([empty, *tables])


def with_places(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Complete `offset` and `bytes` of images whose rows do not have them, as those of older versions: by their tars.

    Args:
        folder: of the shards.
        rows: `key`, `shard` (the name of the tar), `offset`, `bytes`; -1 where they are not known.

    Raises:
        ShardError: a tar cannot be read.
    """
    unplaced = rows["offset"] < 0
    if not unplaced.any():
        return rows
    rows = rows.copy()
    for name, of_tar in rows[unplaced].groupby("shard"):
        table = _of_tar(folder / str(name)).select(["key", "offset", "bytes"]).to_pandas().set_index("key")
        for column in ("offset", "bytes"):
            rows.loc[of_tar.index, column] = of_tar["key"].map(table[column]).fillna(-1).astype(int)
    return rows


def open_image(tar: Path, span: Span) -> Image.Image:
    """Open an RGB picture where it lies in a tar.

    Raises:
        ShardError: there is no picture.
    """
    try:
        with tar.open("rb") as stream:
            return Image.open(io.BytesIO(span.read(stream))).convert("RGB")
    except UNREADABLE_IMAGE as error:
        raise ShardError(f"{tar.name} cannot be read: {reason_of(error)}") from error


def _of_rows(tar: Path, checked: CheckedFiles, tar_bytes: int | None) -> pa.Table | None:
    """List the images of a tar as its parquet does; None if that does not say where they lie, or is not of this tar."""
    parquet = tar.with_suffix(".parquet")
    found = checked.find(parquet, lambda: shard_rows.check(parquet, tar.stem))
    if tar_bytes is None and tar.is_file():
        tar_bytes = tar.stat().st_size
    if found is None or found["tar_bytes"] != tar_bytes:
        return None
    table = shard_rows.read_columns(parquet, _SCHEMA.names).cast(_SCHEMA)
    return table.filter(pc.greater_equal(table["offset"], 0))


def _of_tar(tar: Path) -> pa.Table:
    """List the images of a tar by its members.

    Raises:
        ShardError: the tar cannot be read, or an image has no label.
    """
    rows = []
    try:
        with tar.open("rb") as stream:
            for sample in tars.index(tar):
                span = sample.image(IMAGE_ENDINGS)
                if span is not None:
                    label = int(sample.members["cls"].read(stream))
                    confidence = _confidence(sample.members["json"].read(stream)) if "json" in sample.members else None
                    rows.append((sample.key, label, span.offset, span.size, "", confidence))
        columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    except _UNREADABLE as error:
        again = command_of("verify", tar.parent.parent)
        reason = "an image has no label" if isinstance(error, KeyError) else in_one_line(reason_of(error), 200)
        raise ShardError(f"{tar} cannot be read: {reason}; `{again}` tells more") from error
    return pa.table(arrays, _SCHEMA)


def _confidence(row: bytes) -> float:
    """Read the probability that the guide gave to the class of an image; NaN if the row has none."""
    stored = json.loads(row)
    value = stored.get("guide_confidence") if isinstance(stored, dict) else None
    return float(value) if isinstance(value, int | float) else float("nan")


def _split(folder: Path) -> tuple[str, Sequence[str]]:
    """Read from `_info.json` which split a shard folder holds, and the names of its tars."""
    path = folder / "_info.json"
    again = command_of("generate", folder.parent)
    if not path.is_file():
        raise DatasetError(f"{folder} holds no _info.json; make shards with `{again}`")
    try:
        splits = files.load_json(path).get("splits")
        if not isinstance(splits, dict):
            raise ValueError("it has no splits")
        for split in SPLITS.values():
            if split in splits:
                return split, _names(splits[split])
    except ValueError as error:
        raise DatasetError(f"{path} is damaged: {error}; `{again}` makes it again") from error
    raise DatasetError(
        f"{folder} has no split {' or '.join(map(repr, SPLITS.values()))}; it has: {', '.join(splits) or 'none'}"
    )


def _names(split: Any) -> list[str]:
    """List the names of the tars of a split; none leads out of the folder.

    Raises:
        ValueError: there is no such list.
    """
    names = split.get("filenames") if isinstance(split, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ValueError("it does not name its tars")
    return names
