"""Reads a table of pictures: CSV, TSV, JSON lines or parquet, with a path, a label and maybe a split in each row."""

import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dct_augment.config import ManifestDataset
from dct_augment.datasets import class_labels, split_words
from dct_augment.datasets.class_labels import LabelColumn, about, shortened
from dct_augment.datasets.image_files import ImageFiles
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.wording import agreeing, counted, counted_of, reason_of, why_no_json

_CHUNK = 50_000  # rows that are Python objects at once


@dataclass(frozen=True)
class _Columns:
    """What a table says: the path, the label and, if there is such a column, the split of each row."""

    paths: pa.ChunkedArray
    labels: LabelColumn
    splits: pa.ChunkedArray | None


def load(settings: ManifestDataset) -> ImageDataset:
    """Index the rows of the table. Labels are sorted naturally; splits that it lacks are held out of train.

    Raises:
        DatasetError: the table or a column is missing or damaged, a picture has several labels or lies in two splits,
            or none of the pictures is there.
    """
    file = settings.path.expanduser()
    roots = _roots(settings, file)
    with about(repr(str(file))):
        columns = _read(file, settings)
        if not len(columns.paths):
            raise DatasetError("the table has no rows")
        notes: list[str] = []
        paths = _existing_paths(columns.paths, roots, notes)
        splits, split_names = _splits(columns.splits, len(paths), notes)
        rows = _distinct_rows(paths, columns.labels, splits, notes)
        groups = {split: rows[splits[rows] == place] for place, split in enumerate(split_names)}
        text = columns.labels.as_text()
        groups = {split: chosen for split, chosen in groups.items() if len(chosen)}
        if "train" not in groups:
            raise DatasetError(f"no row is of the split train; there are {', '.join(groups)}")
        numbered = class_labels.number(
            {split: LabelColumn(text.places[chosen], text.values) for split, chosen in groups.items()}
        )
    reader = image_reader(settings)
    examples = {}
    for split, values in numbered.labels.items():
        kept = numbered.labelled(split)
        chosen = paths.take(pa.array(groups[split][kept]))
        examples[split] = ImageFiles(roots[0], chosen, values[kept], reader, more_roots=roots[1:])
    names = [str(name) for name in numbered.names]
    classes = class_infos(names, settings.words)
    name = settings.title or file.name.partition(".")[0]
    return complete(name, classes, examples, settings, [*notes, *numbered.notes])


def _roots(settings: ManifestDataset, file: Path) -> tuple[Path, ...]:
    """Give the folders in which pictures are looked for."""
    if settings.root is None:
        return (file.parent,)
    roots = settings.root if isinstance(settings.root, tuple) else (settings.root,)
    folders = tuple(root.expanduser() for root in roots)
    if not folders:
        raise DatasetError("dataset.root names no folder; name one, or leave it out")
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise DatasetError(f"dataset.root: {', '.join(map(repr, missing))} does not exist or is no folder")
    return folders


def _read(file: Path, settings: ManifestDataset) -> _Columns:
    """Read the columns that count, by the ending of the file."""
    if not file.is_file():
        raise DatasetError("dataset.path does not exist or is no file; a manifest is a .csv, .tsv, .jsonl or .parquet")
    ending = "".join(Path(file.name.lower().removesuffix(".gz")).suffixes[-1:])
    readers: Mapping[str, Callable[[Path, ManifestDataset], _Columns]] = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".parquet": _read_parquet,
    }
    if ending not in readers:
        raise DatasetError(f"tables end in {', '.join(readers)}, not in {ending or 'nothing'}")
    try:
        return readers[ending](file, settings)
    except (pa.ArrowException, OSError, UnicodeError, EOFError, csv.Error, zlib.error) as error:
        no_text = "it holds what is no text in UTF-8"
        reason = no_text if isinstance(error, UnicodeError) else " ".join(reason_of(error).split())
        raise DatasetError(f"it cannot be read: {reason}") from error


def _open_text(file: Path) -> TextIO:
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")


def _read_csv(file: Path, settings: ManifestDataset) -> _Columns:
    with _open_text(file) as stream:
        header = stream.readline()
    delimiter, names = _delimiter(header, settings, "\t" if ".tsv" in file.name.lower() else ",")
    wanted = _wanted(names, settings)
    table = pyarrow.csv.read_csv(
        file,
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        ),
    )
    return _columns(table, settings, text=True)


