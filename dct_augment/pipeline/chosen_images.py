"""The images of a run that are chosen by coverage: ordered once, then read."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dct_augment import files
from dct_augment.config import fingerprint
from dct_augment.downstream.coverage import order_by_coverage
from dct_augment.pipeline.context import RunContext
from dct_augment.records import ImageKind, Progress


class ChosenImages:
    """The order in which images of one kind add to the photos of a run, or of its draw, as its guide sees them.

    It lies in `coverage/<hash>.parquet` of the run folder. The hash is that of the images and the settings, so it is
    never stale.
    """

    def __init__(self, context: RunContext, kind: ImageKind) -> None:
        self._context, self._shards = context, context.shards[kind]
        self._settings = context.config.benchmark

    @property
    def path(self) -> Path:
        """The file of the order of today's images."""
        candidates = self._settings.candidate_count
        tars = [self._shards.digest(spec) for spec in self._shards.layout() if spec.first_number < candidates]
        name = fingerprint(tars, candidates, self._settings.filter_confidence)[:12]
        return self._context.config.root / "coverage" / f"{name}.parquet"

    def make(self, title: str) -> None:
        """Order the images, if that is not done; the guide and the photos must be there."""
        path, context, settings = self.path, self._context, self._settings
        if path.is_file():
            return
        table = order_by_coverage(
            self._shards,
            context.photos(),
            context.guide,
            candidates=settings.candidate_count,
            least_confidence=settings.filter_confidence,
        )
        with files.atomic(path) as partial:
            table.to_parquet(partial, index=False)
        note = (
            f"{title}: {settings.per_class} of {settings.candidate_count} images a class are chosen by coverage; the "
            f"guide accepts {int(table['accepted'].sum()):,} of {len(table):,}"
        )
        context.progress(Progress("images", 0, 0, note))

    def ranks(self) -> Mapping[str, int]:
        """Read the place of each image in its class, from 0, by key."""
        table = pd.read_parquet(self.path, columns=["key", "rank"])
        return dict(zip(table["key"], table["rank"].astype(int), strict=True))
