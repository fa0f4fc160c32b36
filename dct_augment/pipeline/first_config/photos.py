"""Looks at a folder of photos, tells its layout, and refuses what no benchmark could be made of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dct_augment import datasets, tars
from dct_augment.benchmark.requirements import missing_images
from dct_augment.config import Config, validate
from dct_augment.datasets import Overview, image_files, split_words
from dct_augment.datasets.folder import holds_pictures
from dct_augment.datasets.splits import labels
from dct_augment.errors import DatasetError
from dct_augment.pipeline.protocol import load_dataset
from dct_augment.records import ClassInfo, Dataset, ProgressCallback, ignore_progress
from dct_augment.wording import counted, listed

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_SAVED_BY_DATASETS = ("dataset_dict.json", "state.json")
_METADATA = tuple(f"metadata.{ending}" for ending in ("csv", "jsonl", "parquet"))
_NAMED = 5  # classes in a message
_FEW = 20  # training photos of a class: of fewer, none can be spared for validation


@dataclass(frozen=True)
class Layout:
    """How a folder or file of pictures is laid out: in words, and as the section `dataset` of a configuration."""

    title: str
    dataset: Mapping[str, Any]


@dataclass(frozen=True)
class Photos:
    """What a look at some photos showed.

    `config` has a known protocol and holds nothing else of use. `different` counts, by slug, the training photos of a
    class that can be read, copies of one photo once. `has_test` is whether there is a test split of its own.
    """

    layout: Layout
    config: Config
    classes: tuple[ClassInfo, ...]
    overview: Overview
    different: Mapping[str, int]
    has_test: bool

    @property
    def is_cross_validated(self) -> bool:
        """Whether the photos are tested in folds, for want of a test."""
        return self.config.benchmark.protocol == "cross_validation"


def look_at(path: Path, classes: Sequence[str] | None = None, progress: ProgressCallback = ignore_progress) -> Photos:
    """Look at the photos of a folder, a table or shards; nothing is written.

    Args:
        path: the folder, or the table.
        classes: only these, by name; all if not given.
        progress: gets the number of photos that were opened.

    Raises:
        DatasetError: there is nothing to read, or too little for a classifier and its test.
    """
    layout = recognise(path)
    if classes is not None:
        layout = replace(layout, dataset={**layout.dataset, "classes": list(classes)})
    layout, test_is_given = _keep_few_photos(layout)
    dataset, config = load_dataset(_config(layout))
    chosen = datasets.used(dataset, config.dataset)
    _refuse_one_class(chosen, path)
    with TemporaryDirectory(prefix="dct-augment-") as folder:
        overview = datasets.look(chosen, config.dataset, Path(folder), progress)
        if overview.problems:  # photos that are in two splits
            layout = replace(layout, dataset={**layout.dataset, "duplicates": "drop"})
            config = config.model_copy(update={"dataset": _config(layout).dataset})
            overview = datasets.look(chosen, config.dataset, Path(folder), progress)
    used = datasets.used(dataset, config.dataset, overview.without)
    has_test = config.benchmark.protocol == "holdout" and test_is_given
    photos = Photos(layout, config, chosen.classes, overview, _different(used, overview), has_test)
    _refuse_unreadable_classes(photos, path)
    if photos.is_cross_validated:
        _refuse_single_photos(photos, path)
    if problems := missing_images(used, config.benchmark):
        raise DatasetError("; ".join(problems))
    return photos


def recognise(path: Path) -> Layout:
    """Tell a layout by the files that are there; none is opened.

    Raises:
        DatasetError: there is no such folder, or a file that is no table of pictures.
    """
    path = path.expanduser()
    if path.is_file():
        return _recognise_file(path)
    if not path.is_dir():
        raise DatasetError(
            f"{str(path)!r} does not exist. Give the folder that holds your photos, in one folder per class: "
            "photos/crane/1.jpg, photos/kiwi/1.jpg"
        )
    try:
        return _recognise_folder(path)
    except OSError as error:
        raise DatasetError(f"{str(error.filename)!r} cannot be read: {error.strerror}") from error


def _recognise_folder(path: Path) -> Layout:
    names, folders = _names(path), image_files.folder_names(path)
    if names.intersection(_SAVED_BY_DATASETS):
        return _layout("a folder that the package datasets saved", "huggingface", path)
    if not _has_class_folders(path, folders):  # a table or tar beside class folders is something else
        tabled = names | (_names(path / "data") if "data" in folders else set())
        inside = names.union(*(_names(path / name) for name in folders if split_words.split_of(name)))
        if any(name.lower().endswith(".parquet") for name in tabled):
            return _layout("parquet files as the Hub has them", "huggingface", path)
        if inside.intersection(_METADATA):
            return _layout("an imagefolder of the package datasets, with metadata", "huggingface", path)
        if any(name.lower().endswith(tars.TAR_ENDINGS) for name in inside):
            return _layout("WebDataset shards", "webdataset", path)
    if not folders:
        _refuse_flat_folder(path, names)
    has_splits = any(split_words.split_of(name) and image_files.folder_names(path / name) for name in folders)
    return _layout("one folder per split and class" if has_splits else "one folder per class", "folder", path)


def _layout(title: str, name: str, path: Path) -> Layout:
    return Layout(title, {"name": name, "path": str(path)})


def _names(path: Path) -> set[str]:
    """Name the files of a folder that are not hidden."""
    return {entry.name for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file()}


def _has_class_folders(path: Path, folders: Sequence[str]) -> bool:
    """Tell whether pictures lie in class folders, of a split or not."""
    for name in folders:
        inner = image_files.folder_names(path / name)
        places = [path / name / folder for folder in inner] if split_words.split_of(name) else [path / name]
        if any(map(holds_pictures, places)):
            return True
    return False


def _recognise_file(path: Path) -> Layout:
    """Take a file for a table of pictures by its ending."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(_TABLES):
        return _layout("a table of pictures", "manifest", path)
    if path.name.lower().endswith(tars.TAR_ENDINGS):
        raise DatasetError(f"{str(path)!r} is one tar; give the folder that holds it")
    raise DatasetError(
        f"{str(path)!r} is a file. Give the folder that holds your photos, in one folder per class, or a table of them "
        f"({', '.join(_TABLES)})"
    )