def _delimiter(header: str, settings: ManifestDataset, usual: str) -> tuple[str, list[str]]:
    """Find what separates the columns: the usual sign, or another if only that gives the column of paths."""
    for delimiter in (usual, ",", ";", "\t"):
        names = next(csv.reader([header], delimiter=delimiter), [])
        if settings.path_column in names:
            return delimiter, names
    return usual, next(csv.reader([header], delimiter=usual), [])


def _wanted(names: Sequence[str], settings: ManifestDataset) -> list[str]:
    """List the columns to read.

    Raises:
        DatasetError: the table has no column of paths, or none of labels.
    """
    for setting in ("path_column", "label_column"):
        column = getattr(settings, setting)
        if column not in names:
            raise DatasetError(
                f"there is no column {column!r}; there are {', '.join(names) or 'none'}. Name it: dataset.{setting}"
            )
        if list(names).count(column) > 1:
            raise DatasetError(f"there are {list(names).count(column)} columns {column!r}; rename all but one")
    if settings.split_column not in names:
        _refuse_missing_splits(names, settings)
        return [settings.path_column, settings.label_column]
    return [settings.path_column, settings.label_column, settings.split_column]


def _refuse_missing_splits(names: Sequence[str], settings: ManifestDataset) -> None:
    """Raise DatasetError if the user names a column of splits that is not there: the test would be trained on."""
    if settings.split_column != ManifestDataset.model_fields["split_column"].default:
        raise DatasetError(
            f"there is no column {settings.split_column!r}; there are {', '.join(names) or 'none'}. Name that of the "
            "splits, or leave it out: dataset.split_column"
        )


def _read_parquet(file: Path, settings: ManifestDataset) -> _Columns:
    with pq.ParquetFile(file) as parquet:
        table = parquet.read(columns=_wanted(parquet.schema_arrow.names, settings))
    return _columns(table, settings, text=False)


def _columns(table: pa.Table, settings: ManifestDataset, *, text: bool) -> _Columns:
    paths = table[settings.path_column]
    if not (pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)):
        raise DatasetError(f"column {settings.path_column!r} holds {paths.type}, not paths")
    splits = table[settings.split_column] if settings.split_column in table.column_names else None
    with about(f"column {settings.label_column!r}"):
        labels = class_labels.read_column(table[settings.label_column], text=text)
    return _Columns(paths, labels, splits.cast(pa.string()) if splits is not None else None)


def _read_json_lines(file: Path, settings: ManifestDataset) -> _Columns:
    paths, splits, places = [], [], []
    names: dict[str, None] = {}
    labels: dict[class_labels.Label, int] = {}
    with _open_text(file) as stream:
        rows = _json_rows(stream, settings, names)
        while chunk := list(islice(rows, _CHUNK)):
            paths.append(pa.array([path for path, _, _ in chunk], pa.large_string()))
            splits.append(pa.array([split for _, _, split in chunk], pa.large_string()))
            for _, label, _ in chunk:
                places.append(class_labels.UNLABELLED if label is None else labels.setdefault(label, len(labels)))
    if paths and settings.split_column not in names:
        _refuse_missing_splits(list(names), settings)
    split_column = pa.chunked_array(splits, pa.large_string())
    return _Columns(
        pa.chunked_array(paths, pa.large_string()),
        LabelColumn(np.array(places, np.int32), list(labels)),
        None if split_column.null_count == len(split_column) else split_column,
    )


