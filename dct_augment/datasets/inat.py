"""Reads iNaturalist 2017, 2018, 2019 and 2021 with their COCO-style annotation files."""

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dct_augment.config import INaturalistDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.annotations import read_json
from dct_augment.datasets.class_labels import HIDDEN
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.wording import agreeing, counted

Category = Mapping[str, Any]

_RANKS = ("supercategory", "kingdom", "phylum", "class", "order", "family", "genus")
_TRAIN = {
    2017: ("train2017.json",),
    2018: ("train2018.json",),
    2019: ("train2019.json",),
    2021: ("train.json", "train_mini.json"),
}
_VAL = {2017: "val2017.json", 2018: "val2018.json", 2019: "val2019.json", 2021: "val.json"}


def load(settings: INaturalistDataset) -> ImageDataset:
    """Index the images; the published val split is the test split, `val` is held out of train.

    Raises:
        DatasetError: files are missing or damaged, names are hidden, or no class is under the taxon.
    """
    root, year = settings.path.expanduser(), settings.version
    files = ", ".join((*_TRAIN[year], _VAL[year]))
    published = f"iNaturalist {year} as published by its competition ({files}, pictures)"
    image_files.require(root, _VAL[year], published=published)
    train_file = next((root / name for name in _TRAIN[year] if (root / name).is_file()), None)
    if train_file is None:
        raise DatasetError(f"dataset.path {str(root)!r} lacks {' and '.join(_TRAIN[year])}. Put {published} there")
    train, val = _read(train_file), _read(root / _VAL[year])
    categories = _under(_with_names(train.categories, root, year), settings.taxon)
    original_names = [str(category["name"]) for category in categories]
    names = [_prompt_name(category, settings.language) for category in categories]
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    known = {category["id"] for category in train.categories}
    if len(known) < len(train.categories):
        raise _repeated(train_file, "categories", train.categories)
    reader, notes = image_reader(settings), list[str]()
    splits = {
        split: image_files.index(root, _rows(annotated, known, numbers, notes), reader)
        for split, annotated in (("train", train), ("test", val))
    }
    return complete(f"inat{year}", class_infos(original_names, settings.words, names), splits, settings, notes)


@dataclass(frozen=True)
class _Annotations:
    """The lists of an annotation file."""

    path: Path
    images: Sequence[Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    categories: Sequence[Category]


_KEYS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}
"""What each entry of a list must have."""


def _read(path: Path) -> _Annotations:
    """Read an annotation file.

    Raises:
        DatasetError: it is none, or an entry lacks what it must have.
    """
    data = read_json(path, f"the lists {', '.join(_KEYS)} of a COCO-style annotation file")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in _KEYS):
        raise DatasetError(f"{str(path)!r} is not a COCO-style annotation file: it must have lists {', '.join(_KEYS)}")
    for key, required in _KEYS.items():
        for place, entry in enumerate(data[key]):
            lacking = [name for name in required if not isinstance(entry, dict) or not _is_value(entry.get(name))]
            if lacking:
                raise DatasetError(
                    f"{str(path)!r} is damaged: {key}[{place}] lacks {' and '.join(lacking)}; it is {str(entry)[:80]}"
                )
    return _Annotations(path, data["images"], data["annotations"], data["categories"])


def _repeated(path: Path, key: str, entries: Sequence[Mapping[str, Any]]) -> DatasetError:
    """Make the error for a list in which an id is there twice."""
    twice, count = Counter(entry["id"] for entry in entries).most_common(1)[0]
    return DatasetError(f"{str(path)!r} is damaged: {count} of its {key} have the id {twice}")


def _is_value(value: Any) -> bool:
    """Tell whether something can be an id, a name or a path."""
    return isinstance(value, int | str) and value != ""


def _with_names(categories: Sequence[Category], root: Path, year: int) -> Sequence[Category]:
    """Give the categories real names: 2018 and 2019 hid them, and published them later in categories.json."""
    if not all(str(category["name"]).isdigit() for category in categories):
        return categories
    path = root / "categories.json"
    if not path.is_file():
        raise DatasetError(
            f"the class names of iNaturalist {year} are hidden in {_TRAIN[year][0]}; put the categories.json that was "
            f"published later into {str(root)!r}"
        )
    data = read_json(path, "a list of categories with id and name")
    if not isinstance(data, list) or not all(
        isinstance(entry, dict) and {"id", "name"} <= entry.keys() for entry in data
    ):
        raise DatasetError(f"{str(path)!r} is damaged: it must be a list of categories with id and name")
    published = {category["id"]: category for category in data}
    if missing := [category["id"] for category in categories if category["id"] not in published]:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise DatasetError(f"{str(path)!r} lacks category {missing[0]}{more}; get the whole file")
    return [published[category["id"]] for category in categories]


def _under(categories: Sequence[Category], taxon: str | None) -> Sequence[Category]:
    """Select the categories under a taxon of any rank, or of that name."""
    if taxon is None:
        return categories
    chosen = [category for category in categories if taxon.lower() in _taxa(category)]
    if not chosen:
        existing = sorted({str(category[rank]) for category in categories for rank in _RANKS if category.get(rank)})
        close = difflib.get_close_matches(taxon, existing, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise DatasetError(
            f"dataset.taxon {taxon!r}: no class is under it{hint}; there are, e.g., {', '.join(existing[:12])}"
        )
    return chosen


def _taxa(category: Category) -> set[str]:
    """List what a category belongs to, in lower case, its own name included."""
    return {str(category.get(rank, "")).lower() for rank in (*_RANKS, "name")}


def _prompt_name(category: Category, language: str) -> str:
    common_name = str(category.get("common_name") or "").strip()
    if language == "common" and common_name:
        return common_name.lower()
    return str(category["name"]).lower()


def _rows(
    annotated: _Annotations, known: Collection[Any], numbers: Mapping[Any, int], notes: list[str]
) -> Iterator[tuple[str, int]]:
    """Yield file and class number of the images whose category has one.

    Raises:
        DatasetError: an image is there twice or has several categories, or an annotation is of an unknown one.
    """
    where = f"{str(annotated.path)!r} is damaged"
    category_of: dict[Any, Any] = {}
    for annotation in annotated.annotations:
        image, category = annotation["image_id"], annotation["category_id"]
        if category == HIDDEN and HIDDEN not in known:
            continue
        if category not in known:
            raise DatasetError(
                f"{where}: the annotation of image {image} is of category {category}, which is in no list"
            )
        if category_of.setdefault(image, category) != category:
            raise DatasetError(
                f"{where}: image {image} has categories {category_of[image]} and {category}; multi-label data cannot "
                "be used"
            )
    images = {image["id"] for image in annotated.images}
    if len(images) < len(annotated.images):
        raise _repeated(annotated.path, "images", annotated.images)
    if unknown := category_of.keys() - images:
        annotations_are = counted(len(unknown), "annotation", "is")
        raise DatasetError(
            f"{where}: {annotations_are} of an image that is not in its list, e.g. {min(unknown, key=str)}"
        )
    if without := len(images) - len(category_of):
        notes.append(
            f"{annotated.path.name}: {counted(without, 'image', 'has')} no annotation, or a hidden one (-1), and "
            f"{agreeing(without, 'is')} left out"
        )
    for image in annotated.images:
        number = numbers.get(category_of.get(image["id"]))
        if number is not None:
            yield str(image["file_name"]), number
