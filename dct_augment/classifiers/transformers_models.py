"""Loads image classifiers from transformers, and makes their processors differentiable."""

import pickle
import re
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging

from dct_augment.classifiers import labels
from dct_augment.classifiers.classifier import SingleClassifier
from dct_augment.classifiers.names import ResolvedName
from dct_augment.classifiers.preprocessing import Interpolation, Preprocess
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.wording import in_one_line, what_loads_from_the_hub

BROKEN = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""What transformers raises on a model that is missing, damaged, or of another kind."""
_RESAMPLE: dict[int, Interpolation] = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def load(member: ClassifierConfig, resolved: ResolvedName, device: str) -> SingleClassifier:
    """Load an image classifier and its processor from a folder or the Hub; no remote code.

    Raises:
        ModelError: not found, no trained image classifier, unsafe weights, no label names, or preprocessing that
            cannot be followed.
    """
    quiet()
    options: dict[str, Any] = {"trust_remote_code": False}
    if member.revision:
        options["revision"] = member.revision
    try:
        processor = AutoImageProcessor.from_pretrained(resolved.location, **options)
        model, loading = AutoModelForImageClassification.from_pretrained(
            resolved.location, dtype=torch.float32, output_loading_info=True, **options
        )
    except (pickle.UnpicklingError, EOFError) as error:
        raise ModelError(
            f"classifier {member.name!r}: its .bin weights are damaged, or hold more than tensors, which is never run; "
            "give a repository or folder with safetensors"
        ) from error
    except BROKEN as error:
        raise ModelError(
            f"classifier {member.name!r} cannot be loaded: {reason_of(error)}. Give the id or folder of a "
            f"transformers image classifier; {what_loads_from_the_hub()}"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"classifier {member.name!r}: its weights lack {', '.join(missing[:4])}, so it is not a trained "
            f"{type(model).__name__}; give a model that was fine-tuned to classify"
        )
    names = _labels(member, model)
    network: nn.Module = model
    if member.pooling == "mean_before_norm":
        if not isinstance(getattr(getattr(model, "vit", None), "layernorm", None), nn.LayerNorm):
            raise ModelError(
                f"classifier {member.name!r} is a {type(model).__name__}; pooling: mean_before_norm is for "
                "ViTForImageClassification"
            )
        network = MeanBeforeNorm(model)
    return SingleClassifier(
        network, checked_preprocess(processor, member.name), names, match=member.match, device=device
    )


def quiet() -> None:
    """Keep transformers and the Hub's package from printing: what a user must know, an error of ours says."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()


def reason_of(error: BaseException) -> str:
    """Shorten a library's message to one line, to stand inside a sentence."""
    return in_one_line(error)


class MeanBeforeNorm(nn.Module):
    """A ViT that classifies the mean of its patch tokens, taken before the final norm, as MAE fine-tuning does.

    The paper's guides vesteinn/vit-mae-cub and vesteinn/vit-mae-inat21 were trained so, though their
    configuration does not say it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.head, self.body = model.vit.layernorm, model.classifier, model.vit
        self.body.layernorm = nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K) of pixels (B, 3, H, W)."""
        tokens = self.body(pixels).last_hidden_state[:, 1:]
        return self.head(self.norm(tokens.mean(1)))


def checked_preprocess(processor: Any, name: str) -> Preprocess:
    """Make a processor differentiable, and compare the result with the processor itself.

    Raises:
        ModelError: the processor does something that cannot be followed.
    """

    def reference(image: Image.Image) -> torch.Tensor:
        return torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0])

    try:
        steps = preprocess(processor, name)
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(
            f"classifier {name!r}: its {type(processor).__name__} does not resize to a size and normalise, and cannot "
            "be followed here; give another classifier, or call this one from a function of your own with "
            "library: function"
        ) from error
    return steps.same_as(reference, name)


def preprocess(processor: Any, name: str) -> Preprocess:
    """Read from an image processor's settings what it does.

    Raises:
        ModelError: a step that has no differentiable counterpart here.
    """
    _refuse_unsupported_steps(processor, name)
    mean, std = normalization(processor)
    size = _size(processor)
    return Preprocess(
        mean,
        std,
        resize=size.resize,
        shortest=size.shortest,
        crop=size.crop,
        interpolation=interpolation(processor),
        floor=True,
    )


def _refuse_unsupported_steps(processor: Any, name: str) -> None:
    if getattr(processor, "do_rescale", True) and abs(processor.rescale_factor * 255 - 1) > 1e-3:
        raise ModelError(f"classifier {name!r}: its processor rescales by {processor.rescale_factor}, not 1/255")
    if getattr(processor, "rescale_offset", False) or getattr(processor, "do_pad", False):
        raise ModelError(f"classifier {name!r}: its processor pads or shifts, which is not supported")


def normalization(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read the mean and standard deviation of each channel by which a processor normalises."""
    if not getattr(processor, "do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    exponent = 2 if getattr(processor, "include_top", False) else 1  # EfficientNet divides by it again
    return tuple(processor.image_mean), tuple(value**exponent for value in processor.image_std)


def interpolation(processor: Any) -> Interpolation:
    """Read how a processor interpolates when it resizes."""
    resample = getattr(processor, "resample", None)
    return _RESAMPLE.get(2 if resample is None else int(resample), "bicubic")


@dataclass(frozen=True)
class _Size:
    """How a processor resizes and crops, as `Preprocess` says it."""

    resize: tuple[int, int] | None = None
    shortest: int | None = None
    crop: tuple[int, int] | None = None


def _size(processor: Any) -> _Size:
    size, crop_size = processor.size, getattr(processor, "crop_size", None)
    crop = None
    if getattr(processor, "do_center_crop", False) and crop_size:
        crop = (crop_size["height"], crop_size["width"])
    if not getattr(processor, "do_resize", True):
        return _Size(crop=crop)
    shortest_edge = size.get("shortest_edge") if size else None
    if not shortest_edge:
        return _Size(resize=(size["height"], size["width"]), crop=crop)
    crop_share = getattr(processor, "crop_pct", None)
    if crop_share and shortest_edge < 384:  # ConvNeXt: small inputs are cut from a larger image
        return _Size(shortest=int(shortest_edge / crop_share), crop=(shortest_edge, shortest_edge))
    if crop_share:
        return _Size(resize=(shortest_edge, shortest_edge), crop=crop)
    if type(processor).__name__.startswith("Levit"):
        return _Size(shortest=int(shortest_edge * 256 / 224), crop=crop)
    return _Size(shortest=shortest_edge, crop=crop)


def _labels(member: ClassifierConfig, model: Any) -> tuple[str, ...]:
    """Name the outputs, from the user's file or the model's id2label.

    Raises:
        ModelError: id2label does not number the outputs, or holds placeholders only.
    """
    if member.labels:
        return labels.read(member.labels, model.config.num_labels)
    if sorted(model.config.id2label) != list(range(model.config.num_labels)):
        raise ModelError(
            f"classifier {member.name!r}: id2label in its config.json does not number its {model.config.num_labels} "
            "labels from 0; correct it or give labels: FILE"
        )
    names = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
    placeholders = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    if placeholders and member.match != "index":
        raise ModelError(
            f"classifier {member.name!r} has no label names ({names[0]!r} ...); give labels: FILE in output order, "
            "or match: index if its outputs are in the data set's order"
        )
    return names
