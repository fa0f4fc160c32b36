"""The pictures of training photos, each read when it is taken."""

from collections.abc import Iterable, Sequence
from typing import overload

from PIL import Image

from dct_augment.records import ClassInfo, Example


class OpenedPhotos(Sequence[Image.Image]):
    """The pictures of some photos: in memory all of them would be large.

    Args:
        photos: training images that can be read.
    """

    def __init__(self, photos: Sequence[Example]) -> None:
        self._photos = photos

    def __len__(self) -> int:
        return len(self._photos)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> "OpenedPhotos": ...
    def __getitem__(self, place: int | slice) -> "Image.Image | OpenedPhotos":
        """Read one picture, or take the photos of a slice."""
        if isinstance(place, slice):
            return OpenedPhotos(self._photos[place])
        return self._photos[place].open()


def by_class(
    photos: Iterable[Example], classes: Iterable[ClassInfo], most: int | None = None
) -> dict[str, OpenedPhotos]:
    """Sort photos by the slug of their class.

    Args:
        photos: training images that can be read, in an order of their own.
        classes: whose photos are wanted.
        most: of a class; they are spread evenly over its photos. None: all.
    """
    of_label: dict[int, list[Example]] = {}
    for photo in photos:
        of_label.setdefault(photo.label, []).append(photo)
    return {info.slug: OpenedPhotos(_spread(of_label.get(info.index, []), most)) for info in classes}


def _spread(photos: Sequence[Example], most: int | None) -> Sequence[Example]:
    """Take at most some of them, at equal distances."""
    if most is None or len(photos) <= most:
        return photos
    return [photos[place * len(photos) // most] for place in range(most)]
