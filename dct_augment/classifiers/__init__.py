"""Guides and judges: the one door through which stages reach a classifier."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from dct_augment import pocket
from dct_augment.classifiers import functions, timm_models, transformers_models
from dct_augment.classifiers.check import check
from dct_augment.classifiers.classifier import Classifier, Single, Voting
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo

__all__ = ["Classifier", "Preprocess", "Single", "Voting", "check", "load"]

_LIBRARIES: dict[str, Callable[[ClassifierConfig, str, str], Single]] = {
    "timm": timm_models.load,
    "transformers": transformers_models.load,
    "function": functions.load,
}


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
    return Voting(loaded, [member.weight for member in members], classes)


def _load(member: ClassifierConfig, device: str) -> Single:
    source = member.name
    if source.startswith("pocket/"):
        inner = source.removeprefix("pocket/")
        if inner not in pocket.CLASSIFIERS:
            raise ModelError(f"classifier {source!r} does not exist; Pocket has: "
                             + ", ".join(f"pocket/{known}" for known in pocket.CLASSIFIERS))  # fmt: skip
        source = f"local-dir:{pocket.path(inner)}"
    folder = Path(source).expanduser()
    library = member.library or _library(source, folder)
    if library == "timm" and folder.is_dir() and not member.checkpoint:
        source = f"local-dir:{folder}"
    return _LIBRARIES[library](member, source, device)


def _library(source: str, folder: Path) -> str:
    """Whose model a name is: a folder says it in its config.json; `owner/name` is transformers, other names timm."""
    if source.startswith(("local-dir:", "hf-hub:", "hf_hub:")):
        return "timm"
    if folder.is_dir() or source.startswith((".", "/", "~")):
        try:
            facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"classifier {source!r}: no readable config.json there") from error
        return "timm" if "architecture" in facts else "transformers"
    if ":" in source:
        raise ModelError(
            f"classifier {source!r}: to call a function of your own, say so with library: function; a timm model is "
            "hf-hub:ID or local-dir:FOLDER"
        )
    return "transformers" if source.count("/") == 1 else "timm"
