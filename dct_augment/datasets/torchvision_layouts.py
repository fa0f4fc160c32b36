"""Reads published data sets as `torchvision.datasets` has them on disk; neither torch nor torchvision is imported.

One function per data set reads its annotation files; the table `_LAYOUTS` says where it lies. CIFAR is in `cifar.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dct_augment.config import AircraftDataset, DtdDataset, TorchvisionDataset
from dct_augment.datasets import image_files
from dct_augment.datasets.annotations import damaged, fields, lines, read_json, read_mat
from dct_augment.datasets.flower_names import FLOWERS
from dct_augment.datasets.naming import class_infos
from dct_augment.datasets.splits import ImageDataset, complete, image_reader
from dct_augment.errors import DatasetError
from dct_augment.wording import counted

NAMES = ("aircraft", "flowers102", "pets", "cars", "food101", "dtd", "eurosat", "caltech101")

Rows = list[tuple[str, int]]
"""Path of a picture below the data set's own folder, and its class number."""

_LEVELS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
_FLOWER_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
_PET = r"((\S+)_\d+)\s+(\d{1,6})\s+\d+\s+\d+"
_CAR_CLASSES = "devkit/cars_meta.mat"
_CAR_FILES = {
    "train": ("devkit/cars_train_annos.mat", "cars_train"),
    "test": ("cars_test_annos_withlabels.mat", "cars_test"),
}
_NO_CLASS = "BACKGROUND_Google"
_CALTECH_PROMPT_NAMES = {
    "Faces": "off-center face",
    "Faces_easy": "centered face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "car_side": "side of a car",
    "water_lilly": "water lily",
}
"""What prompts say where Caltech's folder names are plurals, misspelled or no names; most are CLIP's published ones."""


@dataclass(frozen=True)
class Contents:
    """What the annotation files say: the data set's own class names, and the pictures of each split.

    `prompt_names` is given where the usual rule, which takes `McLaren` for two words, does not fit.
    """

    classes: Sequence[str]
    rows: Mapping[str, Rows]
    prompt_names: Sequence[str] | None = None


@dataclass(frozen=True)
class Layout:
    """Where a published data set lies below torchvision's root, what must be there, and how it is read."""

    folder: str
    required: tuple[str, ...]
    published: str
    read: Callable[[Path], Contents]


def load(settings: TorchvisionDataset | AircraftDataset | DtdDataset) -> ImageDataset:
    """Index the images; published splits stay, those that were never published are held out of train.

    Raises:
        DatasetError: the folder or one of its files is missing or damaged.
    """
    layout = _layout(settings)
    root = image_files.own_folder(settings.path.expanduser(), layout.folder)
    image_files.require(root, *layout.required, published=layout.published)
    contents = layout.read(root)
    reader = image_reader(settings)
    splits = {split: image_files.index(root, rows, reader) for split, rows in contents.rows.items()}
    classes = class_infos(contents.classes, settings.words, contents.prompt_names)
    return complete(settings.name, classes, splits, settings)


def _layout(settings: TorchvisionDataset | AircraftDataset | DtdDataset) -> Layout:
    if isinstance(settings, AircraftDataset):
        return _aircraft(settings.level)
    if isinstance(settings, DtdDataset):
        return _dtd(settings.partition)
    return _LAYOUTS[settings.name]


