"""Builds a text-to-image model of its configuration files alone: its tensors have shapes, and no values."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dct_augment.diffusion import memory as budget
from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.loading import FAMILIES, silence
from dct_augment.diffusion.memory import Memory
from dct_augment.diffusion.peak_memory import shapes_only

_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")


@contextmanager
def of_folder(folder: Path, *, dtype: torch.dtype = torch.float32, memory: Memory = "balanced") -> Iterator[Backend]:
    """Build the model of a folder that diffusers saved; no weights are read, and what it does has no result.

    For `image_memory.measure`: what a model takes is known before it is downloaded or loaded.

    Raises:
        Exception: whatever diffusers and transformers raise for files that are none of theirs.
    """
    with of_pipeline(_pipeline(folder, dtype), memory=memory) as backend:
        yield backend


@contextmanager
def of_pipeline(pipe: Any, *, memory: Memory) -> Iterator[Backend]:
    """Set up a pipeline of diffusers whose models are on the device `meta`."""
    budget.apply(pipe, memory)
    backend = FAMILIES[type(pipe).__name__].build(pipe, "cpu", offload=False)
    backend.memory = memory
    with shapes_only():
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                leave_meta(part)
        yield backend


def leave_meta(model: torch.nn.Module) -> None:
    """Let the tensors of a model be on a CPU, as far as kernels are chosen by it; call it inside `shapes_only`."""
    weights: dict[int, torch.nn.Parameter] = {}  # the encoder of a T5 shares its words with the model
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            if id(weight) not in weights:
                weights[id(weight)] = torch.nn.Parameter(torch.empty_like(weight, device="cpu"), requires_grad=False)
            module._parameters[name] = weights[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _pipeline(folder: Path, dtype: torch.dtype) -> Any:
    """Build a pipeline of diffusers with its models on the device `meta`."""
    import diffusers
    import transformers

    silence()
    index = diffusers.DiffusionPipeline.load_config(str(folder))
    parts: dict[str, Any] = {}
    for name, named in index.items():
        if not isinstance(named, list) or not named[0]:
            continue
        library = {"diffusers": diffusers, "transformers": transformers}.get(named[0])
        if name in _LEFT_OUT or library is None:
            parts[name] = None
            continue
        kind, place = getattr(library, named[1]), str(folder / name)
        if not issubclass(kind, torch.nn.Module):  # tokenizers, the scheduler
            parts[name] = kind.from_pretrained(place)
            continue
        with torch.device("meta"):
            if library is diffusers:
                model = kind.from_config(kind.load_config(place))
            else:
                model = kind(transformers.AutoConfig.from_pretrained(place))
        parts[name] = model.to(dtype).eval().requires_grad_(False)
    kind = getattr(diffusers, index["_class_name"])
    for name in inspect.signature(kind).parameters:
        if name not in parts:
            parts[name] = None if name in _LEFT_OUT else index.get(name)
    return kind(**{name: part for name, part in parts.items() if part is not None or name in _LEFT_OUT})
