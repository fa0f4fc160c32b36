"""Selects synthetic images: those that the guide accepts, by number or by what they add."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from dct_augment.classifiers import Classifier
from dct_augment.downstream.mixing import SyntheticImages
from dct_augment.errors import ModelError
from dct_augment.generation.filter import filter_images
from dct_augment.generation.shards import ShardFolder
from dct_augment.images import square
from dct_augment.records import Example

_BATCH = 32

Features = NDArray[np.float32]


def farthest_first(points: Features, covered: Features) -> tuple[list[int], list[float]]:
    """Order points (N, D) by greedy k-centre: each is the farthest from the covered points (M, D) and those before it.

    The first k are within twice the radius of the best k (Gonzalez 1985), as in core sets (arXiv 1708.00489).

    Returns:
        The places of the points in this order, and the distance of each when it was chosen; infinite for the first one
        if nothing is covered. Of equal ones the earlier is first.
    """
    nearest = np.full(len(points), np.inf)
    for point in covered if len(points) else ():
        nearest = np.minimum(nearest, np.linalg.norm(points - point, axis=1))
    order: list[int] = []
    distances: list[float] = []
    for _ in range(len(points)):
        place = int(nearest.argmax())
        order.append(place)
        distances.append(float(nearest[place]))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[place], axis=1))
        nearest[order] = -np.inf
    return order, distances


def order_images(
    shards: ShardFolder,
    photos: Sequence[Example],
    guide: Classifier,
    *,
    by: Literal["accepted", "coverage"],
    candidates: int,
    least_confidence: float,
) -> pd.DataFrame:
    """Order the first `candidates` images of each class; those that the filter accepts come first.

    By `accepted` these are in the order of their numbers. By `coverage` they are ordered by what they add to the photos
    of their class: farthest first in the directions of the guide's features. The others follow, most confident first,
    and copies last.

    Returns:
        A row per image that was generated: `key`, `class_name`, `accepted`, `reason`, `distance` (by coverage, from the
        nearest photo or image before, 0 to 2; else NaN) and `rank` in its class, from 0.

    Raises:
        ModelError: the guide has no features, which `coverage` needs.
    """
    rows = shards.rows(["key", "class_name", "number", "status", "guide_confidence"])
    rows = rows[(rows["number"] < candidates) & (rows["status"] == "ok")]
    accepted = filter_images(shards, least_confidence)[["key", "accepted", "reason"]]
    rows = rows.merge(accepted, on="key").set_index("key", drop=False).rename_axis(None)
    images = SyntheticImages(shards.path, only=frozenset(rows["key"]))
    tables = []
    for label in sorted(set(images.labels)):
        places = [place for place, other in enumerate(images.labels) if other == label]
        table = rows.loc[[images.keys[place] for place in places]]
        chosen = [place for place, key in zip(places, table["key"], strict=True) if rows.at[key, "accepted"]]
        if by == "accepted":
            order, distances = list(range(len(chosen))), [np.nan] * len(chosen)
        else:
            size = images[places[0]][0].width
            covered = _directions(guide, (photo.open() for photo in photos if photo.label == label), size)
            points = _directions(guide, (images[place][0] for place in chosen), size)
            order, distances = farthest_first(points, covered)
        tables.append(_ordered(table, order, distances))
    columns = ["key", "class_name", "accepted", "reason", "distance", "rank"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _ordered(table: pd.DataFrame, order: Sequence[int], distances: Sequence[float]) -> pd.DataFrame:
    """Put the images of a class in their order: the accepted ones in the given one, then the others."""
    accepted = table[table["accepted"]].iloc[list(order)].assign(distance=list(distances))
    others = table[~table["accepted"]]
    others = others.assign(distance=np.nan, is_copy=others["reason"] == "duplicate")
    others = others.sort_values(["is_copy", "guide_confidence", "key"], ascending=[True, False, True])
    whole = pd.concat([part for part in (accepted, others) if len(part)])
    return whole.assign(rank=range(len(whole)))


def _directions(guide: Classifier, pictures: Iterator[Image.Image], size: int) -> Features:
    """Compute the features of pictures, each of length 1, (N, D); their middle squares are made `size` wide."""
    found = []
    while batch := list(islice(pictures, _BATCH)):
        try:
            features = guide.features(torch.cat([square(picture, size) for picture in batch]))
        except ModelError as error:
            raise ModelError(
                f"benchmark.selection: coverage needs features of the guide: {error}. Set benchmark.selection: first, "
                "or take another guide"
            ) from error
        found.append(torch.nn.functional.normalize(features, dim=1).numpy())
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)
