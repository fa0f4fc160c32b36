"""Reads what the package `datasets` reads: its own folders, parquet files, folders of pictures, the Hub."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dct_augment.config import DatasetOnDisk, FolderDataset, HuggingFaceDataset
from dct_augment.datasets import class_labels, folder, image_files, split_words
from dct_augment.datasets.class_labels import LabelColumn, NumberedLabels, about, shortened
from dct_augment.datasets.indexed import IndexedImages
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError, UnreadableImageError
from dct_augment.reading import ImageReader
from dct_augment.records import Example
from dct_augment.wording import agreeing, in_one_line

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DATA_ENDINGS = frozenset({".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".zip", ".tar", ".gz", ".h5"})
_NUMBERED_FILE = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\..+)")


def load(settings: HuggingFaceDataset) -> ImageDataset:
    """Index the rows; no picture is decoded. Splits that are missing are held out of train.

    Raises:
        DatasetError: the package `datasets` or the data are missing, or a column is not there or of another kind.
    """
    if _holds_class_folders_alone(settings.path.expanduser()):
        return folder.load(_as_folder(settings))
    where = f"dataset.path {str(settings.path)!r}"
    notes: list[str] = []
    with about(where):
        tables = _tables(_stored(settings), notes)
        for split, table in tables.items():
            _require_columns(table, split, settings)
        numbered = _labels(tables, settings.label_column)
    reader = image_reader(settings)
    splits = {}
    for split in numbered.labels:
        rows = numbered.labelled(split)
        pictures = _Pictures(tables[split], settings.image_column, settings.path.expanduser(), reader)
        splits[split] = TableImages(pictures, split, rows, numbered.labels[split][rows])
    classes = class_infos([str(name) for name in numbered.names], settings.words)
    name = settings.title or settings.path.expanduser().resolve().name
    return complete(name, classes, splits, settings, [*notes, *numbered.notes])


def _holds_class_folders_alone(root: Path) -> bool:
    """Tell whether a folder is an imagefolder without metadata: pictures in class folders, and no other data."""
    card = root / "README.md"
    if not root.is_dir() or (card.is_file() and card.read_text(encoding="utf-8", errors="replace").startswith("---")):
        return False
    folders = [root / name for name in image_files.folder_names(root)]
    for place in (root, *folders):
        with os.scandir(place) as entries:
            if any(os.path.splitext(entry.name)[1].lower() in _DATA_ENDINGS for entry in entries):
                return False
    inner = (outer / name for outer in folders for name in image_files.folder_names(outer))
    return any(map(folder.holds_pictures, chain(folders, inner)))


def _as_folder(settings: HuggingFaceDataset) -> FolderDataset:
    """Give the settings by which an imagefolder is read.

    Class names are sorted as `datasets` does. Its rules for splits are not taken: by them, a class folder called
    `train` makes all others disappear, and `Testing/` is trained on.

    Raises:
        DatasetError: columns are named that an imagefolder has not, or a subset or revision.
    """
    _refuse_without_effect(settings, "subset", "revision", what="a folder of pictures")
    for setting, only in (("image_column", "image"), ("label_column", "label")):
        if getattr(settings, setting) != only:
            raise DatasetError(
                f"dataset.{setting} {getattr(settings, setting)!r}: {str(settings.path)!r} is a folder of pictures, "
                f"which has the columns image and label"
            )
    common = {key: getattr(settings, key) for key in DatasetOnDisk.model_fields}
    return FolderDataset(**common | {"name": "folder", "title": settings.title, "class_order": "alphabetical"})


def _refuse_without_effect(settings: HuggingFaceDataset, *names: str, what: str) -> None:
    """Raise DatasetError for settings that say which of several data sets to read, where there is one."""
    for name in names:
        if (value := getattr(settings, name)) is not None:
            raise DatasetError(
                f"dataset.{name} {value!r} has no effect: {str(settings.path)!r} is {what}; leave it out, or give the "
                "path of another folder"
            )


class TableImages(IndexedImages):
    """The labelled pictures of one split's table, some rows of it."""

    def __init__(self, pictures: "_Pictures", split: str, rows: np.ndarray, labels: np.ndarray) -> None:
        super().__init__(labels)
        self.pictures, self.split, self.rows = pictures, split, rows

    def keys(self) -> Iterator[str]:
        """Yield the key of every row: `train/0000012`."""
        return (f"{self.split}/{row:07d}" for row in self.rows)

    def files(self) -> Iterator[Path | None]:
        """Yield the file of every image: its own where a row names one, that of the table otherwise."""
        return (self.pictures.file(path) for path in self.pictures.paths(self.rows))

    def example(self, row: int) -> Example:
        """Make the example of a row."""
        number = int(self.rows[row])
        return Example(f"{self.split}/{number:07d}", int(self.labels[row]), partial(self.pictures.open, number))

    def take(self, rows: np.ndarray) -> "TableImages":
        """Take some rows, in their order."""
        return TableImages(self.pictures, self.split, self.rows[rows], self.labels[rows])


