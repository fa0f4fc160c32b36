"""Looks at a data set before any work: what there is, what cannot be read, and what is there twice."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dct_augment import files
from dct_augment.config import AnyDataset, DatasetOnDisk, fingerprint
from dct_augment.datasets import duplicates, inspection, reading_pool, splits
from dct_augment.datasets.inspection import SPLITS, Pictures
from dct_augment.errors import DatasetError
from dct_augment.records import ClassInfo, Dataset, Example, Progress, ProgressCallback, ignore_progress

SCHEMA = 1
"""Version of the keys of `Overview.as_json`."""

_NOT_OF_READING = frozenset({"classes", "words", "val", "test", "seed", "duplicates", "title"})
"""Settings that do not change what a picture looks like."""

_DARK = 1 / 16
_NAMED = 3  # examples in a line
_LISTED = 10  # groups in an error


@dataclass(frozen=True)
class ClassCounts:
    """How many pictures a class has in each split, before any is left out."""

    name: str
    slug: str
    original_name: str
    homonym: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class UnreadablePicture:
    """A picture that cannot be read, and why."""

    split: str
    key: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class DuplicatePicture:
    """A picture of a group of duplicates; `left_out` by `dataset.duplicates: drop`."""

    row: int
    split: str
    key: str
    class_name: str
    left_out: bool

    @property
    def title(self) -> str:
        """Its key, with its split if the key does not begin with it."""
        return self.key if self.key.startswith(f"{self.split}/") else f"{self.split} {self.key}"


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures that are the same: `exact` in every pixel, `near` but for format, compression or size."""

    kind: str
    pictures: tuple[DuplicatePicture, ...]

    @property
    def across_splits(self) -> bool:
        """Whether the picture is in more than one split."""
        return len({picture.split for picture in self.pictures}) > 1

    @property
    def across_classes(self) -> bool:
        """Whether the picture is in more than one class."""
        return len({picture.class_name for picture in self.pictures}) > 1

    def __str__(self) -> str:
        names = [picture.title for picture in self.pictures]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return f"{' = '.join(names[:4])}{more} ({self.kind})"


