"""Reads iNaturalist 2017, 2018, 2019 and 2021 with their COCO-style annotation files."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dct_augment.config import INaturalistDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.image_files import ImageFiles
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.reading import ImageReader
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError

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
    train = _read(train_file)
    categories = _under(_with_names(train["categories"], root, year), settings.taxon)
    original_names = [str(category["name"]) for category in categories]
    names = [_prompt_name(category, settings.language) for category in categories]
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    reader = image_reader(settings)
    splits = {
        "train": _index(root, train, numbers, reader),
        "test": _index(root, _read(root / _VAL[year]), numbers, reader),
    }
    return complete(f"inat{year}", class_infos(original_names, settings.words, names), splits, settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {key: data[key] for key in ("images", "annotations", "categories")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{str(path)!r} is not a COCO-style annotation file: {error}") from error


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
    published = {category["id"]: category for category in json.loads(path.read_text(encoding="utf-8"))}
    return [published.get(category["id"], category) for category in categories]


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


def _index(root: Path, annotated: Mapping[str, Any], numbers: Mapping[Any, int], reader: ImageReader) -> ImageFiles:
    """Index the images of an annotation file whose category has a class number."""
    categories = {annotation["image_id"]: annotation["category_id"] for annotation in annotated["annotations"]}

    def rows() -> Iterator[tuple[str, int]]:
        for image in annotated["images"]:
            number = numbers.get(categories.get(image["id"], ""))
            if number is not None:
                yield str(image["file_name"]), number

    return image_files.index(root, rows(), reader)
