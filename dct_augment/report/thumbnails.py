"""Thumbnails: the first images of each class side by side, as one WebP sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

from dct_augment.generation import image_index
from dct_augment.generation.shards import ShardFolder
from dct_augment.records import ClassInfo
from dct_augment.report.data_uris import webp, webp_data_uri
from dct_augment.tars import Span

COLUMNS = ("key", "class_index", "number", "status", "offset", "bytes")
"""What is read of the row of an image."""

SIDE = 64
"""Side of a thumbnail in pixels, where many classes share a page; smaller images stay as they are."""

LARGE_SIDE = 128
"""Side of a thumbnail where few are shown."""

_GAP = 4
_CROSS = (128, 128, 128, 255)

Thumbnails = Sequence[Image.Image | None]
"""Small copies of images in order of their numbers; None where there is no image."""


@dataclass(frozen=True)
class Sheet:
    """A WebP file of rows of thumbnails, its size in pixels, and how many thumbnails a row has."""

    data: bytes
    width: int
    height: int
    columns: int

    @property
    def uri(self) -> str:
        """The sheet as a data URI."""
        return webp_data_uri(self.data)


def first_image_numbers(
    tables: Sequence[pd.DataFrame], classes: Sequence[ClassInfo], count: int
) -> dict[int, list[int]]:
    """Return the first `count` image numbers by class index, over all tables: a pair has one number and one seed."""
    numbers: dict[int, list[int]] = {info.index: [] for info in classes}
    filled = [table[["class_index", "number"]].astype(int) for table in tables if not table.empty]
    if not filled:
        return numbers
    pairs = pd.concat(filled).drop_duplicates().sort_values(["class_index", "number"])
    first = pairs.groupby("class_index").head(count)
    for class_index, number in zip(first["class_index"], first["number"], strict=True):
        if int(class_index) in numbers:
            numbers[int(class_index)].append(int(number))
    return numbers


class FirstImages:
    """The first images of one kind, which are opened class by class: memory does not grow with their number.

    Args:
        shards: Where the images are.
        rows: Their rows, with `COLUMNS` and `shard`.
        numbers: By class index, the numbers of the images to show.

    Raises:
        ShardError: a tar of an older version, whose rows do not say where images lie, cannot be read.
    """

    def __init__(self, shards: ShardFolder, rows: pd.DataFrame, numbers: Mapping[int, Sequence[int]]) -> None:
        self._folder, self._numbers = shards.path, numbers
        self._rows = _placed(shards.path, rows, numbers)
        self._rows_of_class = self._rows.groupby("class_index").indices

    def thumbnails(self, class_index: int, side: int = SIDE) -> list[Image.Image | None]:
        """Load small copies of the images of a class, in order of their numbers; none if there is no image at all.

        A copy has at most `side` pixels a side; smaller images keep their size.

        Raises:
            ShardError: an image cannot be read.
        """
        copies: dict[int, Image.Image] = {}
        for row in self._rows.iloc[self._rows_of_class.get(class_index, [])].itertuples():
            image = image_index.open_image(self._folder / row.shard, Span(row.offset, row.bytes))
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            copies[row.number] = image
        return [copies.get(number) for number in self._numbers[class_index]] if copies else []


def _placed(folder: Path, rows: pd.DataFrame, numbers: Mapping[int, Sequence[int]]) -> pd.DataFrame:
    """Keep the rows of images to show that are in a tar, with their places there."""
    if rows.empty:
        return pd.DataFrame(columns=[*COLUMNS, "shard"])
    pairs = [(class_index, number) for class_index, of_class in numbers.items() for number in of_class]
    wanted = pd.DataFrame(pairs, columns=["class_index", "number"], dtype=int)
    finished = rows.loc[rows["status"] == "ok", [*COLUMNS, "shard"]].astype({"class_index": int, "number": int})
    placed = image_index.with_places(folder, finished.merge(wanted, on=["class_index", "number"]))
    return placed[placed["offset"] >= 0]


def render_sheet(thumbnail_rows: Sequence[Thumbnails], side: int = SIDE) -> Sheet:
    """Render rows of thumbnails of at most `side` pixels, one above the other; none is enlarged.

    A place without an image is crossed out.
    """
    sizes = [max(image.size) for row in thumbnail_rows for image in row if image is not None]
    side = min(side, max(sizes, default=side))
    step, columns = side + _GAP, max(map(len, thumbnail_rows))
    sheet = Image.new("RGBA", (columns * step - _GAP, len(thumbnail_rows) * step - _GAP))
    for row_number, row in enumerate(thumbnail_rows):
        for column, thumbnail in enumerate(row):
            _place(sheet, thumbnail, column * step, row_number * step, side)
    return Sheet(webp(sheet), sheet.width, sheet.height, columns)


def _place(sheet: Image.Image, thumbnail: Image.Image | None, left: int, top: int, side: int) -> None:
    """Paste a thumbnail into the middle of its place, or cross the place out."""
    if thumbnail is None:
        _cross_out(sheet, left, top, side - 1)
        return
    small = thumbnail.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))


def _cross_out(sheet: Image.Image, left: int, top: int, edge: int) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left, top, left + edge, top + edge), outline=_CROSS)
    pen.line((left, top, left + edge, top + edge), fill=_CROSS)
    pen.line((left, top + edge, left + edge, top), fill=_CROSS)
