"""Parquet tables that notice damage: each holds the hash of its file, which is compared when it is read.

The name of the file is in the hash, so that one table cannot stand for another. Older versions left the name out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dct_augment import files

if TYPE_CHECKING:
    import pandas as pd

DAMAGED = (OSError, pa.ArrowException, ValueError, TypeError, KeyError, RecursionError)
"""What reading a damaged table raises."""

_KEY = b"dct_augment.sha256"
_HAS_HASH = b"dct_augment.has_sha256"
"""A second key, so that one of the two is there after damage: tables of older versions have neither."""
_UNSET = b"0" * 64
"""Stands in the file for its hash while that is taken."""


def write(path: Path, table: "pa.Table | pd.DataFrame", **options: Any) -> None:
    """Write a table, whole or not at all; `options` are pyarrow's."""
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    with files.atomic(path) as partial:
        with pq.ParquetWriter(partial, table.schema, write_page_checksum=True, **options) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({_HAS_HASH.decode(): "yes", _KEY.decode(): _UNSET.decode()})
        data = partial.read_bytes()
        place = _place_of_hash(data)
        partial.write_bytes(data[:place] + _hash(data, path.name).encode() + data[place + len(_UNSET) :])


def is_intact(path: Path) -> bool:
    """Tell whether a file is a table, and what was written; one of an older version has no hash, only checksums."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        return False
    try:
        data = path.read_bytes()
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as stored:
            metadata = stored.metadata.metadata or {}
            if _KEY not in metadata:
                stored.read()
                return _KEY not in data and _HAS_HASH not in data
    except DAMAGED:
        return False
    place = _place_of_hash(data)
    unsigned = data[:place] + _UNSET + data[place + len(_UNSET) :]
    return metadata[_KEY].decode(errors="replace") in (_hash(unsigned, path.name), _hash(unsigned))


def has_hash(path: Path) -> bool:
    """Tell whether a table holds the hash of its file: those of older versions do not."""
    if not path.is_file():
        return False
    try:
        return _KEY in (pq.read_metadata(path).metadata or {})
    except DAMAGED:
        return False


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Read a table, or these columns of it; None if it is not there, or is damaged."""
    if not path.is_file() or not is_intact(path):
        return None
    try:
        with pq.ParquetFile(path) as stored:
            table = stored.read(columns=None if columns is None else list(columns))
    except DAMAGED:
        return None
    table = table.replace_schema_metadata(_own_metadata(table.schema.metadata))
    if columns is None:
        return table
    return table.select(list(columns)) if set(columns) <= set(table.column_names) else None


def _own_metadata(metadata: Mapping[bytes, bytes] | None) -> dict[bytes, bytes]:
    """Leave out what `write` adds, so that a table that is read and written is the same."""
    return {key: value for key, value in (metadata or {}).items() if key not in (_KEY, _HAS_HASH)}


def _place_of_hash(data: bytes) -> int:
    """Find where the hash is: behind its key, and what thrift writes between the two."""
    key = data.rindex(_KEY)
    between = 2  # the kind of the field, and the length of the text
    return key + len(_KEY) + between


def _hash(data: bytes, name: str = "") -> str:
    return hashlib.sha256(data + name.encode()).hexdigest()
