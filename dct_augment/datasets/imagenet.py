"""Reads ImageNet-1k in folders named by WordNet id: `train/<wnid>/...` and `val/<wnid>/...`."""

import importlib.util
import re
from functools import cache
from pathlib import Path

from dct_augment.config import ImageNetDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.folder import labelled_paths
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.wording import reason_of

_PUBLISHED = "ImageNet's train and val folders, each with one folder per WordNet id (n01440764, ...)"


def load(settings: ImageNetDataset) -> ImageDataset:
    """Index the images; the official val split is the test split, `val` is held out of train.

    Two classes are called "crane" and two "maillot": their names are alike, their slugs and ids are not.

    Raises:
        DatasetError: folders are missing, or are not named by WordNet id.
    """
    root = settings.path.expanduser()
    image_files.require(root, "train", "val", published=_PUBLISHED)
    ids = image_files.folder_names(root / "train")
    if unknown := [name for name in ids if not re.fullmatch(r"n\d{8}", name)]:
        raise DatasetError(
            f"{str(root / 'train')!r}: {', '.join(unknown[:5])} are no WordNet ids. Put {_PUBLISHED} there; for other "
            "folders use dataset.name: folder"
        )
    for folder in ("train", "val"):
        if not image_files.folder_names(root / folder):
            raise DatasetError(
                f"{str(root / folder)!r} has no class folders; sort its pictures into folders by WordNet id"
            )
    numbers = {wordnet_id: number for number, wordnet_id in enumerate(ids)}
    reader = image_reader(settings)
    splits = {
        "train": image_files.index(root, labelled_paths(root, "train", numbers), reader),
        "test": image_files.index(root, labelled_paths(root, "val", numbers), reader),
    }
    first_names = words()
    classes = class_infos(ids, settings.words, [first_names.get(wordnet_id, wordnet_id) for wordnet_id in ids])
    return complete("imagenet", classes, splits, settings)


@cache
def words() -> dict[str, str]:
    """Read the first name of every WordNet id from the list that timm carries; timm itself is not imported."""
    spec = importlib.util.find_spec("timm")
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    try:
        text = (folder / "data" / "_info" / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(
            f"timm's list of ImageNet names cannot be read: {reason_of(error)}. Reinstall timm"
        ) from error
    rows = (line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    return {wordnet_id: names.split(",")[0].strip().lower() for wordnet_id, names in rows}
