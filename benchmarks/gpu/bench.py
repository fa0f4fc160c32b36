"""What all parts share: the settings of configs/cub.yaml, models that are built once, classes, guide and judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from benchmarks.gpu import models
from benchmarks.gpu.measuring import Clock, NotFiniteError, release
from dct_augment import config, diffusion
from dct_augment.classifiers import SingleClassifier
from dct_augment.config import Config
from dct_augment.diffusion import Sampler
from dct_augment.diffusion.memory import Memory
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.class_token_trainer import ClassTokenTrainer

_NAMES = ("gull", "tern", "wren", "crow", "duck", "hawk", "swift", "finch")
_OUTPUTS = 200
"""Classes of CUB, which the guide tells apart."""
_TINY_SETTINGS = (
    "sampling.num_inference_steps=2",
    "tokens.classes_per_batch=2",
    "tokens.validation_images=2",
    "tokens.certificate_images=2",
    "generation.batch_size=2",
    "downstream.model=test_efficientnet_gn",
    "downstream.image_size=32",
    "downstream.batch_size=2",
)


@dataclass
class Bench:
    """The device and the sizes of everything; `tiny` is for tests."""

    device: str
    tiny: bool = False

    @cached_property
    def settings(self) -> Config:
        """The configuration of CUB, as it is shipped; nothing is downloaded."""
        dtype = "float16" if self.on_gpu else "float32"
        own = _TINY_SETTINGS if self.tiny else ()
        return config.load("cub", [f"model.dtype={dtype}", "downstream.pretrained=false", *own])

    @cached_property
    def classes(self) -> Sequence[ClassInfo]:
        """Some classes with short names."""
        names = _NAMES[:2] if self.tiny else _NAMES
        return [ClassInfo(number, name, name) for number, name in enumerate(names)]

    @cached_property
    def guide(self) -> SingleClassifier:
        """A guide of the shape of the paper's: ViT-B/16 at 224 pixels."""
        return self._classifier()

    @cached_property
    def judge(self) -> SingleClassifier:
        """A judge of the same shape, with weights of its own."""
        return self._classifier()

    def _classifier(self) -> SingleClassifier:
        name = "test_vit" if self.tiny else "vit_base_patch16_224"
        return models.classifier(name, _OUTPUTS, self.device)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU of CUDA."""
        return self.device.startswith("cuda")

    def clock(self, seconds: float) -> Clock:
        """Return a clock for a comparison that may begin rounds for so many seconds."""
        return Clock(self.device, 1 if self.tiny else 5, seconds)

    def shape(self, model: str) -> models.Shape:
        """Return the shape of a model, `sd15` or `sdxl`."""
        return (models.TINY_SHAPES if self.tiny else models.SHAPES)[model]

    def pipe(self, model: str, dtype: str | None = None) -> Any:
        """Build a pipeline, or return the one that is there; there is only one at a time."""
        key = (model, dtype or self.settings.model.dtype)
        if self._built is None or self._built[0] != key:
            self.forget()
            names = [info.name for info in self.classes]
            self._built = (key, models.build(self.shape(model), names, self.device, getattr(torch, key[1])))
        return self._built[1]

    _built: tuple[tuple[str, str], Any] | None = None

    def forget(self) -> None:
        """Let the pipeline go."""
        self._built = None
        release(self.device)

    def backend(self, model: str, memory: Memory, dtype: str | None = None) -> diffusion.Backend:
        """Return a fresh back-end of a model, set up for a memory setting."""
        return models.backend(self.pipe(model, dtype), self.device, memory)

    def sampler(self, backend: diffusion.Backend, settings: Config | None = None) -> Sampler:
        """Return the sampler of the settings."""
        settings = settings or self.settings
        return Sampler.from_config(backend, settings.sampling, negative_prompt=settings.prompts.negatives[0])

    def trainer(self, backend: diffusion.Backend, *overrides: str) -> ClassTokenTrainer:
        """Return the package's trainer, with some settings of its own."""
        settings = config.override(self.settings, overrides)
        return ClassTokenTrainer(
            self.sampler(backend, settings),
            self.guide,
            judge=self.judge,
            tokens_config=settings.tokens,
            prompts_config=settings.prompts,
        )


def refuse_not_finite(reason: StopReason | None, what: str) -> None:
    """Raise NotFiniteError if training stopped for this reason."""
    if reason is StopReason.NON_FINITE:
        raise NotFiniteError(f"{what}: the loss or its gradient is not finite")
