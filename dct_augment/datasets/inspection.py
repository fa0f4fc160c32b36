"""Opens every picture of a data set once: its size, its hashes, or the reason why it cannot be read.

What was learned is kept in a table, and of large data sets in a second one that all runs share. A picture whose file
has the size and the time of before is not opened again, unless it could not be read: what was wrong may have been
mended elsewhere, by a permission or a package. What is known of other pictures stays: those of classes or splits that
are not looked at today.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dct_augment import tables
from dct_augment.datasets import reading_pool, splits
from dct_augment.datasets.image_files import ImageFiles
from dct_augment.datasets.indexed import IndexedImages
from dct_augment.errors import UnreadableImageError
from dct_augment.images import content
from dct_augment.reading import USED_RANGE
from dct_augment.records import Example, Progress, ProgressCallback, ignore_progress

SPLITS = ("train", "val", "test")

SIDE = 32
"""Width and height of the thumbnails that near duplicates are compared by."""

SIGNATURE = 48
"""Numbers in a signature: mean red, green and blue in each of 4 x 4 parts of a picture."""

_SCHEMA = "2"  # of the table; a table with another is made anew
_SAVE_EVERY = 300.0  # seconds

_MANY = 1_000
"""Fewer pictures are opened again by each run, before a second table is worth its file."""

_PICTURE = np.dtype(
    [
        ("file_size", "i8"),
        ("modified_ns", "i8"),
        ("opened", "?"),
        ("width", "i4"),
        ("height", "i4"),
        ("content", "u1", (32,)),
        ("perceptual_hash", "u8"),
        ("signature", "u1", (SIGNATURE,)),
        ("contrast", "f4"),
        ("used_range", "f4"),
    ]
)
_LEARNED = ("width", "height", "content", "perceptual_hash", "signature", "contrast", "used_range")
_BYTES = ("content", "signature")


@dataclass(frozen=True)
class Pictures:
    """What is known of the pictures of a data set, about 130 bytes each beside their keys.

    `split` holds places in `SPLITS`, `label` class numbers, `keys` an Arrow array; `rows` is a structured array:

    - `width`, `height`: pixels, 0 if it cannot be read.
    - `content`: SHA-256 of size and RGB pixels.
    - `perceptual_hash`: 64 bits, by ImageHash's `phash`.
    - `signature`: mean red, green and blue in 4 x 4 parts.
    - `contrast`: standard deviation of the grey values of its thumbnail.
    - `used_range`: for pictures of more than 8 bits, their highest value as a share of the range; NaN for the others.

    `reasons` says by row number why a picture cannot be read.
    """

    split: np.ndarray
    label: np.ndarray
    keys: pa.Array
    rows: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def readable(self) -> np.ndarray:
        """The row numbers of the pictures that can be read."""
        readable = self.rows["opened"].copy()
        readable[list(self.reasons)] = False
        return np.flatnonzero(readable)


def inspect(
    examples: Mapping[str, Sequence[Example]],
    table: Path,
    reading: str = "",
    progress: ProgressCallback = ignore_progress,
    processes: int | None = None,
    shared: Path | None = None,
) -> Pictures:
    """Open every picture that the tables do not know, or that changed, and write the tables.

    A stop in between keeps what was done.

    Args:
        examples: the pictures of each split.
        table: a parquet file, read if it is there.
        reading: what decides how a picture is read; a table of another is not used.
        progress: gets the number of pictures that were opened.
        processes: how many read side by side; one per core if None.
        shared: a second table, of many pictures, that other runs write, too.
    """
    pictures = _index(examples)
    stored = _read(table, reading)
    others = None if stored is None else _recall(pictures, stored)
    rows = np.flatnonzero(~pictures.rows["opened"])
    if not len(rows) and stored is not None:
        return pictures
    if shared is not None and len(rows) >= _MANY and (known := _read(shared, reading)) is not None:
        _recall(pictures, known)
        rows = np.flatnonzero(~pictures.rows["opened"])
    stored = known = None
    saved = time.monotonic()
    done = 0
    try:
        results = reading_pool.map_chunks(_measure_all, _chunks(examples, pictures, rows), len(rows), processes)
        for learned, reasons in results:
            places = rows[done : done + len(learned)]
            for name in _LEARNED:
                pictures.rows[name][places] = learned[name]
            pictures.rows["opened"][places] = True
            pictures.reasons.update({int(places[place]): reason for place, reason in reasons.items()})
            done += len(learned)
            progress(Progress("data", done, len(rows), "pictures read"))
            if time.monotonic() - saved > _SAVE_EVERY:
                _write(pictures, others, table, reading)
                saved = time.monotonic()
    finally:
        _write(pictures, others, table, reading)
        if shared is not None and done >= _MANY:
            _share(pictures, shared, reading)
    return pictures


def example_at(examples: Mapping[str, Sequence[Example]], pictures: Pictures, row: int) -> Example:
    """Make the example of a row."""
    split = int(pictures.split[row])
    begin = int(np.searchsorted(pictures.split, split))
    return examples[SPLITS[split]][int(row) - begin]


def thumbnail(image: Image.Image) -> np.ndarray:
    """Shrink a picture to an array (SIDE, SIDE, 3) of 0..255, whatever its shape."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def thumbnails(examples: Sequence[Example]) -> np.ndarray:
    """Shrink pictures to an array (B, SIDE, SIDE, 3); what can no longer be read is black."""
    shrunk = np.zeros((len(examples), SIDE, SIDE, 3), np.uint8)
    for place, example in enumerate(examples):
        try:
            shrunk[place] = thumbnail(example.open())
        except UnreadableImageError:
            continue
    return shrunk


