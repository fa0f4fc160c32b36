"""Where every image of a shard folder lies: as the rows beside its tars say, or as the tars themselves do."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dct_augment import tars
from dct_augment.errors import DatasetError, ShardError
from dct_augment.generation import shard_rows
from dct_augment.generation.checked import CheckedFiles, checked_file
from dct_augment.generation.shards import SPLITS
from dct_augment.wording import command_of, reason_of

IMAGE_ENDINGS = ("png", "webp", "jpg")

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


def read_index(folder: Path) -> tuple[tuple[Path, ...], pa.Table]:
    """List the class-token images of a shard folder; of a folder of another kind, all images.

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
        table = _of_rows(tar, checked)
        table = _of_tar(tar) if table is None else table
        tables.append(table.append_column("tar", pa.array([place] * len(table), pa.int32())))
    empty = _SCHEMA.empty_table().append_column("tar", pa.array([], pa.int32()))
    return paths, pa.concat_tables([empty, *tables])


def _of_rows(tar: Path, checked: CheckedFiles) -> pa.Table | None:
    """List the images of a tar as its parquet does; None if that does not say where they lie, or is not of this tar."""
    parquet = tar.with_suffix(".parquet")
    found = checked.find(parquet, lambda: shard_rows.check(parquet, tar.stem))
    if found is None or not tar.is_file() or found["tar_bytes"] != tar.stat().st_size:
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
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        again = command_of("verify", tar.parent.parent)
        raise ShardError(f"{tar} cannot be read: {reason_of(error)}; `{again}` tells more") from error
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA)


def _confidence(row: bytes) -> float:
    """Read the probability that the guide gave to the class of an image; NaN if the row has none."""
    value = json.loads(row).get("guide_confidence")
    return float(value) if isinstance(value, int | float) else float("nan")


def _split(folder: Path) -> tuple[str, Sequence[str]]:
    """Read from `_info.json` which split a shard folder holds, and the names of its tars."""
    path = folder / "_info.json"
    again = command_of("generate", folder.parent)
    if not path.is_file():
        raise DatasetError(f"{folder} holds no _info.json; make shards with `{again}`")
    try:
        splits = dict(json.loads(path.read_text(encoding="utf-8"))["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged: {error}; `{again}` makes it again") from error
    for split in SPLITS.values():
        if split in splits:
            return split, list(splits[split]["filenames"])
    raise DatasetError(
        f"{folder} has no split {' or '.join(map(repr, SPLITS.values()))}; it has: {', '.join(splits) or 'none'}"
    )
