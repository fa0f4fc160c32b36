"""Which synthetic images add most to the photos: the order, and what it is made of."""

import itertools
from functools import partial
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from dct_augment.classifiers import Classifier
from dct_augment.downstream.selection import farthest_first, order_images
from dct_augment.errors import ModelError
from dct_augment.generation import plan
from dct_augment.records import ClassInfo, Example, GeneratedImage
from tests.conftest import CLASSES, ShardRun


class Colors(Classifier):
    """Sees the mean colour of an image, which stands for its features."""

    labels = tuple(info.name for info in CLASSES)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    def targets(self, classes: tuple[ClassInfo, ...]) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(info.index for info in classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) / 2 + 0.5


class WithoutFeatures(Colors):
    def features(self, images: torch.Tensor) -> torch.Tensor:
        raise ModelError("it has no linear last layer")


def test_each_point_is_the_farthest_from_what_is_covered_so_far() -> None:
    points = np.array([[0.0], [1.0], [4.0], [10.0], [6.0]], np.float32)
    assert farthest_first(points, np.array([[0.0], [1.5]], np.float32)) == ([3, 4, 2, 1, 0], [8.5, 4.0, 2.0, 0.5, 0.0])


def test_without_anything_covered_the_first_point_is_first() -> None:
    order, distances = farthest_first(np.array([[3.0], [0.0], [5.0]], np.float32), np.zeros((0, 0), np.float32))
    assert order == [0, 1, 2]
    assert distances == [np.inf, 3.0, 2.0]
    assert farthest_first(np.zeros((0, 0), np.float32), np.ones((2, 3), np.float32)) == ([], [])


def test_greedy_k_centre_is_within_twice_the_best_radius() -> None:
    points = np.random.default_rng(1).normal(size=(9, 2)).astype(np.float32)
    covered = points[:1]
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    order, _ = farthest_first(points, covered)
    for count in (1, 2, 3):
        greedy = gaps[:, [0, *order[:count]]].min(1).max()
        best = min(gaps[:, [0, *others]].min(1).max() for others in itertools.combinations(range(9), count))
        assert greedy <= 2 * best + 1e-6


def hue(degrees: float, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A picture whose features lie at this angle between red and green."""
    angle = np.radians(degrees)
    return Image.new("RGB", size, (round(250 * np.cos(angle)), round(250 * np.sin(angle)), 0))


PHOTOS = [
    Example("a", 0, partial(hue, 0, (40, 30))),
    Example("b", 0, partial(hue, 20, (8, 8))),
    Example("c", 1, partial(hue, 90)),
]
HUES = {"crane": (5, 90, 60, 26, 45, 90), "ca-bird": (85, 0, 40, 52, 61, 72)}


def write(run: ShardRun, changes: dict[str, dict[str, object]]) -> None:
    layout = plan.extend((), CLASSES[:2], 6, 5)
    run.folder.record(layout)
    for spec in layout:
        images = []
        for row in run.rows(spec):
            values = {"image": hue(HUES[row.slug][row.number]), "guide_right": True, "guide_confidence": 0.9}
            images.append(GeneratedImage(row, **(values | changes.get(row.key, {}))))  # type: ignore[arg-type]
        run.folder.write(spec, images, run.identity, "png")
    run.folder.publish()


def order(run: ShardRun, candidates: int = 6, by: Literal["accepted", "coverage"] = "coverage") -> dict[str, list[int]]:
    guide = Colors() if by == "coverage" else WithoutFeatures()
    table = order_images(run.folder, PHOTOS, guide, by=by, candidates=candidates, least_confidence=0.5)
    for _, group in table.groupby("class_name"):
        assert group["rank"].tolist() == list(range(len(group)))
    return {slug: [int(key[-1]) for key in table["key"] if key.startswith(slug)] for slug in HUES}


def test_images_that_the_guide_accepts_come_in_the_order_of_what_they_add(shard_run: ShardRun) -> None:
    write(shard_run, {})
    # From photos at 0 and 20 degrees: 90 adds 70, 60 then 30, 45 then 15, 26 then 6, 5 then 5; the second 90 is a copy.
    # From a photo at 90: 0 adds 90, 40 then 40, 61 then 21, 72 then 11, 52 then 9, 85 then 5.
    assert order(shard_run) == {"crane": [1, 2, 4, 3, 0, 5], "ca-bird": [1, 2, 4, 5, 3, 0]}


def test_what_the_guide_does_not_accept_comes_last_and_failed_images_never(shard_run: ShardRun) -> None:
    write(
        shard_run,
        {
            "crane-000001": {"guide_right": False, "guide_confidence": 0.2},
            "crane-000002": {"guide_confidence": 0.4},
            "crane-000005": {"image": None, "status": "failed", "guide_right": None},
        },
    )
    assert order(shard_run)["crane"] == [4, 3, 0, 2, 1]


def test_of_others_the_most_confident_comes_first_and_copies_last(shard_run: ShardRun) -> None:
    rejected: dict[str, dict[str, object]] = {
        f"crane-{number:06d}": {"guide_confidence": 0.1 * number} for number in range(5)
    }
    write(shard_run, rejected | {"crane-000005": {"guide_confidence": 0.95}})
    assert order(shard_run)["crane"] == [4, 3, 2, 1, 0, 5]


def test_later_images_of_a_shared_folder_are_no_candidates(shard_run: ShardRun) -> None:
    write(shard_run, {})
    assert sorted(order(shard_run, candidates=3)["crane"]) == [0, 1, 2]
    assert order(shard_run, candidates=3)["crane"] == [1, 2, 0]


def test_a_guide_without_features_is_one_message(shard_run: ShardRun) -> None:
    write(shard_run, {})
    with pytest.raises(ModelError, match=r"selection: coverage needs features of the guide: it has no .*: first, or"):
        order_images(shard_run.folder, PHOTOS, WithoutFeatures(), by="coverage", candidates=3, least_confidence=0.5)


def test_by_acceptance_images_come_by_number_and_need_no_features(shard_run: ShardRun) -> None:
    write(shard_run, {"crane-000001": {"guide_right": False, "guide_confidence": 0.7}})
    # Image 5 of the crane has the pixels of image 1, which the guide refuses.
    assert order(shard_run, by="accepted") == {"crane": [0, 2, 3, 4, 1, 5], "ca-bird": [0, 1, 2, 3, 4, 5]}
