"""Loads guides and judges: the one door through which stages reach a classifier."""

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from dct_augment.classifiers.cards import card_accuracy
from dct_augment.classifiers.classifier import Classifier, Prediction, SingleClassifier
from dct_augment.classifiers.ensemble import EnsembleClassifier
from dct_augment.classifiers.names import library_of, refuse_backbone, resolve, resolve_zero_shot
from dct_augment.classifiers.prediction import ClassPrediction
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.classifiers.sanity_check import FROM_LABELS, FROM_WORDS, RealImageCheck, check_on_real_images
from dct_augment.config import (
    AnyClassifierConfig,
    ClassifierConfig,
    Ensemble,
    FewShotClassifierConfig,
    ZeroShotClassifierConfig,
    classifier_title,
)
from dct_augment.errors import ModelError
from dct_augment.records import ClassInfo

if TYPE_CHECKING:
    from dct_augment.classifiers.few_shot import FewShotClassifier

__all__ = [
    "FROM_LABELS",
    "FROM_WORDS",
    "ClassPrediction",
    "Classifier",
    "EnsembleClassifier",
    "Prediction",
    "Preprocess",
    "RealImageCheck",
    "SingleClassifier",
    "card_accuracy",
    "check_on_real_images",
    "fetch",
    "load",
]

_MODULES = {"timm": "timm_models", "transformers": "transformers_models", "function": "functions"}
"""The module that loads a library's models; imported when first needed, as each takes seconds."""
_SETTINGS = {"timm": ("revision", "checkpoint"), "transformers": ("revision", "pooling"), "function": ()}
"""Which settings of a classifier mean something to one library only."""
_MEMBERS: TypeAdapter[tuple[AnyClassifierConfig, ...]] = TypeAdapter(Ensemble)


def load(
    members: Sequence[AnyClassifierConfig] | str,
    classes: Sequence[ClassInfo] = (),
    *,
    few_shot: "FewShotClassifier | Sequence[FewShotClassifier] | None" = None,
    device: str = "cpu",
    on_remark: Callable[[str], None] | None = None,
) -> Classifier:
    """Load a classifier: that of a run, a guide or a judge. Several vote over `classes`.

    Args:
        members: a run folder whose classifier was kept (`runs/photos`), or the folder of a classifier; the name of any
            other one, e.g. `pocket/birds-guide`; `config.guide` or `config.judge`.
        classes: the classes that several members vote over, and those of a zero_shot member; one pretrained classifier
            alone needs none.
        few_shot: what `dct_augment.classifiers.few_shot.fit` made of photos, for the few_shot members of its settings.
        device: torch device.
        on_remark: hears what a user should know: how pictures are prepared for a checkpoint, which does not say it.

    Returns:
        The frozen classifier. `predict` takes pictures of any kind: paths, PIL images, arrays. `logits` takes images
        (B, 3, H, W) in [-1, 1], and gradients flow to them.

    Raises:
        ModelError: a classifier cannot be found or read, has no label for a class, or is few_shot and not given; a run
            has kept none.

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
        members = _MEMBERS.validate_python(members)
    made = () if few_shot is None else few_shot if isinstance(few_shot, Sequence) else (few_shot,)
    loaded = [_load(member, classes, made, device) for member in members]
    for member, classifier in zip(members, loaded, strict=True):
        if on_remark and isinstance(member, ClassifierConfig) and member.checkpoint:
            on_remark(_preparation(member, classifier))
    if len(loaded) == 1:
        return loaded[0]
    return EnsembleClassifier(loaded, [member.weight for member in members], classes)


def fetch(member: AnyClassifierConfig, classes: Sequence[ClassInfo]) -> None:
    """Have the weights of a classifier on this machine: one that is not here is loaded once, and let go.

    Raises:
        ModelError: they cannot be had.
    """
    if isinstance(member, FewShotClassifierConfig):
        if not resolve(member.backbone, "timm").is_here(member.revision):
            importlib.import_module("dct_augment.classifiers.few_shot").load_backbone(member, "cpu")
        return
    if isinstance(member, ZeroShotClassifierConfig):
        resolved = resolve_zero_shot(member.model)
    elif member.checkpoint is not None:
        return
    else:
        resolved = resolve(member.name, member.library)
    if not resolved.is_here(member.revision):
        _load(member, classes, (), "cpu")


def _preparation(member: ClassifierConfig, classifier: Classifier) -> str:
    """Say how pictures are prepared for a checkpoint, and whether its user has said so."""
    assert isinstance(classifier, SingleClassifier)
    unset = [key for key in ("input_size", "mean", "std", "interpolation") if getattr(member, key) is None]
    advice = f"; as timm has it for the architecture, set what differs: {', '.join(unset)}" if unset else ""
    return f"{member.name} of {member.checkpoint}: {classifier.preprocess.in_words}{advice}"


def _load(
    member: AnyClassifierConfig, classes: Sequence[ClassInfo], made: "Sequence[FewShotClassifier]", device: str
) -> Classifier:
    if isinstance(member, FewShotClassifierConfig):
        return _few_shot(member, made)
    if isinstance(member, ZeroShotClassifierConfig):
        zero_shot = importlib.import_module("dct_augment.classifiers.zero_shot")
        zero_shot_classifier: Classifier = zero_shot.load(member, classes, device)
        return zero_shot_classifier
    return _pretrained(member, device)


def _few_shot(member: FewShotClassifierConfig, made: "Sequence[FewShotClassifier]") -> Classifier:
    """Find the classifier that was made with the settings of a member; its weight in an ensemble made no difference.

    Raises:
        ModelError: there is none.
    """
    for classifier in made:
        if classifier.settings.model_copy(update={"weight": member.weight}) == member:
            return classifier
    raise ModelError(
        f"classifier {classifier_title(member)!r} is made of photos, and none was given that was made with these "
        "settings: give load(members, few_shot=dct_augment.classifiers.few_shot.fit(settings, images, labels, classes))"
    )


def _pretrained(member: ClassifierConfig, device: str) -> SingleClassifier:
    resolved = resolve(member.name, member.library)
    refuse_backbone(resolved)
    library = library_of(resolved, member.revision)
    _refuse_unused(member, library, is_local=resolved.is_local)
    module = importlib.import_module(f"dct_augment.classifiers.{_MODULES[library]}")
    classifier: SingleClassifier = module.load(member, resolved, device)
    return classifier


def _refuse_unused(member: ClassifierConfig, library: str, *, is_local: bool) -> None:
    """Raise ModelError for a setting that has no effect on the classifier."""
    settings: dict[str, object] = {
        "revision": member.revision,
        "checkpoint": member.checkpoint,
        "pooling": member.pooling if member.pooling != "model" else None,
    }
    for key, value in settings.items():
        if value is not None and key not in _SETTINGS[library]:
            raise ModelError(
                f"classifier {member.name!r}: {key}: {value} has no effect on a classifier of {library}; remove it"
            )
    for key in ("input_size", "mean", "std", "interpolation"):
        if getattr(member, key) is not None and not member.checkpoint:
            raise ModelError(
                f"classifier {member.name!r}: {key} has no effect on a classifier that carries its preprocessing; "
                "remove it. It is for a checkpoint"
            )
    if member.revision and (is_local or member.checkpoint):
        raise ModelError(
            f"classifier {member.name!r} is not on the Hub, so it has no revision {member.revision!r}; remove it"
        )
