"""Thumbnails: the first images of each class side by side, small enough to sit inside a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image, ImageDraw

from dct_augment.generation.shards import ShardFolder
from dct_augment.report.data_uris import png_data_uri

SIZES = (128, 96, 64, 48, 32)
"""Sides of a thumbnail in pixels, tried in turn until all fit."""

BUDGET = 2_500_000
"""Characters that thumbnails may take of a page; with charts, matrices and tables it stays below 5 MB."""

_GAP = 4
_CROSS = (128, 128, 128, 255)

Thumbnails = Sequence[Image.Image | None]
"""Small copies of images in order of their numbers; None where there is no image."""


@dataclass(frozen=True)
class RenderedThumbnails:
    """One PNG with `shown` images side by side; `absent` of its places are crossed out."""

    uri: str
    width: int
    height: int
    shown: int
    absent: int


def first_image_numbers(tables: Sequence[pd.DataFrame], class_index: int, count: int) -> list[int]:
    """Return the first `count` image numbers of a class, over all tables: a pair has one number and one seed."""
    numbers: set[int] = set()
    for table in tables:
        if not table.empty:
            numbers |= set(table.loc[table["class_index"] == class_index, "number"].astype(int))
    return sorted(numbers)[:count]


def load_thumbnails(
    shards: ShardFolder, rows: pd.DataFrame, numbers: Mapping[int, Sequence[int]]
) -> dict[int, list[Image.Image | None]]:
    """Load small copies of images, by class index, in order of their numbers.

    Reads no further than the last of them: first numbers are in the first shards.

    Args:
        shards: Where the images are.
        rows: Their rows.
        numbers: By class index, the numbers of the images to load.
    """
    if rows.empty:
        return {}
    places = _places_by_key(rows, numbers)
    thumbnails: dict[tuple[int, int], Image.Image] = {}
    if places:
        for key, _, image in shards.images():
            if key in places:
                image.thumbnail((SIZES[0], SIZES[0]), Image.Resampling.LANCZOS)
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


def render_classes(
    classes: Mapping[str, Mapping[str, Thumbnails]], budget: int = BUDGET
) -> dict[str, dict[str, RenderedThumbnails]]:
    """Render thumbnails by class and kind, as large as `budget` characters allow; the last classes may be left out."""
    rendered: dict[str, dict[str, RenderedThumbnails]] = {}
    for size in SIZES:
        rendered = _render_within(classes, size, budget)
        if len(rendered) == len(classes):
            break
    return rendered


def _render_within(
    classes: Mapping[str, Mapping[str, Thumbnails]], size: int, budget: int
) -> dict[str, dict[str, RenderedThumbnails]]:
    """Render classes at one size until the budget is spent."""
    rendered: dict[str, dict[str, RenderedThumbnails]] = {}
    for title, kinds in classes.items():
        rendered_kinds = {kind: _render(thumbnails, size) for kind, thumbnails in kinds.items()}
        budget -= sum(len(row.uri) for row in rendered_kinds.values())
        if budget < 0:
            break
        rendered[title] = rendered_kinds
    return rendered


def _render(thumbnails: Thumbnails, size: int) -> RenderedThumbnails:
    image = _side_by_side(thumbnails, size)
    absent = sum(thumbnail is None for thumbnail in thumbnails)
    return RenderedThumbnails(png_data_uri(image), image.width, image.height, len(thumbnails) - absent, absent)


def render_stacked(thumbnail_rows: Sequence[Thumbnails], budget: int) -> str:
    """Return the data URI of rows of thumbnails, one above the other, as large as `budget` characters allow."""
    uri = ""
    for size in SIZES:
        uri = png_data_uri(_one_above_the_other([_side_by_side(row, size) for row in thumbnail_rows]))
        if len(uri) <= budget:
            break
    return uri


def _one_above_the_other(images: Sequence[Image.Image]) -> Image.Image:
    height = sum(image.height + _GAP for image in images) - _GAP
    sheet = Image.new("RGBA", (max(image.width for image in images), height))
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + _GAP
    return sheet


def _side_by_side(thumbnails: Thumbnails, size: int) -> Image.Image:
    """Paste thumbnails of at most `size` pixels into one RGBA image; none is enlarged."""
    largest = max((max(thumbnail.size) for thumbnail in thumbnails if thumbnail is not None), default=size)
    side = min(size, largest)
    sheet = Image.new("RGBA", (len(thumbnails) * (side + _GAP) - _GAP, side))
    for place, thumbnail in enumerate(thumbnails):
        left = place * (side + _GAP)
        if thumbnail is None:
            _cross_out(sheet, left, side)
            continue
        small = thumbnail.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        sheet.paste(small, (left + (side - small.width) // 2, (side - small.height) // 2))
    return sheet


def _cross_out(sheet: Image.Image, left: int, side: int) -> None:
    pen, edge = ImageDraw.Draw(sheet), side - 1
    pen.rectangle((left, 0, left + edge, edge), outline=_CROSS)
    pen.line((left, 0, left + edge, edge), fill=_CROSS)
    pen.line((left, edge, left + edge, 0), fill=_CROSS)
