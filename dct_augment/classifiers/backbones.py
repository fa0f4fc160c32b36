"""Loads backbones: pretrained timm models without their last layer, with the preprocessing of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from dct_augment.classifiers.names import resolve
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.classifiers.timm_models import pinned, preprocess
from dct_augment.errors import ModelError
from dct_augment.wording import in_one_line, what_loads_from_the_hub


@dataclass(frozen=True)
class Backbone:
    """A frozen network without its last layer, and how images are prepared for it."""

    model: nn.Module
    preprocess: Preprocess

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features (B, D) of images (B, 3, H, W) in [-1, 1]; gradients flow to the images."""
        features: torch.Tensor = self.model(self.preprocess(images))
        return features


def load(
    name: str,
    *,
    setting: str,
    instead: str = "",
    revision: str | None = None,
    image_size: int | None = None,
    most: int | None = None,
    device: str = "cpu",
) -> Backbone:
    """Load a pretrained timm model without its last layer.

    Args:
        name: of timm, `hf-hub:ID`, `local-dir:FOLDER`, or one of Pocket's.
        setting: the setting that holds the name, for messages.
        instead: what else the setting may be, for messages.
        revision: branch, tag or commit on the Hub.
        image_size: side of the input in pixels; the model's own if None, but at most `most`.
        most: see image_size; None for no limit.
        device: torch device.

    Raises:
        ModelError: unknown name, damaged or missing files, not in the Hub's cache without a network, a size that the
            model does not take, or preprocessing that cannot be followed.
    """
    try:
        resolved = resolve(name, "timm")
        if resolved.is_local and not (Path(resolved.location) / "config.json").is_file():
            raise FileNotFoundError(f"no config.json in {resolved.location!r}")
        with torch.random.fork_rng([]):  # random weights are drawn before the pretrained ones are read
            model = timm.create_model(pinned(resolved, revision), pretrained=True, num_classes=0)
    except Exception as error:  # whatever timm raises on a name, folder or file that it cannot read
        reason = in_one_line(error)
        raise ModelError(
            f"{setting} {name!r} cannot be loaded: {reason}. Use {instead}a name of timm.list_models(pretrained=True), "
            f"hf-hub:ID, or local-dir:FOLDER; {what_loads_from_the_hub()}"
        ) from error
    size = _resize(model, f"{setting} {name!r}", image_size, most)
    data = {**timm.data.resolve_model_data_config(model), "input_size": (3, *size)}
    steps = preprocess(model, size).same_as(timm.data.create_transform(**data, is_training=False), name)
    return Backbone(model.to(device).eval().requires_grad_(False), steps)


def _resize(model: Any, name: str, image_size: int | None, most: int | None) -> tuple[int, int]:
    """Make a model take another size where it must be told; return height and width of its input.

    Raises:
        ModelError: it takes its own size only.
    """
    _, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    side = image_size or (most if most is not None and max(height, width) > most else None)
    if side is None or (side, side) == (height, width):
        return height, width
    fix = f"set image_size: {height}, or another backbone" if height == width else "choose another backbone"
    problem = f"{name} takes images of {height} x {width} pixels, not of {side} x {side}"
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(side, side))
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, side, side))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        reason = in_one_line(error, 200)
        raise ModelError(f"{problem} ({reason}); {fix}") from error
    return side, side
