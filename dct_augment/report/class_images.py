"""The images of each class: a sheet per class, of the first ones inside the page, of the others beside it."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dct_augment import files
from dct_augment.generation.shards import ShardFolder
from dct_augment.records import ClassInfo, ImageKind
from dct_augment.report import thumbnails
from dct_augment.report.thumbnails import Sheet, Thumbnails

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
) -> dict[str, ClassSheet]:
    """Render the first `count` images of each kind, by slug, of the classes that have any."""
    numbers = thumbnails.first_image_numbers(list(rows.values()), classes, count)
    loaded = {kind: thumbnails.load_thumbnails(shards[kind], rows[kind], numbers) for kind in rows}
    sheets: dict[str, ClassSheet] = {}
    for info in classes:
        by_kind = {str(kind): loaded[kind].pop(info.index) for kind in rows if info.index in loaded[kind]}
        if by_kind:
            counts = {kind: _count(row) for kind, row in by_kind.items()}
            sheets[info.slug] = ClassSheet(thumbnails.render_sheet(list(by_kind.values())), counts)
    return sheets


def _count(row: Thumbnails) -> ImageCount:
    absent = sum(thumbnail is None for thumbnail in row)
    return ImageCount(len(row) - absent, absent)


def publish(
    folder: Path, sheets: Mapping[str, ClassSheet], order: Iterable[str], embedded: int = EMBEDDED
) -> dict[str, PageSheet]:
    """Give each sheet its place, by slug: in the page for the first ones, in `images/` for all that follow.

    The folder `images/` is made anew, and is not there if the page has room for all.

    Args:
        folder: Of the report.
        sheets: By slug.
        order: The slugs in the order of the page; those without a sheet are left out.
        embedded: Characters that the page has room for.
    """
    sources: dict[str, str] = {}
    beside: dict[str, bytes] = {}
    for slug in order:
        if slug not in sheets:
            continue
        sheet = sheets[slug].sheet
        uri = "" if beside else sheet.uri
        embedded -= len(uri)
        if beside or embedded < 0:
            beside[f"{slug}.webp"] = sheet.data
        sources[slug] = f"{FOLDER}/{slug}.webp" if beside else uri
    _write_folder(folder / FOLDER, beside)
    return {slug: _page_sheet(sheets[slug], source) for slug, source in sources.items()}


def _page_sheet(class_sheet: ClassSheet, source: str) -> PageSheet:
    sheet = class_sheet.sheet
    return PageSheet(source, sheet.width, sheet.height, sheet.columns, class_sheet.rows)


def _write_folder(path: Path, data_by_name: Mapping[str, bytes]) -> None:
    """Write files into a folder that takes the place of the one that is there; no files are no folder."""
    if not data_by_name:
        shutil.rmtree(path, ignore_errors=True)
        return
    with files.atomic_folder(path, replace=True) as partial:
        for name, data in data_by_name.items():
            (partial / name).write_bytes(data)