def _index(examples: Mapping[str, Sequence[Example]]) -> Pictures:
    """List keys, labels and stamps of all pictures; none is opened."""
    counts = [len(examples[split]) if split in examples else 0 for split in SPLITS]
    split = np.repeat(np.arange(len(SPLITS), dtype=np.int8), counts)
    rows = np.zeros(len(split), _PICTURE)
    keys = [pa.array([], pa.large_string())]
    labels = [np.array([], np.int32)]
    begin = 0
    for name, count in zip(SPLITS, counts, strict=True):
        if count:
            members = examples[name]
            keys.append(members.paths if isinstance(members, ImageFiles) else _key_array(members))
            labels.append(np.asarray(splits.labels(members), np.int32))
            stamps = np.fromiter(_stamps(members), np.dtype(("i8", 2)), count)
            rows["file_size"][begin : begin + count], rows["modified_ns"][begin : begin + count] = stamps.T
            begin += count
    return Pictures(split, np.concatenate(labels), pa.concat_arrays(keys), rows)


def _key_array(examples: Sequence[Example]) -> pa.Array:
    return pa.array(splits.keys(examples), pa.large_string())


def _stamps(examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
    """Give size and time of the file of each picture; -1 where there is none."""
    known = lru_cache(maxsize=64)(_stamp)
    paths = examples.files() if isinstance(examples, IndexedImages) else [None] * len(examples)
    for path in paths:
        yield known(str(path)) if path else (-1, -1)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except NotADirectoryError:  # a row of a file, as of CIFAR
        return _stamp(os.path.dirname(path))
    except (OSError, ValueError):  # a path with a null byte; reading the picture says so
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _chunks(
    examples: Mapping[str, Sequence[Example]], pictures: Pictures, rows: np.ndarray
) -> Iterator[Sequence[Example]]:
    for begin in range(0, len(rows), reading_pool.CHUNK):
        yield [example_at(examples, pictures, row) for row in rows[begin : begin + reading_pool.CHUNK]]


def _measure_all(examples: Sequence[Example]) -> tuple[np.ndarray, dict[int, str]]:
    """Open pictures; return what was learned of each, and why some cannot be read."""
    rows = np.zeros(len(examples), _PICTURE)
    rows["used_range"] = np.nan
    reasons = {}
    for place, example in enumerate(examples):
        try:
            _measure(example.open(), rows[place])
        except UnreadableImageError as error:
            reasons[place] = str(error)
    return rows, reasons


def _measure(image: Image.Image, row: np.void) -> None:
    """Write size, hashes, signature and contrast of a picture into its row."""
    import imagehash

    small = thumbnail(image)
    part = SIDE // 4
    row["width"], row["height"] = image.size
    row["content"] = np.frombuffer(bytes.fromhex(content(image)), np.uint8)
    row["perceptual_hash"] = np.packbits(imagehash.phash(image).hash.ravel()).view(">u8")[0]
    row["signature"] = small.reshape(4, part, 4, part, 3).mean((1, 3)).round().ravel()
    row["contrast"] = small.mean(2).std()
    row["used_range"] = image.info.get(USED_RANGE, np.nan)


def _recall(pictures: Pictures, stored: pa.Table) -> pa.Table:
    """Take from the table what is known of pictures whose stamp is the same; return the rows of other pictures."""
    places = pc.index_in(pictures.keys, value_set=stored["key"].combine_chunks())
    here = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
    there = places.drop_null().to_numpy()
    stamps = {name: stored[name].to_numpy()[there] for name in ("file_size", "modified_ns")}
    same = np.ones(len(here), bool)
    for name, stamp in stamps.items():
        same &= (pictures.rows[name][here] == stamp) & (stamp >= 0)
    same &= pc.equal(stored["reason"], "").to_numpy()[there]
    here, there = here[same], there[same]
    for name in _LEARNED:
        column = stored[name].combine_chunks()
        values = _fixed(column) if name in _BYTES else column.to_numpy(zero_copy_only=False)
        pictures.rows[name][here] = values[there]
    pictures.rows["opened"][here] = True
    return stored.filter(pc.invert(pc.is_in(stored["key"], value_set=pictures.keys)))


def _fixed(column: pa.Array) -> np.ndarray:
    """View an array of byte strings of one length as numbers (N, length)."""
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)