def _refuse_flat_folder(path: Path, names: set[str]) -> None:
    """Raise DatasetError for a folder without folders; a table in it may be what the user means."""
    tables = sorted(name for name in names if name.lower().removesuffix(".gz").endswith(_TABLES))
    pictures = sum(map(image_files.is_picture_name, names))
    held = f"holds {counted(pictures, 'picture')}, but no class folders" if pictures else "holds no class folders"
    if not names:
        held = "is empty"
    hint = f". To read the table in it: dct-augment init {path / tables[0]}" if tables else ""
    raise DatasetError(
        f"{str(path)!r} {held}. Put photos in one folder per class: "
        f"{path.name or 'photos'}/crane/1.jpg, {path.name or 'photos'}/kiwi/1.jpg{hint}"
    )


def _config(layout: Layout) -> Config:
    """Make the smallest configuration that reads the photos."""
    return validate({"name": "photos", "dataset": dict(layout.dataset), "guide": {"name": "few_shot"}}, "dataset")


def _keep_few_photos(layout: Layout) -> tuple[Layout, bool]:
    """Hold no validation out of few training photos with a test beside them; also tell whether there is such a test."""
    nothing_held_out = replace(layout, dataset={**layout.dataset, "val": 0, "test": 0})
    settings = _config(nothing_held_out).dataset
    dataset = datasets.load(settings)
    has_test, has_val = (len(dataset.examples(split)) > 0 for split in ("test", "val"))
    counts = Counter(labels(dataset.examples("train")))
    fewest = min((counts[info.index] for info in datasets.select(dataset, settings.classes)), default=0)
    if has_test and not has_val and fewest < _FEW:
        return replace(layout, dataset={**layout.dataset, "val": 0.0}), True
    return layout, has_test


def _different(used: Dataset, overview: Overview) -> dict[str, int]:
    """Count the training photos of each class, by slug; copies of one photo count once."""
    counts = Counter(labels(used.examples("train")))
    by_name = {info.original_name or info.name: info.index for info in used.classes}
    for group in overview.groups:
        members = Counter(
            by_name[picture.class_name]
            for picture in group.pictures
            if picture.split == "train" and not picture.left_out
        )
        for label, number in members.items():
            counts[label] -= number - 1
    return {info.slug: counts[info.index] for info in used.classes}


def _refuse_one_class(dataset: Dataset, path: Path) -> None:
    if len(dataset.classes) > 1:
        return
    (info,) = dataset.classes
    raise DatasetError(
        f"{str(path)!r} holds one class only, {_name(info)!r}; a classifier tells two or more apart. Add a folder of "
        "another class, or of pictures that show none of it, e.g. 'other'"
    )


def _refuse_unreadable_classes(photos: Photos, path: Path) -> None:
    """Raise DatasetError if no training photo of a class can be read."""
    empty = [info for info in photos.classes if not photos.different[info.slug]]
    if not empty:
        return
    reasons = listed([f"{picture.key} ({picture.reason})" for picture in photos.overview.unreadable], 3)
    why = f": {reasons}" if reasons else ""
    if len(empty) == len(photos.classes):
        raise DatasetError(f"none of the photos in {str(path)!r} can be read{why}. Save them as JPEG or PNG")
    names = listed([repr(_name(info)) for info in empty], _NAMED)
    raise DatasetError(
        f"{counted(len(empty), 'class', 'has')} no photo that can be read and trained on: {names}{why}. Add "
        f"photos{_or_leave_out(photos, empty)}"
    )


def _refuse_single_photos(photos: Photos, path: Path) -> None:
    """Raise DatasetError if a class has one photo: it cannot both train a classifier and test it."""
    single = [info for info in photos.classes if photos.different[info.slug] == 1]
    if not single:
        return
    counts = {info.slug: info.counts["train"] for info in photos.overview.classes}
    described = [
        repr(_name(info)) + (f" ({counts[info.slug]} files of the same photo)" if counts[info.slug] > 1 else "")
        for info in single
    ]
    raise DatasetError(
        f"{counted(len(single), 'class', 'has')} one photo that can be used: {listed(described, _NAMED)}. One photo "
        f"cannot both train a classifier and test it. Add a different one{_or_leave_out(photos, single)}. Images need "
        "no test: write a configuration by hand (configs/folder.yaml), and `dct-augment generate` makes them"
    )


def _or_leave_out(photos: Photos, classes: Sequence[ClassInfo]) -> str:
    """Say how to go on without some classes; nothing if too few are left."""
    rest = [_name(info) for info in photos.classes if info not in classes]
    if len(rest) < 2:
        return ""
    if len(rest) > _NAMED or any("," in name for name in rest):
        return ", or leave the class out: move its folder away"
    return f", or leave the class out: --classes {','.join(rest)!r}"


def _name(info: ClassInfo) -> str:
    return info.original_name or info.name
