"""Writes small data sets, each in the exact layout that it is published in."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dct_augment import config, datasets
from dct_augment.errors import DatasetError, UnreadableImageError
from dct_augment.records import Dataset, Example

COLOURS = ("red", "green", "blue", "white")
CUB_NAMES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
INAT_BIRDS = (
    ("Grus grus", "Common Crane"),
    ("Apteryx australis", "Southern Brown Kiwi"),
    ("Bufo bufo", "Common Toad"),
)
WORDNET_IDS = ("n02012849", "n03126707", "n03710637", "n03710721")


def save_image(path: Path, colour: str = "red", size: tuple[int, int] = (12, 9)) -> None:
    """Save an image of one colour with a coarse pattern of its own: by its name in the tree, no two are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256("/".join(path.parts[-3:]).encode()).digest()
    pattern = Image.frombytes("L", (4, 4), mark[:16]).resize(size, Image.Resampling.BICUBIC)
    plain = Image.new("RGB", size, colour)
    image = Image.blend(plain, pattern.convert("RGB"), 0.15)
    image.paste(plain.crop((0, 0, 2, 2)))  # tests read the colour in the corner
    image.save(path)


def load(name: str, path: Path, **settings: Any) -> Dataset:
    data = {
        "name": "x",
        "dataset": {"name": name, "path": str(path), **settings},
        "guide": {"name": "pocket/birds-guide"},
    }
    return datasets.load(config.validate(data).dataset)


def keys(dataset: Dataset, split: str) -> set[str]:
    return {example.key for example in dataset.examples(split)}


def unreadable(examples: Sequence[Example]) -> list[str]:
    """The keys of the images that cannot be opened."""
    found = []
    for example in examples:
        try:
            example.open()
        except UnreadableImageError:
            found.append(example.key)
    return found


def assert_refused(message: str, name: str, path: Path, **settings: Any) -> None:
    with pytest.raises(DatasetError, match=message):
        load(name, path, **settings)


def folder_tree(root: Path, count: int = 40) -> Path:
    for name, colour in zip(("001.Laughing_gull", "Çà/..".replace("/", "-"), "crane"), COLOURS, strict=False):
        for number in range(count):
            save_image(root / name / f"{number:03d}.png", colour)
    (root / ".cache").mkdir()
    (root / "crane" / "notes.txt").write_text("no picture")
    (root / "crane" / ".hidden.png").write_text("no picture")
    return root


def cub_tree(root: Path) -> Path:
    published = root / "CUB_200_2011"
    files = [
        (f"{name}/{name[4:]}_{number:04d}.jpg", label) for label, name in enumerate(CUB_NAMES, 1) for number in range(8)
    ]
    for file, label in files:
        save_image(published / "images" / file, COLOURS[label], (40, 30))
    lines = {
        "classes.txt": [f"{label} {name}" for label, name in enumerate(CUB_NAMES, 1)],
        "images.txt": [f"{number} {file}" for number, (file, _) in enumerate(files, 1)],
        "image_class_labels.txt": [f"{number} {label}" for number, (_, label) in enumerate(files, 1)],
        "train_test_split.txt": [f"{number} {int(number % 2)}" for number in range(1, 17)],
        "bounding_boxes.txt": [f"{number} 5.0 6.0 20.0 10.0" for number in range(1, 17)],
    }
    for name, text in lines.items():
        (published / name).write_text("\n".join(text) + "\n")
    return root


def inat_tree(root: Path, year: int) -> Path:
    categories, images, annotations = [], [], []
    for number, (latin, common) in enumerate(INAT_BIRDS):
        group = "Amphibians" if latin.startswith("Bufo") else "Birds"
        category: dict[str, Any] = {"id": number, "name": latin, "supercategory": group}
        if year == 2021:
            category |= {"common_name": common, "class": "Amphibia" if group == "Amphibians" else "Aves"}
        if year in (2018, 2019):
            category["name"] = str(number)
        categories.append(category)
    for number in range(24):
        label = number % 3
        file = f"train_val{year}/{label}/{number:032x}.jpg" if year != 2021 else f"train/{label:05d}_x/{number}.jpg"
        save_image(root / file, COLOURS[label])
        images.append({"id": 100 + number, "file_name": file})
        annotations.append({"id": number, "image_id": 100 + number, "category_id": label})
    for split, part in (("train", slice(0, 18)), ("val", slice(18, 24))):
        name = f"{split}{'' if year == 2021 else year}.json"
        data = {"images": images[part], "annotations": annotations[part], "categories": categories}
        (root / name).write_text(json.dumps(data))
    if year in (2018, 2019):
        real = [{"id": n, "name": latin, "class": "Aves"} for n, (latin, _) in enumerate(INAT_BIRDS)]
        (root / "categories.json").write_text(json.dumps(real))
    return root


def imagenet_tree(root: Path) -> Path:
    for colour, wnid in zip(COLOURS, WORDNET_IDS, strict=True):
        for number in range(6):
            save_image(root / "train" / wnid / f"{wnid}_{number}.JPEG", colour)
        save_image(root / "val" / wnid / "ILSVRC2012_val_00000001.JPEG", colour)
    return root
