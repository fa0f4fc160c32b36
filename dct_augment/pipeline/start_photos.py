"""The photos that the images of a run, or of a draw in it, start from: training photos of that run or draw alone."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dct_augment.config import fingerprint
from dct_augment.errors import InputError
from dct_augment.generation.start_choice import StartChoice
from dct_augment.records import ClassInfo, Example
from dct_augment.wording import listed

if TYPE_CHECKING:
    from dct_augment.pipeline.context import RunContext


class StartPhotos:
    """The photos of each class that images may start from.

    Args:
        context: of the run, or of a draw in it, with its photos.

    Raises:
        InputError: images of a class would have no photo to start from.
    """

    def __init__(self, context: "RunContext") -> None:
        settings = context.config.generation
        self._contents = context.photo_contents
        self._by_slug = _by_slug(context.photos(), context.classes)
        self._any_class = settings.start == "any_class"
        if not self._any_class:
            self._by_slug |= _of_other_classes(context)
        self.choice = StartChoice(
            {slug: [photo.key for photo in photos] for slug, photos in self._by_slug.items()},
            self._any_class,
            settings.strengths,
        )
        empty = [info.original_name or info.name for info in context.classes if not self._by_slug[info.slug]]
        if empty and (not self._any_class or len(empty) == len(context.classes)):
            raise InputError(
                f"generation.start: {settings.start} needs a training photo to start from, and there is none that can "
                f"be read of: {listed(list(map(repr, empty)), 10)}. Add photos, choose other classes with "
                "dataset.classes, or set generation.start: noise"
            )

    @property
    def photos(self) -> tuple[Example, ...]:
        """All of them."""
        return tuple(photo for photos in self._by_slug.values() for photo in photos)

    def identity(self, slugs: Iterable[str]) -> dict[str, str]:
        """Hash keys and pixels of the photos that images of these classes may start from, by the photos' class."""
        of_classes = self._by_slug if self._any_class else slugs
        return {
            slug: fingerprint([(photo.key, self._contents.of(photo)) for photo in self._by_slug.get(slug, ())])
            for slug in of_classes
        }


def _by_slug(photos: Sequence[Example], classes: Sequence[ClassInfo]) -> dict[str, list[Example]]:
    """Sort photos by class, each class in their order."""
    slugs = {info.index: info.slug for info in classes}
    result: dict[str, list[Example]] = {info.slug: [] for info in classes}
    for photo in photos:
        if photo.label in slugs:
            result[slugs[photo.label]].append(photo)
    return result


def _of_other_classes(context: "RunContext") -> dict[str, list[Example]]:
    """Give the photos of classes that are not chosen today: shards that were planned with them stay as they are."""
    others = [info for info in context.dataset.classes if info not in context.classes]
    if not others or context.photos_of_draw is not None:
        return {}
    return _by_slug(context.dataset.examples("train"), others)
