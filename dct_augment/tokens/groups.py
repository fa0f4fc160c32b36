"""Which classes train together. Pure; it only grows."""

from collections.abc import Sequence

Groups = tuple[tuple[str, ...], ...]
"""The classes, by slug, that train in one batch: the unit of work of token training."""


def extend_groups(groups: Groups, slugs: Sequence[str], size: int) -> Groups:
    """The groups with new ones added, of at most `size`, until every class is in one; nothing there changes."""
    known = {slug for group in groups for slug in group}
    new = [slug for slug in slugs if slug not in known]
    return (*groups, *(tuple(new[begin : begin + size]) for begin in range(0, len(new), size)))
