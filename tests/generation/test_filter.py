"""The filter of generated images, over shards on disk."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dct_augment.generation import plan
from dct_augment.generation.filter import filter_images
from dct_augment.images import content
from dct_augment.records import GeneratedImage
from tests.conftest import CLASSES, ShardRun, drawn, make_run, speckled

KEYS = ("crane-000000", "ca-bird-000000", "gull-000000", "crane-000001", "ca-bird-000001", "gull-000001")


def write(run: ShardRun, *changes: dict[str, Any], image_format: str = "png") -> None:
    """Draw two images of each class in three shards; each is recognised with 0.9, but for the changes of its number."""
    layout = plan.extend((), CLASSES, 2, 2)
    run.folder.record(layout)
    numbered = iter([*changes, *[{}] * (len(KEYS) - len(changes))])
    for spec in layout:
        samples = []
        for row, change in zip(run.rows(spec), numbered, strict=False):
            good: dict[str, Any] = {
                "image": drawn(row),
                "guide_label": row.class_name,
                "guide_right": True,
                "guide_confidence": 0.9,
            }
            samples.append(GeneratedImage(row, **(good | change)))
        run.folder.write(spec, samples, run.identity, image_format)


FAILED = {"image": None, "status": "failed", "guide_right": None, "guide_confidence": math.nan}


def reasons(run: ShardRun, least: float = 0.4) -> list[str]:
    return filter_images(run.folder, least)["reason"].tolist()


def test_each_image_has_its_reason(shard_run):
    same = speckled(0, 1)
    write(
        shard_run,
        {"image": same},
        FAILED,
        {"guide_right": False},
        {"guide_confidence": 0.3999},
        {"guide_confidence": math.nan},
        {"image": same.copy()},
    )
    table = filter_images(shard_run.folder, 0.4)
    assert dict(zip(table["key"], table["reason"], strict=True)) == {
        "crane-000000": "",
        "ca-bird-000000": "not generated",
        "gull-000000": "taken for another class",
        "crane-000001": "confidence below 0.4",
        "ca-bird-000001": "confidence below 0.4",
        "gull-000001": "duplicate",
    }
    assert table["accepted"].tolist() == [True] + [False] * 5
    assert table["class_name"].tolist() == ["crane", "Çà bird", "gull"] * 2


def test_good_images_are_all_accepted(shard_run):
    write(shard_run)
    table = filter_images(shard_run.folder, 0.9)  # as confident as asked for is enough
    assert table["key"].tolist() == list(KEYS)
    assert table["accepted"].all()
    assert reasons(shard_run, 0.91) == ["confidence below 0.91"] * 6


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_the_first_of_equal_images_is_kept_within_and_across_shards(shard_run, image_format):
    same = speckled(0, 1)
    write(shard_run, {}, {"image": same}, {"image": same}, {}, {"image": same}, image_format=image_format)
    assert reasons(shard_run) == ["", "", "duplicate", "", "duplicate", ""]


def test_an_image_that_differs_in_one_pixel_is_no_duplicate(shard_run):
    same, other = speckled(0, 1), speckled(0, 1)
    other.putpixel((3, 3), (0, 0, 0))
    write(shard_run, {"image": same}, {"image": other}, {"image": same})
    assert reasons(shard_run)[:3] == ["", "", "duplicate"]


def test_images_that_no_guide_has_seen_are_not_accepted_nor_plain_ones_looked_at(made):
    """As the fixture draws them: 5 of each class with class tokens, and plain ones besides."""
    assert reasons(made) == ["taken for another class"] * 15


def test_failed_images_are_said_to_be_so(shard_run):
    shard_run.draw(failed=("gull-000001",))
    table = filter_images(shard_run.folder, 0.0).set_index("key")
    assert table.loc["gull-000001", "reason"] == "not generated"
    assert (table["reason"] == "not generated").sum() == 1


def test_an_empty_folder_has_no_rows(shard_run):
    assert filter_images(shard_run.folder, 0.4).empty


def test_no_image_is_decoded_for_the_filter(shard_run, monkeypatch):
    """Their rows have the hashes of their pixels."""
    write(shard_run, {"image": speckled(0, 1)}, {"image": speckled(0, 1)})
    opened = []
    monkeypatch.setattr(Image, "open", lambda *arguments: opened.append(arguments))
    assert reasons(shard_run)[:2] == ["", "duplicate"]
    assert opened == []


VERDICTS = st.fixed_dictionaries(
    {
        "image": st.integers(0, 3).map(lambda seed: speckled(0, seed)),
        "guide_right": st.sampled_from([True, True, False, None]),
        "guide_confidence": st.floats(0, 1, width=16) | st.just(math.nan),
    }
)


@settings(max_examples=40)
@given(st.lists(VERDICTS | st.just(FAILED), min_size=6, max_size=6), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_every_image_is_either_accepted_or_has_a_reason(changes, least):
    with TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        write(run, *changes)
        table = filter_images(run.folder, least)
    assert table["key"].tolist() == list(KEYS)
    assert (table["accepted"] == (table["reason"] == "")).all()
    seen: set[str] = set()
    for change, accepted in zip(changes, table["accepted"], strict=True):
        known = change["image"] and content(change["image"])
        good = change["guide_right"] is True and round(change["guide_confidence"], 4) >= least
        assert accepted == (known is not None and good and known not in seen)
        seen.add(known)


def test_content_is_that_of_the_pixels_and_their_layout():
    picture = speckled(0, 1)
    flat = Image.fromarray(np.asarray(picture).reshape(8, 32, 3))
    assert content(picture) == content(picture.convert("RGBA")) != content(flat)
    palette = picture.quantize(8)
    assert content(palette) == content(palette.convert("RGB")) != content(picture)
