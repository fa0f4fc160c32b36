"""Reads WebDataset tar shards, our own included; images are read from the tars where they lie."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from PIL import Image

from dct_augment import tars
from dct_augment.config import WebDatasetDataset
from dct_augment.datasets import class_labels, image_files, split_words, unpacked_tars
from dct_augment.datasets.class_labels import (
    Label,
    LabelColumn,
    NumberedLabels,
    about,
    label_of,
    label_of_text,
    shortened,
)
from dct_augment.datasets.indexed import IndexedImages
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError, UnreadableImageError
from dct_augment.reading import SUFFIXES, ImageReader
from dct_augment.records import Example
from dct_augment.tars import Span, TarSample
from dct_augment.wording import agreeing, counted, listed, reason_of, why_no_json

_IMAGES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)
_LABEL_KEYS = ("cls", "label", "class", "class_name", "class_id", "class_index")
_NAME_KEYS = ("class_name", "label_name", "class")
_SEVERAL_NUMBERS = re.compile(r"-?\d+(?:[\s,;|]+-?\d+)+")
_MAX_UNPACKED = 1 << 30  # bytes of one compressed member


def load(settings: WebDatasetDataset) -> ImageDataset:
    """Index the shards. A tar's split is the last word for one in its name, or its folder's; train if there is none.

    Labels are in `.cls` (a number or a word) or in the JSON member; `dataset.label_key` says where else. Names of
    numbers are those of the JSON members (`class_name`, as ours), or of a `classes.txt` beside the tars. The labels
    that there are become 0, 1, 2 ... in their order.

    Raises:
        DatasetError: no shards, a damaged one, several labels for a picture, or labels without names.
    """
    root = settings.path.expanduser()
    image_files.require(root, published="WebDataset shards (*.tar)")
    notes: list[str] = []
    paths = _without_plain_prompts(root, _find_tars(root), notes)
    index = _Index(settings)
    copies = 0
    for path, split in _splits(root, paths, notes):
        with about(repr(str(path))):
            readable = unpacked_tars.unpacked(path)
            index.add(readable, path.relative_to(root).as_posix(), split)
        copies += readable != path
    index.require_training_pictures(root)
    if copies:
        notes.append(
            f"{counted(copies, 'compressed tar', 'is')} read from copies in {str(unpacked_tars.folder())!r}, made once"
        )
    with about(repr(str(root))):
        numbered = class_labels.number({split: rows.label_column() for split, rows in index.rows.items()})
        names = _class_names(root, numbered.names, index.names, notes)
        if names != numbered.names and all(isinstance(label, str) for label in numbered.names):
            numbered = _reordered(numbered, names)
    reader = image_reader(settings)
    splits = {split: _images(index.rows[split], index.tars, numbered, split, reader) for split in numbered.labels}
    classes = class_infos(names, settings.words)
    notes += [*index.notes(), *numbered.notes]
    return complete(settings.title or root.resolve().name, classes, splits, settings, notes)


class TarImages(IndexedImages):
    """Labelled images in tars: where the bytes of each begin, and how many they are."""

    def __init__(self, tar_paths: Sequence[Path], table: pa.Table, labels: np.ndarray, reader: ImageReader) -> None:
        super().__init__(labels)
        self.tars, self.table, self.reader = tar_paths, table, reader

    def keys(self) -> Iterator[str]:
        """Yield the key of every image: `<tar>/<key of the sample>`."""
        return (key.as_py() for key in self.table["key"])

    def files(self) -> Iterator[Path]:
        """Yield the tar of every image."""
        return (self.tars[tar] for tar in self.table["tar"].to_numpy())

    def example(self, row: int) -> Example:
        """Make the example of a row."""
        key, tar, offset, size, compressed = (column[row].as_py() for column in self.table.columns)
        member = _Member(Span(offset, size), compressed)
        return Example(key, int(self.labels[row]), partial(_open, self.reader, self.tars[tar], member))

    def take(self, rows: np.ndarray) -> "TarImages":
        """Take the images of some rows, in their order."""
        table = self.table.take(pa.array(rows)).combine_chunks()
        return TarImages(self.tars, table, self.labels[rows], self.reader)


@dataclass(frozen=True)
class _Member:
    """A member of a tar, compressed by gzip for itself or not."""

    span: Span
    compressed: bool

    def read(self, stream: BinaryIO) -> bytes:
        data = self.span.read(stream)
        if not self.compressed:
            return data
        unpacker = zlib.decompressobj(wbits=31)  # gzip's header
        unpacked = unpacker.decompress(data, _MAX_UNPACKED)
        if not unpacker.eof:
            raise ValueError(f"a compressed member is damaged, or larger than {_MAX_UNPACKED >> 20} MB")
        return unpacked


@dataclass
class _Rows:
    """The images of one split, tar by tar."""

    tables: list[pa.Table] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)
    values: dict[Label, int] = field(default_factory=dict)

    def label_column(self) -> LabelColumn:
        return LabelColumn(np.concatenate(self.places), list(self.values))


class _Index:
    """Collects the images of the tars, and what the classes are called."""

    def __init__(self, settings: WebDatasetDataset) -> None:
        self._settings = settings
        self.tars: list[Path] = []
        self.rows: dict[str, _Rows] = {"train": _Rows()}
        self.names: dict[int, str] = {}
        self._without_picture = 0
        self._cut: list[str] = []
        self._endings: set[str] = set()  # of the samples without a picture

    def add(self, tar: Path, title: str, split: str) -> None:
        """Index the images of a tar.

        Raises:
            DatasetError: it is damaged, or an image has no label or several.
        """
        rows = self.rows.setdefault(split, _Rows())
        keys, places, spans = [], [], []
        try:
            with tar.open("rb") as stream:
                for sample in tars.index(tar):
                    members = _members(sample)
                    image = self._image(sample.key, members)
                    if image is None:
                        self._without_picture += 1
                        self._endings.update(list(members)[:8])
                        continue
                    label = self._label(sample.key, members, stream)
                    keys.append(f"{title}/{sample.key}")
                    places.append(class_labels.UNLABELLED if label is None else _number(rows.values, label))
                    spans.append((image.span.offset, image.span.size, image.compressed))
            rows.tables.append(_table(keys, len(self.tars), spans))
            if not tars.is_complete(tar):
                self._cut.append(title)
        except DatasetError as error:
            if tars.is_complete(tar):
                raise
            raise DatasetError(f"it lacks its end, so it may have been cut; and {error}") from error
        except tars.UNREADABLE_TAR as error:
            raise DatasetError(f"it cannot be read: {reason_of(error)}") from error
        rows.places.append(np.array(places, np.int32))
        self.tars.append(tar)

    def require_training_pictures(self, root: Path) -> None:
        """Check that there is something to read.

        Raises:
            DatasetError: no sample has a picture, or no tar is of the training split.
        """
        if not any(len(places) for rows in self.rows.values() for places in rows.places):
            key = self._settings.image_key
            wanted = f"a picture .{_ending(key)}, which dataset.image_key names" if key else "a picture"
            there = shortened(sorted(self._endings), 8) or "nothing"
            raise DatasetError(
                f"{str(root)!r}: no sample ({self._without_picture:,} read) has {wanted}; there is {there}"
            )
        if not self.rows["train"].places:
            others = " and ".join(split for split, rows in self.rows.items() if rows.places)
            raise DatasetError(
                f"{str(root)!r} has tars of the split {others} but none of train. The split is a word in the name of a "
                "tar: rename those to train on"
            )

    def notes(self) -> list[str]:
        """Say what was left out, and what may be missing."""
        notes = []
        if number := self._without_picture:
            samples_have = counted(number, "sample of the tars", "has")
            notes.append(f"{samples_have} no picture and {agreeing(number, 'is')} left out")
        if number := len(self._cut):
            lack = f"{counted(number, 'tar', 'lacks')} the two empty blocks at the end"
            notes.append(f"{lack}, so pictures may be missing: {listed(list(map(repr, self._cut)), 3)}")
        return notes

    def _image(self, key: str, members: Mapping[str, _Member]) -> _Member | None:
        """Find the picture of a sample: the member whose last ending is a picture's."""
        if self._settings.image_key is not None:
            return members.get(_ending(self._settings.image_key))
        endings = [ending for ending in members if ending.rpartition(".")[2] in _IMAGES]
        plain = [ending for ending in endings if "." not in ending]
        if len(endings) > 1 and len(plain) != 1:
            raise DatasetError(
                f"sample {key!r} has several pictures: {', '.join(endings)}; choose one: dataset.image_key"
            )
        chosen = plain or endings
        return members[chosen[0]] if chosen else None

    def _label(self, key: str, members: Mapping[str, _Member], stream: BinaryIO) -> Label | None:
        """Read the label of a sample, and note what its class is called."""
        with about(f"sample {key!r}"):
            metadata = _metadata(members, stream)
            label_key = self._settings.label_key
            if label_key is None:
                label_key = next((name for name in _LABEL_KEYS if name in members or name in metadata), None)
            ending = _ending(label_key or "")
            if label_key is None or (ending not in members and label_key not in metadata):
                wanted = f"nor {label_key!r}" if label_key else f"nor one of {', '.join(_LABEL_KEYS)}"
                raise DatasetError(
                    f"it has no label: no member .{ending or 'cls'}, {wanted} in its JSON, which has "
                    f"{', '.join(metadata) or 'nothing'}. Name what holds the label: dataset.label_key"
                )
            if ending in members:
                label = _label_of_member(members[ending].read(stream))
            else:
                value = metadata[label_key]
                label = label_of_text(value) if isinstance(value, str) else label_of(value)
            if isinstance(label, int) and label != class_labels.HIDDEN:
                self._note_name(label, metadata)
        return label

    def _note_name(self, label: int, metadata: Mapping[str, Any]) -> None:
        """Remember what a number is called.

        Raises:
            DatasetError: another sample calls it otherwise.
        """
        for name_key in _NAME_KEYS:
            name = metadata.get(name_key)
            if isinstance(name, str) and name:
                if self.names.setdefault(label, name) != name:
                    raise DatasetError(
                        f"label {label} is {name!r} here and {self.names[label]!r} elsewhere; these shards were not "
                        "made with the same classes. Read them apart"
                    )
                return


