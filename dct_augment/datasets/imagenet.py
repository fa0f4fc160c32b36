"""ImageNet-1k in folders named by WordNet id: `train/<wnid>/...` and `val/<wnid>/...`."""

import importlib.util
import re
from functools import cache
from pathlib import Path

from dct_augment.config import ImageNetDataset
from dct_augment.datasets import pictures
from dct_augment.datasets.naming import infos
from dct_augment.datasets.pictures import OnDisk
from dct_augment.errors import DatasetError

_PUBLISHED = "ImageNet's train and val folders, each with one folder per WordNet id (n01440764, ...)"


def load(settings: ImageNetDataset) -> OnDisk:
    """Index the pictures; the official val split is the test split, `val` is held out of train.

    Two classes are called "crane" and two "maillot": their names are alike, their slugs and ids are not.

    Raises:
        DatasetError: folders are missing, or are not named by WordNet id.
    """
    root = settings.path.expanduser()
    pictures.require(root, "train", "val", published=_PUBLISHED)
    ids = pictures.folders(root / "train")
    if strange := [name for name in ids if not re.fullmatch(r"n\d{8}", name)]:
        raise DatasetError(
            f"{str(root / 'train')!r}: {', '.join(strange[:5])} are no WordNet ids. Put {_PUBLISHED} there; for other "
            "folders use dataset.name: folder"
        )
    if not ids or not pictures.folders(root / "val"):
        raise DatasetError(f"{str(root / ('val' if ids else 'train'))!r} has no class folders; sort its pictures into "
                           "folders by WordNet id")  # fmt: skip
    known = words()
    classes = infos(ids, settings.words, [known.get(one, one) for one in ids])
    numbers = {one: index for index, one in enumerate(ids)}
    found = {
        split: pictures.build(
            root,
            (
                (path, numbers[one])
                for one in pictures.folders(root / folder)
                if one in numbers
                for path in pictures.below(root / folder / one, f"{folder}/{one}")
            ),
        )
        for split, folder in (("train", "train"), ("test", "val"))
    }
    splits = pictures.complete(found, val=settings.val, test=settings.test, seed=settings.seed)
    pictures.refuse_empty(classes, splits["train"], root)
    return OnDisk("imagenet", classes, splits)


@cache
def words() -> dict[str, str]:
    """The first name of every WordNet id, from the list that timm carries; timm itself is not imported."""
    spec = importlib.util.find_spec("timm")
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    try:
        text = (folder / "data" / "_info" / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"timm's list of ImageNet names cannot be read: {error}. Reinstall timm") from error
    rows = (line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    return {wnid: lemmas.split(",")[0].strip().lower() for wnid, lemmas in rows}
