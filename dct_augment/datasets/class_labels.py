"""Turns the labels that a layout stores into class names and class numbers."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types

from dct_augment.errors import DatasetError
from dct_augment.wording import agreeing, counted_of

HIDDEN = -1
"""The label that published data sets give to images whose class they keep secret."""

UNLABELLED = -1
"""Stands for no class in arrays of class numbers."""

MISSING_WORDS = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>"})
"""What is written where there is no label, in lower case: by tables of text, and by pandas in a column of words."""

Label = int | str


def label_of(value: Any) -> Label | None:
    """Return a stored label as a number or a word; None if there is none.

    Raises:
        DatasetError: it is several labels, or of a kind that cannot be a class.
    """
    if isinstance(value, np.ndarray | list | tuple):
        if len(value) > 1:
            raise DatasetError(
                f"a picture has {len(value)} labels ({', '.join(map(str, list(value)[:4]))}); give each picture one: "
                "multi-label data cannot be used"
            )
        return label_of(value[0]) if len(value) else None
    if value is None or (isinstance(value, float | np.floating) and value != value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return None if value.strip().lower() in MISSING_WORDS else value.strip()
    raise DatasetError(f"the label {value!r} is no class: a label is a word or a whole number")


def label_of_text(text: str) -> Label | None:
    """Return a label that was stored as text: a number where it is one, None for an empty one and for `nan`."""
    text = text.strip()
    if text.lower() in MISSING_WORDS:
        return None
    return int(text) if re.fullmatch(r"-?(0|[1-9]\d{0,17})", text) else text


def natural_key(name: str) -> tuple[list[Any], str]:
    """Sort names as people count: `2` before `10`, in any case. timm sorts class folders so, too."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort class names naturally."""
    return sorted(names, key=natural_key)


@dataclass
class LabelColumn:
    """The labels of one split: the distinct ones, and the place of each row's among them, or `UNLABELLED`."""

    places: np.ndarray
    values: list[Label]

    @property
    def missing(self) -> int:
        """Count the rows without a label."""
        return int((self.places == UNLABELLED).sum())

    def as_text(self) -> "LabelColumn":
        """Return the same labels as words."""
        return LabelColumn(self.places, [str(value) for value in self.values])


def read_column(column: pa.ChunkedArray, *, text: bool = False) -> LabelColumn:
    """Read a column of labels. `text` says that it was stored as text, where numbers and gaps are words.

    Raises:
        DatasetError: a row has several labels, or a label is no word and no whole number.
    """
    if pyarrow.types.is_nested(column.type):
        return _from_values(label_of(value) for value in column.to_pylist())
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):  # what combine_chunks gives for no rows, or for very many
        encoded = encoded.combine_chunks() if encoded.num_chunks != 1 else encoded.chunk(0)
    stored = encoded.dictionary.to_pylist()
    labels = [label_of_text(value) if text and isinstance(value, str) else label_of(value) for value in stored]
    distinct = _from_values(labels)
    indices = encoded.indices.fill_null(len(stored)).to_numpy(zero_copy_only=False)
    return LabelColumn(np.append(distinct.places, UNLABELLED)[indices].astype(np.int32), distinct.values)


def _from_values(values: Iterable[Label | None]) -> LabelColumn:
    """Number values by their first appearance."""
    numbers: dict[Label, int] = {}
    places = [UNLABELLED if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return LabelColumn(np.array(places, np.int32), list(numbers))


@dataclass
class NumberedLabels:
    """Class names in label order; the class number of each row of each split, or `UNLABELLED`; remarks."""

    names: list[Label]
    labels: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)

    def labelled(self, split: str) -> np.ndarray:
        """Return the numbers of the rows of a split that have a class."""
        return np.flatnonzero(self.labels[split] != UNLABELLED)


def number(columns: Mapping[str, LabelColumn], order: Sequence[Label] | None = None) -> NumberedLabels:
    """Number the labels of all splits 0, 1, 2 ... in one order, whichever of them there are.

    A split in which all labels are hidden (-1) or missing is left out. So are single rows without a label.

    Args:
        columns: the labels of each split.
        order: the order of classes; natural order if not given. Those that no row has are left out.

    Raises:
        DatasetError: no training image has a label.
    """
    notes: list[str] = []
    kept: dict[str, LabelColumn] = {}
    for split, column in columns.items():
        visible = _without_hidden(column, split, notes)
        if visible is not None:
            kept[split] = visible
    if "train" not in kept:
        raise DatasetError("no training picture has a label: all are missing or -1")
    appearing = {value for column in kept.values() for value in _used(column)}
    names = [value for value in order if value in appearing] if order is not None else _sorted(appearing)
    if order is not None and len(names) < len(order):
        absent = [str(value) for value in order if value not in appearing]
        classes_have = counted_of(len(absent), len(order), "class", "has")
        notes.append(
            f"{classes_have} no picture and {agreeing(len(absent), 'is')} left out "
            f"({shortened(absent)}); the others are numbered 0 to {len(names) - 1} in their order"
        )
    numbers = {value: place for place, value in enumerate(names)}
    labels = {}
    for split, column in kept.items():
        table = np.array([*(numbers.get(value, UNLABELLED) for value in column.values), UNLABELLED], np.int32)
        labels[split] = table[column.places]
    return NumberedLabels(names, labels, notes)


def _without_hidden(column: LabelColumn, split: str, notes: list[str]) -> LabelColumn | None:
    """Take hidden and missing labels out of a split, with a note; None if nothing else is in it."""
    hidden_places = [place for place, value in enumerate(column.values) if value in (HIDDEN, str(HIDDEN))]
    hidden = np.isin(column.places, hidden_places)
    places = np.where(hidden, UNLABELLED, column.places)
    count, total = int((places == UNLABELLED).sum()), len(places)
    if not count:
        return column
    reason = "hidden (-1)" if hidden.any() and not column.missing else "missing"
    if hidden.any() and column.missing:
        reason = "hidden (-1) or missing"
    if count == total:
        notes.append(f"split {split}: {counted_of(count, total, 'label', 'is')} {reason}; the split is left out")
        return None
    pictures_are = counted_of(count, total, "picture", "is")
    notes.append(f"split {split}: {pictures_are} left out because of a label that is {reason}")
    return LabelColumn(places, column.values)


def _used(column: LabelColumn) -> list[Label]:
    """List the labels that a row has."""
    return [column.values[place] for place in np.unique(column.places) if place != UNLABELLED]


def _sorted(values: Iterable[Label]) -> list[Label]:
    """Sort numbers by value and words naturally; numbers come first."""
    values = list(values)
    numbers = sorted(value for value in values if isinstance(value, int))
    return [*numbers, *sort_names(value for value in values if isinstance(value, str))]


def shortened(names: Sequence[str], most: int = 5) -> str:
    """List names for a message, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


@contextmanager
def about(where: str) -> Iterator[None]:
    """Say in every DatasetError raised inside which file or column it is about."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from error
