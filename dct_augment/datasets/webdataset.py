"""WebDataset tar shards, our own included; pictures are read from the tars where they lie."""

import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from dct_augment.config import WebDatasetDataset
from dct_augment.datasets import pictures
from dct_augment.datasets.naming import infos
from dct_augment.datasets.pictures import OnDisk
from dct_augment.errors import DatasetError
from dct_augment.records import Example

_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def load(settings: WebDatasetDataset) -> OnDisk:
    """Index the shards. A tar's split is the word train, val or test in its name, train if there is none.

    Class names are those of the `json` members (`class_name`, as ours), or of a `classes.txt` beside the tars.

    Raises:
        DatasetError: no shards, a damaged one, or labels without names.
    """
    root = settings.path.expanduser()
    pictures.require(root, published="WebDataset shards (*.tar)")
    tars = [path for path in sorted(root.glob("*.tar")) if "plain" not in re.split(r"[^a-z]+", path.stem.lower())]
    if not tars:
        raise DatasetError(f"dataset.path {str(root)!r} holds no *.tar shards")
    named: dict[int, str] = {}
    splits: dict[str, list[Example]] = {"train": []}
    for tar in tars:
        splits.setdefault(_split(tar), []).extend(_index(tar, named))
    names = _names(root, {example.label for part in splits.values() for example in part}, named)
    classes = infos(names, settings.words)
    held = {"val": settings.val, "test": settings.test}
    whole = pictures.complete_listed(dict(splits), held, settings.seed, classes, root)
    return OnDisk(settings.title or root.resolve().name, classes, whole)


def _split(tar: Path) -> str:
    return next((_WORDS[word] for word in re.split(r"[^a-z]+", tar.stem.lower()) if word in _WORDS), "train")


def _index(tar: Path, named: dict[int, str]) -> list[Example]:
    """The pictures of a tar; what its json members call the classes goes into `named`."""
    labels: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}
    said: dict[str, str] = {}
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                key, _, ending = member.name.partition(".")
                if f".{ending}".lower() in pictures.SUFFIXES:
                    places[key] = (member.offset_data, member.size)
                elif ending in ("cls", "json"):
                    data = archive.extractfile(member).read()  # type: ignore[union-attr]
                    if ending == "cls":
                        labels[key] = int(data)
                    elif isinstance(facts := json.loads(data), dict) and facts.get("class_name"):
                        said[key] = str(facts["class_name"])
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DatasetError(f"{str(tar)!r} cannot be read: {error}") from error
    if unlabelled := sorted(places.keys() - labels.keys()):
        raise DatasetError(f"{str(tar)!r}: {len(unlabelled)} pictures have no .cls member, e.g. {unlabelled[0]!r}")
    for key, name in said.items():
        if key in labels:
            named.setdefault(labels[key], name)
    return [Example(f"{tar.name}/{key}", labels[key], partial(_open, tar, *place)) for key, place in places.items()]


def _names(root: Path, used: set[int], named: Mapping[int, str]) -> Sequence[str]:
    """Class names in label order."""
    path, count = root / "classes.txt", max(used, default=-1) + 1
    if path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(names) < count:
            raise DatasetError(f"{str(path)!r} names {len(names)} classes, but labels go up to {count - 1}")
        return names
    if missing := [label for label in range(count) if label not in named]:
        raise DatasetError(
            f"{str(root)!r}: no name for label {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; put them into {str(path)!r}, a line each, "
            "in label order"
        )
    return [named[label] for label in range(count)]


def _open(tar: Path, offset: int, size: int) -> Image.Image:
    with tar.open("rb") as stream:
        stream.seek(offset)
        return Image.open(io.BytesIO(stream.read(size)))
