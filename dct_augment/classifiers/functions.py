"""Loads a user's own classifier: `module:function` that returns a torch module."""

import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from dct_augment.classifiers import labels
from dct_augment.classifiers.classifier import SingleClassifier
from dct_augment.classifiers.names import ResolvedName
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.config import ClassifierConfig
from dct_augment.errors import ModelError


class _Signed(Preprocess):
    """Leaves images as they are: the module does its own preprocessing."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.clamp(-1, 1)


def load(member: ClassifierConfig, resolved: ResolvedName, device: str) -> SingleClassifier:
    """Call the function; its module maps images (B, 3, H, W) in [-1, 1], any size, to logits (B, K).

    Label names are the module's attribute `labels`, or `labels: FILE`. Modules are also looked for in the
    working folder, as with `python -m`.

    Raises:
        ModelError: no such module or function, or it does not return a torch module with labels.
    """
    location = resolved.location
    module, colon, function = location.partition(":")
    if not colon or not module or not function:
        raise ModelError(f"classifier {location!r}: with library: function, name must be module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise ModelError(f"classifier {location!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"classifier {location!r} returned {type(model).__name__}, not a torch.nn.Module")
    names = labels.read(member.labels) if member.labels else tuple(map(str, getattr(model, "labels", ())))
    if not names:
        raise ModelError(f"classifier {location!r}: its module has no attribute `labels`; add it or give labels: FILE")
    return SingleClassifier(model, _Signed((), ()), names, match=member.match, device=device)
