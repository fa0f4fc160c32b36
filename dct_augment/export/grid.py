"""The picture grid of a data-set card: one row a class."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dct_augment.errors import ShardError
from dct_augment.export.rows import ExportImage
from dct_augment.images import UNREADABLE_IMAGE
from dct_augment.wording import reason_of

FILE = "grid.png"
MOST_CLASSES, IMAGES_OF_A_CLASS = 40, 8
SIDE = 96

_GAP, _TEXT_WIDTH, _TEXT_SIZE = 4, 160, 14
_PAPER, _INK = (255, 255, 255), (60, 60, 60)


class Grid:
    """Keeps the first images of the first classes, small, and draws them."""

    def __init__(self) -> None:
        self._thumbnails: dict[int, list[Image.Image]] = {}
        self._names: dict[int, str] = {}

    def add(self, image: ExportImage) -> None:
        """Keep an image if its row has a free place.

        Raises:
            ShardError: it cannot be read.
        """
        label = image.target.label
        row = self._thumbnails.setdefault(label, []) if label < MOST_CLASSES else None
        if row is None or len(row) == IMAGES_OF_A_CLASS:
            return
        try:
            picture = Image.open(io.BytesIO(image.data)).convert("RGB")
        except UNREADABLE_IMAGE as error:
            raise ShardError(
                f"image {image.row['key']!r} cannot be read: {reason_of(error)}; generate its shard again"
            ) from error
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        row.append(picture)
        self._names[label] = image.target.folder  # ASCII, which the built-in font has

    def write(self, folder: Path) -> None:
        """Draw the grid into a PNG file: rows by label, with the name of the class's folder before each."""
        rows = sorted(self._thumbnails)
        columns = max(len(row) for row in self._thumbnails.values())
        width = _TEXT_WIDTH + columns * (SIDE + _GAP)
        sheet = Image.new("RGB", (width, len(rows) * (SIDE + _GAP) + _GAP), _PAPER)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
        for place, label in enumerate(rows):
            top = _GAP + place * (SIDE + _GAP)
            pen.text((_GAP, top + SIDE // 2), self._names[label][:22], fill=_INK, font=font, anchor="lm")
            for column, picture in enumerate(self._thumbnails[label]):
                left = _TEXT_WIDTH + column * (SIDE + _GAP)
                sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        sheet.save(folder / FILE)
