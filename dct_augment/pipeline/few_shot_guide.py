"""Makes the guide of a run or a draw out of its photos, once per folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dct_augment import classifiers, files
from dct_augment.classifiers import Classifier
from dct_augment.config import AnyClassifierConfig, FewShotClassifierConfig
from dct_augment.pipeline.opened_photos import OpenedPhotos
from dct_augment.records import ClassInfo, Example

if TYPE_CHECKING:
    from dct_augment.classifiers.few_shot import FewShotClassifier


def few_shot_member(members: Sequence[AnyClassifierConfig]) -> FewShotClassifierConfig | None:
    """Find the member of a guide that is made of photos, if it has one."""
    return next((member for member in members if isinstance(member, FewShotClassifierConfig)), None)


def is_made(folder: Path) -> bool:
    """Whether a guide of photos lies in a folder as it was written."""
    from dct_augment.classifiers.few_shot import SETTINGS

    description = files.read_json(folder / SETTINGS)
    is_of_here = description.get("made_for", _made_for(folder)) == _made_for(folder)
    return bool(description) and is_of_here and not files.changed(folder, description.get("files"))


def _made_for(folder: Path) -> str:
    """Say for which draw, or which photos, a guide is: by its folder."""
    return f"{folder.parent.name}/{folder.name}"


def make(
    members: Sequence[AnyClassifierConfig],
    photos: Sequence[Example],
    classes: Sequence[ClassInfo],
    folder: Path,
    device: str,
) -> tuple[Classifier, "FewShotClassifier"]:
    """Make a guide whose few-shot member knows these photos alone; what was made before is read from the folder.

    Args:
        members: the settings of the guide, one of them `few_shot`.
        photos: training images that can be read.
        classes: which it tells apart.
        folder: for this guide and these photos alone.
        device: torch device.

    Returns:
        The guide, and its few-shot member, whose `out_of_fold` says how good it is.

    Raises:
        ModelError: the backbone cannot be had, or the classes cannot be told apart.
    """
    from dct_augment.classifiers.few_shot import FewShotClassifier, fit

    settings = few_shot_member(members)
    assert settings is not None
    with files.lock(folder.parent, wait=True):  # one process makes it, the others wait and take it
        if not is_made(folder):
            made = fit(settings, OpenedPhotos(photos), [photo.label for photo in photos], classes, device=device)
            made.save(folder, _made_for(folder))
    member = FewShotClassifier.load(folder, device)
    return classifiers.load(members, classes, few_shot=member, device=device), member
