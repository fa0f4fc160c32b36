"""Finds out the licence of a text-to-image model, from files that are here: nothing is downloaded."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from dct_augment import pocket


def licence(model: str, revision: str | None = None) -> str:
    """Read the licence of a model from its card; empty if it is not known here.

    `model` is `pocket`, a folder, or a Hub id whose card may be in the Hub's cache.
    """
    card = _card(model, revision)
    if card is None or not card.is_file():
        return ""
    try:
        metadata: dict[str, Any] = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):  # a card that is damaged says nothing
        return ""
    name, special = metadata.get("license"), metadata.get("license_name")
    if isinstance(name, list):
        return ", ".join(map(str, name))
    return str(special if name == "other" and special else name or "")


def _card(model: str, revision: str | None) -> Path | None:
    """Find the card of a model on this machine."""
    if model == "pocket":
        return pocket.path().parent / "README.md"
    if Path(model).is_dir():
        return Path(model) / "README.md"
    try:
        cached = try_to_load_from_cache(model, "README.md", revision=revision)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
