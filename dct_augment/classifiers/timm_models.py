"""Loads classifiers from timm: by name, from the Hub, from a folder, or an architecture with a checkpoint."""

import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from dct_augment.classifiers import kept, labels
from dct_augment.classifiers.classifier import SingleClassifier
from dct_augment.classifiers.names import ResolvedName
from dct_augment.classifiers.preprocessing import Interpolation, Preprocess
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.wording import in_one_line, reason_of, what_loads_from_the_hub

_BROKEN = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    pickle.UnpicklingError,
)
_MODES: dict[str, Interpolation] = {"bilinear": "bilinear", "lanczos": "lanczos", "nearest": "nearest-exact"}
_PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before each name


def load(member: ClassifierConfig, resolved: ResolvedName, device: str) -> SingleClassifier:
    """Load a timm model with its own preprocessing and label names.

    Raises:
        ModelError: unknown name, missing folder, weights that do not fit, no label names, or preprocessing that
            cannot be followed.
    """
    if resolved.is_local and not (Path(resolved.location) / "config.json").is_file():
        raise ModelError(kept.no_classifier_in(member.name))
    predicting = kept.read_settings(Path(resolved.location)) if resolved.is_local else None
    try:
        with torch.random.fork_rng([]):  # random weights are drawn before the pretrained ones are read
            if member.checkpoint:
                model = _from_checkpoint(member)
            else:
                model = timm.create_model(pinned(resolved, member.revision), pretrained=True)
    except _BROKEN as error:
        reason = in_one_line(error)
        fix = f"Names are those of timm.list_models(), hf-hub:ID, or local-dir:FOLDER; {what_loads_from_the_hub()}"
        if resolved.is_local and not member.checkpoint:
            fix = "Its files are damaged, or of another model: write them again; dct-augment fit makes that of a run"
        raise ModelError(f"classifier {member.name!r} cannot be loaded: {reason}. {fix}") from error
    names, ids = _labels(member, model)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    steps = preprocess(model).same_as(transform, member.name)
    return SingleClassifier(model, steps, names, ids=ids, match=member.match, device=device, predicting=predicting)


def pinned(resolved: ResolvedName, revision: str | None) -> str:
    """Name the model at a commit, tag or branch of its repository, as timm takes it."""
    if revision is None:
        return resolved.timm_name
    if resolved.kind == "hub":
        return f"{resolved.timm_name}@{revision}"
    repository = getattr(timm.get_pretrained_cfg(resolved.location), "hf_hub_id", None)
    if not repository:
        raise ValueError(f"timm has no weights of this name on the Hub, so no revision {revision!r}")
    return f"hf-hub:{repository}@{revision}"


def preprocess(model: nn.Module, size: tuple[int, int] | None = None) -> Preprocess:
    """Read the evaluation transform that timm has for a model, at another height and width if these are given."""
    data = timm.data.resolve_model_data_config(model)
    height, width = size or data["input_size"][1:]
    shared: dict[str, Any] = {
        "mean": data["mean"],
        "std": data["std"],
        "interpolation": _MODES.get(data.get("interpolation", ""), "bicubic"),
    }
    share, mode = data.get("crop_pct", 1.0), data.get("crop_mode", "center")
    if height != width or mode == "squash":
        size = (int(height / share), int(width / share))
        return Preprocess(**shared, resize=size, crop=(height, width) if size != (height, width) else None)
    return Preprocess(**shared, shortest=int(height / share), crop=(height, width))


def _from_checkpoint(member: ClassifierConfig) -> nn.Module:
    """Create the architecture with the weights of a file, and as many outputs as these have.

    Raises:
        ModelError: the file is missing or damaged, or holds no classifier.
    """
    path = Path(str(member.checkpoint))
    state = _state_dict(path, member.name)
    head = timm.create_model(member.name).pretrained_cfg.get("classifier")
    head = head[0] if isinstance(head, tuple | list) else head  # distilled models have two of one size
    weight = state.get(f"{head}.weight")
    if weight is None:
        raise ModelError(f"classifier {member.name!r}: checkpoint {str(path)!r} has no classifier ({head}.weight)")
    model: Any = _architecture(member, len(weight))
    model.load_state_dict(state)
    model.pretrained_cfg = {**model.pretrained_cfg, **_prepared_as(member)}
    loaded: nn.Module = model
    return loaded


def _architecture(member: ClassifierConfig, outputs: int) -> Any:
    """Create the architecture; one that must be made for the size of its input, for that."""
    if member.input_size is not None:
        with suppress(TypeError):  # a convolutional network takes any size, and no such argument
            return timm.create_model(member.name, num_classes=outputs, img_size=member.input_size)
    return timm.create_model(member.name, num_classes=outputs)


def _prepared_as(member: ClassifierConfig) -> dict[str, Any]:
    """Return what the user says of the preprocessing of a checkpoint, as timm names it."""
    given = {"mean": member.mean, "std": member.std, "interpolation": member.interpolation}
    data: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if member.input_size is not None:
        data |= {"input_size": (3, member.input_size, member.input_size)}
    return data


def _state_dict(path: Path, name: str) -> Mapping[str, torch.Tensor]:
    """Read the weights of a checkpoint, by their own names in the model."""
    if not path.is_file():
        there = "is no file" if path.exists() or path.is_symlink() else "does not exist"
        raise ModelError(f"classifier {name!r}: checkpoint {str(path)!r} {there}; give the path of its weights")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ModelError(f"classifier {name!r}: checkpoint {str(path)!r} cannot be read: {reason_of(error)}") from error
    if not isinstance(state, Mapping):
        raise ModelError(
            f"classifier {name!r}: checkpoint {str(path)!r} holds a {type(state).__name__}, not a state dict"
        )
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    for prefix in _PREFIXES:
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _labels(member: ClassifierConfig, model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the outputs; for those of ImageNet, give their WordNet ids too."""
    if member.labels:
        return labels.read(member.labels, model.num_classes), ()
    if names := model.pretrained_cfg.get("label_names"):
        if len(names) != model.num_classes:
            raise ModelError(
                f"classifier {member.name!r} has {len(names)} label_names in its config.json, but "
                f"{model.num_classes} outputs; correct them or give labels: FILE"
            )
        return tuple(names), ()
    subset = None if member.checkpoint else infer_imagenet_subset(model)
    if subset:
        imagenet = ImageNetInfo(subset)
        return tuple(imagenet.label_descriptions()), tuple(imagenet.label_names())
    if member.match == "index":
        return tuple(f"label {index}" for index in range(model.num_classes)), ()
    raise ModelError(
        f"classifier {member.name!r} carries no label_names in its config.json; add them in class order, give "
        "labels: FILE, or match: index if its outputs are in the data set's order"
    )
