"""Reads plain folders: `<class>/<image>`, or such folders inside a folder for each split."""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from dct_augment.config import FolderDataset
from dct_augment.datasets import image_files, split_words
from dct_augment.datasets.class_labels import shortened, sort_names
from dct_augment.datasets.image_files import ImageFiles, LeftOut
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.reading import ImageReader
from dct_augment.wording import agreeing, counted

_ONE_FOLDER_PER_CLASS = "put pictures in one folder per class"


def load(settings: FolderDataset) -> ImageDataset:
    """Index the folder.

    Raises:
        DatasetError: no such folder, no images, an empty class, or a class without training folder; folders that may
            be splits or classes.
    """
    root = settings.path.expanduser()
    image_files.require(root, published="one folder of pictures per class")
    layout = find_layout(root)
    class_names = _class_names(root, layout.splits["train"], settings.class_order)
    if not class_names:
        raise DatasetError(f"{str(root)!r} holds no class folders; {_ONE_FOLDER_PER_CLASS}")
    numbers = {name: number for number, name in enumerate(class_names)}
    reader, left_out = image_reader(settings), LeftOut()
    splits, notes = {}, list(layout.notes)
    for split, folders in layout.splits.items():
        splits[split] = _index(root, folders, numbers, reader, left_out)
        if not len(splits[split]) and split != "train":
            del splits[split]
            notes.append(f"split {split}: {' and '.join(map(repr, folders))} holds no picture; the split is left out")
    notes += [*_outside_notes(root, layout), *_hidden_notes(root, layout), *left_out.notes()]
    classes = class_infos(class_names, settings.words)
    return complete(settings.title or root.resolve().name, classes, splits, settings, notes)


@dataclass(frozen=True)
class FolderLayout:
    """The folders of each split, under the root; `""` is the root itself. And remarks on what was left out."""

    splits: Mapping[str, Sequence[str]]
    notes: Sequence[str] = field(default=())


def find_layout(root: Path) -> FolderLayout:
    """Tell folders of splits from classes by what is in them: class folders hold pictures, splits hold class folders.

    Raises:
        DatasetError: a folder may be either, there is no training folder, or classes hold splits.
    """
    names = image_files.folder_names(root)
    candidates = [name for name in names if split_words.split_of(name)]
    others = [name for name in names if not split_words.split_of(name)]
    with_classes = [name for name in candidates if image_files.folder_names(root / name)]
    only_folders = [name for name in with_classes if not holds_pictures(root / name)]
    pictures_beside = [name for name in others if with_classes and holds_pictures(root / name)]
    if not with_classes or (pictures_beside and not only_folders):
        _refuse_splits_without_classes(root, candidates, others)
        _refuse_folder_around_all(root, "", names)
        _refuse_splits_in_classes(root, names)
        _refuse_classes_beside_pictures(root, "", names)
        return FolderLayout({"train": ("",)})
    filled = [name for name in candidates if name in with_classes or holds_pictures(root / name)]
    groups = split_words.group_by_split(filled, f"{str(root)!r}")
    if pictures_beside and len(groups) == 1:
        raise DatasetError(
            f"{str(root)!r}: {only_folders[0]!r} holds folders, as a split does, but {pictures_beside[0]!r} beside it "
            f"holds pictures, as a class does. If {only_folders[0]!r} is a split, give the folder "
            f"{str(root / only_folders[0])!r}, or move {pictures_beside[0]!r} out of {str(root)!r}; if it is a class, "
            "put its pictures into it directly"
        )
    return _split_layout(root, groups, with_classes, others)


