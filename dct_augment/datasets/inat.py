"""iNaturalist 2017, 2018, 2019 and 2021 with their COCO-style annotation files."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dct_augment.config import INaturalistDataset
from dct_augment.datasets import pictures
from dct_augment.datasets.naming import infos
from dct_augment.datasets.pictures import OnDisk, Pictures
from dct_augment.errors import DatasetError

_RANKS = ("supercategory", "kingdom", "phylum", "class", "order", "family", "genus", "name")
_TRAIN = {2017: ("train2017.json",), 2018: ("train2018.json",), 2019: ("train2019.json",),
          2021: ("train.json", "train_mini.json")}  # fmt: skip
_VAL = {2017: "val2017.json", 2018: "val2018.json", 2019: "val2019.json", 2021: "val.json"}


def load(settings: INaturalistDataset) -> OnDisk:
    """Index the pictures; the published val split is the test split, `val` is held out of train.

    Raises:
        DatasetError: files are missing or damaged, names are hidden, or no class is under the taxon.
    """
    root, year = settings.path.expanduser(), settings.version
    published = (
        f"iNaturalist {year} as published by its competition ({', '.join(_TRAIN[year])}, {_VAL[year]}, pictures)"
    )
    pictures.require(root, _VAL[year], published=published)
    train = next((root / name for name in _TRAIN[year] if (root / name).is_file()), None)
    if train is None:
        raise DatasetError(f"dataset.path {str(root)!r} lacks {' and '.join(_TRAIN[year])}. Put {published} there")
    data = _read(train)
    categories = _under(_named(data["categories"], root, year), settings.taxon)
    names = [_words(one, settings.language) for one in categories]
    classes = infos([str(one["name"]) for one in categories], settings.words, names)
    numbers = {one["id"]: index for index, one in enumerate(categories)}
    known = {"train": _index(root, data, numbers), "test": _index(root, _read(root / _VAL[year]), numbers)}
    found = pictures.complete(known, val=settings.val, test=settings.test, seed=settings.seed)
    pictures.refuse_empty(classes, found["train"], root)
    return OnDisk(f"inat{year}", classes, found)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {key: data[key] for key in ("images", "annotations", "categories")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{str(path)!r} is not a COCO-style annotation file: {error}") from error


def _named(categories: Sequence[Mapping[str, Any]], root: Path, year: int) -> list[Mapping[str, Any]]:
    """Categories with real names: 2018 and 2019 hid them, and published them later in categories.json."""
    if not all(str(one["name"]).isdigit() for one in categories):
        return list(categories)
    path = root / "categories.json"
    if not path.is_file():
        raise DatasetError(
            f"the class names of iNaturalist {year} are hidden in {_TRAIN[year][0]}; put the categories.json that was "
            f"published later into {str(root)!r}"
        )
    real = {one["id"]: one for one in json.loads(path.read_text(encoding="utf-8"))}
    return [real.get(one["id"], one) for one in categories]


def _under(categories: list[Mapping[str, Any]], taxon: str | None) -> list[Mapping[str, Any]]:
    if taxon is None:
        return categories
    chosen = [one for one in categories if taxon.lower() in (str(one.get(rank, "")).lower() for rank in _RANKS)]
    if not chosen:
        known = sorted({str(one[rank]) for one in categories for rank in _RANKS[:-1] if one.get(rank)})
        close = difflib.get_close_matches(taxon, known, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise DatasetError(
            f"dataset.taxon {taxon!r}: no class is under it{hint}; there are, e.g., {', '.join(known[:12])}"
        )
    return chosen


def _words(category: Mapping[str, Any], language: str) -> str:
    common = str(category.get("common_name") or "").strip()
    return (common if language == "common" and common else str(category["name"])).lower()


def _index(root: Path, data: Mapping[str, Any], numbers: Mapping[int, int]) -> Pictures:
    labels = {one["image_id"]: one["category_id"] for one in data["annotations"]}
    rows = (
        (str(image["file_name"]), numbers[labels[image["id"]]])
        for image in data["images"]
        if labels.get(image["id"]) in numbers
    )
    return pictures.build(root, rows)
