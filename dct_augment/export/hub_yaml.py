"""What the YAML of a card on the Hub says of the files: which are data, and what is in them."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dct_augment.export.rows import COLUMNS, SPLIT

_TYPES = {pa.string(): "string", pa.int64(): "int64", pa.bool_(): "bool", pa.float64(): "float64"}


def configs(pattern: str) -> dict[str, Any]:
    """Tell readers which files are data; by their names alone they would take a class `test` for a split."""
    return {"configs": [{"config_name": "default", "data_files": [{"split": SPLIT, "path": pattern}]}]}


def features(names: Sequence[str]) -> list[dict[str, Any]]:
    """List the columns of a row; the label's has the names of the classes."""
    return [{"name": name, "dtype": class_label(names) if name == "label" else hub_type(name)} for name in COLUMNS]


def class_label(names: Sequence[str]) -> dict[str, Any]:
    """Describe a label by the names of its classes."""
    return {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}}


def hub_type(column: str) -> str:
    """Give the type of a column of a row as the Hub spells it."""
    return _TYPES[COLUMNS[column]]
