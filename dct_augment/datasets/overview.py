"""What a look at a data set shows: counts, sizes, what cannot be read, what is there twice."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dct_augment.datasets.inspection import SPLITS
from dct_augment.errors import DatasetError
from dct_augment.wording import agreeing, counted, listed

SCHEMA = 1
"""Version of the keys of `Overview.as_json`."""

NAMED = 3
"""Examples in a line."""


@dataclass(frozen=True)
class ClassCounts:
    """How many pictures a class has in each split, before any is left out; `index` is its label."""

    index: int
    name: str
    slug: str
    original_name: str
    homonym: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class UnreadablePicture:
    """A picture that cannot be read, and why."""

    split: str
    key: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class DuplicatePicture:
    """A picture of a group of duplicates; `left_out` by `dataset.duplicates: drop`."""

    row: int
    split: str
    key: str
    class_name: str
    left_out: bool

    @property
    def title(self) -> str:
        """Its key, with its split if the key does not begin with it."""
        return self.key if self.key.startswith(f"{self.split}/") else f"{self.split} {self.key}"


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures that are the same: `exact` in every pixel, `near` but for format, compression or size."""

    kind: str
    pictures: tuple[DuplicatePicture, ...]

    @property
    def across_splits(self) -> bool:
        """Whether the picture is in more than one split."""
        return len({picture.split for picture in self.pictures}) > 1

    @property
    def across_classes(self) -> bool:
        """Whether the picture is in more than one class."""
        return len({picture.class_name for picture in self.pictures}) > 1

    def __str__(self) -> str:
        names = [picture.title for picture in self.pictures]
        more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
        return f"{' = '.join(names[:4])}{more} ({self.kind})"


@dataclass(frozen=True)
class Sizes:
    """Width and height of the smallest, the median and the largest picture, by their area."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class Overview:
    """What a look at a data set showed.

    `inspected` are the splits whose pictures were read; `duplicates` is the setting, None for a shipped data set;
    `without` are the keys to leave out of each split; `problems` would end a run.
    """

    dataset: str
    duplicates: str | None
    inspected: tuple[str, ...]
    classes: tuple[ClassCounts, ...]
    sizes: Sizes | None
    unreadable: tuple[UnreadablePicture, ...]
    groups: tuple[DuplicateGroup, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    without: Mapping[str, frozenset[str]]

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures each split has, before any is left out."""
        return {split: sum(info.counts[split] for info in self.classes) for split in SPLITS}

    @property
    def searched(self) -> bool:
        """Whether duplicates were searched."""
        return self.duplicates in ("error", "drop")

    @property
    def homonyms(self) -> dict[str, list[str]]:
        """The slugs of the classes that share a name, by name."""
        slugs = defaultdict(list)
        for info in self.classes:
            slugs[info.name.lower()].append(info.slug)
        return {name: members for name, members in slugs.items() if len(members) > 1}

    def lines(self) -> list[str]:
        """Say it in five lines at most."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        images = counted(sum(self.counts.values()), "image")
        lines = [f"{self.dataset}: {images} of {counted(len(self.classes), 'class')}: {counts}"]
        if self.sizes:
            smallest, median, largest = ("{} x {}".format(*size) for size in dataclasses.astuple(self.sizes))
            lines.append(f"sizes: {smallest} to {largest}, median {median}")
        if self.inspected:
            lines.append(self._unreadable_line())
        if self.duplicates:
            lines.append(self._duplicates_line())
        remarks = [*self.notes]
        if self.homonyms:
            names, number = listed(list(self.homonyms), NAMED), len(self.homonyms)
            remarks.insert(0, f"{counted(number, 'name', 'belongs')} to more than one class: {names}")
        if remarks:
            more = (
                f" ({counted(len(remarks) - 1, 'more note')}: dct-augment data, with the same options)"
                if len(remarks) > 1
                else ""
            )
            lines.append(remarks[0] + more)
        return lines

    def _unreadable_line(self) -> str:
        if not self.unreadable:
            return "every image can be read" if self.inspected == SPLITS else "every val and test image can be read"
        number = len(self.unreadable)
        first = listed([f"{picture.key} ({picture.reason})" for picture in self.unreadable[: NAMED + 1]], NAMED)
        return f"{counted(number, 'image')} cannot be read and {agreeing(number, 'is')} left out: {first}"

    def _duplicates_line(self) -> str:
        if not self.searched:
            copies = counted(len(self.groups), "group of exact copies") + ", kept in one fold; near ones "
            return f"duplicates: {copies if self.groups else ''}not searched (dataset.duplicates: keep)"
        if not self.groups:
            return "duplicates: none"
        exact = sum(group.kind == "exact" for group in self.groups)
        across = sum(group.across_splits for group in self.groups)
        left_out = sum(picture.left_out for group in self.groups for picture in group.pictures)
        line = f"duplicates: {counted(exact, 'group of exact copies')}, {len(self.groups) - exact:,} of near ones; "
        line += f"{across:,} across splits"
        classes = sum(group.across_classes for group in self.groups)
        line += f", {classes:,} across classes" if classes else ""
        return line + (f"; {counted(left_out, 'image')} left out (dataset.duplicates: drop)" if left_out else "")

    def refuse_problems(self) -> None:
        """Raise DatasetError if something would end a run."""
        if self.problems:
            raise DatasetError("; ".join(self.problems))

    def extended(self, notes: Sequence[str], problems: Sequence[str]) -> "Overview":
        """Add notes and problems that others found."""
        return dataclasses.replace(self, notes=(*self.notes, *notes), problems=(*self.problems, *problems))

    def as_json(self) -> dict[str, Any]:
        """Give it as plain values, as `dct-augment data --json` prints it."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "inspected": list(self.inspected),
            "counts": self.counts,
            "classes": [dataclasses.asdict(info) for info in self.classes],
            "sizes": dataclasses.asdict(self.sizes) if self.sizes else None,
            "unreadable": [dataclasses.asdict(picture) for picture in self.unreadable],
            "duplicates": {
                "setting": self.duplicates,
                "searched": self.searched,
                "groups": [_group_json(group) for group in self.groups],
            },
            "homonyms": [{"name": name, "classes": slugs} for name, slugs in self.homonyms.items()],
            "notes": list(self.notes),
            "problems": list(self.problems),
        }


def _group_json(group: DuplicateGroup) -> dict[str, Any]:
    pictures = [dataclasses.asdict(picture) for picture in group.pictures]
    for picture in pictures:
        del picture["row"]
    return {
        "kind": group.kind,
        "across_splits": group.across_splits,
        "across_classes": group.across_classes,
        "pictures": pictures,
    }
