"""Pictures that a training keeps in memory: decoded once, made smaller where that loses nothing, within a limit."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dct_augment.downstream import in_memory
from dct_augment.downstream.in_memory import PicturesInMemory, reduced


class _Pictures:
    """Pictures that count how often each is decoded."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.labels = tuple(range(10, 10 + len(sizes)))
        self.decoded: Counter[int] = Counter()
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.decoded[index] += 1
        return Image.new("RGB", self._sizes[index], (index, 0, 0)), self.labels[index]


def _red(picture: Image.Image) -> tuple[int, tuple[int, int]]:
    pixel = picture.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0]), picture.size


def test_each_picture_is_decoded_once_and_transformed_each_time() -> None:
    source = _Pictures((64, 64), (64, 48))
    seen = []

    def transform(picture: Image.Image) -> int:
        seen.append(_red(picture))
        return len(seen)

    pictures = PicturesInMemory(source, transform, side=48)

    assert [pictures[index] for index in (0, 1, 0, 1, 1)] == [(1, 10), (2, 11), (3, 10), (4, 11), (5, 11)]
    assert seen == [(0, (64, 64)), (1, (64, 48)), (0, (64, 64)), (1, (64, 48)), (1, (64, 48))]
    assert source.decoded == {0: 1, 1: 1}
    assert (len(pictures), pictures.labels) == (2, (10, 11))


def test_pictures_beyond_the_memory_are_decoded_again_and_the_same() -> None:
    source = _Pictures((10, 10), (10, 10), (5, 5))
    pictures = PicturesInMemory(source, _red, side=48, most_bytes=300 + 75)

    first = [pictures[index] for index in range(3)]

    assert (
        [pictures[index] for index in range(3)]
        == first
        == [((0, (10, 10)), 10), ((1, (10, 10)), 11), ((2, (5, 5)), 12)]
    )
    assert source.decoded == {0: 1, 1: 2, 2: 1}


def test_whether_all_pictures_fit_is_told_by_the_first() -> None:
    source = _Pictures((10, 10), (10, 10))
    assert PicturesInMemory(source, _red, side=48, most_bytes=600).all_fit
    assert not PicturesInMemory(source, _red, side=48, most_bytes=599).all_fit
    assert PicturesInMemory(_Pictures((400, 400), (400, 400)), _red, side=20, most_bytes=2 * 3 * 40 * 40).all_fit
    assert PicturesInMemory(_Pictures(), _red, side=48).all_fit


def test_processes_that_read_pictures_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "get_worker_info", lambda: SimpleNamespace(num_workers=2))
    source = _Pictures((10, 10), (10, 10))
    pictures = PicturesInMemory(source, _red, side=48, most_bytes=600)
    for index in (0, 1, 0, 1):
        pictures[index]
    assert source.decoded == {0: 1, 1: 2}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4000, 3000), (667, 500)),  # a phone's, for 224 pixels: six times smaller, and 500 is over 448
        ((896, 1344), (448, 672)),
        ((895, 1344), (895, 1344)),
        ((64, 64), (64, 64)),
    ],
)
def test_a_picture_stays_twice_as_large_as_the_input(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert reduced(Image.new("RGB", size), 224).size == expected


def test_a_smaller_picture_holds_means_of_pixels() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:2, :2] = [[[100, 0, 0], [0, 200, 0]], [[0, 0, 40], [0, 0, 0]]]

    smaller = np.asarray(reduced(Image.fromarray(pixels), 2))

    assert smaller.shape == (4, 4, 3)
    assert smaller[0, 0].tolist() == [25, 50, 10]
    assert not smaller[1:].any()
