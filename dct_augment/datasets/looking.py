"""Looks at a data set before any work: what there is, what cannot be read, and what is there twice."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dct_augment import files, tables
from dct_augment.config import AnyDataset, CubDataset, DatasetOnDisk, fingerprint
from dct_augment.datasets import cub, duplicates, inspection, reading_pool, splits, stores
from dct_augment.datasets.inspection import SPLITS, Pictures
from dct_augment.datasets.naming import names_without_meaning
from dct_augment.datasets.overview import (
    NAMED,
    ClassCounts,
    DuplicateGroup,
    DuplicatePicture,
    Overview,
    Sizes,
    UnreadablePicture,
)
from dct_augment.records import ClassInfo, Dataset, Example, Progress, ProgressCallback, ignore_progress
from dct_augment.remote.urls import url_of
from dct_augment.wording import agreeing, counted, counted_of, listed

_NOT_OF_READING = frozenset({"classes", "words", "val", "test", "seed", "duplicates", "title"})
"""Settings that do not change what a picture looks like."""

_DARK = 1 / 16
_LISTED = 10  # groups in an error


def look(
    dataset: Dataset,
    settings: AnyDataset,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
    processes: int | None = None,
) -> Overview:
    """Look at a data set, and write what was found into a folder.

    Reads the pictures of all splits and searches duplicates. With `dataset.duplicates: keep`, exact copies alone are
    found, and where there is a test split, val and test pictures alone are read and nothing is searched. A shipped data
    set has no files to read.

    Args:
        dataset: the data set, with the classes that are used.
        settings: its section of the configuration.
        folder: gets `pictures.parquet`, `unreadable.parquet`, `duplicates.parquet` and `overview.json`. What is
            learned of many pictures is also kept in the user's cache, for the next run.
        progress: gets the number of pictures that were opened.
        processes: how many read side by side; one per core if None.
    """
    examples = {split: dataset.examples(split) for split in SPLITS}
    if not isinstance(settings, DatasetOnDisk):
        return _overview(dataset, examples, None)
    whole = settings.duplicates != "keep" or not len(examples["test"])  # without a test, training images are the test
    inspected = SPLITS if whole else ("val", "test")
    read = {split: examples[split] for split in inspected}
    reading = _reading(settings)
    shared = files.cache_folder() / "pictures" / f"{reading}.parquet"
    pictures = inspection.inspect(read, folder / "pictures.parquet", reading, progress, processes, shared)
    # Without a test, the folds of cross-validation have to know the copies even if these are kept.
    groups = duplicates.find_exact(pictures) if whole else np.full(len(pictures), -1)
    if settings.duplicates != "keep":
        groups = _groups(read, pictures, folder / "duplicates.parquet", progress, processes)
    overview = _overview(dataset, examples, settings.duplicates, inspected, pictures, groups)
    _write(overview, folder, _digest(pictures))
    return overview


def _reading(settings: DatasetOnDisk) -> str:
    """Hash what decides how the pictures of a data set are read, where they lie, and where they are cut."""
    decides = {key: value for key, value in settings.model_dump(mode="json").items() if key not in _NOT_OF_READING}
    boxes = cub.boxes_hash(stores.located(settings)) if isinstance(settings, CubDataset) else ""
    place = url_of(settings.path) or str(settings.path.expanduser().resolve())
    return fingerprint(decides, place, *([boxes] if boxes else []))


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

    progress(Progress("data", 0, 0, f"searching duplicates among {counted(len(pictures), 'image')}"))
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
    stored = tables.read(table, ["row", "group"])
    if stored is None or (stored.schema.metadata or {}).get(b"pictures") != _digest(pictures).encode():
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
    notes = (*dataset.notes, *_notes_on_names(dataset.classes))
    if pictures is None or groups is None:
        return Overview(dataset.name, setting, inspected, counts, None, (), (), notes, (), {})
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
        (*_notes(pictures, found), *notes),
        (_across_splits(across),) if across and setting == "error" else (),
        _without(pictures, left_out),
    )


def _counts(classes: Sequence[ClassInfo], examples: Mapping[str, Sequence[Example]]) -> tuple[ClassCounts, ...]:
    most = 1 + max((info.index for info in classes), default=0)
    counted = {split: np.bincount(np.asarray(splits.labels(examples[split]), int), minlength=most) for split in SPLITS}
    return tuple(
        ClassCounts(
            info.index,
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


def _notes_on_names(classes: Sequence[ClassInfo]) -> Iterator[str]:
    """Say which classes have names that give a prompt no meaning."""
    names = names_without_meaning(classes)
    if names:
        yield (
            f"{counted_of(len(names), len(classes), 'class', 'has')} a name that says nothing in a prompt, as in "
            f"'a photo of a {names[0]}': {listed(list(map(repr, names)), NAMED)}; give words in a file: dataset.words"
        )


def _notes(pictures: Pictures, groups: Sequence[DuplicateGroup]) -> Iterator[str]:
    """Say what a user should know of the pictures themselves."""
    conflicts = [group for group in groups if group.across_classes]
    if conflicts:
        first = [
            " = ".join(f"{p.title} ({p.class_name})" for p in group.pictures[:3]) for group in conflicts[: NAMED + 1]
        ]
        yield (
            f"{_images_are(len(conflicts))} in more than one class: {listed(first, NAMED)}; each teaches and tests "
            "all of its classes: delete what is wrong"
        )
    used_range = pictures.rows["used_range"][pictures.readable]
    dark = int((used_range < _DARK).sum())
    if dark:
        yield (
            f"{counted(dark, 'image of more than 8 bits', 'uses')} less than 1/16 of the range and "
            f"{agreeing(dark, 'looks')} black: set dataset.value_range to 12bit, min_max or a pair [black, white]"
        )


def _across_splits(groups: Sequence[DuplicateGroup]) -> str:
    first = "".join(f"\n  - {group}" for group in groups[:_LISTED])
    more = f"\n  - and {len(groups) - _LISTED:,} more" if len(groups) > _LISTED else ""
    return (
        f"{_images_are(len(groups))} in more than one split:{first}{more}\n`dct-augment data` with the same options "
        "shows all. Remove the copies, or set dataset.duplicates to drop (they leave train and val) or keep (no search)"
    )


def _images_are(number: int) -> str:
    return counted(number, "image", "is")


def _without(pictures: Pictures, left_out: np.ndarray) -> dict[str, frozenset[str]]:
    """The keys to leave out of each split."""
    keys: dict[str, list[str]] = {split: [] for split in SPLITS}
    for row in [*pictures.reasons, *left_out.tolist()]:
        keys[SPLITS[pictures.split[row]]].append(pictures.keys[row].as_py())
    return {split: frozenset(members) for split, members in keys.items()}


def _write(overview: Overview, folder: Path, digest: str) -> None:
    """Write the tables and `overview.json`; nothing where all is as before."""
    text = json.dumps(files.signed({**overview.as_json(), "pictures": digest}), indent=1) + "\n"
    path, duplicate_table = folder / "overview.json", folder / "duplicates.parquet"
    are_there = _is_table(folder / "unreadable.parquet", "") and (
        not overview.searched or _is_table(duplicate_table, digest)
    )
    if are_there and path.is_file() and path.read_bytes() == text.encode():
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
        _write_table(duplicate_table, columns, rows, digest)
    files.write_text(path, text)


def _is_table(path: Path, digest: str) -> bool:
    """Tell whether a table is there that was made of the pictures with this digest."""
    stored = tables.read(path)
    return stored is not None and (stored.schema.metadata or {}).get(b"pictures") == digest.encode()


def _write_table(path: Path, columns: Mapping[str, type], rows: Sequence[tuple[Any, ...]], digest: str) -> None:
    kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(column, kinds[kind]) for column, kind in zip(values, columns.values(), strict=True)]
    table = pa.table(arrays, list(columns)).replace_schema_metadata({"pictures": digest})
    tables.write(path, table)
