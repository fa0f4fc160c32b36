"""Recognises models in local folders by what their files hold: other weights under the same path are another model."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.classifiers import names as classifier_names
from dct_augment.config import (
    WEIGHTS,
    AnyClassifierConfig,
    Config,
    FewShotClassifierConfig,
    ZeroShotClassifierConfig,
)
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
        self._known, self._changed = _read(cache), False

    def add_to(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return an identity with the hash of every local model in it, as its section's `weights`."""
        extended = dict(identity)
        if "model" in extended:
            folder = diffusion_names.local_folder(self._config.model.path)
            if folder is not None and self._config.model.path != "pocket":
                extended["model"] = self._with_hash(extended["model"], [folder])
        for role in ("guide", "judge"):
            members = getattr(self._config, role)
            if extended.get(role) and members:
                extended[role] = [
                    self._with_hash(settings, _paths(member))
                    for settings, member in zip(extended[role], members, strict=True)
                ]
        downstream = extended.get("downstream")
        if downstream and downstream["model"].startswith("local-dir:"):
            folder = Path(downstream["model"].removeprefix("local-dir:")).expanduser()
            extended["downstream"] = self._with_hash(downstream, [folder])
        return extended

    def _with_hash(self, settings: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
        hashes = [[path.name, self._hash(path)] for given in paths for path in _files(given)]
        if not hashes:
            return dict(settings)
        return {**settings, WEIGHTS: hashlib.sha256(json.dumps(hashes).encode()).hexdigest()}

    def _hash(self, path: Path) -> str:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(path.resolve()))
        if known is not None and known[:2] == stamp:
            return str(known[2])
        digest = files.sha256(path)
        self._known[str(path.resolve())] = [*stamp, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        """Remember the hashes for the next command."""
        if self._changed:
            files.write_text(self._cache, json.dumps(self._known, indent=1) + "\n")
            self._changed = False


def _paths(member: AnyClassifierConfig) -> list[Path]:
    """List where the files of a classifier are: its folder, its checkpoint, its labels; or those that it is made on."""
    if isinstance(member, FewShotClassifierConfig):
        return _folder(classifier_names.resolve(member.backbone, "timm"))
    if isinstance(member, ZeroShotClassifierConfig):
        return _folder(classifier_names.resolve_zero_shot(member.model))
    folders = _folder(classifier_names.resolve(member.name, member.library))
    return folders + [Path(path).expanduser() for path in (member.checkpoint, member.labels) if path is not None]


def _folder(resolved: classifier_names.ResolvedName) -> list[Path]:
    """The folder of a model of the user's own, if it lies in one."""
    return [Path(resolved.location)] if resolved.kind == "folder" else []


def _files(path: Path) -> list[Path]:
    """List the files of a model: weights, configuration, vocabulary. A path that does not exist has none."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())


def _read(cache: Path) -> dict[str, list[Any]]:
    try:
        return dict(json.loads(cache.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
