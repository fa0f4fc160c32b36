"""Says how much memory the text-to-image model takes before a run starts: by its files, without its weights."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from dct_augment.classifiers.names import resolve, resolve_zero_shot
from dct_augment.config import AnyClassifierConfig, Config, FewShotClassifierConfig, ZeroShotClassifierConfig
from dct_augment.errors import ModelError

_OF_A_PROCESS = {"cpu": 1200 * 10**6, "cuda": 600 * 10**6}
"""Bytes of Python, its packages, and what they allocate without giving it back; on a GPU, of the kernels of CUDA."""

LESS_MEMORY = (
    "set model.memory=low, model.dtype=float16 on a GPU, a smaller downstream.batch_size, or choose a smaller model"
)
"""What to do where a part of a run takes more than there is."""


@dataclass(frozen=True)
class ModelNeeds:
    """Bytes of one process that trains tokens and generates images: weights of all models, and what work adds."""

    weights: int
    update: int
    generate: int

    @property
    def tokens(self) -> int:
        """The most that training tokens takes: updates, and images for validation and certificates."""
        return self.weights + max(self.update, self.generate)

    @property
    def images(self) -> int:
        """The most that generating images takes."""
        return self.weights + self.generate


def model_needs(config: Config, device: str, free: int) -> ModelNeeds | None:
    """Count what the text-to-image model takes, with guide and judge; None if its files are not here, or not whole.

    Args:
        config: of the run.
        device: torch device.
        free: bytes of the device, by which `model.memory` is chosen if it is not set.
    """
    from dct_augment.diffusion.names import folder_here

    folder = folder_here(config.model.path, config.model.revision)
    if folder is None:
        return None
    tokens = config.tokens
    counted = _counted(
        folder,
        config.model.dtype,
        config.model.memory,
        free,
        config.sampling.guidance_scale,
        tokens.classes_per_batch * tokens.images_per_update,
        max(config.generation.batch_size, tokens.classes_per_batch * tokens.validation_images),
    )
    if counted is None:
        return None
    weights, update, generate = counted
    members = {member.model_dump_json(): member for member in (*config.guide, *(config.judge or ()))}
    classifiers = sum(map(_bytes_of_classifier, members.values()))
    return ModelNeeds(weights + classifiers + _OF_A_PROCESS[device.partition(":")[0]], update, generate)


@cache
def _counted(
    folder: Path, dtype: str, memory: str | None, free: int, guidance_scale: float, updated: int, generated: int
) -> tuple[int, int, int] | None:
    """Count bytes by shapes alone: of the weights, of an update, and of images without gradient, as batches allow."""
    import torch

    from dct_augment.diffusion import Sampler, image_memory, shapes
    from dct_augment.diffusion import memory as budget

    kind = getattr(torch, dtype)
    try:
        with shapes.of_folder(folder, dtype=kind, memory=cast(budget.Memory, memory or "balanced")) as backend:
            weights = image_memory.weight_bytes(backend)
            if memory is None and (chosen := budget.choose(weights, free)) != "balanced":
                return _counted(folder, dtype, chosen, free, guidance_scale, updated, generated)
            needs = image_memory.measure(Sampler(backend, steps=1, guidance_scale=guidance_scale))
    except Exception:  # damaged files, or a version of a library that looks at values: loading says what is wrong
        return None
    image_memory.limit(backend.batch_sizes, needs, max(free - weights, 0))
    most = backend.batch_sizes.at_most
    update = needs.peak({"update": most("update", updated), "decode_gradient": 1})
    generate = needs.peak({"generate": most("generate", generated), "decode": most("decode", generated)})
    return weights, update, generate


def _bytes_of_classifier(member: AnyClassifierConfig) -> int:
    """Add up the files of the weights of a guide or judge; 0 for one that is not here, or a function."""
    try:
        if isinstance(member, FewShotClassifierConfig):
            resolved, revision = resolve(member.backbone, "timm"), member.revision
        elif isinstance(member, ZeroShotClassifierConfig):
            resolved, revision = resolve_zero_shot(member.model), member.revision
        else:
            resolved, revision = resolve(member.name, member.library), member.revision
    except ModelError:
        return 0
    return resolved.weight_bytes(revision)
