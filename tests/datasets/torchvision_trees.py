"""Writes small published data sets, each exactly as torchvision has it on disk. They return torchvision's `root`."""

import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.io

from tests.datasets.layouts import COLOURS, save_image

VARIANTS = ("707-320", "A300B4", "F/A-18")
MANUFACTURERS = ("Airbus", "Boeing", "McDonnell Douglas")
BREEDS = ("Abyssinian", "american_bulldog", "Egyptian_Mau")
CARS = ("AM General Hummer SUV 2000", "McLaren MP4-12C Coupe 2012", "smart fortwo Convertible 2012")
FOODS = ("apple_pie", "baby_back_ribs")
TEXTURES = ("banded", "polka-dotted")
LAND_USES = ("AnnualCrop", "SeaLake")
CALTECH = ("BACKGROUND_Google", "Faces", "car_side", "water_lilly")
CIFAR10 = ("airplane", "automobile", "bird")
CIFAR100 = ("apple", "aquarium_fish", "baby")


def aircraft_tree(root: Path) -> Path:
    data = root / "fgvc-aircraft-2013b" / "data"
    lines: dict[str, list[str]] = {}
    for number in range(18):
        image, place = f"{1000 + number:07d}", number % 3
        save_image(data / "images" / f"{image}.jpg", COLOURS[place])
        split = ("train", "val", "test")[number // 3 % 3]
        for level, name in (("variant", VARIANTS[place]), ("manufacturer", MANUFACTURERS[(place + 1) % 3])):
            lines.setdefault(f"images_{level}_{split}.txt", []).append(f"{image} {name}")
    lines |= {"variants.txt": [f"{VARIANTS[0]} ", *VARIANTS[1:]], "manufacturers.txt": list(MANUFACTURERS)}
    for file, content in lines.items():
        (data / file).write_text("\n".join(content) + "\n")
    return root


def flowers_tree(root: Path) -> Path:
    """All 102 classes, one picture of each to train; the published numbers are neither in order nor of one type."""
    folder = root / "flowers-102"
    labels = [*range(102, 0, -1), 1, 2, 3, 1, 2, 3]
    for number, label in enumerate(labels, 1):
        save_image(folder / "jpg" / f"image_{number:05d}.jpg", COLOURS[label % 4])
    ids = {
        "trnid": np.array([range(1, 103)], np.uint16),
        "valid": np.array([[105, 103]], np.uint16),
        "tstid": np.array([[106, 107]], np.uint16),
    }
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)}, do_compression=True)
    scipy.io.savemat(folder / "setid.mat", ids, do_compression=True)
    return root


def pets_tree(root: Path) -> Path:
    folder = root / "oxford-iiit-pet"
    lines: dict[str, list[str]] = {"trainval.txt": [], "test.txt": []}
    for label, breed in enumerate(BREEDS, 1):
        for number in range(12):
            save_image(folder / "images" / f"{breed}_{number}.jpg", COLOURS[label])
            lines["test.txt" if number % 3 == 0 else "trainval.txt"].append(f"{breed}_{number} {label} 1 {label}")
    lines["list.txt"] = ["#Image CLASS-ID SPECIES BREED ID"]
    for file, content in lines.items():
        path = folder / "annotations" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(content) + "\n")
    return root


def cars_tree(root: Path) -> Path:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    files = {"cars_train": "devkit/cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
    kinds = [*((corner, object) for corner in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")), ("class", object)]
    for (split, file), count in zip(files.items(), (24, 3), strict=True):
        annotations = np.zeros((1, count), [*kinds, ("fname", object)])
        for number in range(count):
            name, label = f"{number + 1:05d}.jpg", number % 3 + 1
            save_image(folder / split / name, COLOURS[label])
            annotations[0, number] = (1, 1, 9, 9, np.uint8(label), name)
        scipy.io.savemat(folder / file, {"annotations": annotations}, do_compression=True)
    names = np.array([CARS], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names}, do_compression=True)
    return root


def food_tree(root: Path) -> Path:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split, numbers in (("train", range(10)), ("test", range(10, 13))):
        names = {name: [f"{name}/{number}" for number in numbers] for name in reversed(FOODS)}
        for images in names.values():
            for image in images:
                save_image(folder / "images" / f"{image}.jpg")
        (folder / "meta" / f"{split}.json").write_text(json.dumps(names))
    return root


def dtd_tree(root: Path) -> Path:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    images = [f"{name}/{name}_{number:04d}.jpg" for name in TEXTURES for number in range(6)]
    for image in images:
        save_image(folder / "images" / image)
    for partition in (1, 2):
        for place, split in enumerate(("train", "val", "test")):
            lines = images[(place + partition) % 3 :: 3]
            (folder / "labels" / f"{split}{partition}.txt").write_text("\n".join(lines) + "\n")
    return root


def eurosat_tree(root: Path) -> Path:
    for name in LAND_USES:
        for number in range(1, 31):
            save_image(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg")
    return root


def caltech_tree(root: Path) -> Path:
    for name in CALTECH:
        for number in range(1, 31):
            save_image(root / "caltech101" / "101_ObjectCategories" / name / f"image_{number:04d}.jpg")
    return root


class Python2Pickler(pickle._Pickler):
    """Pickles as Python 2 did, and as CIFAR is published: bytes and text are both its one kind of string."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = save_string
    dispatch[str] = save_string


def python2_pickle(value: Any) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _batch(key: str, count: int, seed: int) -> bytes:
    data = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    labels = [number % 3 for number in range(count)]
    return python2_pickle({"batch_label": "a batch", key: labels, "data": data, "filenames": ["x.png"] * count})


def cifar10_tree(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(_batch("labels", 9, number))
    (folder / "test_batch").write_bytes(_batch("labels", 6, 0))
    names = {"num_cases_per_batch": 9, "label_names": list(CIFAR10), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(names))
    return root


def cifar100_tree(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    (folder / "train").write_bytes(_batch("fine_labels", 30, 1))
    (folder / "test").write_bytes(_batch("fine_labels", 6, 2))
    names = {"fine_label_names": list(CIFAR100), "coarse_label_names": ["food", "people"]}
    (folder / "meta").write_bytes(python2_pickle(names))
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "aircraft": aircraft_tree,
    "flowers102": flowers_tree,
    "pets": pets_tree,
    "cars": cars_tree,
    "food101": food_tree,
    "dtd": dtd_tree,
    "eurosat": eurosat_tree,
    "caltech101": caltech_tree,
    "cifar10": cifar10_tree,
    "cifar100": cifar100_tree,
}
"""What writes the data set that a name of the configuration means."""

OWN_FOLDERS = {
    "aircraft": "fgvc-aircraft-2013b",
    "flowers102": "flowers-102",
    "pets": "oxford-iiit-pet",
    "cars": "stanford_cars",
    "food101": "food-101",
    "dtd": "dtd/dtd",
    "eurosat": "eurosat",
    "caltech101": "caltech101",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}
