"""ImageNet-1k's own ids, for classifiers that carry its names alone."""

from collections.abc import Sequence

from timm.data import ImageNetInfo

from dct_augment.prompts import normalize_label

_AGREE = 0.9  # lists of ImageNet's names in use differ in some words


def ids(names: Sequence[str]) -> tuple[str, ...]:
    """WordNet ids of a classifier's outputs if their names are ImageNet-1k's, in its order; else none.

    Names alone leave two "crane" and two "maillot".
    """
    known = ImageNetInfo("imagenet-1k")
    described = known.label_descriptions()
    if len(names) != len(described):
        return ()
    agree = sum(not _words(ours).isdisjoint(_words(theirs)) for ours, theirs in zip(names, described, strict=True))
    return tuple(known.label_names()) if agree >= _AGREE * len(names) else ()


def _words(label: str) -> set[str]:
    """The synonyms of a label."""
    return {normalize_label(word) for word in label.split(",")}
