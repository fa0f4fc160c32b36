"""Strips of pictures: the first images of each class in a row, small enough to sit inside a page."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image, ImageDraw

from dct_augment.generation.shards import ShardFolder

SIZES = (128, 96, 64, 48, 32)
"""Tile sides in pixels, tried in turn until all strips fit."""

BUDGET = 2_500_000
"""Characters that the strips may take of a page; with charts, matrices and tables it stays below 5 MB."""

_GAP, _CROSS = 4, (128, 128, 128, 255)

Tiles = Sequence[Image.Image | None]
"""Pictures in order of their numbers; None where there is no picture."""


@dataclass(frozen=True)
class ThumbnailRow:
    """One PNG: `shown` pictures in a row, `absent` of its places crossed out."""

    uri: str
    width: int
    height: int
    shown: int
    absent: int


def numbers(tables: Sequence[pd.DataFrame], class_index: int, count: int) -> list[int]:
    """The first `count` image numbers of a class, over all tables: a pair has one number and one seed."""
    found: set[int] = set()
    for table in tables:
        if not table.empty:
            found |= set(table.loc[table["class_index"] == class_index, "number"].astype(int))
    return sorted(found)[:count]


def collect(
    shards: ShardFolder, split: str, rows: pd.DataFrame, wanted: Mapping[int, Sequence[int]]
) -> dict[int, list[Image.Image | None]]:
    """Small copies of the wanted images of a split, by class index, in order of their numbers.

    Reads no further than the last wanted image: first numbers are in the first shards.
    """
    if rows.empty:
        return {}
    finished = rows[rows["status"] == "ok"]
    places = {
        str(key): (int(index), int(number))
        for key, index, number in zip(finished["key"], finished["class_index"], finished["number"], strict=True)
        if int(number) in wanted.get(int(index), ())
    }
    found: dict[tuple[int, int], Image.Image] = {}
    if places:
        for key, _, picture in shards.images(split):
            if key in places:
                picture.thumbnail((SIZES[0], SIZES[0]), Image.Resampling.LANCZOS)
                found[places[key]] = picture
                if len(found) == len(places):
                    break
    present = {index for index, _ in found}
    return {index: [found.get((index, number)) for number in wanted[index]] for index in wanted if index in present}


def fit(sets: Mapping[str, Mapping[str, Tiles]], budget: int = BUDGET) -> dict[str, dict[str, ThumbnailRow]]:
    """Strips by class and kind, as large as `budget` characters allow; the last classes are left out if need be."""
    made: dict[str, dict[str, ThumbnailRow]] = {}
    for size in SIZES:
        made = _within(sets, size, budget)
        if len(made) == len(sets):
            break
    return made


def _within(sets: Mapping[str, Mapping[str, Tiles]], size: int, budget: int) -> dict[str, dict[str, ThumbnailRow]]:
    made: dict[str, dict[str, ThumbnailRow]] = {}
    for name, kinds in sets.items():
        strips = {kind: _strip(tiles, size) for kind, tiles in kinds.items()}
        budget -= sum(len(strip.uri) for strip in strips.values())
        if budget < 0:
            break
        made[name] = strips
    return made


def sheet(rows: Sequence[Tiles], budget: int) -> str:
    """The data URI of rows of pictures, one above the other, as large as `budget` characters allow."""
    uri = ""
    for size in SIZES:
        drawn = [_row(tiles, size) for tiles in rows]
        whole = Image.new("RGBA", (max(row.width for row in drawn), sum(row.height + _GAP for row in drawn) - _GAP))
        top = 0
        for row in drawn:
            whole.paste(row, (0, top))
            top += row.height + _GAP
        uri = _uri(whole)
        if len(uri) <= budget:
            break
    return uri


def _strip(tiles: Tiles, size: int) -> ThumbnailRow:
    row, absent = _row(tiles, size), sum(tile is None for tile in tiles)
    return ThumbnailRow(_uri(row), row.width, row.height, len(tiles) - absent, absent)


def _row(tiles: Tiles, size: int) -> Image.Image:
    side = min(size, max((max(tile.size) for tile in tiles if tile is not None), default=size))
    row = Image.new("RGBA", (len(tiles) * (side + _GAP) - _GAP, side))
    for place, tile in enumerate(tiles):
        left = place * (side + _GAP)
        if tile is None:
            _cross_out(row, left, side)
            continue
        small = tile.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        row.paste(small, (left + (side - small.width) // 2, (side - small.height) // 2))
    return row


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _cross_out(sheet: Image.Image, left: int, side: int) -> None:
    draw, edge = ImageDraw.Draw(sheet), side - 1
    draw.rectangle((left, 0, left + edge, edge), outline=_CROSS)
    draw.line((left, 0, left + edge, edge), fill=_CROSS)
    draw.line((left, edge, left + edge, 0), fill=_CROSS)
