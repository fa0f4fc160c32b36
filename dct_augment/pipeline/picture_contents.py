"""The content of the real images of a run: as the last look found it, so that none is opened for it again."""

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from dct_augment import tables
from dct_augment.errors import UnreadableImageError
from dct_augment.images import content
from dct_augment.records import Example

if TYPE_CHECKING:
    from dct_augment.pipeline.context import RunContext


def known_contents(context: "RunContext", splits: Collection[str]) -> dict[str, str]:
    """Give the SHA-256 of size and pixels of images, as hex, by key; of splits that the look did not open, none.

    Args:
        context: of the run itself, which has looked at the photos of its draws, too.
        splits: of the images.
    """
    path = context.config.root / "data" / "pictures.parquet"
    inspected = set(splits).intersection(context.data.inspected)
    table = tables.read(path, ["key", "class_index", "content", "reason", "split"]) if inspected else None
    if table is None:
        return {}
    chosen = {info.index for info in context.classes}
    table = table.filter(pc.is_in(table["split"].cast(pa.string()), pa.array(sorted(inspected))))
    return {
        row["key"]: row["content"].hex()
        for row in table.to_pylist()
        if row["class_index"] in chosen and not row["reason"]
    }


class PhotoContents:
    """The content of training photos by key: as the last look found it, or else each photo is opened once.

    Args:
        context: of the run itself, which has looked at the photos of its draws, too.
    """

    def __init__(self, context: "RunContext") -> None:
        self._context = context

    def of(self, photo: Example) -> str:
        """Give the SHA-256 of a photo's size and pixels, as hex; a word for one that cannot be read."""
        if photo.key not in self._contents:
            try:
                self._contents[photo.key] = content(photo.open())
            except UnreadableImageError:
                self._contents[photo.key] = "unreadable"
        return self._contents[photo.key]

    @cached_property
    def _contents(self) -> dict[str, str]:
        return known_contents(self._context, ["train"])
