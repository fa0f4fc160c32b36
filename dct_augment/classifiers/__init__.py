"""Loads guides and judges: the one door through which stages reach a classifier."""

import importlib
from collections.abc import Sequence

from dct_augment.classifiers.classifier import Classifier, Prediction, SingleClassifier
from dct_augment.classifiers.ensemble import EnsembleClassifier
from dct_augment.classifiers.names import library_of, resolve
from dct_augment.classifiers.prediction import ClassPrediction
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.classifiers.sanity_check import check_on_real_images
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo

__all__ = [
    "ClassPrediction",
    "Classifier",
    "EnsembleClassifier",
    "Prediction",
    "Preprocess",
    "SingleClassifier",
    "check_on_real_images",
    "load",
]

_MODULES = {"timm": "timm_models", "transformers": "transformers_models", "function": "functions"}
"""The module that loads a library's models; imported when first needed, as each takes seconds."""
_SETTINGS = {"timm": ("revision", "checkpoint"), "transformers": ("revision", "pooling"), "function": ()}
"""Which settings of a classifier mean something to one library only."""


def load(
    members: Sequence[ClassifierConfig] | str, classes: Sequence[ClassInfo] = (), *, device: str = "cpu"
) -> Classifier:
    """Load a classifier: that of a run, a guide or a judge. Several vote over `classes`.

    Args:
        members: a run folder whose classifier was kept (`runs/photos`), or the folder of a classifier; the name of any
            other one, e.g. `pocket/birds-guide`; `config.guide` or `config.judge`.
        classes: the classes that several members vote over; one classifier alone needs none.
        device: torch device.

    Returns:
        The frozen classifier. `predict` takes pictures of any kind: paths, PIL images, arrays. `logits` takes images
        (B, 3, H, W) in [-1, 1], and gradients flow to them.

    Raises:
        ModelError: a classifier cannot be found or read, or has no label for a class; a run has kept none.

    Examples:
        >>> import dct_augment, torch
        >>> guide = dct_augment.load_classifier("pocket/birds-guide")
        >>> guide.logits(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 20])
        >>> picture = dct_augment.load_dataset("pocket").examples("test")[0].open()
        >>> [prediction] = guide.predict([picture], top=3)
        >>> prediction.label == prediction.top[0][0], len(prediction.top)
        (True, 3)
    """
    if isinstance(members, str):
        members = (ClassifierConfig(name=members),)
    loaded = [_load(member, device) for member in members]
    if len(loaded) == 1:
        return loaded[0]
    return EnsembleClassifier(loaded, [member.weight for member in members], classes)


def _load(member: ClassifierConfig, device: str) -> SingleClassifier:
    resolved = resolve(member.name, member.library)
    library = library_of(resolved, member.revision)
    _refuse_unused(member, library, is_local=resolved.is_local)
    module = importlib.import_module(f"dct_augment.classifiers.{_MODULES[library]}")
    classifier: SingleClassifier = module.load(member, resolved, device)
    return classifier


def _refuse_unused(member: ClassifierConfig, library: str, *, is_local: bool) -> None:
    """Raise ModelError for a setting that has no effect on the classifier."""
    settings = {
        "revision": member.revision,
        "checkpoint": member.checkpoint,
        "pooling": member.pooling if member.pooling != "model" else None,
    }
    for key, value in settings.items():
        if value is not None and key not in _SETTINGS[library]:
            raise ModelError(
                f"classifier {member.name!r}: {key}: {value} has no effect on a classifier of {library}; remove it"
            )
    if member.revision and (is_local or member.checkpoint):
        raise ModelError(
            f"classifier {member.name!r} is not on the Hub, so it has no revision {member.revision!r}; remove it"
        )
