"""Parquet tables that notice damage: each page has a checksum, which is compared when it is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dct_augment import files

if TYPE_CHECKING:
    import pandas as pd

DAMAGED = (OSError, pa.ArrowException, ValueError, TypeError, KeyError)
"""What reading a damaged table raises."""


def write(path: Path, table: "pa.Table | pd.DataFrame", **options: Any) -> None:
    """Write a table, whole or not at all; `options` are pyarrow's."""
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    with files.atomic(path) as partial:
        pq.write_table(table, partial, write_page_checksum=True, **options)


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Read a table, or these columns of it; None if it is not there, or is damaged."""
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as stored:
            table = stored.read(columns=None if columns is None else list(columns))
    except DAMAGED:
        return None
    if columns is None:
        return table
    return table.select(list(columns)) if set(columns) <= set(table.column_names) else None
