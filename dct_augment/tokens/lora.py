"""Trains a LoRA of the denoiser on a few real images, by the denoiser's own training objective.

As in diffusers' text-to-image LoRA example: noised photos with their plain prompts, AdamW, and nothing of a classifier.
What it makes is the baseline of class tokens that DataDream (arXiv 2407.10910) and BOB (arXiv 2510.24078) stand on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from dct_augment.config import LoraConfig, PromptsConfig, seed_from
from dct_augment.diffusion import Sampler, ShrinkingBatches
from dct_augment.diffusion.lora import Lora, inserted
from dct_augment.errors import InputError, ModelError
from dct_augment.records import ClassInfo, Progress, ProgressCallback, StageName, ignore_progress
from dct_augment.tokens.denoising import NoisedBatch, PhotoLatents, denoising_losses

_WEIGHT_DECAY = 0.01
_LARGEST_GRADIENT = 1.0
_STEPS_A_CHECKPOINT = 20


@dataclass(frozen=True)
class TrainedLora:
    """The matrices of a LoRA by their name in a file, and the loss of every step."""

    state: Mapping[str, torch.Tensor]
    losses: Sequence[float]


class LoraTrainer:
    """Trains one LoRA on the photos of all classes; each step takes some of any class.

    Args:
        sampler: of the model that gets it; of its guidance only a latent consistency model takes notice.
        images: the photos of each class, by slug.
        lora_config: rank, steps and seed.
        prompts_config: the templates of plain prompts.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        images: Mapping[str, Sequence[Image.Image]],
        lora_config: LoraConfig,
        prompts_config: PromptsConfig,
    ) -> None:
        self._sampler, self._backend = sampler, sampler.backend
        self._images, self._config, self._templates = images, lora_config, prompts_config.templates
        # In half precision small gradients would vanish.
        self._loss_scale = 1024.0 if self._backend.dtype == torch.float16 else 1.0

    def train(
        self,
        classes: Sequence[ClassInfo],
        on_progress: ProgressCallback = ignore_progress,
        *,
        resume: Mapping[str, Any] | None = None,
        checkpoint: Callable[[dict[str, Any]], None] | None = None,
    ) -> TrainedLora:
        """Train on the photos of these classes; the model is as it was afterwards.

        Now and then `checkpoint` receives a state; given back as `resume` for the same classes and photos, it makes
        training go on with the very bits of one that was never stopped.

        Raises:
            InputError: a class has no photo.
            ModelError: the loss is not finite.
        """
        photos, names = self._photos(classes)
        batches = ShrinkingBatches(
            self._config.batch_size,
            "photo",
            on_progress,
            sizes=self._backend.batch_sizes,
            purpose="inversion",
        )
        with inserted(self._backend, self._config.rank) as lora:
            training = _Training(lora, self._config)
            if resume is not None:
                training.restore(resume)
            while len(training.losses) < self._config.steps:
                batch = self._batch(photos, names, training.generator)
                training.update(*self._gradients(lora, batch, batches))
                step = len(training.losses)
                on_progress(Progress(StageName.ARMS, step, self._config.steps, "LoRA"))
                if checkpoint is not None and step % _STEPS_A_CHECKPOINT == 0:
                    checkpoint(training.state())
            return TrainedLora(lora.state(), tuple(training.losses))

    def _photos(self, classes: Sequence[ClassInfo]) -> tuple[PhotoLatents, list[str]]:
        """Encode all photos; also return the class of each."""
        if missing := [info.name for info in classes if not self._images.get(info.slug)]:
            raise InputError(f"a LoRA needs photos of every class; there is none of: {', '.join(missing)}")
        names = [info.name for info in classes for _ in self._images[info.slug]]
        images = [image for info in classes for image in self._images[info.slug]]
        return PhotoLatents.encode(self._backend, images), names

    def _batch(self, photos: PhotoLatents, names: Sequence[str], generator: torch.Generator) -> NoisedBatch:
        """Choose what is trained on in a step."""
        count, steps = self._config.batch_size, self._backend.training_steps
        return photos.noised(generator, count, steps, self._templates, names, token=None)

    def _gradients(self, lora: Lora, batch: NoisedBatch, batches: ShrinkingBatches) -> tuple[float, list[torch.Tensor]]:
        """Compute the loss of a batch, and its gradient by each matrix; as many photos at once as memory holds."""

        def of_some(rows: Sequence[int]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            share = len(rows) / len(batch)
            loss = denoising_losses(self._sampler, [batch.part(rows)], [None])[0] * share
            return loss.detach(), torch.autograd.grad(loss * self._loss_scale, lora.matrices)

        total, sums = 0.0, [torch.zeros_like(matrix) for matrix in lora.matrices]
        for _, (loss, gradients) in batches.run(range(len(batch)), of_some):
            total += loss.item()
            for gradient_sum, gradient in zip(sums, gradients, strict=True):
                gradient_sum.add_(gradient, alpha=1 / self._loss_scale)
        return total, sums


class _Training:
    """The matrices of a LoRA in training, with their optimiser; all that is random comes from its own generator."""

    def __init__(self, lora: Lora, config: LoraConfig) -> None:
        self._lora, self._config = lora, config
        self.generator = torch.Generator().manual_seed(seed_from("lora", config.seed))
        self.losses: list[float] = []
        lora.begin(self.generator)
        self._optimizer = torch.optim.AdamW(lora.matrices, lr=config.learning_rate, weight_decay=_WEIGHT_DECAY)

    def update(self, loss: float, gradients: Sequence[torch.Tensor]) -> None:
        """Take one step along gradients, shortened to length 1 if they are longer.

        Raises:
            ModelError: the loss or a gradient is not finite.
        """
        for matrix, gradient in zip(self._lora.matrices, gradients, strict=True):
            matrix.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self._lora.matrices, _LARGEST_GRADIENT)
        if not math.isfinite(loss) or not bool(norm.isfinite()):
            raise ModelError(
                f"the LoRA cannot be trained: its loss is not finite after {len(self.losses)} of {self._config.steps} "
                f"steps. Lower lora.learning_rate (it is {self._config.learning_rate:g}), or set model.dtype=float32"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss)

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on exactly here: tensors and plain values."""
        return {
            "matrices": self._lora.state(),
            "optimizer": deepcopy(self._optimizer.state_dict()),
            "generator": self.generator.get_state(),
            "losses": list(self.losses),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._lora.load(state["matrices"])
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])
        self.losses = list(state["losses"])
