"""Which real images there are: the settings of each data set adapter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import ImageColor
from pydantic import BeforeValidator, Field, field_validator

from dct_augment.config import by_class
from dct_augment.config.base import DataPath, Section, Seed, WrittenPath
from dct_augment.errors import InputError


def _check_words(value: Any) -> Any:
    """Check words that stand in the configuration itself; a file is read with the data set."""
    if isinstance(value, str | Path) or value is None:
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be a file, or `class: words`")
    try:
        return by_class.check_words(list(value.items()), "words")
    except InputError as error:
        raise ValueError(str(error)) from error


def _check_value_range(value: Any) -> Any:
    """Refuse what is no value range with one message, not with one for each form that it may have."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    is_pair = is_pair and all(isinstance(end, int | float) and not isinstance(end, bool) for end in value)
    if not is_pair and value not in ("full", "12bit", "min_max"):
        raise ValueError("must be full, 12bit, min_max, or a pair [black, white]")
    return value


def _check_roots(value: Any) -> Any:
    """Refuse what is neither a folder nor a list of them with one message."""
    folders = value if isinstance(value, list | tuple) else [value]
    if value is not None and not all(isinstance(folder, str | Path) for folder in folders):
        raise ValueError("must be a folder, or a list of folders")
    return value


Words = Annotated[WrittenPath | dict[str, str] | None, BeforeValidator(_check_words)]
"""Prompt words of classes: a file, or the mapping itself."""


class AnyDataset(Section):
    """What every data set setting has; each adapter adds its own."""

    classes: tuple[str, ...] | None = Field(None, description="only these classes (names or slugs); all if unset")
    words: Words = Field(
        None,
        description="prompt words of classes whose names read badly: `class: words`, or a file of them in YAML, or in "
        "CSV or TSV with the columns `class,words`",
    )


class PocketDataset(AnyDataset):
    """The shipped birds."""

    name: Literal["pocket"]


class WinterDataset(AnyDataset):
    """The shipped birds of another place, in winter."""

    name: Literal["winter"]


class DigitsDataset(AnyDataset):
    """The shipped handwriting."""

    name: Literal["digits"]


class DatasetOnDisk(AnyDataset):
    """A data set that the user has in a folder."""

    path: DataPath = Field(description="folder of the data set, or its URL: `s3://`, `gs://` or `hf://`")
    val: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share held out where there is no val split")
    test: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="share held out where there is no test split")
    val_images: int = Field(
        5_000, ge=1, description="at most so many val images are used, evenly over the classes; trials read them often"
    )
    seed: Seed = Field(0, description="of the held-out shares")
    value_range: Annotated[
        Literal["full", "12bit", "min_max"] | tuple[float, float], BeforeValidator(_check_value_range)
    ] = Field(
        "full",
        description="black and white in pictures of more than 8 bits: `full` (0..65535, float 0..1), "
        "`12bit` (0..4095), `min_max` of each picture, or a pair",
    )
    background: str = Field("white", description="colour under transparent parts: a name or `#rrggbb`")
    max_pixels: int = Field(100_000_000, ge=1, description="larger pictures are left out, as unreadable")

    duplicates: Literal["error", "drop", "keep"] = Field(
        "error",
        description="pictures that are in two splits, also in another format or size: `error`; or `drop`, which leaves "
        "copies out of train and val; `keep` does not search, and reads no training picture for it",
    )

    @field_validator("background")
    @classmethod
    def _is_a_color(cls, background: str) -> str:
        try:
            ImageColor.getrgb(background)
        except ValueError as error:
            raise ValueError(f"{background!r} is no colour; use a name such as white, or #rrggbb") from error
        return background

    @field_validator("value_range")
    @classmethod
    def _is_ascending(cls, value_range: str | tuple[float, float]) -> str | tuple[float, float]:
        if not isinstance(value_range, str) and not value_range[0] < value_range[1]:
            raise ValueError(f"{list(value_range)} has no extent; give black first, then white, e.g. [0, 4095]")
        return value_range


class FolderDataset(DatasetOnDisk):
    """`<class>/<image>` or `train|val|test/<class>/<image>`."""

    name: Literal["folder"]
    title: str | None = Field(None, description="short name in token names; the folder's own if unset")
    class_order: Literal["natural", "alphabetical"] = Field(
        "natural", description="which label a class has: 1, 2, 10 as timm sorts, or 1, 10, 2 as torchvision does"
    )


