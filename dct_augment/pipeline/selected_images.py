"""The images of a run that its guide selects: ordered once, then read."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dct_augment import tables, wording
from dct_augment.config import fingerprint
from dct_augment.downstream.selection import order_images
from dct_augment.errors import InputError
from dct_augment.pipeline.context import RunContext
from dct_augment.records import ImageKind, Progress

_COLUMNS = ("key", "accepted", "rank")


class SelectedImages:
    """The images of one kind that the guide of a run, or of its draw, selects (`benchmark.selection`), in their order.

    It lies in `selection/<hash>.parquet` of the run folder. The hash is that of the images and the settings, so it is
    never stale.
    """

    def __init__(self, context: RunContext, kind: ImageKind) -> None:
        self._context, self._shards = context, context.shards[kind]
        self._settings = context.config.benchmark

    @property
    def path(self) -> Path:
        """The file of the order of today's images."""
        settings, candidates = self._settings, self._settings.candidate_count
        tars = [self._shards.digest(spec) for spec in self._shards.layout() if spec.first_number < candidates]
        name = fingerprint(tars, settings.selection, candidates, settings.filter_confidence)[:12]
        return self._context.config.root / "selection" / f"{name}.parquet"

    @property
    def is_made(self) -> bool:
        """Whether today's images are ordered."""
        return tables.read(self.path, _COLUMNS) is not None

    def make(self, title: str) -> None:
        """Order the images, if that is not done; the guide and the photos must be there."""
        if self.is_made:
            return
        path, context, settings = self.path, self._context, self._settings
        if path.is_file():
            context.progress(Progress("images", 0, 0, f"{path} is damaged; it is made again"))
        if settings.selection == "first":
            raise ValueError("benchmark.selection: first takes images as they come, without an order")
        table = order_images(
            self._shards,
            context.photos(),
            context.guide,
            by=settings.selection,
            candidates=settings.candidate_count,
            least_confidence=settings.filter_confidence,
        )
        tables.write(path, table)
        note = (
            f"{title}: the guide accepts {int(table['accepted'].sum()):,} of {len(table):,} images; at most "
            f"{settings.per_class} of a class are used{self._without_any(table)}"
        )
        context.progress(Progress("images", 0, 0, note))

    def _without_any(self, table: pd.DataFrame) -> str:
        """Name the classes of which no image is accepted, which have photos alone; empty if there is none."""
        accepted = table.groupby("class_name", sort=False)["accepted"].any()
        without = accepted.index[~accepted].tolist()
        return f", and none of {wording.listed(without, 10)}" if without else ""

    def ranks(self) -> Mapping[str, int]:
        """Read the place of each accepted image in its class, from 0, by key.

        Raises:
            InputError: the order is damaged.
        """
        stored = tables.read(self.path, _COLUMNS)
        if stored is None:
            raise InputError(
                f"{self.path}, the order of selected images, is damaged; delete this file, and the same command makes "
                "it again"
            )
        table = stored.to_pandas()
        table = table[table["accepted"].astype(bool)]
        return dict(zip(table["key"], table["rank"].astype(int), strict=True))
