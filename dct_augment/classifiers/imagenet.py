"""Finds ImageNet-1k's own ids for classifiers that carry its names alone."""

from collections.abc import Sequence
from functools import cache

from dct_augment.prompts import normalize_label, without_indices

_AGREE = 0.9  # share; lists of ImageNet's names in use differ in some words


def ids(names: Sequence[str]) -> tuple[str, ...]:
    """Find the WordNet ids of a classifier's outputs if their names are ImageNet-1k's, in its order; else none.

    Names alone leave two "crane" and two "maillot".
    """
    wordnet_ids, descriptions = _imagenet()
    if len(names) != len(descriptions):
        return ()
    agreeing = 0
    for name, description in zip(without_indices(names), descriptions, strict=True):
        if not _synonyms(name).isdisjoint(_synonyms(description)):
            agreeing += 1
    return wordnet_ids if agreeing >= _AGREE * len(names) else ()


@cache
def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List ImageNet-1k's WordNet ids and descriptions; timm reads them from a large table."""
    from timm.data import ImageNetInfo

    imagenet = ImageNetInfo("imagenet-1k")
    return tuple(imagenet.label_names()), tuple(imagenet.label_descriptions())


def _synonyms(label: str) -> set[str]:
    """Split a label into its synonyms."""
    return {normalize_label(word) for word in label.split(",")}
