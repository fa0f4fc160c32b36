"""The classes of an export: those of its runs, matched, named and numbered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dct_augment.errors import InputError
from dct_augment.export.rows import ExportClass
from dct_augment.export.runs import SourceRun
from dct_augment.export.selection import ClassTally
from dct_augment.prompts import slugs
from dct_augment.wording import counted, listed

SharedNames = Literal["merge", "separate"]
"""What becomes of a class name that two data sets share: one class, or one of each data set."""

Member = tuple[int, str]
"""A class of a run: the place of the run, and the slug of the class."""


@dataclass
class _Group:
    """A class of one data set, or with `merge` of several, and where it is in the runs."""

    name: str
    slug: str
    data_set: str
    members: list[Member] = field(default_factory=list)


def number_classes(
    runs: Sequence[SourceRun],
    tallies: Mapping[Member, ClassTally],
    *,
    shared_names: SharedNames | None,
    sort_by_folder: bool,
) -> dict[Member, ExportClass]:
    """Give each class of the runs its class in the export.

    Runs of one data set share their classes, by slug. Labels follow the order of classes in the data set, and then
    those of the next one; with `sort_by_folder` they follow the names of the folders, as readers of folders count.

    Raises:
        InputError: two data sets have a class of one name, and `shared_names` does not say what that means.
    """
    groups = _groups(runs, tallies, shared_names)
    names, folders = _names(groups), slugs([group.slug for group in groups])
    order = list(range(len(groups)))
    if sort_by_folder:
        order.sort(key=lambda place: folders[place])
    targets: dict[Member, ExportClass] = {}
    for label, place in enumerate(order):
        target = ExportClass(label, names[place], folders[place])
        targets |= dict.fromkeys(groups[place].members, target)
    return targets


def _groups(
    runs: Sequence[SourceRun], tallies: Mapping[Member, ClassTally], shared_names: SharedNames | None
) -> list[_Group]:
    """Group the classes of the runs, data set by data set."""
    groups: list[_Group] = []
    shared: list[str] = []
    for data_set in dict.fromkeys(run.data_set for run in runs):
        own = _groups_of_data_set(runs, tallies, data_set)
        earlier = list(groups)
        for group in own:
            match = _match(group, own, earlier)
            if match is not None and shared_names == "merge":
                match.members += group.members
                continue
            if match is not None:
                shared.append(f"{group.name!r} of {match.data_set!r} and of {data_set!r}")
                prefix = next(run.prefix for run in runs if run.data_set == data_set)
                group.name, group.slug = f"{group.name} ({prefix})", f"{group.slug}-{prefix}"
            groups.append(group)
    if shared and shared_names is None:
        names = f"{counted(len(shared), 'class name')}: {listed(shared, 5)}"
        raise InputError(
            f"the runs are of different data sets that share {names}. Say what that means: --shared-names merge if it "
            "is the same class, --shared-names separate if it is another one"
        )
    return groups


def _groups_of_data_set(runs: Sequence[SourceRun], tallies: Mapping[Member, ClassTally], data_set: str) -> list[_Group]:
    """Group the classes of the runs of one data set by slug, in the order of the data set."""
    members = [member for member in tallies if runs[member[0]].data_set == data_set]
    members.sort(key=lambda member: (tallies[member].index, member))
    groups: dict[str, _Group] = {}
    for member in members:
        tally = tallies[member]
        groups.setdefault(tally.slug, _Group(tally.name, tally.slug, data_set)).members.append(member)
    return list(groups.values())


def _match(group: _Group, own: Sequence[_Group], earlier: Sequence[_Group]) -> _Group | None:
    """Find the class of an earlier data set with this slug, or else with this name, which no homonym shares."""
    by_slug = [other for other in earlier if other.slug == group.slug]
    by_name = [other for other in earlier if other.name.lower() == group.name.lower()]
    homonyms = [other for other in own if other.name.lower() == group.name.lower()]
    if by_slug or (len(by_name) == 1 and len(homonyms) == 1):
        return (by_slug + by_name)[0]
    return None


def _names(groups: Sequence[_Group]) -> list[str]:
    """Name the classes; homonyms, which no reader could tell apart, are named by their slug."""
    counts = Counter(group.name.lower() for group in groups)
    names = [group.slug if counts[group.name.lower()] > 1 else group.name for group in groups]
    return names if len({*names}) == len(names) else list(slugs([group.slug for group in groups]))