@dataclass(frozen=True)
class Sizes:
    """Width and height of the smallest, the median and the largest picture, by their area."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class Overview:
    """What a look at a data set showed.

    `inspected` are the splits whose pictures were read; `duplicates` is the setting, None for a shipped data set;
    `without` are the keys to leave out of each split; `problems` would end a run.
    """

    dataset: str
    duplicates: str | None
    inspected: tuple[str, ...]
    classes: tuple[ClassCounts, ...]
    sizes: Sizes | None
    unreadable: tuple[UnreadablePicture, ...]
    groups: tuple[DuplicateGroup, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    without: Mapping[str, frozenset[str]]

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures each split has, before any is left out."""
        return {split: sum(info.counts[split] for info in self.classes) for split in SPLITS}

    @property
    def searched(self) -> bool:
        """Whether duplicates were searched."""
        return self.duplicates in ("error", "drop")

    @property
    def homonyms(self) -> dict[str, list[str]]:
        """The slugs of the classes that share a name, by name."""
        slugs = defaultdict(list)
        for info in self.classes:
            slugs[info.name.lower()].append(info.slug)
        return {name: members for name, members in slugs.items() if len(members) > 1}

    def lines(self) -> list[str]:
        """Say it in five lines at most."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        lines = [f"{self.dataset}: {sum(self.counts.values()):,} images of {len(self.classes):,} classes: {counts}"]
        if self.sizes:
            smallest, median, largest = ("{} x {}".format(*size) for size in dataclasses.astuple(self.sizes))
            lines.append(f"sizes: {smallest} to {largest}, median {median}")
        if self.inspected:
            lines.append(self._unreadable_line())
        if self.duplicates:
            lines.append(self._duplicates_line())
        remarks = [*self.notes]
        if self.homonyms:
            names = _some(list(self.homonyms))
            remarks.insert(0, f"{len(self.homonyms)} names belong to more than one class: {names}")
        if remarks:
            more = f" ({len(remarks) - 1} more notes: dct-augment data)" if len(remarks) > 1 else ""
            lines.append(remarks[0] + more)
        return lines

    def _unreadable_line(self) -> str:
        if not self.unreadable:
            return "every image can be read" if self.inspected == SPLITS else "every val and test image can be read"
        listed = _some([f"{picture.key} ({picture.reason})" for picture in self.unreadable])
        return f"{len(self.unreadable):,} images cannot be read and are left out: {listed}"

    def _duplicates_line(self) -> str:
        if not self.searched:
            return "duplicates: not searched (dataset.duplicates: keep)"
        if not self.groups:
            return "duplicates: none"
        exact = sum(group.kind == "exact" for group in self.groups)
        across = sum(group.across_splits for group in self.groups)
        left_out = sum(picture.left_out for group in self.groups for picture in group.pictures)
        line = f"duplicates: {exact:,} groups of exact copies, {len(self.groups) - exact:,} of near ones; "
        line += f"{across:,} across splits"
        return line + (f"; {left_out:,} images left out (dataset.duplicates: drop)" if left_out else "")

    def refuse_problems(self) -> None:
        """Raise DatasetError if something would end a run."""
        if self.problems:
            raise DatasetError("; ".join(self.problems))

    def extended(self, notes: Sequence[str], problems: Sequence[str]) -> "Overview":
        """Add notes and problems that others found."""
        return dataclasses.replace(self, notes=(*self.notes, *notes), problems=(*self.problems, *problems))

    def as_json(self) -> dict[str, Any]:
        """Give it as plain values, as `dct-augment data --json` prints it."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "inspected": list(self.inspected),
            "counts": self.counts,
            "classes": [dataclasses.asdict(info) for info in self.classes],
            "sizes": dataclasses.asdict(self.sizes) if self.sizes else None,
            "unreadable": [dataclasses.asdict(picture) for picture in self.unreadable],
            "duplicates": {
                "setting": self.duplicates,
                "searched": self.searched,
                "groups": [_group_json(group) for group in self.groups],
            },
            "homonyms": [{"name": name, "classes": slugs} for name, slugs in self.homonyms.items()],
            "notes": list(self.notes),
            "problems": list(self.problems),
        }


def look(
    dataset: Dataset,
    settings: AnyDataset,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
    processes: int | None = None,
) -> Overview:
    """Look at a data set, and write what was found into a folder.

    Reads the pictures of all splits and searches duplicates. With `dataset.duplicates: keep`, val and test pictures
    alone are read, and nothing is searched. A shipped data set has no files, so nothing is read.

    Args:
        dataset: the data set, with the classes that are used.
        settings: its section of the configuration.
        folder: gets `pictures.parquet`, `unreadable.parquet`, `duplicates.parquet` and `overview.json`.
        progress: gets the number of pictures that were opened.
        processes: how many read side by side; one per core if None.
    """
    examples = {split: dataset.examples(split) for split in SPLITS}
    if not isinstance(settings, DatasetOnDisk):
        return _overview(dataset, examples, None)
    inspected = SPLITS if settings.duplicates != "keep" else ("val", "test")
    read = {split: examples[split] for split in inspected}
    pictures = inspection.inspect(read, folder / "pictures.parquet", _reading(settings), progress, processes)
    groups = np.full(len(pictures), -1)
    if settings.duplicates != "keep":
        groups = _groups(read, pictures, folder / "duplicates.parquet", progress, processes)
    overview = _overview(dataset, examples, settings.duplicates, inspected, pictures, groups)
    _write(overview, folder, _digest(pictures))
    return overview


def _reading(settings: DatasetOnDisk) -> str:
    """Hash what decides how the pictures of a data set are read, and where they lie."""
    decides = {key: value for key, value in settings.model_dump(mode="json").items() if key not in _NOT_OF_READING}
    return fingerprint(decides, str(Path(settings.path).expanduser().resolve()))