def _read(table: Path, reading: str) -> pa.Table | None:
    """Read the table; None if there is none, or one of another schema or reading, or a damaged one."""
    stored = tables.read(table)
    if stored is None:
        return None
    metadata = stored.schema.metadata or {}
    if (metadata.get(b"schema"), metadata.get(b"reading")) != (_SCHEMA.encode(), reading.encode()):
        return None
    return stored


def _share(pictures: Pictures, shared: Path, reading: str) -> None:
    """Add what was learned to the table that all runs share; where it cannot be written, each run opens pictures."""
    known = _read(shared, reading)
    others = None
    if known is not None:
        others = known.filter(pc.invert(pc.is_in(known["key"], value_set=pictures.keys)))
    with suppress(OSError):
        _write(pictures, others, shared, reading)


def _write(pictures: Pictures, others: pa.Table | None, path: Path, reading: str) -> None:
    """Write a row per picture that was opened, and the rows of other pictures as they were."""
    rows = np.flatnonzero(pictures.rows["opened"])
    chosen = pictures.rows[rows]
    columns = {
        "split": pa.DictionaryArray.from_arrays(pictures.split[rows], list(SPLITS)),
        "key": pictures.keys.take(pa.array(rows)),
        "class_index": pictures.label[rows],
        "file_size": np.ascontiguousarray(chosen["file_size"]),
        "modified_ns": np.ascontiguousarray(chosen["modified_ns"]),
    }
    for name in _LEARNED:
        values = np.ascontiguousarray(chosen[name])
        if name in _BYTES:
            kind = pa.binary(values.shape[1])
            columns[name] = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(values)])
        else:
            columns[name] = values
    columns["reason"] = pa.array((pictures.reasons.get(row, "") for row in rows.tolist()), pa.string())
    stored = pa.table(columns)
    if others is not None and len(others):
        stored = pa.concat_tables([stored, others.cast(stored.schema)]).unify_dictionaries()
    stored = stored.replace_schema_metadata({"schema": _SCHEMA, "reading": reading})
    tables.write(path, stored, compression="zstd")
