from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from dct_augment import datasets
from dct_augment.datasets import duplicates, inspection
from dct_augment.datasets.duplicates import RADIUS, close_pairs, copies, find_duplicates
from dct_augment.datasets.inspection import Pictures, inspect
from dct_augment.reading import ImageReader
from dct_augment.records import Example
from tests.datasets.photographs import photograph, save

FLAT = (3, 12, 18, 19)
"""Photographs of sky and blurred leaves alone: their contrast is below 10 grey levels."""


def example(number: int, image: Image.Image, label: int = 0) -> Example:
    return Example(f"{number:05d}", label, lambda: image)


def search(tmp_path: Path, images: Sequence[Image.Image], split: str = "train") -> np.ndarray:
    """The group of each image."""
    examples = {split: [example(number, image) for number, image in enumerate(images)]}
    pictures = inspect(examples, tmp_path / "pictures.parquet")
    return find_duplicates(pictures, lambda rows: inspection.thumbnails([examples[split][row] for row in rows]))


def brute_force(hashes: np.ndarray) -> set[tuple[int, int]]:
    pairs = set()
    for one in range(len(hashes)):
        for other in range(one + 1, len(hashes)):
            if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= RADIUS:
                pairs.add((one, other))
    return pairs


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=RADIUS + 2)), max_size=40),
)
def test_the_search_in_blocks_finds_what_comparing_all_hashes_finds(
    originals: list[int], changed: list[tuple[int, set[int]]]
) -> None:
    hashes = list(originals)
    for place, bits in changed:
        hashes.append(originals[place % len(originals)] ^ sum(1 << bit for bit in bits))
    array = np.array(hashes, np.uint64)
    found = [tuple(sorted(pair)) for pairs in close_pairs(array) for pair in pairs.tolist()]
    assert len(found) == len(set(found))  # each once
    assert set(found) == brute_force(array)


def test_no_hashes_have_no_pairs() -> None:
    assert list(close_pairs(np.array([], np.uint64))) == []


def test_many_equal_hashes_are_each_compared_with_some_neighbours_only() -> None:
    hashes = np.full(20_000, 7, np.uint64)
    assert sum(map(len, close_pairs(hashes))) <= 64 * len(hashes)


@pytest.mark.parametrize(
    ("ending", "size", "options"),
    [
        ("jpg", None, {"quality": 75}),
        ("webp", None, {"quality": 75}),
        ("png", (80, 70), {}),
        ("jpg", (64, 56), {"quality": 90}),
        ("png", (320, 280), {}),
        ("png", (224, 224), {}),  # squeezed into a square
        ("gif", None, {}),
    ],
)
def test_a_copy_in_another_format_or_size_is_a_near_duplicate(
    tmp_path: Path, ending: str, size: tuple[int, int] | None, options: dict[str, int]
) -> None:
    numbers = [number for number in range(24) if number not in FLAT]
    images = [photograph(number) for number in numbers]
    for number in numbers:
        path = save(tmp_path / f"{number}.{ending}", number, size, **options)
        images.append(ImageReader().read(path))
    assert search(tmp_path, images).tolist() == [*range(20), *range(20)]


def test_different_photographs_are_no_duplicates(tmp_path: Path) -> None:
    assert set(search(tmp_path, [photograph(number) for number in range(24)])) == {-1}


def test_pictures_that_are_merely_alike_are_no_duplicates(tmp_path: Path) -> None:
    crop = photograph(6).crop((16, 0, 160, 140))  # a tenth cut off
    recoloured = photograph(13).convert("RGB", (1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0))
    black = [Image.new("RGB", (64, 64), (0, 0, value)) for value in range(4)]
    marked = Image.new("RGB", (40, 30), "red")
    marked.paste(Image.new("RGB", (3, 3), "blue"), (37, 27))
    other = Image.new("RGB", (40, 30), "red")
    other.paste(Image.new("RGB", (3, 3), "green"), (37, 27))
    assert set(search(tmp_path, [photograph(6), crop, photograph(13), recoloured, *black, marked, other])) == {-1}


@pytest.mark.parametrize("side", [8, 64])
def test_real_handwriting_has_no_near_duplicates(tmp_path: Path, side: int) -> None:
    written = [Image.fromarray((page * 255 / 16).astype(np.uint8)) for page in load_digits().images]
    images = [page.convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for page in written]
    assert set(search(tmp_path, images)) == {-1}


def test_the_shipped_digits_have_no_duplicates(tmp_path: Path) -> None:
    data = datasets.load("digits")
    examples = {split: data.examples(split) for split in inspection.SPLITS}
    pictures = inspect(examples, tmp_path / "pictures.parquet")

    def thumbnails(rows: Sequence[int]) -> np.ndarray:
        return inspection.thumbnails([inspection.example_at(examples, pictures, row) for row in rows])

    assert len(pictures) == 557
    assert set(find_duplicates(pictures, thumbnails)) == {-1}


@pytest.mark.slow
def test_thousands_of_equal_pictures_are_one_group_and_need_no_look_at_their_pixels(tmp_path: Path) -> None:
    images = [photograph(0)] * 3000 + [Image.new("RGB", (20, 20))] * 3000
    examples = {"train": [example(number, image) for number, image in enumerate(images)]}
    pictures = inspect(examples, tmp_path / "pictures.parquet", processes=1)
    groups = find_duplicates(pictures, lambda rows: pytest.fail("compared pixels"))
    assert groups.tolist() == [0] * 3000 + [3000] * 3000


def test_a_swarm_of_close_pictures_is_compared_a_few_times_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hash and one signature, but other pixels: as of one scene through a noisy camera."""
    count = 400
    rng = np.random.default_rng(0)
    pictures = inspect(
        {"train": [example(number, photograph(0)) for number in range(count)]}, tmp_path / "pictures.parquet"
    )
    pictures.rows["content"] = rng.integers(0, 256, (count, 32))
    compared = []
    monkeypatch.setattr(duplicates._Thumbnails, "are_same", lambda self, *pair: bool(compared.append(pair)))
    find_duplicates(pictures, lambda rows: np.zeros((len(rows), 32, 32, 3), np.uint8))
    assert 0 < len(compared) < 40 * count


def test_copies_leave_train_and_val_and_never_test() -> None:
    train, val, test = range(3)
    split = np.array([train, train, train, train, train, val, val, val, test, test, test], np.int8)
    #                 0      1      2      3      4      5    6    7    8     9     10
    groups = np.array([0, 0, 2, 3, -1, 2, 3, 2, 3, 9, 9])
    pictures = Pictures(split, np.zeros(11, int), None, np.zeros(11))
    # 1 copies 0; 2 is in val (5, 7: both stay); 3 and 6 are in test (8); 9 and 10 are both test.
    assert sorted(copies(pictures, groups)) == [1, 2, 3, 6]