def _groups(
    examples: Mapping[str, Sequence[Example]],
    pictures: Pictures,
    table: Path,
    progress: ProgressCallback,
    processes: int | None,
) -> np.ndarray:
    """Search duplicates, or read what the last search of the same pictures found."""
    stored = _stored_groups(table, pictures)
    if stored is not None:
        return stored

    def thumbnails(rows: Sequence[int]) -> np.ndarray:
        members = [inspection.example_at(examples, pictures, row) for row in rows]
        size = reading_pool.CHUNK
        chunks = (members[begin : begin + size] for begin in range(0, len(members), size))
        return np.concatenate(list(reading_pool.map_chunks(inspection.thumbnails, chunks, len(members), processes)))

    progress(Progress("data", 0, 0, f"searching duplicates among {len(pictures):,} images"))
    return duplicates.find_duplicates(pictures, thumbnails)


def _digest(pictures: Pictures) -> str:
    """Hash all that decides which pictures are duplicates."""
    digest = hashlib.sha256(b"1")
    for array in (pictures.split, pictures.label, pictures.rows["content"]):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(pa.record_batch([pictures.keys], ["key"]).serialize())
    digest.update(json.dumps(sorted(pictures.reasons.items())).encode())
    return digest.hexdigest()


def _stored_groups(table: Path, pictures: Pictures) -> np.ndarray | None:
    try:
        stored = pq.read_table(table, columns=["row", "group"])
    except (OSError, pa.ArrowException):
        return None
    if (stored.schema.metadata or {}).get(b"pictures") != _digest(pictures).encode():
        return None
    groups = np.full(len(pictures), -1)
    groups[stored["row"].to_numpy()] = stored["group"].to_numpy()
    return groups


def _overview(
    dataset: Dataset,
    examples: Mapping[str, Sequence[Example]],
    setting: str | None,
    inspected: tuple[str, ...] = (),
    pictures: Pictures | None = None,
    groups: np.ndarray | None = None,
) -> Overview:
    """Put together what was found."""
    counts = _counts(dataset.classes, examples)
    if pictures is None or groups is None:
        return Overview(dataset.name, setting, inspected, counts, None, (), (), dataset.notes, (), {})
    names = {info.index: info.original_name or info.name for info in dataset.classes}
    left_out = duplicates.copies(pictures, groups) if setting == "drop" else np.array([], int)
    unreadable = tuple(_unreadable(pictures, names))
    found = tuple(_duplicate_groups(pictures, groups, names, frozenset(left_out.tolist())))
    across = [group for group in found if group.across_splits]
    return Overview(
        dataset.name,
        setting,
        inspected,
        counts,
        _sizes(pictures),
        unreadable,
        found,
        (*dataset.notes, *_notes(pictures, found)),
        (_across_splits(across),) if across and setting == "error" else (),
        _without(pictures, left_out),
    )


def _counts(classes: Sequence[ClassInfo], examples: Mapping[str, Sequence[Example]]) -> tuple[ClassCounts, ...]:
    most = 1 + max((info.index for info in classes), default=0)
    counted = {split: np.bincount(np.asarray(splits.labels(examples[split]), int), minlength=most) for split in SPLITS}
    return tuple(
        ClassCounts(
            info.name,
            info.slug,
            info.original_name,
            info.homonym,
            {split: int(counted[split][info.index]) for split in SPLITS},
        )
        for info in classes
    )


