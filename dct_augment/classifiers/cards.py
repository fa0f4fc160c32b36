"""Reads what the card of a classifier says of its accuracy, from files that are here: nothing is downloaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load, try_to_load_from_cache

from dct_augment import files
from dct_augment.classifiers import kept
from dct_augment.classifiers.names import resolve
from dct_augment.config import AnyClassifierConfig, ClassifierConfig

_CARD = "README.md"


def card_accuracy(member: AnyClassifierConfig) -> float | None:
    """Return the accuracy, 0 to 1, that the card of a classifier states, the lowest of several; None if there is none.

    That is `classifier.json` of a classifier that a run has kept, and else the `model-index` of its README.
    """
    if not isinstance(member, ClassifierConfig) or member.checkpoint or member.library == "function":
        return None
    resolved = resolve(member.name, member.library)
    if resolved.is_local:
        folder = Path(resolved.location)
        return _kept_accuracy(folder / kept.FILE) or _stated_accuracy(folder / _CARD)
    if resolved.kind == "function":
        return None
    cached = try_to_load_from_cache(resolved.repository, _CARD, revision=member.revision)
    return _stated_accuracy(Path(cached)) if isinstance(cached, str) else None


def _kept_accuracy(path: Path) -> float | None:
    accuracy = files.read_json(path).get("accuracy")  # none is there, or it was not measured
    mean = accuracy.get("mean") if isinstance(accuracy, dict) else None
    return mean if isinstance(mean, int | float) else None


def _stated_accuracy(card: Path) -> float | None:
    try:
        metadata = metadata_load(card)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):  # a card that is damaged says nothing
        return None
    return min(_accuracies(metadata), default=None)


def _accuracies(part: Any) -> Iterator[float]:
    """Yield every metric of type accuracy in the YAML of a card, wherever in it; some are in percent."""
    if isinstance(part, list):
        for inner in part:
            yield from _accuracies(inner)
    elif isinstance(part, dict):
        value = part.get("value")
        if part.get("type") == "accuracy" and isinstance(value, int | float) and 0 < value <= 100:
            yield value / 100 if value > 1 else float(value)
        for inner in part.values():
            yield from _accuracies(inner)
