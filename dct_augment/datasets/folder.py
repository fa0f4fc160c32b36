"""Plain folders: `<class>/<picture>`, or `train|val|test/<class>/<picture>`."""

from pathlib import Path

from dct_augment.config import FolderDataset
from dct_augment.datasets import pictures
from dct_augment.datasets.naming import infos
from dct_augment.datasets.pictures import OnDisk, Pictures
from dct_augment.errors import DatasetError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def load(settings: FolderDataset) -> OnDisk:
    """Index the folder.

    Raises:
        DatasetError: no such folder, no pictures, an empty class, or a class without training folder.
    """
    root = settings.path.expanduser()
    pictures.require(root, published="one folder of pictures per class")
    inside = pictures.folders(root)
    splits = {name: SPLITS[name.lower()] for name in inside if name.lower() in SPLITS}
    if splits and "train" not in splits.values():
        raise DatasetError(f"{str(root)!r} has {', '.join(splits)} but no train folder")
    names = pictures.folders(root / next(n for n, s in splits.items() if s == "train")) if splits else inside
    if not names:
        raise DatasetError(f"{str(root)!r} holds no class folders; put pictures in one folder per class")
    numbers = {name: index for index, name in enumerate(names)}
    classes = infos(names, settings.words)
    if splits:
        known = {split: _index(root, folder, numbers) for folder, split in splits.items()}
    else:
        known = {"train": _index(root, "", numbers)}
    found = pictures.complete(known, val=settings.val, test=settings.test, seed=settings.seed)
    pictures.refuse_empty(classes, found["train"], root)
    return OnDisk(settings.title or root.resolve().name, classes, found)


def _index(root: Path, split: str, numbers: dict[str, int]) -> Pictures:
    """All pictures under the class folders of a split."""
    folder = root / split
    if strange := [name for name in pictures.folders(folder) if name not in numbers]:
        raise DatasetError(f"{str(folder)!r} has classes that train has not: {', '.join(strange[:10])}")
    rows = (
        (path, numbers[name])
        for name in pictures.folders(folder)
        for path in pictures.below(folder / name, f"{split}/{name}" if split else name)
    )
    return pictures.build(root, rows)
