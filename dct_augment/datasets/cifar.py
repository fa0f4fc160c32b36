"""Reads CIFAR-10 and CIFAR-100, whose pictures are rows of bytes in pickled batches (Krizhevsky, Toronto, 2009).

A pickle may call any function, so only numbers, text, lists and arrays are taken out of one, and by code of this file.
An array's bytes lie in the file as they are: only their place is kept, and each picture is read when it is opened.
"""

import mmap
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from dct_augment.config import TorchvisionDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.annotations import damaged
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import UnreadableImageError
from dct_augment.reading import ImageReader
from dct_augment.wording import in_one_line, reason_of

_SHAPE = (3, 32, 32)
_ROW_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Names of files and keys of one of the two data sets."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    meta: str
    names: str
    published: str


_LAYOUTS = {
    "cifar10": Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "labels",
        "batches.meta",
        "label_names",
        "CIFAR-10 as torchvision.datasets.CIFAR10 downloads it (cifar-10-python.tar.gz, unpacked)",
    ),
    "cifar100": Layout(
        "cifar-100-python",
        ("train",),
        ("test",),
        "fine_labels",
        "meta",
        "fine_label_names",
        "CIFAR-100 as torchvision.datasets.CIFAR100 downloads it (cifar-100-python.tar.gz, unpacked)",
    ),
}
NAMES = tuple(_LAYOUTS)


@dataclass(frozen=True)
class Place:
    """Where the rows of a batch lie in its file: from which byte on, how many, row by row or column by column."""

    begin: int
    count: int
    order: Literal["C", "F"]


@dataclass(frozen=True)
class BatchReader(ImageReader):
    """Reads pictures by paths such as `data_batch_1/00042`: row 42 of the file data_batch_1."""

    places: Mapping[str, Place] = field(default_factory=dict)

    def read(self, stored: Path | bytes) -> Image.Image:
        """Read the row that a path names.

        Raises:
            UnreadableImageError: the file is gone, or shorter than it was.
        """
        assert isinstance(stored, Path)
        file = stored.parent
        place = self.places[file.name]
        try:
            rows = np.memmap(file, np.uint8, "r", place.begin, (place.count, _ROW_BYTES), place.order)
        except OSError as error:
            raise UnreadableImageError(reason_of(error)) from error
        except ValueError as error:
            raise UnreadableImageError(f"the file {file.name} is shorter than it was") from error
        return self.convert_array(np.array(rows[int(stored.name)]).reshape(_SHAPE))


def load(settings: TorchvisionDataset) -> ImageDataset:
    """Index the rows of all batches; the published test split stays, `val` is held out of train.

    Raises:
        DatasetError: a file is missing or damaged.
    """
    layout = _LAYOUTS[settings.name]
    root = image_files.own_folder(settings.path.expanduser(), layout.folder)
    image_files.require(root, layout.meta, *layout.train, *layout.test, published=layout.published)
    classes = _class_names(root / layout.meta, layout.names)
    places: dict[str, Place] = {}
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for split, files in (("train", layout.train), ("test", layout.test)):
        for file in files:
            labels, places[file] = _batch(root / file, layout.labels, len(classes))
            rows[split] += [(f"{file}/{row:05d}", label) for row, label in enumerate(labels)]
    common = image_reader(settings)
    reader = BatchReader(common.value_range, common.background, common.max_pixels, places)
    splits = {split: image_files.index(root, split_rows, reader) for split, split_rows in rows.items()}
    return complete(settings.name, class_infos(classes, settings.words), splits, settings)


def _class_names(file: Path, key: str) -> list[str]:
    expected = f"the names of the classes, `{key}`"
    names = _unpickle(file, expected).get(key)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise damaged(file, expected, f"{key!r} is no list of names")
    return [name.decode("latin1") if isinstance(name, bytes) else name for name in names]


def _batch(file: Path, key: str, class_count: int) -> tuple[list[int], Place]:
    """Read the labels of a batch, and find the place of its rows."""
    expected = f"`data`, rows of {_ROW_BYTES} bytes, and `{key}`, a number below {class_count} for each"
    content = _unpickle(file, expected)
    labels, data = content.get(key), content.get("data")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise damaged(file, expected, f"{key!r} is no list of numbers")
    if wrong := [label for label in labels if not 0 <= label < class_count]:
        raise damaged(file, expected, f"it has the label {wrong[0]}")
    if not isinstance(data, _PickledArray) or not data.is_rows(len(labels)):
        raise damaged(file, expected, f"'data' is not of {len(labels)} rows, as there are labels")
    with file.open("rb") as stored, mmap.mmap(stored.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        begin = mapped.find(data.content)
    if begin < 0:
        raise damaged(file, expected, "its rows are not stored as plain bytes")
    return labels, Place(begin, len(labels), "F" if data.column_order else "C")


# --------------------------------------------------------------------------------------------- pickles, without trust


class _PickledType:
    """What a pickle says of an array's type."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Take byte order and flags, which bytes do not have."""


class _PickledArray:
    """What a pickle says of an array: shape, type, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self.shape: Any = None
        self.code: Any = None
        self.column_order: Any = False
        self.content: Any = b""

    def __setstate__(self, state: Any) -> None:
        """Take the state that NumPy wrote."""
        _, self.shape, kind, self.column_order, self.content = state
        self.code = kind.code if isinstance(kind, _PickledType) else None

    def is_rows(self, count: int) -> bool:
        """Tell whether this is an array of so many pictures."""
        whole = isinstance(self.content, bytes) and len(self.content) == count * _ROW_BYTES
        return whole and count > 0 and self.shape == (count, _ROW_BYTES) and self.code in ("u1", "|u1")


class _Unpickler(pickle._Unpickler):
    """Makes values and arrays alone; a pickle that asks for anything else is refused.

    It is the one written in Python: that in C takes all memory if a damaged pickle names a high place in its memo.
    """

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledType,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a part of NumPy.

        Raises:
            UnpicklingError: it is another function or class.
        """
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return self._ALLOWED[module, name]


def _unpickle(file: Path, expected: str) -> dict[str, Any]:
    """Read a pickled mapping; its keys become text.

    Raises:
        DatasetError: it is damaged, holds more than values and arrays, or is no mapping.
    """
    with file.open("rb") as stored:
        try:
            content = _Unpickler(stored, encoding="bytes").load()
        except Exception as error:  # a damaged pickle raises nearly everything
            reason = in_one_line(error)
            raise damaged(file, expected, f"it cannot be unpickled ({reason})") from error
    if not isinstance(content, dict):
        raise damaged(file, expected, f"it holds a {type(content).__name__}, no mapping")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
