"""Knows what data sets call their splits."""

from collections.abc import Iterable, Mapping

from dct_augment.errors import DatasetError

WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
"""The usual words for each split, in lower case."""

_SPLITS = {word: split for split, words in WORDS.items() for word in words}
_TITLES = {"train": "training", "val": "validation", "test": "test"}


def split_of(name: str) -> str | None:
    """Tell which split a name means, in any case: `train`, `val` or `test`; None if it is no such word."""
    return _SPLITS.get(name.strip().lower())


def group_by_split(names: Iterable[str], where: str) -> dict[str, list[str]]:
    """Group the names that mean a split. `Train` and `train` are one split; `dev` and `val` may be two.

    Raises:
        DatasetError: two words for one split: nobody but the user knows whether they belong together.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        if split := split_of(name):
            groups.setdefault(split, []).append(name)
    for split, members in groups.items():
        if len({name.strip().lower() for name in members}) > 1:
            hint = (
                "; rename eval to test if it is your test split" if "eval" in members and "test" not in groups else ""
            )
            raise DatasetError(
                f"{where} has {' and '.join(map(repr, members))}, which both mean the {_TITLES[split]} split. Put them "
                f"together under one name, or rename or move one{hint}"
            )
    return groups


def merged_notes(groups: Mapping[str, list[str]], where: str) -> list[str]:
    """Say which splits lie under several spellings of one word."""
    return [
        f"{where}: {' and '.join(map(repr, members))} are read as one {_TITLES[split]} split"
        for split, members in groups.items()
        if len(members) > 1
    ]