def _json_rows(
    stream: TextIO, settings: ManifestDataset, names: dict[str, None]
) -> Iterator[tuple[str, class_labels.Label | None, str | None]]:
    """Yield path, label and split of each line; `names` gets all keys that there are."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        with about(f"line {number}"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(why_no_json(error)) from error
            if not isinstance(row, dict):
                raise DatasetError("it is no JSON object; a line is one, {...}")
            if not names:  # a row may lack its split, but the first one has all others
                _wanted([*row, settings.split_column], settings)
            names.update(dict.fromkeys(row))
            path, split = row.get(settings.path_column), row.get(settings.split_column)
            if not isinstance(path, str):
                raise DatasetError(f"{settings.path_column!r} is {path!r}, not a path")
            yield path, class_labels.label_of(row.get(settings.label_column)), None if split is None else str(split)


def _existing_paths(paths: pa.ChunkedArray, roots: Sequence[Path], notes: list[str]) -> pa.Array:
    """Write every path in one way, and look for its file.

    Raises:
        DatasetError: a row has no path, or no file is there.
    """
    written: list[pa.Array] = []
    missing: list[str] = []
    missing_count = 0
    prefixes = [os.path.join(root, "") for root in roots]
    for begin in range(0, len(paths), _CHUNK):
        chunk = [_written_path(path, prefixes) for path in paths.slice(begin, _CHUNK).to_pylist()]
        absent = [path for path, exists in chunk if not exists]
        missing_count += len(absent)
        missing += absent[: 10 - len(missing)]
        written.append(pa.array([path for path, _ in chunk], pa.large_string()))
    if missing_count == len(paths):
        web = " They are web addresses: download the pictures first." if "://" in paths[0].as_py() else ""
        raise DatasetError(
            f"no picture of it ({len(paths):,}) is in {' or '.join(repr(str(root)) for root in roots)}, the first is "
            f"{missing[0]!r}.{web} Set dataset.root to the folder that the paths begin in"
        )
    if missing_count:
        files_are = counted_of(missing_count, len(paths), "file of the table", "is")
        notes.append(f"{files_are} missing: {shortened(missing, 10)}")
    return pa.concat_arrays(written)


def _written_path(path: str | None, prefixes: Sequence[str]) -> tuple[str, bool]:
    """Write a path as this system does, and tell whether its file exists."""
    if not path or not path.strip():
        raise DatasetError("a row has no path")
    if "\0" in path:
        return path, False
    normal = os.path.normpath(path)
    if _exists(normal, prefixes):
        return normal, True
    if "\\" in path:
        unix = os.path.normpath(path.replace("\\", "/"))
        if _exists(unix, prefixes):
            return unix, True
    return normal, False


def _exists(path: str, prefixes: Sequence[str]) -> bool:
    """Tell whether a root, written with its last slash, has the path. A million are asked for: no objects."""
    if path[0] == "/":
        return os.access(path, os.F_OK)
    return any(os.access(prefix + path, os.F_OK) for prefix in prefixes)


def _splits(column: pa.ChunkedArray | None, count: int, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Give the place of each row's split among the splits that there are; without a column, all is train.

    Raises:
        DatasetError: a row has no split, or one that is no usual word.
    """
    if column is None:
        return np.zeros(count, np.int8), ["train"]
    words = _split_values(column)
    if unknown := [word for word in words if split_words.split_of(word) is None]:
        usual = ", ".join(word for group in split_words.WORDS.values() for word in group)
        raise DatasetError(f"a row's split is {shortened(unknown)}; splits are called {usual}")
    groups = split_words.group_by_split(words, "the column of splits")
    notes += split_words.merged_notes(groups, "the column of splits")
    names = list(groups)
    place_of_word = {word: names.index(split) for split, members in groups.items() for word in members}
    places = pc.index_in(column, pa.array(words, column.type)).to_numpy()
    return np.array([place_of_word[word] for word in words], np.int8)[places], names


def _split_values(column: pa.ChunkedArray) -> list[str]:
    words: list[Any] = column.unique().to_pylist()
    if None in words or any(not word.strip() for word in words):
        raise DatasetError("some rows have no split; give every row one, or leave the column out")
    return words


def _distinct_rows(paths: pa.Array, labels: LabelColumn, splits: np.ndarray, notes: list[str]) -> np.ndarray:
    """Give the first row of every path.

    Raises:
        DatasetError: one path has two labels, or is in two splits.
    """
    encoded = paths.dictionary_encode().indices.to_numpy()
    _, first, inverse = np.unique(encoded, return_index=True, return_inverse=True)
    if len(first) == len(encoded):
        return np.arange(len(encoded))
    for values, what in ((labels.places, "two labels; multi-label data cannot be used"), (splits, "two splits")):
        differing = np.flatnonzero(values[first][inverse] != values)
        if len(differing):
            path = paths[int(differing[0])].as_py()
            rows_name = counted(len(differing), "row", "names")
            raise DatasetError(f"{rows_name} a picture again, with another value: {path!r} has {what}")
    again = len(encoded) - len(first)
    notes.append(f"{counted(again, 'row', 'names')} a picture again and {agreeing(again, 'is')} left out")
    return np.sort(first)
