"""Classifiers from timm: by name, from the Hub, from a folder, or an architecture with a checkpoint."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from dct_augment.classifiers import labels
from dct_augment.classifiers.classifier import Single
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError

_BROKEN = (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, json.JSONDecodeError)


def load(member: ClassifierConfig, source: str, device: str) -> Single:
    """Load a timm model with its own preprocessing and label names.

    Raises:
        ModelError: unknown name, missing folder, weights that do not fit, or no label names.
    """
    if source.startswith("local-dir:") and not (Path(source.removeprefix("local-dir:")) / "config.json").is_file():
        raise ModelError(f"classifier {member.name!r}: no config.json in {source.removeprefix('local-dir:')!r}")
    if source.startswith("hf-hub:") and member.revision:
        source = f"{source}@{member.revision}"
    try:
        model = _from_checkpoint(member) if member.checkpoint else timm.create_model(source, pretrained=True)
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"classifier {member.name!r} cannot be loaded: {reason}. Names are those of timm.list_models(), hf-hub:ID, "
            "or local-dir:FOLDER; without a network only what is in the Hub's cache loads"
        ) from error
    names, ids = _labels(member, model)
    return Single(model, preprocess(model), names, ids=ids, match=member.match, device=device)


def preprocess(model: nn.Module) -> Preprocess:
    """The evaluation transform that timm has for a model."""
    data = timm.data.resolve_model_data_config(model)
    _, height, width = data["input_size"]
    kind = data.get("interpolation", "bicubic")
    shared: dict[str, Any] = {
        "mean": data["mean"],
        "std": data["std"],
        "interpolation": kind if kind in ("bicubic", "bilinear") else "bicubic",
    }
    share, mode = data.get("crop_pct", 1.0), data.get("crop_mode", "center")
    if height != width or mode == "squash":
        size = (int(height / share), int(width / share))
        return Preprocess(**shared, resize=size, crop=(height, width) if size != (height, width) else None)
    return Preprocess(**shared, shortest=int(height / share), crop=(height, width))


def _from_checkpoint(member: ClassifierConfig) -> nn.Module:
    path = Path(str(member.checkpoint))
    if not path.is_file():
        raise ModelError(f"classifier {member.name!r}: checkpoint {str(path)!r} does not exist")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ModelError(f"classifier {member.name!r}: checkpoint {str(path)!r} cannot be read: {error}") from error
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    head = timm.create_model(member.name).pretrained_cfg.get("classifier")
    weight = state.get(f"{head}.weight")
    if weight is None:
        raise ModelError(f"classifier {member.name!r}: checkpoint {str(path)!r} has no classifier ({head}.weight)")
    model = timm.create_model(member.name, num_classes=len(weight))
    model.load_state_dict(state)
    return model


def _labels(member: ClassifierConfig, model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and, for ImageNet's, WordNet ids of the outputs."""
    if member.labels:
        return labels.read(member.labels, model.num_classes), ()
    if names := model.pretrained_cfg.get("label_names"):
        return tuple(names), ()
    subset = None if member.checkpoint else infer_imagenet_subset(model)
    if subset:
        known = ImageNetInfo(subset)
        return tuple(known.label_descriptions()), tuple(known.label_names())
    if member.match == "index":
        return tuple(f"label {index}" for index in range(model.num_classes)), ()
    raise ModelError(
        f"classifier {member.name!r} carries no label_names in its config.json; add them in class order, give "
        "labels: FILE, or match: index if its outputs are in the data set's order"
    )