class ManifestDataset(DatasetOnDisk):
    """A table of pictures: CSV, TSV, JSON lines or parquet with a path and a label in each row."""

    name: Literal["manifest"]
    path: DataPath = Field(description="the table: .csv, .tsv, .jsonl or .parquet")
    root: Annotated[WrittenPath | tuple[WrittenPath, ...] | None, BeforeValidator(_check_roots)] = Field(
        None, description="folder of the pictures, or several: the first that has a path; the table's own if unset"
    )
    path_column: str = Field("path", description="column of the paths")
    label_column: str = Field("label", description="column of the labels: words or numbers")
    split_column: str = Field("split", description="column of the splits, if there is one: train, val, test ...")
    title: str | None = Field(None, description="short name in token names; the table's own if unset")


class CubDataset(DatasetOnDisk):
    """CUB-200-2011 as published."""

    name: Literal["cub"]
    crop: bool = Field(False, description="cut pictures to their bounding boxes")


class INaturalistDataset(DatasetOnDisk):
    """iNaturalist with its COCO-style annotation files."""

    name: Literal["inat"]
    version: Literal[2017, 2018, 2019, 2021] = Field(2021, description="year of the competition")
    language: Literal["common", "latin"] = Field("common", description="names that prompts use, where there are both")
    taxon: str | None = Field(None, description="only classes under this taxon, e.g. Aves")


class ImageNetDataset(DatasetOnDisk):
    """ImageNet-1k in folders named by WordNet id."""

    name: Literal["imagenet"]


class HuggingFaceDataset(DatasetOnDisk):
    """What the package `datasets` reads: a folder in one of its layouts, or a data set of the Hub."""

    name: Literal["huggingface"]
    path: DataPath = Field(
        description="folder written by `save_to_disk`, of parquet files or of pictures; or `user/name` on the Hub"
    )
    revision: str | None = Field(None, description="commit, branch or tag on the Hub")
    subset: str | None = Field(None, description="which configuration of the data set, if it has several")
    image_column: str = Field("image", description="column of the pictures")
    label_column: str = Field("label", description="column of the labels")
    title: str | None = Field(None, description="short name in token names; the folder's own if unset")


class WebDatasetDataset(DatasetOnDisk):
    """WebDataset tar shards, compressed or not: pictures, and labels under cls or in a JSON member."""

    name: Literal["webdataset"]
    title: str | None = Field(None, description="short name in token names; the folder's own if unset")
    image_key: str | None = Field(None, description="ending of the picture, e.g. `input.png`, if a sample has several")
    label_key: str | None = Field(
        None, description="where the label is: an ending or a key of the JSON member; cls, label or class if unset"
    )


class TorchvisionDataset(DatasetOnDisk):
    """A published data set as `torchvision.datasets` has it on disk; `path` is torchvision's `root`, or its own folder.

    In order: Oxford 102 Flowers, Oxford-IIIT Pets, Stanford Cars, Food-101, EuroSAT (RGB), Caltech-101, CIFAR-10, and
    CIFAR-100 with its fine labels.
    """

    name: Literal["flowers102", "pets", "cars", "food101", "eurosat", "caltech101", "cifar10", "cifar100"]


class AircraftDataset(DatasetOnDisk):
    """FGVC-Aircraft as `torchvision.datasets` has it on disk; `path` is torchvision's `root`, or its own folder."""

    name: Literal["aircraft"]
    level: Literal["variant", "family", "manufacturer"] = Field(
        "variant", description="what is a class: 100 variants (737-700), 70 families (Boeing 737), 30 manufacturers"
    )


class DtdDataset(DatasetOnDisk):
    """Describable Textures (DTD) as `torchvision.datasets` has it on disk; `path` is its `root`, or `dtd` in it."""

    name: Literal["dtd"]
    partition: int = Field(1, ge=1, le=10, description="which of the ten published splits")


DatasetConfig = Annotated[
    PocketDataset
    | WinterDataset
    | DigitsDataset
    | FolderDataset
    | ManifestDataset
    | CubDataset
    | INaturalistDataset
    | ImageNetDataset
    | HuggingFaceDataset
    | WebDatasetDataset
    | AircraftDataset
    | DtdDataset
    | TorchvisionDataset,
    Field(discriminator="name"),
]
"""Which real images there are: the settings of one adapter, chosen by `name`."""
