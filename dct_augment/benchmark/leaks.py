"""Leaks: a validation or test picture among the training pictures."""

from collections.abc import Callable, Mapping

from dct_augment.errors import LeakError
from dct_augment.images import content
from dct_augment.records import Example, Split


def refuse_leaks(
    split: Split, synthetic: Mapping[str, str] | None = None, content_of: Callable[[Example], str] | None = None
) -> None:
    """Compare pictures by content; `synthetic` gives the key of each further training picture by its hash.

    Raises:
        LeakError: a validation or test picture is also a training picture; names both keys.
    """
    content_of = content_of or (lambda example: content(example.open()))
    training = {content_of(example): example.key for example in split.train}
    for name in ("val", "test"):
        for example in getattr(split, name):
            pixels = content_of(example)
            same = f"{name} image {example.key!r} is the same picture as training image"
            if (key := training.get(pixels)) is not None:
                raise LeakError(f"{same} {key!r}; remove one of them, or set dataset.duplicates: drop")
            if synthetic and (key := synthetic.get(pixels)) is not None:
                raise LeakError(f"{same} {key!r}, which was generated; set another generation.seed and --output")
