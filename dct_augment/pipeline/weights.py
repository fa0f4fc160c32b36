"""Recognises models and other files of the user's own by what they hold: other weights make another model."""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.classifiers import names as classifier_names
from dct_augment.config import (
    FEATURES_HASH,
    INIT_FROM_HASH,
    MATCH_HASH,
    TINY_DECODER_HASH,
    WEIGHTS,
    AdapterConfig,
    AnyClassifierConfig,
    ClassifierConfig,
    Config,
    FewShotClassifierConfig,
    ZeroShotClassifierConfig,
)
from dct_augment.diffusion import adapters as diffusion_adapters
from dct_augment.diffusion import names as diffusion_names

_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".txt", ".model"})


class WeightHashes:
    """The hashes of the local models of a configuration; a file is read again when its size or time has changed.

    Args:
        config: whose models.
        cache: file that remembers the hashes.
    """

    def __init__(self, config: Config, cache: Path) -> None:
        self._config, self._cache = config, cache
        self._known = _read(cache)
        self._remembered = dict(self._known)

    def of(self, config: Config) -> "WeightHashes":
        """Return the hashes of the models of a run inside this one; what is read for it is remembered here, too."""
        others = copy.copy(self)
        others._config = config
        return others

    def add_to(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return an identity with the hash of every local file that decides it, beside the setting that names it.

        A model's own is `weights` of its section; `HASHES` has the names of all.
        """
        extended = dict(identity)
        if "model" in extended:
            model = self._with_hash(extended["model"], _model_folder(self._config.model.path))
            tiny_decoder = _model_folder(self._config.model.tiny_decoder)
            extended["model"] = self._with_adapters(self._with_hash(model, tiny_decoder, TINY_DECODER_HASH))
        for role in ("guide", "judge"):
            members = getattr(self._config, role)
            if extended.get(role) and members:
                extended[role] = [
                    self._with_hash(self._with_hash(settings, _paths(member)), _match_file(member), MATCH_HASH)
                    for settings, member in zip(extended[role], members, strict=True)
                ]
        if "tokens" in extended:
            extended["tokens"] = self._with_starts(extended["tokens"])
        if "metrics" in extended:
            extended["metrics"] = self._with_hash(extended["metrics"], _features_files(self._config), FEATURES_HASH)
        downstream = extended.get("downstream")
        if downstream:
            folders = _folder(classifier_names.resolve(downstream["model"], "timm"))
            extended["downstream"] = self._with_hash(downstream, folders)
        return extended

    def _with_hash(self, settings: Mapping[str, Any], paths: Iterable[Path], key: str = WEIGHTS) -> dict[str, Any]:
        hashes = [[path.name, self._hash(path)] for given in paths for path in _files(given)]
        if not hashes:
            return dict(settings)
        return {**settings, key: hashlib.sha256(json.dumps(hashes).encode()).hexdigest()}

    def _with_adapters(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Add the hash of the file of each adapter on this machine."""
        if "adapters" not in settings:
            return settings
        adapters = zip(settings["adapters"], self._config.model.adapters, strict=True)
        return {**settings, "adapters": [self._with_hash(own, _adapter(adapter)) for own, adapter in adapters]}

    def _with_starts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Add the hash of the token file that training begins from; of a folder, those of its files, by class."""
        start = self._config.tokens.init_from
        if start is None or settings.get("init_from") is None:
            return dict(settings)
        if not start.is_dir():
            return self._with_hash(settings, [start], INIT_FROM_HASH)
        return {
            **settings,
            INIT_FROM_HASH: {file.stem: self._hash(file) for file in sorted(start.glob("*.safetensors"))},
        }

    def _hash(self, path: Path) -> str:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(path.resolve()))
        if known is not None and known[:2] == stamp:
            return str(known[2])
        digest = files.sha256(path)
        self._known[str(path.resolve())] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Remember the hashes for the next command."""
        if self._known != self._remembered:
            files.write_json(self._cache, self._known, indent=1)
            self._remembered = dict(self._known)


def _paths(member: AnyClassifierConfig) -> list[Path]:
    """List where the files of a classifier are: its folder, its checkpoint, its labels; or those that it is made on."""
    if isinstance(member, FewShotClassifierConfig):
        return _folder(classifier_names.resolve(member.backbone, "timm"))
    if isinstance(member, ZeroShotClassifierConfig):
        return _folder(classifier_names.resolve_zero_shot(member.model))
    folders = _folder(classifier_names.resolve(member.name, member.library))
    return folders + [Path(path).expanduser() for path in (member.checkpoint, member.labels) if path is not None]


def _match_file(member: AnyClassifierConfig) -> list[Path]:
    """The file `class: label` of a classifier, if it has one."""
    match = member.match if isinstance(member, ClassifierConfig) else None
    return [match.expanduser()] if isinstance(match, Path) else []


def _adapter(adapter: AdapterConfig) -> list[Path]:
    """The file of an adapter, or the folder that it lies in; nothing for one on the Hub."""
    place = diffusion_adapters.local_path(adapter.path)
    if place is None:
        return []
    return [place / adapter.weight_name] if place.is_dir() and adapter.weight_name else [place]


def _model_folder(path: str | None) -> list[Path]:
    """The folder of a text-to-image model, or a part of one, of the user's own."""
    folder = diffusion_names.local_folder(path) if path and path != "pocket" else None
    return [folder] if folder is not None else []


def _features_files(config: Config) -> list[Path]:
    """Where the files are of the model in whose features images are compared."""
    features, weights = config.metrics.features or "", config.metrics.inception_weights
    if features == "inception" and weights is not None:
        return [weights]
    if features in ("", "auto", "judge", "guide", "inception"):
        return []
    return _folder(classifier_names.resolve(features, "timm"))


def _folder(resolved: classifier_names.ResolvedName) -> list[Path]:
    """The folder of a model of the user's own, if it lies in one."""
    return [Path(resolved.location)] if resolved.kind == "folder" else []


def _files(path: Path) -> list[Path]:
    """List the files of a model: weights, configuration, vocabulary. A path that does not exist has none."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())


def _read(cache: Path) -> dict[str, list[Any]]:
    """Read what is remembered of each file: size, time, hash."""
    return {name: entry for name, entry in files.read_json(cache).items() if _is_entry(entry)}


def _is_entry(value: Any) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [int, int, str]