def _split_layout(
    root: Path, groups: Mapping[str, list[str]], with_classes: Sequence[str], others: Sequence[str]
) -> FolderLayout:
    """Give the folders of each split; a split whose pictures have no class folders has no labels."""
    splits, notes = {}, split_words.merged_notes(groups, f"{str(root)!r}")
    if "train" not in groups:
        found = ", ".join(name for members in groups.values() for name in members)
        raise DatasetError(f"{str(root)!r} has {found} but no train folder")
    for split, members in groups.items():
        without = [name for name in members if name not in with_classes]
        if without and split == "train":
            raise DatasetError(f"{str(root / without[0])!r} holds no class folders; {_ONE_FOLDER_PER_CLASS}")
        if without:
            notes.append(
                f"split {split}: {without[0]!r} holds pictures in no class folder, so their labels are unknown; it is "
                "left out"
            )
        if folders := tuple(name for name in members if name not in without):
            splits[split] = folders
    for folder in splits["train"]:
        inner = image_files.folder_names(root / folder)
        _refuse_folder_around_all(root, folder, inner)
        _refuse_classes_beside_pictures(root, folder, inner)
    if others:
        notes.append(f"folders beside the splits are left out: {shortened(others)}")
    if eval_names := [name for name in groups.get("val", ()) if name.lower().startswith("eval")]:
        notes.append(f"{eval_names[0]!r} is read as the validation split; if it is your test split, call it test")
    return FolderLayout(splits, tuple(notes))


def _refuse_splits_without_classes(root: Path, candidates: Sequence[str], others: Sequence[str]) -> None:
    """Raise DatasetError if all that there is are folders of splits with pictures of no class."""
    if others or not any(holds_pictures(root / name) for name in candidates):
        return
    raise DatasetError(
        f"{str(root)!r} has only {' and '.join(map(repr, candidates))}, which hold pictures but no class folders; "
        f"{_ONE_FOLDER_PER_CLASS}, inside of them. If they are your classes, rename them"
    )


def _refuse_folder_around_all(root: Path, split_folder: str, names: Sequence[str]) -> None:
    """Raise DatasetError if the only class folder holds the classes, or the splits, in folders of its own."""
    if len(names) != 1:
        return
    place = root / split_folder / names[0]
    inner = image_files.folder_names(place)
    while len(inner) == 1 and not holds_pictures(place):
        place /= inner[0]
        inner = image_files.folder_names(place)
    filled = [name for name in inner if any(True for _ in image_files.paths_below(place / name))]
    without_classes = all(map(split_words.split_of, filled)) and any(holds_pictures(place / name) for name in filled)
    if len(filled) < 2 or holds_pictures(place) or without_classes:
        return
    fix = (
        f"move them up into {str(root / split_folder)!r}"
        if split_folder
        else f"did you mean dataset.path {str(place)!r}?"
    )
    raise DatasetError(
        f"{str(root / split_folder)!r} has one class folder, {names[0]!r}, which holds no pictures but folders of "
        f"them: {shortened(filled)}; {fix}"
    )


def _refuse_classes_beside_pictures(root: Path, split_folder: str, names: Sequence[str]) -> None:
    """Raise DatasetError if one folder alone holds folders of pictures, and those beside it hold pictures.

    It is likely the folder of the classes, and what lies beside it is no class: pictures to predict, for example.
    """
    place = root / split_folder
    nested = [name for name in names if not holds_pictures(place / name)]
    if len(nested) != 1 or len(names) == 1:
        return
    around = place / nested[0]
    inner = [
        name
        for name in image_files.folder_names(around)
        if next(iter(image_files.paths_below(around / name)), None) is not None
    ]
    if len(inner) < 2:
        return
    other = next(name for name in names if name != nested[0])
    fix = f"move {other!r} out of {str(place)!r}" if split_folder else f"give the folder {str(around)!r}"
    raise DatasetError(
        f"{str(place)!r}: {nested[0]!r} holds folders of pictures ({shortened(inner)}), as a folder of classes does, "
        f"but {other!r} beside it holds pictures, as a class does. If your classes are in {nested[0]!r}, {fix}; if "
        f"{nested[0]!r} is a class, put its pictures into it directly"
    )


