"""The parquet beside the tar of a shard: a row per image, and what made them. It is the mark that a shard is done."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dct_augment import tables
from dct_augment.config import fingerprint
from dct_augment.errors import ShardError
from dct_augment.records import GeneratedImage
from dct_augment.tars import Span
from dct_augment.wording import reason_of

NOT_STORED = Span(-1, -1)
"""Where an image lies that is in no tar: it failed, or an older version wrote its row."""

DEFAULTS: Mapping[str, Any] = {
    "start_key": "",
    "strength": 1.0,
    "token_noise": 0.0,
    "content": "",
    "offset": NOT_STORED.offset,
    "bytes": NOT_STORED.size,
}
"""What columns hold that older versions did not write."""

_RENAMED = {"source": "kind"}  # its name in version 0.1.0
_KEY = b"dct_augment"


@dataclass(frozen=True)
class StoredRows:
    """The rows of a shard, and what its parquet says of itself."""

    metadata: Mapping[str, Any]
    table: pa.Table


def record(image: GeneratedImage) -> dict[str, Any]:
    """Give the row of one image, without what its file decides: `content`, `offset` and `bytes`."""
    row = image.row
    return {
        "key": row.key,
        "class_index": row.class_index,
        "class_name": row.class_name,
        "number": row.number,
        "prompt": row.prompt,
        "seed": row.seed,
        "kind": str(row.kind),
        "token_sha256": row.token_sha256,
        "start_key": row.start_key,
        "strength": row.strength,
        "token_noise": row.token_noise,
        "status": image.status,
        "error": image.error,
        "guide_label": image.guide_label,
        "guide_right": image.guide_right,
        "guide_confidence": round(image.guide_confidence, 4),
        "judge_label": image.judge_label,
        "judge_right": image.judge_right,
        "judge_confidence": round(image.judge_confidence, 4),
    }


def write(path: Path, records: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
    """Write rows and metadata, with a hash of both, and one of the file."""
    table = pa.Table.from_pandas(pd.DataFrame(list(records)), preserve_index=False)
    signed = {**metadata, "sha256": fingerprint(metadata, table.to_pylist())}
    table = table.replace_schema_metadata({_KEY: json.dumps(signed, sort_keys=True).encode()})
    tables.write(path, table)


def read(path: Path) -> StoredRows | None:
    """Read a parquet; None unless all of it is intact."""
    if not tables.is_intact(path):
        return None
    try:
        with pq.ParquetFile(path) as parquet:
            table, metadata = parquet.read(), _metadata(parquet.schema_arrow)  # the table has a second copy of it
        digest = metadata.pop("sha256")
        return StoredRows(metadata, table) if digest == fingerprint(metadata, table.to_pylist()) else None
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, RecursionError):
        return None


def check(path: Path, shard: str) -> dict[str, Any] | None:
    """Say what an intact parquet of a shard says of its tar: `tar_sha256`, `tar_bytes`, and its number of `images`.

    None if it is not intact, or of another shard. `tar_bytes` is None if an older version wrote it, whose rows do not
    say where images lie.
    """
    stored = read(path)
    if stored is None or stored.metadata.get("shard", shard) != shard:
        return None
    found = {key: stored.metadata.get(key) for key in ("tar_sha256", "tar_bytes")}
    return {**found, "images": stored.table["status"].to_pylist().count("ok")}


def read_metadata(path: Path) -> Mapping[str, Any]:
    """Read what a parquet that is known to be intact says of itself.

    Raises:
        ShardError: it is damaged all the same: it changed, and its times did not.
    """
    with _told(path):
        metadata = _metadata(pq.read_schema(path))
        del metadata["sha256"]
        return metadata


def read_columns(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a parquet that is known to be intact, all if None, by their names of today.

    Those that it lacks are filled with `DEFAULTS`.

    Raises:
        ShardError: it is damaged all the same: it changed, and its times did not.
    """
    with _told(path), pq.ParquetFile(path) as parquet:
        there = parquet.schema_arrow.names
        old_names = {new: old for old, new in _RENAMED.items() if old in there}
        wanted = columns or [*(_RENAMED.get(name, name) for name in there), *(n for n in DEFAULTS if n not in there)]
        table = parquet.read([name for name in (old_names.get(name, name) for name in wanted) if name in there])
        table = table.rename_columns([_RENAMED.get(name, name) for name in table.column_names])
        for name in wanted:
            if name not in table.column_names:
                table = table.append_column(name, pa.array([DEFAULTS[name]] * len(table)))
        return table.select(list(wanted)).replace_schema_metadata(None)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what reading a damaged parquet raises into a ShardError."""
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ShardError(f"{path} cannot be read: {reason_of(error)}. Delete it to make the shard again") from error


def _metadata(schema: pa.Schema) -> dict[str, Any]:
    return dict(json.loads((schema.metadata or {})[_KEY]))
