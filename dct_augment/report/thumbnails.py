"""Thumbnails: the first images of each class side by side, as one WebP sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image, ImageDraw

from dct_augment.generation.shards import ShardFolder
from dct_augment.records import ClassInfo
from dct_augment.report.data_uris import webp, webp_data_uri

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


def load_thumbnails(
    shards: ShardFolder, rows: pd.DataFrame, numbers: Mapping[int, Sequence[int]], side: int = SIDE
) -> dict[int, list[Image.Image | None]]:
    """Load small copies of images, by class index, in order of their numbers.

    Reads no further than the last of them: first numbers are in the first shards.

    Args:
        shards: Where the images are.
        rows: Their rows.
        numbers: By class index, the numbers of the images to load.
        side: Of a copy, in pixels; smaller images keep their size.
    """
    if rows.empty:
        return {}
    places = _places_by_key(rows, numbers)
    thumbnails: dict[tuple[int, int], Image.Image] = {}
    if places:
        for key, _, image in shards.images():
            if key in places:
                image.thumbnail((side, side), Image.Resampling.LANCZOS)
                thumbnails[places[key]] = image
                if len(thumbnails) == len(places):
                    break
    with_images = {class_index for class_index, _ in thumbnails}
    return {
        class_index: [thumbnails.get((class_index, number)) for number in class_numbers]
        for class_index, class_numbers in numbers.items()
        if class_index in with_images
    }


def _places_by_key(rows: pd.DataFrame, numbers: Mapping[int, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """Class index and number of each image to load, by its key in the shards."""
    finished = rows[rows["status"] == "ok"]
    places = {}
    for key, class_index, number in zip(finished["key"], finished["class_index"], finished["number"], strict=True):
        if int(number) in numbers.get(int(class_index), ()):
            places[str(key)] = (int(class_index), int(number))
    return places


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