def _ending(setting: str) -> str:
    """Write an ending that a setting names as those of members are written."""
    return setting.lower().lstrip(".")


def _number(values: dict[Label, int], label: Label) -> int:
    return values.setdefault(label, len(values))


def _table(keys: list[str], tar: int, spans: list[tuple[int, int, bool]]) -> pa.Table:
    """Hold the keys and places of a tar's images in few bytes."""
    columns = {
        "key": pa.array(keys, pa.large_string()),
        "tar": pa.array([tar] * len(keys), pa.int32()),
        "offset": pa.array([offset for offset, _, _ in spans], pa.int64()),
        "size": pa.array([size for _, size, _ in spans], pa.int64()),
        "compressed": pa.array([compressed for _, _, compressed in spans], pa.bool_()),
    }
    return pa.table(columns)


def _images(
    rows: _Rows, tar_paths: Sequence[Path], numbered: NumberedLabels, split: str, reader: ImageReader
) -> TarImages:
    labels = numbered.labels[split]
    table = pa.concat_tables(rows.tables).combine_chunks() if rows.tables else _table([], 0, [])
    return TarImages(tar_paths, table, labels, reader).take(numbered.labelled(split))


def _members(sample: TarSample) -> dict[str, _Member]:
    """List the members of a sample by their endings, without `.gz`."""
    members: dict[str, _Member] = {}
    for ending, span in sample.members.items():
        compressed = ending.endswith(".gz")
        members.setdefault(ending.removesuffix(".gz"), _Member(span, compressed))
    return members


