"""Says how much memory the text-to-image model takes before a run starts: by its files, without its weights."""

from dataclasses import dataclass
from pathlib import Path

from dct_augment.classifiers.names import resolve, resolve_zero_shot
from dct_augment.config import AnyClassifierConfig, Config, FewShotClassifierConfig, ZeroShotClassifierConfig
from dct_augment.errors import ModelError

_OF_A_PROCESS = {"cpu": 1200 * 10**6, "gpu": 600 * 10**6}
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
    counted = _counted(folder, config, free)
    if counted is None:
        return None
    weights, update, generate = counted
    members = {member.model_dump_json(): member for member in (*config.guide, *(config.judge or ()))}
    classifiers = sum(map(_bytes_of_classifier, members.values()))
    return ModelNeeds(weights + classifiers + _OF_A_PROCESS["cpu" if device == "cpu" else "gpu"], update, generate)


def _counted(folder: Path, config: Config, free: int) -> tuple[int, int, int] | None:
    """Count bytes by shapes alone: of the weights, of an update, and of images without gradient, as batches allow."""
    import torch

    from dct_augment.diffusion import Sampler, image_memory, shapes
    from dct_augment.diffusion import memory as budget
    from dct_augment.tokens.gradients import gradient_method

    tokens, dtype = config.tokens, getattr(torch, config.model.dtype)
    passes, scale = gradient_method(tokens.method).waiting_passes, config.sampling.guidance_scale
    memory, needs = config.model.memory, None
    try:
        with shapes.of_folder(folder, dtype=dtype, memory=memory or "balanced") as backend:
            if config.model.image_size is not None:
                backend.resize(config.model.image_size)
            weights = budget.weight_bytes(backend.models)
            if memory is not None or budget.choose(weights, free) == "balanced":
                needs = image_memory.measure(Sampler(backend, steps=1, guidance_scale=scale), passes=passes)
    except Exception:  # damaged files, or a version of a library that looks at values: loading says what is wrong
        return None
    if needs is None:
        low = config.model.model_copy(update={"memory": "low"})
        return _counted(folder, config.model_copy(update={"model": low}), free)
    image_memory.limit(backend.batch_sizes, needs, max(free - weights, 0))
    most, classes = backend.batch_sizes.at_most, tokens.classes_per_batch
    updated = most("update", classes * tokens.images_per_update)
    images = max(config.generation.batch_size, classes * tokens.validation_images)
    update = needs.peak({"update": updated, "decode_gradient": 1})
    return weights, update, needs.peak({"generate": most("generate", images), "decode": most("decode", images)})


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
