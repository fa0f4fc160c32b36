"""Which classes train together. Pure; it only grows."""

from collections.abc import Sequence
from itertools import pairwise

Groups = tuple[tuple[str, ...], ...]
"""The classes, by slug, that train in one batch: the unit of work of token training."""


def extend_groups(groups: Groups, slugs: Sequence[str], size: int) -> Groups:
    """The groups with new ones added, of at most `size`, until every class is in one; nothing there changes.

    New groups are as few as can be, and of about one size, so that processes which train them end at about one time.
    """
    known = {slug for group in groups for slug in group}
    new = [slug for slug in slugs if slug not in known]
    count = -(-len(new) // size)
    bounds = [number * len(new) // count for number in range(count + 1)] if count else []
    return (*groups, *(tuple(new[begin:end]) for begin, end in pairwise(bounds)))