def _metadata(members: Mapping[str, _Member], stream: BinaryIO) -> Mapping[str, Any]:
    """Read the JSON member of a sample; empty if it has none.

    Raises:
        DatasetError: it is no JSON.
    """
    member = members.get("json") or members.get("jsn")
    if member is None:
        return {}
    try:
        value = json.loads(member.read(stream))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"its JSON member is damaged: {why_no_json(error)}") from error
    return value if isinstance(value, dict) else {}


def _label_of_member(data: bytes) -> Label | None:
    """Read a label that is the whole content of a member.

    Raises:
        DatasetError: it is several labels, or no label.
    """
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DatasetError(f"its label is no text: {data[:20]!r}") from error
    if text.startswith("[") and text.endswith("]"):
        try:
            return label_of(json.loads(text))
        except (ValueError, RecursionError) as error:
            what = f"its label {text[:40]!r} is in brackets, as a list is, but is none"
            raise DatasetError(f"{what}: {why_no_json(error)}") from error
    if _SEVERAL_NUMBERS.fullmatch(text):
        return label_of(re.findall(r"-?\d+", text))
    if len(text) > 200 or "\n" in text:
        raise DatasetError(f"its label is no word: {text[:40]!r} ...")
    return label_of_text(text)


def _find_tars(root: Path) -> list[Path]:
    """List the tars of a folder, and of its folders that are named as splits.

    Raises:
        DatasetError: there are none.
    """
    folders = [root, *(root / name for name in image_files.folder_names(root) if split_words.split_of(name))]
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if _is_tar(path)]
    if not paths:
        inner = [name for name in image_files.folder_names(root) if any(map(_is_tar, (root / name).iterdir()))]
        hint = f"; did you mean {str(root / inner[-1])!r}?" if inner else ""
        raise DatasetError(f"dataset.path {str(root)!r} holds no *.tar shards{hint}")
    return paths


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(tars.TAR_ENDINGS) and not path.name.startswith(".") and path.is_file()


