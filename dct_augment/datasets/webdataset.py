"""Reads WebDataset tar shards, our own included; images are read from the tars where they lie."""

import json
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from dct_augment import tars
from dct_augment.config import WebDatasetDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.reading import SUFFIXES, ImageReader
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.records import Example
from dct_augment.tars import Span

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_IMAGES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)


@dataclass(frozen=True)
class _StoredImage:
    """An image of a tar, where it lies, and what its json member calls its class; empty if it says nothing."""

    key: str
    label: int
    class_name: str
    tar: Path
    span: Span

    def example(self, reader: ImageReader) -> Example:
        return Example(f"{self.tar.name}/{self.key}", self.label, partial(_open, reader, self.tar, self.span))


def load(settings: WebDatasetDataset) -> ImageDataset:
    """Index the shards. A tar's split is the word train, val or test in its name, train if there is none.

    Class names are those of the `json` members (`class_name`, as ours), or of a `classes.txt` beside the tars.

    Raises:
        DatasetError: no shards, a damaged one, or labels without names.
    """
    root = settings.path.expanduser()
    image_files.require(root, published="WebDataset shards (*.tar)")
    paths = [path for path in sorted(root.glob("*.tar")) if "plain" not in _words(path)]
    if not paths:
        raise DatasetError(f"dataset.path {str(root)!r} holds no *.tar shards")
    class_names: dict[int, str] = {}
    reader = image_reader(settings)
    splits: dict[str, list[Example]] = {"train": []}
    for path in paths:
        images = _index(path)
        splits.setdefault(_split(path), []).extend(image.example(reader) for image in images)
        for image in images:
            if image.class_name:
                class_names.setdefault(image.label, image.class_name)
    labels = {example.label for examples in splits.values() for example in examples}
    classes = class_infos(_class_names(root, labels, class_names), settings.words)
    return complete(settings.title or root.resolve().name, classes, splits, settings)


def _words(tar: Path) -> list[str]:
    return re.split(r"[^a-z]+", tar.stem.lower())


def _split(tar: Path) -> str:
    return next((_SPLIT_WORDS[word] for word in _words(tar) if word in _SPLIT_WORDS), "train")


def _index(tar: Path) -> list[_StoredImage]:
    """List the images of a tar."""
    try:
        return list(_read(tar))
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DatasetError(f"{str(tar)!r} cannot be read: {error}") from error


def _read(tar: Path) -> Iterator[_StoredImage]:
    samples = [sample for sample in tars.index(tar) if sample.image(_IMAGES)]
    if unlabelled := sorted(sample.key for sample in samples if "cls" not in sample.members):
        raise DatasetError(f"{str(tar)!r}: {len(unlabelled)} pictures have no .cls member, e.g. {unlabelled[0]!r}")
    with tar.open("rb") as stream:
        for sample in samples:
            span = sample.image(_IMAGES)
            assert span is not None
            label = int(sample.members["cls"].read(stream))
            metadata = json.loads(sample.members["json"].read(stream)) if "json" in sample.members else None
            yield _StoredImage(sample.key, label, _class_name(metadata), tar, span)


def _class_name(metadata: Any) -> str:
    """Find what a json member calls the class."""
    if isinstance(metadata, dict) and metadata.get("class_name"):
        return str(metadata["class_name"])
    return ""


def _class_names(root: Path, labels: Collection[int], in_tars: Mapping[int, str]) -> Sequence[str]:
    """List class names in label order, from `classes.txt` if there is one."""
    path, count = root / "classes.txt", max(labels, default=-1) + 1
    if path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(names) < count:
            raise DatasetError(f"{str(path)!r} names {len(names)} classes, but labels go up to {count - 1}")
        return names
    if missing := [label for label in range(count) if label not in in_tars]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DatasetError(
            f"{str(root)!r}: no name for label {missing[0]}{more}; put them into {str(path)!r}, a line each, in label "
            "order"
        )
    return [in_tars[label] for label in range(count)]


def _open(reader: ImageReader, tar: Path, span: Span) -> Image.Image:
    with tar.open("rb") as stream:
        return reader.read(span.read(stream))