def _numbers(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _labelled(file: Path, rows: Iterable[tuple[str, str]], numbers: Mapping[str, int]) -> Rows:
    """Replace class names by class numbers."""
    labelled = []
    for path, name in rows:
        if name not in numbers:
            known = ", ".join(list(numbers)[:5])
            raise damaged(file, f"classes of the data set ({known}, ...)", f"{path} has the class {name!r}")
        labelled.append((path, numbers[name]))
    return labelled


def _label(file: Path, label: int, count: int, path: str) -> int:
    """Turn a label that counts from 1 into a class number."""
    if not 1 <= label <= count:
        raise damaged(file, f"labels from 1 to {count}", f"{path} has the label {label}")
    return label - 1


# ------------------------------------------------------------------------------------------------- FGVC-Aircraft


def _aircraft(level: str) -> Layout:
    files = [f"data/images_{level}_{split}.txt" for split in ("train", "val", "test")]
    return Layout(
        "fgvc-aircraft-2013b",
        (f"data/{_LEVELS[level]}", *files, "data/images"),
        "FGVC-Aircraft as torchvision.datasets.FGVCAircraft downloads it (fgvc-aircraft-2013b.tar.gz, unpacked)",
        partial(_read_aircraft, level=level),
    )


def _read_aircraft(root: Path, level: str) -> Contents:
    classes = [name for _, name in lines(root / "data" / _LEVELS[level])]
    rows = {}
    for split in ("train", "val", "test"):
        file = root / "data" / f"images_{level}_{split}.txt"
        pairs = fields(file, r"(\S+)\s+(.+)", f"image {level}")
        rows[split] = _labelled(file, ((f"data/images/{image}.jpg", name) for image, name in pairs), _numbers(classes))
    return Contents(classes, rows, [name.lower() for name in classes])


# --------------------------------------------------------------------------------------------- Oxford 102 Flowers


def _read_flowers(root: Path) -> Contents:
    labels = _whole_numbers(root / "imagelabels.mat", "labels", "a label of every image")
    rows: dict[str, Rows] = {}
    for split, variable in _FLOWER_SPLITS.items():
        images = _whole_numbers(root / "setid.mat", variable, "numbers of the images of every split")
        rows[split] = []
        for image in images:
            path = f"jpg/image_{image:05d}.jpg"
            if not 1 <= image <= len(labels):
                raise damaged(
                    root / "setid.mat", f"numbers of the {counted(len(labels), 'image')}", f"{variable} has {image}"
                )
            rows[split].append((path, _label(root / "imagelabels.mat", labels[image - 1], len(FLOWERS), path)))
    return Contents(FLOWERS, rows, [name.removesuffix("?") for name in FLOWERS])


def _whole_numbers(file: Path, variable: str, expected: str) -> list[int]:
    array = read_mat(file, variable, expected)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise damaged(file, expected, f"{variable} is an array {array.shape} of {array.dtype}")
    return [int(number) for number in array]


# ------------------------------------------------------------------------------------------------ Oxford-IIIT Pets


def _read_pets(root: Path) -> Contents:
    names: dict[int, str] = {}
    rows: dict[str, Rows] = {}
    for split, file in (("train", "annotations/trainval.txt"), ("test", "annotations/test.txt")):
        rows[split] = []
        for image, breed, label in fields(root / file, _PET, "breed_number label species number"):
            if names.setdefault(int(label), breed) != breed:
                reason = f"the label {label} is {names[int(label)]!r} and {breed!r}"
                raise damaged(root / file, "one breed for each label", reason)
            rows[split].append((f"images/{image}.jpg", int(label) - 1))
    if sorted(names) != list(range(1, len(names) + 1)):
        reason = f"it has {counted(len(names), 'label')}, up to {max(names)}"
        raise damaged(root / "annotations/trainval.txt", "the labels 1, 2, 3, ... without a gap", reason)
    return Contents([names[label] for label in sorted(names)], rows)


# --------------------------------------------------------------------------------------------------- Stanford Cars


def _read_cars(root: Path) -> Contents:
    class_names = read_mat(root / _CAR_CLASSES, "class_names", "the names of the classes")
    classes = [str(name) for name in class_names]
    rows = {
        split: list(_cars(root / annotations, folder, len(classes)))
        for split, (annotations, folder) in _CAR_FILES.items()
    }
    return Contents(classes, rows, [name.lower() for name in classes])


def _cars(file: Path, folder: str, count: int) -> Iterator[tuple[str, int]]:
    expected = "a class and a file name (class, fname) of every image"
    annotations = read_mat(file, "annotations", expected)
    if not {"class", "fname"} <= set(annotations.dtype.names or ()):
        there = ", ".join(annotations.dtype.names or ()) or "no fields"
        raise damaged(file, expected, f"annotations has {there}")
    for name, label in zip(annotations["fname"], annotations["class"], strict=True):
        path = f"{folder}/{name}"
        try:
            number = int(label)
        except (TypeError, ValueError) as error:
            raise damaged(file, expected, f"{path} has the class {label!r}") from error
        yield path, _label(file, number, count, path)


# -------------------------------------------------------------------------------------------------------- Food-101


def _read_food(root: Path) -> Contents:
    names = {split: _food_names(root / "meta" / f"{split}.json") for split in ("train", "test")}
    classes = sorted(names["train"])
    rows = {
        split: _labelled(
            root / "meta" / f"{split}.json",
            ((f"images/{image}.jpg", name) for name, images in of_class.items() for image in images),
            _numbers(classes),
        )
        for split, of_class in names.items()
    }
    return Contents(classes, rows)


def _food_names(file: Path) -> dict[str, list[str]]:
    expected = "the image names of every class"
    content = read_json(file, expected)
    if not isinstance(content, dict):
        raise damaged(file, expected, f"it holds a {type(content).__name__}, no mapping")
    for name, images in content.items():
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise damaged(file, expected, f"{name!r} has no list of names")
    return content


# ------------------------------------------------------------------------------------------- Describable Textures


def _dtd(partition: int) -> Layout:
    files = [f"labels/{split}{partition}.txt" for split in ("train", "val", "test")]
    return Layout(
        "dtd/dtd",
        (*files, "images"),
        "the Describable Textures as torchvision.datasets.DTD downloads them (dtd-r1.0.1.tar.gz, unpacked)",
        partial(_read_dtd, partition=partition),
    )


def _read_dtd(root: Path, partition: int) -> Contents:
    files = {split: root / "labels" / f"{split}{partition}.txt" for split in ("train", "val", "test")}
    pairs = {split: list(fields(file, r"([^/]+)/([^/]+)", "class/image")) for split, file in files.items()}
    classes = sorted({name for split_pairs in pairs.values() for name, _ in split_pairs})
    rows = {
        split: _labelled(file, ((f"images/{name}/{image}", name) for name, image in pairs[split]), _numbers(classes))
        for split, file in files.items()
    }
    return Contents(classes, rows)


# ------------------------------------------------------------------------------------------ EuroSAT and Caltech-101


def _read_eurosat(root: Path) -> Contents:
    classes, rows = _class_folders(root, "2750")
    return Contents(classes, {"train": rows})


def _read_caltech(root: Path) -> Contents:
    classes, rows = _class_folders(root, "101_ObjectCategories", without=_NO_CLASS)
    prompt_names = [_CALTECH_PROMPT_NAMES.get(name, name.replace("_", " ").lower()) for name in classes]
    return Contents(classes, {"train": rows}, prompt_names)


def _class_folders(root: Path, folder: str, without: str = "") -> tuple[list[str], Rows]:
    """List the class folders in a folder, and their pictures."""
    classes = [name for name in image_files.folder_names(root / folder) if name != without]
    if not classes:
        raise DatasetError(f"{str(root / folder)!r} holds no class folders; unpack the data set again")
    rows = [
        (path, number)
        for number, name in enumerate(classes)
        for path in image_files.paths_below(root / folder / name, f"{folder}/{name}")
    ]
    return classes, rows


_LAYOUTS = {
    "flowers102": Layout(
        "flowers-102",
        ("imagelabels.mat", "setid.mat", "jpg"),
        "Oxford 102 Flowers as torchvision.datasets.Flowers102 downloads it (102flowers.tgz, unpacked)",
        _read_flowers,
    ),
    "pets": Layout(
        "oxford-iiit-pet",
        ("annotations/trainval.txt", "annotations/test.txt", "images"),
        "Oxford-IIIT Pets as torchvision.datasets.OxfordIIITPet downloads it (images.tar.gz, annotations.tar.gz, "
        "unpacked)",
        _read_pets,
    ),
    "cars": Layout(
        "stanford_cars",
        (_CAR_CLASSES, *(name for names in _CAR_FILES.values() for name in names)),
        "Stanford Cars as torchvision.datasets.StanfordCars reads it (devkit, cars_train, cars_test, "
        "cars_test_annos_withlabels.mat); torchvision cannot download it any more",
        _read_cars,
    ),
    "food101": Layout(
        "food-101",
        ("meta/train.json", "meta/test.json", "images"),
        "Food-101 as torchvision.datasets.Food101 downloads it (food-101.tar.gz, unpacked)",
        _read_food,
    ),
    "eurosat": Layout(
        "eurosat",
        ("2750",),
        "EuroSAT as torchvision.datasets.EuroSAT downloads it (EuroSAT.zip, unpacked: 2750/<class>/<picture>)",
        _read_eurosat,
    ),
    "caltech101": Layout(
        "caltech101",
        ("101_ObjectCategories",),
        "Caltech-101 as torchvision.datasets.Caltech101 downloads it (101_ObjectCategories.tar.gz, unpacked)",
        _read_caltech,
    ),
}