def _without_plain_prompts(root: Path, paths: list[Path], notes: list[str]) -> list[Path]:
    """Leave out the plain-prompt images that version 0.1.0 kept beside the training images, as its plan.json says."""
    try:
        plans = json.loads((root / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return paths
    if not isinstance(plans, dict) or "plain" not in plans:
        return paths
    kept = [path for path in paths if not re.fullmatch(r".*-plain-\d{6}\.tar", path.name)]
    if plain := len(paths) - len(kept):
        tars_are = counted(plain, "tar of plain-prompt images of a run of version 0.1.0", "is")
        notes.append(f"{tars_are} left out")
    return kept


def _splits(root: Path, paths: Sequence[Path], notes: list[str]) -> list[tuple[Path, str]]:
    """Give the split of every tar: by the last word for one in its name, or else by its folder."""
    words = {path: _split_word(path, root) for path in paths}
    where = f"the names of the tars in {str(root)!r}"
    groups = split_words.group_by_split(sorted({word for word in words.values() if word}), where)
    without = [path.name for path, word in words.items() if not word]
    if groups and without:
        notes.append(f"tars without a split in their names are read as train: {shortened(without)}")
    return [(path, split_words.split_of(word) or "train") for path, word in words.items()]


def _split_word(tar: Path, root: Path) -> str:
    """Find the word for a split in a tar's name, or in the name of its folder; empty if there is none."""
    for name in (tar.name, *([tar.parent.name] if tar.parent != root else [])):
        words = [word for word in re.split(r"[^a-z]+", name.lower()) if split_words.split_of(word)]
        if words:
            return words[-1]
    return ""


def _class_names(root: Path, labels: Sequence[Label], in_tars: Mapping[int, str], notes: list[str]) -> list[str]:
    """List class names in label order: words as they are, numbers by `classes.txt` or by what the tars say.

    Raises:
        DatasetError: a number has no name, or some labels are words and others numbers.
    """
    path = root / "classes.txt"
    listed: list[str] = []
    if path.is_file():
        listed = _lines(path)
    numbers = [label for label in labels if isinstance(label, int)]
    names = [label for label in labels if isinstance(label, str)]
    if numbers and names:
        raise DatasetError(f"some labels are numbers ({numbers[0]}) and others words ({names[0]!r}); use one kind")
    if names:
        return [name for name in listed if name in names] if set(names) <= set(listed) else names
    if numbers != list(range(len(numbers))):
        notes.append(f"labels {shortened([str(label) for label in numbers])} are classes 0 to {len(numbers) - 1} here")
    if listed:
        if "" in listed:
            raise DatasetError(
                f"{str(path)!r}: line {listed.index('') + 1} is empty; a line is a name, in label order from 0"
            )
        if numbers[-1] >= len(listed) or numbers[0] < 0:
            raise DatasetError(
                f"{str(path)!r} names {counted(len(listed), 'class')}, but labels are {numbers[0]} to {numbers[-1]}"
            )
        return [listed[label] for label in numbers]
    if missing := [label for label in numbers if label not in in_tars]:
        ends = f"{len(missing):,} labels, {missing[0]} to {missing[-1]}" if len(missing) > 1 else f"label {missing[0]}"
        raise DatasetError(f"no name for {ends}; put them into {str(path)!r}, a line each, in label order from 0")
    return [in_tars[label] for label in numbers]


def _lines(path: Path) -> list[str]:
    """List the lines of a text file without the empty ones at its end."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{str(path)!r} is no UTF-8 text: {error}") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def _reordered(numbered: NumberedLabels, names: Sequence[str]) -> NumberedLabels:
    """Number classes in another order."""
    table = np.array([*(names.index(str(name)) for name in numbered.names), class_labels.UNLABELLED], np.int32)
    labels = {split: table[values] for split, values in numbered.labels.items()}
    return NumberedLabels(list(names), labels, numbered.notes)


def _open(reader: ImageReader, tar: Path, member: _Member) -> Image.Image:
    try:
        with tar.open("rb") as stream:
            data = member.read(stream)
    except (OSError, ValueError, zlib.error) as error:
        raise UnreadableImageError(f"its member cannot be read: {reason_of(error)}") from error
    return reader.read(data)