class _Pictures:
    """The column of pictures of a table, not decoded."""

    def __init__(self, table: Any, column: str, root: Path, reader: ImageReader) -> None:
        import datasets

        table = table.select_columns([column]).with_format(None)
        feature = table.features[column]
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self._table, self._column, self._root, self._reader = table, column, root, reader
        self._dtype = _dtype_of(feature)
        # A table is written anew as a whole, so its first file stands for all.
        self._file = next((Path(file["filename"]) for file in table.cache_files), None)

    def paths(self, rows: np.ndarray) -> Iterator[str | None]:
        """Yield the path that each of some rows names; None for one that holds its picture."""
        column = _chunked(self._table.with_format("arrow")[:][self._column])
        if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
            return iter([None] * len(rows))
        stored, paths = pc.struct_field(column, "bytes"), pc.struct_field(column, "path")
        is_stored = pc.is_valid(stored).to_numpy()[rows]
        named = paths.take(pa.array(rows)).to_pylist()
        return (None if stored else path for path, stored in zip(named, is_stored, strict=True))

    def file(self, path: str | None) -> Path | None:
        """Give the file that a row names; that of the table if it names none."""
        return self._file if path is None else self._root / path

    def open(self, row: int) -> Image.Image:
        """Read the picture of a row.

        Raises:
            UnreadableImageError: there is none, or it cannot be read.
        """
        try:
            value = self._table[row][self._column]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableImageError(f"its row cannot be read: {' '.join(str(error).split())}") from error
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return self._reader.read(value)
        if isinstance(value, str):
            return self._reader.read(self._root / value)
        if value is None:
            raise UnreadableImageError("its row has no picture")
        try:
            array = np.asarray(value, dtype=self._dtype)
        except (ValueError, TypeError) as error:
            raise UnreadableImageError(f"its row holds {type(value).__name__}, no picture") from error
        return self._reader.convert_array(array)


def _dtype_of(feature: Any) -> str | None:
    """Find the kind of numbers of a column of arrays; None if it is no such column."""
    while not isinstance(getattr(feature, "dtype", None), str) or feature.dtype in ("list", "large_list"):
        inner = getattr(feature, "feature", None) if not isinstance(feature, list) else feature[0]
        if inner is None:
            return None
        feature = inner
    return feature.dtype if re.fullmatch(r"(u?int|float)\d+|bool", feature.dtype) else None


