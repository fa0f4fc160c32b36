"""Guides and judges: the one door through which stages reach a classifier."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from dct_augment import pocket
from dct_augment.classifiers.check import check
from dct_augment.classifiers.classifier import Classifier, SingleClassifier
from dct_augment.classifiers.ensemble import EnsembleClassifier
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo

__all__ = ["Classifier", "EnsembleClassifier", "Preprocess", "SingleClassifier", "check", "load"]

_LIBRARIES = {"timm": "timm_models", "transformers": "transformers_models", "function": "functions"}
"""The module that loads a library's models; imported when first needed, as each takes seconds."""
_SETTINGS = {"timm": ("revision", "checkpoint"), "transformers": ("revision", "pooling"), "function": ()}
"""Which settings of a classifier mean something to a library only."""


def load(
    members: Sequence[ClassifierConfig] | str, classes: Sequence[ClassInfo] = (), *, device: str = "cpu"
) -> Classifier:
    """Load a guide or judge; a plain name stands for one classifier. Several vote over `classes`.

    Raises:
        ModelError: a classifier cannot be found or read, or has no label for a class.
    """
    if isinstance(members, str):
        members = (ClassifierConfig(name=members),)
    loaded = [_load(member, device) for member in members]
    if len(loaded) == 1:
        return loaded[0]
    return EnsembleClassifier(loaded, [member.weight for member in members], classes)


def _load(member: ClassifierConfig, device: str) -> SingleClassifier:
    source = member.name
    if source.startswith("pocket/"):
        inner = source.removeprefix("pocket/")
        if inner not in pocket.CLASSIFIERS:
            raise ModelError(f"classifier {source!r} does not exist; Pocket has: "
                             + ", ".join(f"pocket/{known}" for known in pocket.CLASSIFIERS))  # fmt: skip
        source = f"local-dir:{pocket.path(inner)}"
    folder = Path(source).expanduser()
    library = member.library or _library(source, folder, member.revision)
    _refuse_unused(member, library, local=folder.is_dir() or source.startswith("local-dir:"))
    if library == "timm" and not member.checkpoint and ":" not in source:
        if folder.is_dir():
            source = f"local-dir:{folder}"
        elif "/" in source:
            source = f"hf-hub:{source}"
    module = importlib.import_module(f"dct_augment.classifiers.{_LIBRARIES[library]}")
    loaded: SingleClassifier = module.load(member, source, device)
    return loaded


def _refuse_unused(member: ClassifierConfig, library: str, *, local: bool) -> None:
    """A setting without effect would be a mistake unseen."""
    for key, value in (
        ("revision", member.revision),
        ("checkpoint", member.checkpoint),
        ("pooling", member.pooling if member.pooling != "model" else None),
    ):
        if value is not None and key not in _SETTINGS[library]:
            raise ModelError(
                f"classifier {member.name!r}: {key}: {value} has no effect on a classifier of {library}; remove it"
            )
    if member.revision and (local or member.checkpoint):
        raise ModelError(f"classifier {member.name!r} is not on the Hub, so it has no revision {member.revision!r}; "
                         "remove it")  # fmt: skip


def _library(source: str, folder: Path, revision: str | None) -> str:
    """Whose model a name is: a folder or repository says it in its config.json, and a name without slash is timm's.

    A repository that cannot be reached and is not in the Hub's cache is taken for transformers.
    """
    if source.startswith(("local-dir:", "hf-hub:", "hf_hub:")):
        return "timm"
    if folder.is_dir() or source.startswith((".", "/", "~")):
        try:
            facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"classifier {source!r}: no readable config.json there") from error
        return _named(facts)
    if ":" in source:
        raise ModelError(
            f"classifier {source!r}: to call a function of your own, say so with library: function; a timm model is "
            "hf-hub:ID or local-dir:FOLDER"
        )
    if "/" not in source:
        return "timm"
    try:
        return _named(json.loads(Path(hf_hub_download(source, "config.json", revision=revision)).read_text("utf-8")))
    except (OSError, ValueError, EntryNotFoundError):
        return "transformers"  # it will say what is wrong


def _named(facts: object) -> str:
    """The library that wrote a config.json."""
    return "timm" if isinstance(facts, dict) and "architecture" in facts else "transformers"
