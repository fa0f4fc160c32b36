"""Writes a trained classifier to a folder: as timm takes it, and with all that predictions and readers need."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timm.models import save_for_hf
from torch import nn

from dct_augment import files
from dct_augment.classifiers import kept
from dct_augment.config import DownstreamConfig
from dct_augment.downstream import model_card
from dct_augment.downstream.transforms import ModelInput, model_input
from dct_augment.errors import InputError
from dct_augment.records import ClassInfo
from dct_augment.wording import counted

_OF_OTHER_WEIGHTS = ("test_input_size", "test_pool_size", "test_crop_pct", "label_offset", "label_descriptions")
"""What timm's configuration says of the published weights alone; timm would follow it with ours, too."""


@dataclass(frozen=True)
class AccuracyEstimate:
    """An accuracy with the ends of its interval, and how it was measured, as a sentence.

    `chance` is the accuracy of always answering the most frequent class of the test images; None if unknown.
    """

    mean: float
    low: float
    high: float
    method: str
    chance: float | None = None


@dataclass(frozen=True)
class ClassifierFacts:
    """What a kept classifier is made of, and how good it is.

    Attributes:
        classes: in the order of the outputs.
        arm: how it was trained.
        photos: real training images of each class, by slug.
        synthetic: generated training images of each class, by slug.
        dataset: name of the data set.
        temperature: divides the logits before probabilities are taken from them.
        threshold: a class less probable than this is unknown; None if every picture gets a class.
        accuracy: what is to be expected of new pictures; None if it was not measured.
        arms: accuracy of each arm that it was chosen from.
        finding: what the comparison of arms says, as a sentence: synthetic images help, or hurt ...
        confusion: counts (true class, predicted class) of pictures that had no part in training.
        calibration_error: expected calibration error at this temperature, of pictures that had no part in training.
        made_from: hashes of what made it, by name: photos, images, configuration.
        trials: identities of the trials that chose how it was trained.
    """

    classes: tuple[ClassInfo, ...]
    arm: str
    photos: Mapping[str, int]
    synthetic: Mapping[str, int] = field(default_factory=dict)
    dataset: str = ""
    temperature: float = 1.0
    threshold: float | None = None
    accuracy: AccuracyEstimate | None = None
    arms: Mapping[str, AccuracyEstimate] = field(default_factory=dict)
    finding: str = ""
    confusion: Sequence[Sequence[int]] | None = None
    calibration_error: float | None = None
    made_from: Mapping[str, str] = field(default_factory=dict)
    trials: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            InputError: they do not.
        """
        if [info.index for info in self.classes] != list(range(len(self.classes))):
            raise InputError("classes of a kept classifier must be in the order of its outputs, 0, 1, 2 ...")
        slugs = {info.slug for info in self.classes}
        if unknown := sorted({*self.photos, *self.synthetic} - slugs):
            raise InputError(f"photos and synthetic count classes that do not exist: {', '.join(unknown[:10])}")
        if self.confusion is not None and {len(self.confusion), *map(len, self.confusion)} != {len(self.classes)}:
            raise InputError(f"confusion must be {len(self.classes)} x {len(self.classes)} counts")

    @property
    def labels(self) -> list[str]:
        """The names of the outputs: those of the classes; where two have one name, with the slug."""
        counts = Counter(info.name for info in self.classes)
        return [info.name if counts[info.name] == 1 else f"{info.name} ({info.slug})" for info in self.classes]


def save_classifier(folder: Path, model: nn.Module, settings: DownstreamConfig, facts: ClassifierFacts) -> None:
    """Write the classifier that the user keeps, whole or not at all; one that is there is replaced.

    The folder holds `config.json` and `model.safetensors`, as timm's `local-dir:` takes them, `classifier.json` for
    programs, and `README.md`, the model card.

    Raises:
        InputError: the model has not as many outputs as there are classes.
        ModelError: `settings` name no model.
    """
    outputs = getattr(model, "num_classes", len(facts.classes))
    if outputs != len(facts.classes):
        raise InputError(f"the classifier has {counted(outputs, 'output')}, but there are {len(facts.classes)} classes")
    taken = model_input(settings)
    with files.atomic_folder(folder, replace=True) as partial:
        save(model, settings, facts.labels, partial)
        metadata = _metadata(facts, settings, taken, partial)
        card = partial / kept.CARD
        card.write_text(model_card.write_card(metadata, folder), encoding="utf-8")
        metadata = kept.signed({**metadata, "card_sha256": files.sha256(card)})
        (partial / kept.FILE).write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save(model: nn.Module, settings: DownstreamConfig, names: list[str], folder: Path) -> None:
    """Write a trained classifier as timm's `local-dir:` takes it, with its label names and preprocessing."""
    timm_model: Any = model
    taken = model_input(settings)
    published = {key: value for key, value in timm_model.pretrained_cfg.items() if key not in _OF_OTHER_WEIGHTS}
    if tuple(published["input_size"][1:]) != taken.size:
        published["pool_size"] = None
    timm_model.pretrained_cfg = {
        **published,
        **_preprocessing(taken),
        "fixed_input_size": taken.fixed_size,
        "custom_load": False,  # the published weights may be in another format
        "num_classes": len(names),
        "label_names": names,
    }
    model_config: dict[str, Any] = {"num_classes": len(names), "label_names": names}
    if taken.fixed_size and taken.size != taken.own_size:
        model_config["model_args"] = {"img_size": taken.size}
    save_for_hf(timm_model, str(folder), model_config=model_config, safe_serialization=True)
    # safetensors writes a file that its owner alone may read.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


def _preprocessing(taken: ModelInput) -> dict[str, Any]:
    """Say in timm's words how an image becomes the model's input."""
    return {
        "input_size": (3, *taken.size),
        "crop_pct": taken.crop_pct,
        "crop_mode": taken.crop_mode,
        "interpolation": taken.interpolation,
        "mean": taken.mean,
        "std": taken.std,
    }


def _metadata(facts: ClassifierFacts, settings: DownstreamConfig, taken: ModelInput, folder: Path) -> dict[str, Any]:
    """Make the content of `classifier.json`."""
    classes = []
    for info, label in zip(facts.classes, facts.labels, strict=True):
        counts = {"photos": facts.photos.get(info.slug, 0), "synthetic": facts.synthetic.get(info.slug, 0)}
        names = {"name": info.name, "slug": info.slug, "original_name": info.original_name or info.name}
        classes.append({"index": info.index, "label": label, **names, **counts})
    return {
        "schema": kept.SCHEMA,
        "classes": classes,
        "temperature": facts.temperature,
        "threshold": facts.threshold,
        "accuracy": asdict(facts.accuracy) if facts.accuracy else None,
        "calibration_error": facts.calibration_error,
        "arm": facts.arm,
        "arms": {name: asdict(accuracy) for name, accuracy in facts.arms.items()},
        "finding": facts.finding,
        "confusion": None if facts.confusion is None else [list(map(int, row)) for row in facts.confusion],
        "dataset": facts.dataset,
        "model": {
            "name": settings.model,
            "pretrained": settings.pretrained,
            "train": settings.train,
            "preprocessing": _preprocessing(taken),
        },
        "made_from": dict(facts.made_from),
        "trials": list(facts.trials),
        "files": files.hashes(folder),
    }