def _stored(settings: HuggingFaceDataset) -> Any:
    """Open the data, as one table or as a table for each split."""
    try:
        import datasets
    except ImportError as error:
        raise DatasetError(
            "dataset.name huggingface needs the package datasets: pip install 'dct-augment[huggingface]'"
        ) from error
    root = settings.path.expanduser()
    try:
        if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
            _refuse_without_effect(settings, "subset", "revision", what="a folder that save_to_disk wrote")
            return datasets.load_from_disk(str(root))
        if root.is_dir():
            _refuse_without_effect(settings, "revision", what="a folder on this machine")
            return _load_folder(root, settings.subset)
        if root.exists() or not _HUB_ID.fullmatch(str(settings.path)):
            raise DatasetError("it is no folder, and no data set of the Hub, which is called user/name")
        return _load_from_hub(settings)
    except DatasetError:
        raise
    except Exception as error:  # of the package, of the Hub, of Arrow: each has its own
        reason = ": ".join(dict.fromkeys(map(_words, _chain(error))))
        hint = "; choose one: dataset.subset" if "onfig name is missing" in reason else ""
        raise DatasetError(f"it cannot be read: {reason}{hint}") from error


def _chain(error: BaseException) -> list[BaseException]:
    """List an error and what it was raised from: the package says only that an error occurred."""
    return [error, *(_chain(error.__cause__) if error.__cause__ else [])]


def _words(error: BaseException) -> str:
    """Say an error in words, where it has only a number or a key."""
    if isinstance(error, KeyError):
        return f"a file of it lacks {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {str(error.filename)!r}"
    return in_one_line(error)


def _load_folder(root: Path, subset: str | None) -> Any:
    """Load a folder of parquet files, pictures or others that `datasets` knows, as the Hub has them."""
    import datasets

    _refuse_missing_files(root)
    return datasets.load_dataset(str(root), name=subset)


def _refuse_missing_files(root: Path) -> None:
    """Raise DatasetError if of `train-00000-of-00003.parquet` and so on one is missing: a download was stopped."""
    files: dict[tuple[str, int, str], set[int]] = {}
    for path in root.rglob("*-of-*"):
        if match := _NUMBERED_FILE.fullmatch(path.relative_to(root).as_posix()):
            begin, number, count, ending = match.groups()
            files.setdefault((begin, int(count), ending), set()).add(int(number))
    missing = [
        f"{begin}-{number:05d}-of-{count:05d}{ending}"
        for (begin, count, ending), numbers in sorted(files.items())
        for number in sorted(set(range(count)) - numbers)
    ]
    if missing:
        raise DatasetError(
            f"{len(missing)} of its files {agreeing(len(missing), 'is')} missing: {shortened(missing)}; download again"
        )


def _load_from_hub(settings: HuggingFaceDataset) -> Any:
    """Load a data set of the Hub: the revision asked for, or what lies in the caches if the Hub is out of reach."""
    import datasets
    from huggingface_hub import constants

    name = str(settings.path)
    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set"
    else:
        commit, reason = _commit(name, settings.revision)
        if commit:
            return datasets.load_dataset(name, name=settings.subset, revision=commit)
    if settings.revision is None and _prepared(name):
        return datasets.load_dataset(name, name=settings.subset)
    if snapshot := _snapshot(name, settings.revision):
        return _load_folder(snapshot, settings.subset)
    revision = f" of revision {settings.revision}" if settings.revision else ""
    raise DatasetError(
        f"it is no folder; as a data set of the Hub, nothing{revision} is in the cache, and {reason}. Load it once "
        "with a network, or download it elsewhere and set dataset.path to its folder"
    )


def _commit(name: str, revision: str | None) -> tuple[str, str]:
    """Ask the Hub for the commit of a revision; without an answer, say why there is none.

    Raises:
        HfHubHTTPError: the Hub answers that there is no such data set or revision, or that it needs permission.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().dataset_info(name, revision=revision, timeout=30).sha), ""
    except HfHubHTTPError:
        raise
    except Exception as error:  # of the network, of whichever library the Hub's package uses
        return "", f"the Hub cannot be reached ({type(error).__name__})"


def needs_download(settings: HuggingFaceDataset) -> bool:
    """Tell whether a data set of the Hub is not on this machine yet. Nothing is downloaded to find out."""
    if settings.path.expanduser().exists() or not _HUB_ID.fullmatch(str(settings.path)):
        return False
    return not _prepared(str(settings.path)) and _snapshot(str(settings.path), settings.revision) is None


def _prepared(name: str) -> bool:
    """Tell whether `datasets` has prepared a data set of the Hub before, in its own cache."""
    try:
        from datasets import config
        from datasets.naming import camelcase_to_snakecase
    except ImportError:
        return False
    user, _, short_name = name.partition("/")
    folder = Path(config.HF_DATASETS_CACHE) / f"{user}___{camelcase_to_snakecase(short_name)}"
    return any(folder.glob("*/*/*/dataset_info.json"))


def _snapshot(name: str, revision: str | None) -> Path | None:
    """Find the files of a data set in the Hub's cache; None if they are not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None


