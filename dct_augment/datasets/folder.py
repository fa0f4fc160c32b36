"""Reads plain folders: `<class>/<image>`, or `train|val|test/<class>/<image>`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from dct_augment.config import FolderDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.image_files import ImageFiles
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.reading import ImageReader
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""The split that a name means."""


def load(settings: FolderDataset) -> ImageDataset:
    """Index the folder.

    Raises:
        DatasetError: no such folder, no images, an empty class, or a class without training folder.
    """
    root = settings.path.expanduser()
    image_files.require(root, published="one folder of pictures per class")
    split_folders = _split_folders(root)
    class_names = image_files.folder_names(root / split_folders["train"] if split_folders else root)
    if not class_names:
        raise DatasetError(f"{str(root)!r} holds no class folders; put pictures in one folder per class")
    numbers = {name: number for number, name in enumerate(class_names)}
    reader = image_reader(settings)
    if split_folders:
        splits = {split: _index(root, folder, numbers, reader) for split, folder in split_folders.items()}
    else:
        splits = {"train": _index(root, "", numbers, reader)}
    classes = class_infos(class_names, settings.words)
    return complete(settings.title or root.resolve().name, classes, splits, settings)


def _split_folders(root: Path) -> dict[str, str]:
    """Find the folder of each split; none if the classes lie in the root itself.

    Raises:
        DatasetError: there are such folders, but none to train.
    """
    folders = {SPLITS[name.lower()]: name for name in image_files.folder_names(root) if name.lower() in SPLITS}
    if folders and "train" not in folders:
        raise DatasetError(f"{str(root)!r} has {', '.join(folders.values())} but no train folder")
    return folders


def _index(root: Path, split_folder: str, numbers: Mapping[str, int], reader: ImageReader) -> ImageFiles:
    """Index all images under the class folders of a split."""
    folder = root / split_folder
    if unknown := [name for name in image_files.folder_names(folder) if name not in numbers]:
        raise DatasetError(f"{str(folder)!r} has classes that train has not: {', '.join(unknown[:10])}")
    return image_files.index(root, labelled_paths(root, split_folder, numbers), reader)


def labelled_paths(root: Path, split_folder: str, numbers: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """List path and class number of every image in the class folders of a split that have a number."""
    for name in image_files.folder_names(root / split_folder):
        if name in numbers:
            prefix = f"{split_folder}/{name}" if split_folder else name
            for path in image_files.paths_below(root / split_folder / name, prefix):
                yield path, numbers[name]
