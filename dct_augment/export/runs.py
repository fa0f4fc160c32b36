"""The runs that images are exported from: run folders, and what their files say of how they were made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dct_augment.config.by_class import parse_yaml, yaml_reason
from dct_augment.errors import ConfigError, InputError
from dct_augment.generation.shards import SPLITS, ShardFolder, shard_folder
from dct_augment.records import ImageKind
from dct_augment.remote.urls import url_of
from dct_augment.wording import command_of


@dataclass(frozen=True)
class SourceRun:
    """A run folder.

    `prefix` tells its keys from those of other runs of the same export; it is empty if there is one run. `data_set`
    says in words which data set it is of; empty if the folder does not tell. `identity` holds the settings that made
    its images.
    """

    root: Path
    name: str
    prefix: str
    data_set: str
    shards: ShardFolder
    identity: Mapping[str, Any]
    filter_confidence: float | None

    @property
    def public_data_set(self) -> str:
        """The data set as the card names it."""
        name, _, path = self.data_set.partition(" ")
        return f"{name} {public(path)}".strip()

    def key(self, key: str) -> str:
        """Make the key of one of its images unique in the export. No class slug has an underscore."""
        return f"{self.prefix}_{key}" if self.prefix else key


def public(path: str) -> str:
    """Shorten an absolute path to its last part: what lies around it is nobody's business."""
    if url_of(path):
        return Path(path).name
    before, colon, last = path.rpartition(":")  # local-dir:/models/guide
    return f"{before}{colon}{Path(last).name}" if Path(last).is_absolute() else path


def open_runs(folders: Sequence[Path]) -> tuple[SourceRun, ...]:
    """Open run folders.

    Raises:
        InputError: none is given, one is given twice, or one is no run or has no finished class-token images.
        ConfigError: the recorded configuration of one is damaged.
        ShardError: a plan.json is not readable.
    """
    if not folders:
        raise InputError("no run to export; give the folder of one, e.g. runs/pocket")
    resolved = [folder.resolve() for folder in folders]
    for place, folder in enumerate(resolved):
        if folder in resolved[:place]:
            raise InputError(f"{folders[place]} is given twice; leave one out")
    names = [_run_name(folder) for folder in folders]
    prefixes = _unique(names) if len(names) > 1 else [""]
    return tuple(_open(folder, name, prefix) for folder, name, prefix in zip(folders, names, prefixes, strict=True))


def _open(root: Path, name: str, prefix: str) -> SourceRun:
    config = _read_config(root)
    shards = shard_folder(root, name, ImageKind.CLASS_TOKEN)
    identity = _identity(shards)
    dataset = config.get("dataset") or identity.get("dataset") or {}
    data_set = " ".join(str(dataset[key]) for key in ("name", "path") if dataset.get(key))
    return SourceRun(root, name, prefix, data_set, shards, identity, _filter_confidence(root, config))


def _run_name(root: Path) -> str:
    """Find out the name of a run from the names of its shards.

    Raises:
        InputError: the folder is no run, or there is more than one run in it.
    """
    folder = root / "shards"
    make = f"make images with `{command_of('generate', root)}`, or give the folder of a run that has some"
    if not root.is_dir():
        raise InputError(f"{root} does not exist; {make}")
    ending = re.compile(rf"-{SPLITS[ImageKind.CLASS_TOKEN]}-\d+$")
    stems = {path.stem for path in folder.glob("*.parquet") if ending.search(path.stem)}
    names = sorted({ending.sub("", stem) for stem in stems})
    if not names:
        raise InputError(f"{root} holds no finished class-token images in {folder}; {make}")
    if len(names) > 1:
        raise InputError(f"{folder} holds the shards of several runs: {', '.join(names)}; keep those of one")
    return names[0]


def _read_config(root: Path) -> dict[str, Any]:
    """Read the configuration that a run recorded, as plain values; empty if there is none."""
    path = root / "config.yaml"
    if not path.is_file():
        return {}
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"it is no text in UTF-8, at byte {error.start}; correct it"]) from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not valid YAML: {yaml_reason(error)}"]) from error
    return {key: value for key, value in data.items() if isinstance(value, dict)} if isinstance(data, dict) else {}


def _identity(shards: ShardFolder) -> Mapping[str, Any]:
    """Read the settings that made the first finished shard."""
    for spec in shards.layout():
        stored = shards.load(spec)
        if stored is not None:
            return dict(stored.metadata.get("identity") or {})
    return {}


def _filter_confidence(root: Path, config: Mapping[str, Any]) -> float | None:
    """Read by which confidence the benchmark of a run filtered its images; None if it did not."""
    if not (root / "benchmark" / "filter.parquet").is_file():
        return None
    value = (config.get("benchmark") or {}).get("filter_confidence")
    return float(value) if isinstance(value, int | float) else None


def _unique(names: Sequence[str]) -> list[str]:
    """Number the names that occur before."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in unique:
            candidate, number = f"{name}-{number}", number + 1
        unique.append(candidate)
    return unique
