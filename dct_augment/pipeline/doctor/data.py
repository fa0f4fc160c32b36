"""Examines the data set and the prompts of its classes."""

import os
from collections.abc import Sequence

from dct_augment import datasets
from dct_augment.config import Config, HuggingFaceDataset
from dct_augment.diffusion.tokenization import tokenizers_here
from dct_augment.errors import DatasetError, InputError
from dct_augment.pipeline.doctor.finding import Finding
from dct_augment.pipeline.prompt_check import check_class_names, check_lengths, check_words
from dct_augment.pipeline.protocol import check_test, load_dataset
from dct_augment.records import ClassInfo, Dataset
from dct_augment.wording import counted

_BY_TORCHVISION = "torchvision downloads it (`download=True`)"


_PUBLISHED: dict[str, tuple[str, int | None]] = {
    "cub": ("1.1 GB from Caltech Vision; for non-commercial research", 200),
    "inat": ("from the iNaturalist competition: 42 GB (train_mini), 224 GB (train); for non-commercial use", None),
    "imagenet": ("about 150 GB after registration at image-net; for non-commercial research", 1000),
    "aircraft": (f"{_BY_TORCHVISION}, 2.8 GB; for non-commercial research", 100),
    "flowers102": (f"{_BY_TORCHVISION}, 350 MB", 102),
    "pets": (f"{_BY_TORCHVISION}, 800 MB; CC BY-SA 4.0", 37),
    "cars": ("1.9 GB, from a mirror of the published files; for non-commercial research", 196),
    "food101": (f"{_BY_TORCHVISION}, 5 GB; pictures of Foodspotting, for research", 101),
    "dtd": (f"{_BY_TORCHVISION}, 600 MB; for research", 47),
    "eurosat": (f"{_BY_TORCHVISION}, 94 MB; MIT", 10),
    "caltech101": (f"{_BY_TORCHVISION}, 137 MB; CC BY 4.0", 101),
    "cifar10": (f"{_BY_TORCHVISION}, 170 MB", 10),
    "cifar100": (f"{_BY_TORCHVISION}, 170 MB", 100),
}
"""Size and terms of public data sets, and their classes."""


def _is_set(variable: str) -> bool:
    """Tell whether a variable of the environment is set, as the Hub's package reads it."""
    return os.environ.get(variable, "").upper() in ("1", "TRUE", "YES", "ON")


def data_set(config: Config) -> tuple[Finding, Dataset | None, int | None, Config]:
    """Examine the data set.

    Also returns the data set if it is there, the number of the classes of a run if it is known, and the configuration,
    with a known protocol if the data set is there.
    """
    what, names = "data set", config.dataset.classes
    if isinstance(config.dataset, HuggingFaceDataset) and datasets.needs_download(config.dataset):
        fix = "it is downloaded when a run begins; or load it once with datasets.load_dataset"
        detail = f"{config.dataset.path} is not on this machine"
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            if _is_set(variable):
                detail, fix = f"{detail}, and {variable} is set", f"unset {variable} for the first run"
        return Finding(what, "missing", detail, fix), None, None, config
    try:
        dataset, config = load_dataset(config)
        used = datasets.used(dataset, config.dataset)
        remark = check_test(used, dataset, config)
    except DatasetError as error:
        terms, count = _PUBLISHED.get(config.dataset.name, ("", None))
        return Finding(what, "missing", str(error), terms), None, len(names) if names else count, config
    sizes = ", ".join(f"{len(used.examples(split)):,} {split}" for split in ("train", "val", "test"))
    detail = f"{dataset.name}: {counted(len(used.classes), 'class')}; {sizes} images"
    finding = Finding(what, "warning" if remark else "ok", detail, remark.removeprefix("warning: "))
    return finding, dataset, len(used.classes), config


def prompts(config: Config, classes: Sequence[ClassInfo], known: Sequence[ClassInfo]) -> Finding:
    """Examine whether the text encoder reads all of every prompt of classes, and settings name only `known` ones."""
    what = "prompts"
    if not classes:
        return Finding(what, "ok", "known once the data set is there")
    try:
        check_class_names(config, known)
        check_words(config, known)
        tokenizers = tokenizers_here(config.model.path, config.model.revision)
        check_lengths(tokenizers, config, classes)
    except InputError as error:
        return Finding(what, "missing", str(error), "correct the prompts")
    if not tokenizers:
        return Finding(what, "ok", "their lengths are known once the text-to-image model is there")
    return Finding(what, "ok", f"the text encoder reads all of every prompt, up to {tokenizers[0].room} pieces")
