"""Says what a classifier is without its weights: labels and the size of its input, by its config.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from dct_augment import files
from dct_augment.classifiers import imagenet, labels
from dct_augment.classifiers.labels import Labels
from dct_augment.classifiers.names import ResolvedName
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo
from dct_augment.wording import counted


@dataclass(frozen=True)
class ClassifierShape:
    """What is known of a classifier: its labels, none where its files do not say them, and the side of its input."""

    labels: Labels
    input_size: int | None

    @property
    def in_words(self) -> str:
        """Say it in a few words; empty if nothing is known."""
        known = [counted(len(self.labels.names), "label")] if self.labels.names else []
        return ", ".join([*known, *([f"input {self.input_size} pixels"] if self.input_size else [])])

    def check(self, classes: Sequence[ClassInfo], how: str | Path) -> None:
        """Check that every class has a label.

        Raises:
            ModelError: one has none; all are listed.
        """
        if self.labels.names:
            self.labels.match(classes, how)


def shape_of(member: ClassifierConfig, resolved: ResolvedName) -> ClassifierShape:
    """Read what the files on this machine say of a classifier; no weights are loaded, and nothing is downloaded.

    Raises:
        ModelError: its labels are not as many as its outputs, or their file cannot be read.
    """
    settings = {} if member.checkpoint or resolved.kind == "function" else _settings(resolved, member.revision)
    is_timm = "architecture" in settings
    names, outputs, side = _of_timm(settings) if is_timm else _of_transformers(settings)
    if member.labels:
        names = labels.read(member.labels, outputs)
    elif names and outputs is not None and len(names) != outputs:
        raise ModelError(
            f"classifier {member.name!r} has {len(names)} label names in its config.json, but "
            f"{counted(outputs, 'output')}; correct them or give labels: FILE"
        )
    return ClassifierShape(Labels(names, imagenet.ids(names)), member.input_size or side)


def _settings(resolved: ResolvedName, revision: str | None) -> Mapping[str, Any]:
    """Read the config.json of a model that is here; empty if it is not, or cannot be read."""
    path: Any = Path(resolved.location) / "config.json"
    if not resolved.is_local:
        path = try_to_load_from_cache(resolved.repository, "config.json", revision=revision)
    return files.read_json(Path(path)) if isinstance(path, str | Path) else {}


_Shape = tuple[tuple[str, ...], int | None, int | None]
"""Label names, number of outputs, side of the input; none and None where they are not known."""


def _of_timm(settings: Mapping[str, Any]) -> _Shape:
    data = settings.get("pretrained_cfg", settings)
    names = settings.get("label_names") or data.get("label_names") or ()
    size = data.get("input_size") or (None,)
    return tuple(map(str, names)), settings.get("num_classes"), _side(size[-1])


def _of_transformers(settings: Mapping[str, Any]) -> _Shape:
    by_index = settings.get("id2label") or {}
    size = settings.get("image_size")
    names = tuple(str(by_index[key]) for key in sorted(by_index, key=int))
    return names, len(names) or None, _side(size[-1] if isinstance(size, list) and size else size)


def _side(value: Any) -> int | None:
    return value if isinstance(value, int) else None
