"""The real images of a run in its report: how many there are, what cannot be read, and duplicates with thumbnails."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dct_augment.datasets.splits import keys
from dct_augment.errors import UnreadableImageError
from dct_augment.records import Dataset
from dct_augment.report import thumbnails
from dct_augment.report.thumbnails import LARGE_SIDE, Sheet

GROUPS = 12
"""Groups of duplicates in the page; `data/duplicates.parquet` has all."""

_PICTURES = 6  # of a group
_UNREADABLE = 20


@dataclass(frozen=True)
class RealImageSection:
    """What the look at the data set found, as `data/overview.json` has it, and the images of the groups to show."""

    overview: Mapping[str, Any]
    images: Mapping[tuple[str, str], Image.Image] = field(default_factory=dict)


def load_section(overview: Mapping[str, Any], dataset: Dataset) -> RealImageSection:
    """Load small copies of the images of the groups to show; what can no longer be read is left out."""
    wanted: dict[str, set[str]] = {}
    for group in _shown_groups(overview):
        for picture in group["pictures"][:_PICTURES]:
            wanted.setdefault(picture["split"], set()).add(picture["key"])
    images = {}
    for split, wanted_keys in wanted.items():
        examples = dataset.examples(split)
        for row, key in enumerate(keys(examples)):
            if key in wanted_keys:
                try:
                    image = examples[row].open()
                except UnreadableImageError:
                    continue
                image.thumbnail((LARGE_SIDE, LARGE_SIDE), Image.Resampling.LANCZOS)
                images[split, key] = image
    return RealImageSection(overview, images)


def summarize(section: RealImageSection) -> dict[str, Any]:
    """Give the numbers of the page: long lists are cut, and their lengths told."""
    overview, groups = section.overview, section.overview["duplicates"]["groups"]
    pictures = [picture for group in groups for picture in group["pictures"]]
    return {
        "inspected": overview["inspected"],
        "counts": overview["counts"],
        "sizes": overview["sizes"],
        "unreadable": len(overview["unreadable"]),
        "first_unreadable": overview["unreadable"][:_UNREADABLE],
        "duplicates": {
            "setting": overview["duplicates"]["setting"],
            "searched": overview["duplicates"]["searched"],
            "exact": sum(group["kind"] == "exact" for group in groups),
            "near": sum(group["kind"] == "near" for group in groups),
            "across_splits": sum(group["across_splits"] for group in groups),
            "across_classes": sum(group["across_classes"] for group in groups),
            "left_out": sum(picture["left_out"] for picture in pictures),
        },
        "groups": [{**group, "pictures": group["pictures"][:_PICTURES]} for group in _shown_groups(overview)],
        "homonyms": overview["homonyms"],
        "notes": overview["notes"],
        "problems": overview["problems"],
    }


def render_groups(section: RealImageSection) -> list[Sheet | None]:
    """Render the images of each group side by side; None where no image is left."""
    sheets = []
    for group in _shown_groups(section.overview):
        row = [section.images.get((picture["split"], picture["key"])) for picture in group["pictures"][:_PICTURES]]
        sheets.append(thumbnails.render_sheet([row], LARGE_SIDE) if any(row) else None)
    return sheets


def _shown_groups(overview: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The first groups; those across splits and across classes come first."""
    groups = overview["duplicates"]["groups"]
    return sorted(groups, key=lambda group: (not group["across_splits"], not group["across_classes"]))[:GROUPS]
