"""Photos by class: at most so many, spread over all, and opened only when they are taken."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment.pipeline import opened_photos
from dct_augment.records import ClassInfo, Example

CLASSES = [ClassInfo(3, "gull", "gull"), ClassInfo(5, "tern", "tern")]


def photo(number: int, label: int, opened: list[int] | None = None) -> Example:
    """Make a photo whose red is its number; it tells when it is opened."""

    def open_it() -> Image.Image:
        if opened is not None:
            opened.append(number)
        return Image.new("RGB", (4, 4), (number, 0, 0))

    return Example(str(number), label, open_it)


def reds(images: opened_photos.OpenedPhotos) -> list[int]:
    return [image.tobytes()[0] for image in images]


@given(count=st.integers(0, 60), most=st.none() | st.integers(1, 60))
def test_of_each_class_at_most_so_many_are_taken_and_they_are_spread_over_all(count: int, most: int | None) -> None:
    photos = [photo(number, label) for number in range(count) for label in (3, 4)]
    chosen = opened_photos.by_class(photos, CLASSES, most)
    assert list(chosen) == ["gull", "tern"]
    assert len(chosen["tern"]) == 0
    taken = reds(chosen["gull"])
    assert len(taken) == (count if most is None else min(count, most))
    gaps = [later - earlier for earlier, later in itertools.pairwise([*taken, count])]
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_a_photo_is_read_when_it_is_taken() -> None:
    opened: list[int] = []
    photos = opened_photos.by_class([photo(number, 3, opened) for number in range(3)], CLASSES)["gull"]
    assert (len(photos[1:]), opened) == (2, [])
    assert (reds(photos[1:]), opened) == ([1, 2], [1, 2])