def _tables(stored: Any, notes: list[str]) -> dict[str, Any]:
    """Give the table of each split; data without splits are all `train`.

    Raises:
        DatasetError: there is no training split.
    """
    import datasets

    if not isinstance(stored, datasets.DatasetDict):
        return {"train": stored}
    groups = split_words.group_by_split(stored, "it")
    notes += split_words.merged_notes(groups, "splits")
    others = [name for name in stored if split_words.split_of(name) is None]
    if not groups and len(others) == 1:
        notes.append(f"{others[0]!r}, the only split, is read as the training split")
        return {"train": stored[others[0]]}
    if "train" not in groups:
        raise DatasetError(f"it has no split train; it has {', '.join(stored)}")
    if others:
        notes.append(f"splits of other names are left out: {shortened(others)}")
    tables = {}
    for split, members in groups.items():
        parts = [stored[name] for name in members]
        tables[split] = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
        if not len(tables[split]) and split != "train":
            del tables[split]
            notes.append(f"split {split} has no rows and is left out")
    return tables


def _require_columns(table: Any, split: str, settings: HuggingFaceDataset) -> None:
    """Raise DatasetError if a split's table lacks the column of pictures or of labels."""
    for setting in ("image_column", "label_column"):
        column = getattr(settings, setting)
        if column not in table.column_names:
            raise DatasetError(
                f"split {split} has no column {column!r}; it has {', '.join(table.column_names)}. Name it: "
                f"dataset.{setting}"
            )


def _labels(tables: Mapping[str, Any], column: str) -> NumberedLabels:
    """Match the labels of all splits by name: each may have its own numbers for the classes, or none.

    Raises:
        DatasetError: rows with several labels, or with numbers that have no name.
    """
    names = {split: _names_of(table.features[column]) for split, table in tables.items()}
    named = [list(map(str, split_names)) for split_names in names.values() if split_names]
    columns = {}
    for split, table in tables.items():
        stored = table.select_columns([column]).with_format("arrow")[:][column]
        with about(f"split {split}, column {column!r}"):
            values = class_labels.read_column(_chunked(stored))
            columns[split] = _with_names(values, names[split] or (named[0] if named else None))
    order = list(dict.fromkeys(name for split_names in named for name in split_names))
    complete_order = order and all(value in {*order, str(class_labels.HIDDEN)} for value in _values(columns))
    return class_labels.number(columns, order if complete_order else None)


def _names_of(feature: Any) -> list[str] | None:
    """Find the class names of a column, also of one that holds lists of labels."""
    while inner := getattr(feature, "feature", None):
        feature = inner
    return getattr(feature, "names", None)


def _values(columns: Mapping[str, LabelColumn]) -> Iterator[class_labels.Label]:
    return (value for column in columns.values() for value in column.values)


def _chunked(column: Any) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _with_names(column: LabelColumn, names: Sequence[str] | None) -> LabelColumn:
    """Replace the numbers of classes by their names, where there are names."""
    if names is None:
        return column.as_text()
    values: list[class_labels.Label] = []
    for value in column.values:
        if isinstance(value, str) or value == class_labels.HIDDEN:
            values.append(str(value))
        elif 0 <= value < len(names):
            values.append(str(names[value]))
        else:
            raise DatasetError(f"the label {value} has no name; there are names for 0 to {len(names) - 1}")
    return LabelColumn(column.places, values)