def _refuse_splits_in_classes(root: Path, names: Sequence[str]) -> None:
    """Raise DatasetError if every class folder holds splits: read as one, the test images would be trained on."""
    inside: list[str] = []
    for name in names:
        inside = image_files.folder_names(root / name)
        if not inside or not all(map(split_words.split_of, inside)) or holds_pictures(root / name):
            return
    if inside:
        raise DatasetError(
            f"{str(root)!r}: every class folder holds splits ({names[-1]}/{inside[0]}, ...). Put the splits outside: "
            f"{inside[0]}/{names[-1]}"
        )


def holds_pictures(folder: Path) -> bool:
    """Tell whether a picture lies directly in a folder."""
    with os.scandir(folder) as entries:
        return any(image_files.is_picture_name(entry.name) and not image_files.is_folder(entry) for entry in entries)


def _class_names(root: Path, folders: Sequence[str], order: str) -> list[str]:
    """List the names of the class folders, in label order."""
    names = {name for folder in folders for name in image_files.folder_names(root / folder)}
    return sort_names(names) if order == "natural" else sorted(names)


def _index(
    root: Path, folders: Sequence[str], numbers: Mapping[str, int], reader: ImageReader, left_out: LeftOut
) -> ImageFiles:
    """Index all images under the class folders of a split.

    Raises:
        DatasetError: a class that train has not.
    """
    composed = {_composed(name): number for name, number in numbers.items()}
    rows: list[Iterator[tuple[str, int]]] = []
    for folder in folders:
        names = image_files.folder_names(root / folder)
        known = {name: numbers.get(name, composed.get(_composed(name))) for name in names}
        if unknown := [name for name, number in known.items() if number is None]:
            raise DatasetError(
                f"{str(root / folder)!r} has classes that train has not: {', '.join(unknown[:10])}; train has "
                f"{shortened(list(numbers))}"
            )
        folder_numbers = {name: number for name, number in known.items() if number is not None}
        rows.append(labelled_paths(root, folder, folder_numbers, left_out))
    return image_files.index(root, chain.from_iterable(rows), reader)


def _composed(name: str) -> str:
    """Return a name with composed accents: file systems of macOS take them apart."""
    return unicodedata.normalize("NFC", name)


def labelled_paths(
    root: Path, split_folder: str, numbers: Mapping[str, int], left_out: LeftOut | None = None
) -> Iterator[tuple[str, int]]:
    """List path and class number of every image in the class folders of a split that have a number."""
    for name in image_files.folder_names(root / split_folder):
        if name in numbers:
            prefix = f"{split_folder}/{name}" if split_folder else name
            for path in image_files.paths_below(root / split_folder / name, prefix, left_out):
                yield path, numbers[name]


def _hidden_notes(root: Path, layout: FolderLayout) -> list[str]:
    """Say which folders of pictures are hidden, as their names begin with a dot."""
    hidden: list[str] = []
    for folder in _around_classes(root, layout):
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if image_files.is_folder(entry))
        places = [folder / name for name in names if name.startswith(".")]
        hidden += [place.relative_to(root).as_posix() for place in places if holds_pictures(place)]
    if not hidden:
        return []
    folders = counted(len(hidden), "hidden folder of pictures", "is")
    return [f"{folders} left out: {shortened(hidden, 3)}; a class needs a name without a dot in front"]


def _around_classes(root: Path, layout: FolderLayout) -> list[Path]:
    """List the folders in which class folders lie, the root first."""
    return [root, *(root / folder for members in layout.splits.values() for folder in members if folder)]


def _outside_notes(root: Path, layout: FolderLayout) -> list[str]:
    """Say which pictures lie in no class folder."""
    outside: list[str] = []
    for folder in _around_classes(root, layout):
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if image_files.is_picture_name(entry.name))
        outside += [(folder / name).relative_to(root).as_posix() for name in names]
    if not outside:
        return []
    number = len(outside)
    pictures_lie = f"{counted(number, 'picture', 'lies')} in no class folder"
    return [f"{pictures_lie} and {agreeing(number, 'is')} left out: {shortened(outside, 3)}"]
