"""The row of an exported image: which columns there are, and of which type, in every format."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

COLUMNS: Mapping[str, pa.DataType] = {
    "key": pa.string(),
    "label": pa.int64(),
    "class_name": pa.string(),
    "run": pa.string(),
    "class_index": pa.int64(),
    "number": pa.int64(),
    "prompt": pa.string(),
    "seed": pa.int64(),
    "token_sha256": pa.string(),
    "start_key": pa.string(),
    "strength": pa.float64(),
    "token_noise": pa.float64(),
    "guide_label": pa.string(),
    "guide_right": pa.bool_(),
    "guide_confidence": pa.float64(),
    "judge_label": pa.string(),
    "judge_right": pa.bool_(),
    "judge_confidence": pa.float64(),
}
"""`label` counts the exported classes; `class_index` is the label in the data set of the run."""

SPLIT = "train"
"""The split of all that is exported: these images are for training."""

_FROM_THE_SHARD = (
    "class_index",
    "number",
    "prompt",
    "seed",
    "token_sha256",
    "start_key",
    "strength",
    "token_noise",
    "guide_label",
    "guide_right",
    "guide_confidence",
    "judge_label",
    "judge_right",
    "judge_confidence",
)


@dataclass(frozen=True)
class ExportClass:
    """A class of an export: its label, its name, and the name of its folder. Each is unique in the export."""

    label: int
    name: str
    folder: str


@dataclass(frozen=True)
class ExportImage:
    """One image on its way out: the bytes of its file as they lie in the shard, and its row."""

    ending: str
    data: bytes
    target: ExportClass
    row: Mapping[str, Any]

    @property
    def file_name(self) -> str:
        """The name of the image's file."""
        return f"{self.row['key']}.{self.ending}"


Images = Iterator[ExportImage]


def make_row(key: str, run: str, target: ExportClass, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Make the row of an exported image from the one in its shard; a value that is not known is None."""
    row = {"key": key, "label": target.label, "class_name": target.name, "run": run}
    row |= {name: _known(stored.get(name)) for name in _FROM_THE_SHARD}
    return {name: row[name] for name in COLUMNS}


def kind_of(stored: Mapping[str, Any]) -> str:
    """Tell how an image was prompted; version 0.1.0 called the column `source`."""
    return str(stored.get("kind") or stored.get("source") or "")


def _known(value: Any) -> Any:
    """Turn NaN into None."""
    return None if isinstance(value, float) and math.isnan(value) else value
