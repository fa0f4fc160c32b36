"""The images of each class: a sheet per class, of the first ones inside the page, of the others beside it."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from dct_augment import files
from dct_augment.generation.shards import ShardFolder
from dct_augment.records import ClassInfo, ImageKind
from dct_augment.report import thumbnails
from dct_augment.report.thumbnails import FirstImages, Sheet, Thumbnails

EMBEDDED = 2_500_000
"""Characters that sheets may take of the page: some 80 classes of 16 photographs."""

FOLDER = "images"
"""Beside the page: the sheets for which it has no room."""


@dataclass(frozen=True)
class ImageCount:
    """How many images a row of a sheet shows, and how many of its places have none."""

    shown: int
    absent: int


@dataclass(frozen=True)
class ClassSheet:
    """The images of one class: a sheet with a row for each kind in `rows`, in their order."""

    sheet: Sheet
    rows: Mapping[str, ImageCount]


@dataclass(frozen=True)
class PageSheet:
    """A sheet as the page shows it: `source` is a data URI, or a path beside the page."""

    source: str
    width: int
    height: int
    columns: int
    rows: Mapping[str, ImageCount]

    @property
    def is_embedded(self) -> bool:
        """Whether the page holds the sheet."""
        return self.source.startswith("data:")


def render_classes(
    classes: Sequence[ClassInfo],
    rows: Mapping[ImageKind, pd.DataFrame],
    shards: Mapping[ImageKind, ShardFolder],
    count: int,
) -> Iterator[tuple[str, ClassSheet]]:
    """Render the first `count` images of each kind, class by class, and yield slug and sheet of those that have any.

    Raises:
        ShardError: an image cannot be read.
    """
    numbers = thumbnails.first_image_numbers(list(rows.values()), classes, count)
    images = {kind: FirstImages(shards[kind], rows[kind], numbers) for kind in rows}
    for info in classes:
        loaded = {str(kind): of_kind.thumbnails(info.index) for kind, of_kind in images.items()}
        by_kind = {kind: row for kind, row in loaded.items() if row}
        if by_kind:
            counts = {kind: _count(row) for kind, row in by_kind.items()}
            yield info.slug, ClassSheet(thumbnails.render_sheet(list(by_kind.values())), counts)


def _count(row: Thumbnails) -> ImageCount:
    absent = sum(thumbnail is None for thumbnail in row)
    return ImageCount(len(row) - absent, absent)


def publish(folder: Path, sheets: Iterable[tuple[str, ClassSheet]], embedded: int = EMBEDDED) -> dict[str, PageSheet]:
    """Give each sheet its place, by slug: in the page for the first ones, in `images/` for all that follow.

    The folder `images/` is made anew, and is not there if the page has room for all.

    Args:
        folder: Of the report.
        sheets: Slugs and sheets in the order of the page; each is taken only when the one before has its place.
        embedded: Characters that the page has room for.
    """
    shown: dict[str, PageSheet] = {}
    left = iter(sheets)
    for slug, class_sheet in left:
        uri = class_sheet.sheet.uri
        embedded -= len(uri)
        if embedded < 0:
            return shown | _write_folder(folder / FOLDER, chain([(slug, class_sheet)], left))
        shown[slug] = _page_sheet(class_sheet, uri)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return shown


def _page_sheet(class_sheet: ClassSheet, source: str) -> PageSheet:
    sheet = class_sheet.sheet
    return PageSheet(source, sheet.width, sheet.height, sheet.columns, class_sheet.rows)


def _write_folder(path: Path, sheets: Iterable[tuple[str, ClassSheet]]) -> dict[str, PageSheet]:
    """Write sheets into a folder that takes the place of the one that is there."""
    shown = {}
    with files.atomic_folder(path, replace=True) as partial:
        for slug, class_sheet in sheets:
            name = f"{slug}.webp"
            (partial / name).write_bytes(class_sheet.sheet.data)
            shown[slug] = _page_sheet(class_sheet, f"{FOLDER}/{name}")
    return shown