def _sizes(pictures: Pictures) -> Sizes | None:
    rows = pictures.rows[pictures.readable]
    if not len(rows):
        return None
    order = np.argsort(rows["width"].astype(np.int64) * rows["height"], kind="stable")
    chosen = [rows[order[place]] for place in (0, len(order) // 2, -1)]
    return Sizes(*((int(row["width"]), int(row["height"])) for row in chosen))


def _unreadable(pictures: Pictures, names: Mapping[int, str]) -> Iterator[UnreadablePicture]:
    for row in sorted(pictures.reasons):
        split, key = SPLITS[pictures.split[row]], pictures.keys[row].as_py()
        yield UnreadablePicture(split, key, names[int(pictures.label[row])], pictures.reasons[row])


def _duplicate_groups(
    pictures: Pictures, groups: np.ndarray, names: Mapping[int, str], left_out: frozenset[int]
) -> Iterator[DuplicateGroup]:
    rows = np.flatnonzero(groups >= 0)
    rows = rows[np.argsort(groups[rows], kind="stable")]
    for _, members in groupby(rows.tolist(), key=lambda row: groups[row]):
        group = list(members)
        contents = {pictures.rows["content"][row].tobytes() for row in group}
        yield DuplicateGroup(
            "exact" if len(contents) == 1 else "near",
            tuple(
                DuplicatePicture(
                    row,
                    SPLITS[pictures.split[row]],
                    pictures.keys[row].as_py(),
                    names[int(pictures.label[row])],
                    row in left_out,
                )
                for row in group
            ),
        )


def _notes(pictures: Pictures, groups: Sequence[DuplicateGroup]) -> Iterator[str]:
    """Say what a user should know of the pictures themselves."""
    conflicts = [group for group in groups if group.across_classes]
    if conflicts:
        listed = _some([" = ".join(f"{p.title} ({p.class_name})" for p in group.pictures[:3]) for group in conflicts])
        yield f"{len(conflicts):,} images are in more than one class: {listed}"
    used_range = pictures.rows["used_range"][pictures.readable]
    dark = int((used_range < _DARK).sum())
    if dark:
        yield (
            f"{dark:,} images of more than 8 bits use less than 1/16 of their range, so they look black: "
            "set dataset.value_range to 12bit, min_max or a pair [black, white]"
        )


def _across_splits(groups: Sequence[DuplicateGroup]) -> str:
    listed = "".join(f"\n  - {group}" for group in groups[:_LISTED])
    more = f"\n  - and {len(groups) - _LISTED:,} more" if len(groups) > _LISTED else ""
    return (
        f"{len(groups):,} images are in more than one split:{listed}{more}\n`dct-augment data` with the same options "
        "shows all. Remove the copies, or set dataset.duplicates to drop (they leave train and val) or keep (no search)"
    )


def _without(pictures: Pictures, left_out: np.ndarray) -> dict[str, frozenset[str]]:
    """The keys to leave out of each split."""
    keys: dict[str, list[str]] = {split: [] for split in SPLITS}
    for row in [*pictures.reasons, *left_out.tolist()]:
        keys[SPLITS[pictures.split[row]]].append(pictures.keys[row].as_py())
    return {split: frozenset(members) for split, members in keys.items()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")


def _group_json(group: DuplicateGroup) -> dict[str, Any]:
    pictures = [dataclasses.asdict(picture) for picture in group.pictures]
    for picture in pictures:
        del picture["row"]
    return {
        "kind": group.kind,
        "across_splits": group.across_splits,
        "across_classes": group.across_classes,
        "pictures": pictures,
    }


def _write(overview: Overview, folder: Path, digest: str) -> None:
    """Write the tables and `overview.json`; nothing where all is as before."""
    text = json.dumps({**overview.as_json(), "pictures": digest}, indent=1) + "\n"
    path = folder / "overview.json"
    if path.is_file() and path.read_bytes() == text.encode():
        return
    unreadable = [(picture.split, picture.key, picture.class_name, picture.reason) for picture in overview.unreadable]
    _write_table(folder / "unreadable.parquet", {"split": str, "key": str, "class": str, "reason": str}, unreadable, "")
    rows = []
    for group in overview.groups:
        for picture in group.pictures:
            place = (picture.row, group.pictures[0].row)
            rows.append((*place, group.kind, picture.split, picture.key, picture.class_name, picture.left_out))
    columns = {"row": int, "group": int, "kind": str, "split": str, "key": str, "class": str, "left_out": bool}
    if overview.searched:
        _write_table(folder / "duplicates.parquet", columns, rows, digest)
    files.write_text(path, text)


def _write_table(path: Path, columns: Mapping[str, type], rows: Sequence[tuple[Any, ...]], digest: str) -> None:
    kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(column, kinds[kind]) for column, kind in zip(values, columns.values(), strict=True)]
    table = pa.table(arrays, list(columns)).replace_schema_metadata({"pictures": digest})
    with files.atomic(path) as partial:
        pq.write_table(table, partial)
