"""Textual inversion: class tokens from a few real images, by the denoiser's own training objective.

An Image is Worth One Word (arXiv 2208.01618), section 3, as in diffusers' example: the token for which the model
best tells the noise that was put on the images. No classifier has a part in it, so it is what class tokens are
compared with.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from PIL import Image

from dct_augment.classifiers import Classifier
from dct_augment.config import PromptsConfig, TextualInversionConfig, TokensConfig, seed_from
from dct_augment.diffusion import Sampler, WordNorms
from dct_augment.errors import InputError
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.denoising import NoisedBatch, PhotoLatents, denoising_gradients
from dct_augment.tokens.state import Step, TrainedToken, Validation
from dct_augment.tokens.trainer import Trainer
from dct_augment.tokens.vector import TokenVector


@dataclass
class InversionState:
    """The training state of one class; all that is random comes from its own generator.

    `photos` are the latents of its images. The `token` (n, D) is float32; its step is relative to the words of each
    text encoder.
    """

    info: ClassInfo
    initial: torch.Tensor
    word_norms: tuple[WordNorms, ...]
    photos: PhotoLatents
    config: TextualInversionConfig
    history: list[Step] = field(default_factory=list)
    evaluations: int = 0
    reason: StopReason | None = None

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(seed_from("inversion", self.config.seed, self.info.slug))
        self.token = TokenVector(self.initial, self.word_norms)
        groups = [
            {"params": [part], "lr": self.config.learning_rate * words.mean_norm / math.sqrt(words.width)}
            for part, words in zip(self.token.parts, self.word_norms, strict=True)
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)

    @property
    def vector(self) -> torch.Tensor:
        """The token as it is now, (n, D), differentiable."""
        return self.token.value

    def zero_grad(self) -> None:
        """Drop gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def update(self, loss: float, scale: float = 1.0) -> None:
        """Take one step along the gradient that `backward` left, `scale` times too long; stop if it is not finite."""
        gradient = self.token.gradient
        if gradient is None or not math.isfinite(loss) or not bool(gradient.isfinite().all()):
            self.reason = StopReason.NON_FINITE
            return
        for part in self.token.parts:
            if part.grad is not None:
                part.grad.div_(scale)
        self._optimizer.step()
        self.zero_grad()
        self.history.append(Step(len(self.history) + 1, loss, self.token.largest_norm()))
        if len(self.history) >= self.config.steps:
            self.reason = StopReason.UPDATES

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on exactly here: tensors and plain values."""
        return {
            "slug": self.info.slug,
            "generator": self.generator.get_state(),
            "vector": self.vector.detach().clone(),
            "optimizer": deepcopy(self._optimizer.state_dict()),  # it goes on with its tensors in place
            "history": [astuple(step) for step in self.history],
            "evaluations": self.evaluations,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of this class."""
        self.generator.set_state(state["generator"])
        self.token.set(state["vector"])
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.history = [Step(*values) for values in state["history"]]
        self.evaluations = state["evaluations"]


class TextualInversionTrainer(Trainer[InversionState]):
    """Trains tokens on `images`, by class slug; guide and judge only measure what came of it.

    A class that is in `starts` begins at that vector (n, D).

    The last state is kept, as the method has it: to choose one by a guide that knows other images would help it.
    """

    _purpose = "inversion"

    def __init__(
        self,
        sampler: Sampler,
        guide: Classifier,
        *,
        images: Mapping[str, Sequence[Image.Image]],
        judge: Classifier | None = None,
        inversion_config: TextualInversionConfig,
        tokens_config: TokensConfig,
        prompts_config: PromptsConfig,
        starts: Mapping[str, torch.Tensor] | None = None,
        rivals: Sequence[ClassInfo] = (),
    ) -> None:
        super().__init__(
            sampler,
            guide,
            judge=judge,
            tokens_config=tokens_config,
            prompts_config=prompts_config,
            starts=starts,
            rivals=rivals,
            updates=inversion_config.steps,
            images=inversion_config.batch_size,
        )
        self._inversion_config, self._images = inversion_config, images
        # In half precision small gradients would vanish.
        self._loss_scale = 1024.0 if self._backend.dtype == torch.float16 else 1.0

    def _check(self, classes: Sequence[ClassInfo]) -> None:
        """See `Trainer`.

        Raises:
            InputError: a class has no images.
        """
        if missing := [info.name for info in classes if not self._images.get(info.slug)]:
            raise InputError(f"textual inversion has no few-shot image of: {', '.join(missing)}")
        super()._check(classes)

    def _new_state(self, info: ClassInfo) -> InversionState:
        photos = PhotoLatents.encode(self._backend, self._images[info.slug])
        return InversionState(info, self._initial(info), self._word_norms, photos, self._inversion_config)

    def _train_round(self, states: Sequence[InversionState]) -> None:
        """Do one update of every class, with as many photos at once as memory holds."""
        wanted = [(self.new_batch(state), state.token) for state in states]
        gathered = denoising_gradients(self._sampler, wanted, self._batches, scale=self._loss_scale)
        for state, (batch, token), of_class in zip(states, wanted, gathered, strict=True):
            state.evaluations += 3 * len(batch)
            token.take(of_class.gradients)
            state.update(of_class.loss, self._loss_scale)

    def new_batch(self, state: InversionState) -> NoisedBatch:
        """Choose what a class trains on in its next step, by its generator."""
        return state.photos.noised(
            state.generator,
            self._inversion_config.batch_size,
            self._backend.training_steps,
            self._prompts_config.templates,
            state.info.name,
        )

    @torch.no_grad()
    def _finish(self, state: InversionState) -> TrainedToken:
        """See `Trainer`: the last vector, certified if it is usable."""
        vector, usable = state.vector.detach().clone(), state.reason is not StopReason.NON_FINITE
        certificate, best = None, None
        if usable:
            certificate, probability = self._certify(state, vector)
            best = Validation(len(state.history), certificate.guide.token, probability)
        return TrainedToken(
            info=state.info,
            vector=vector,
            usable=usable,
            reason=state.reason or StopReason.UPDATES,
            updates=len(state.history),
            attempts=1,
            evaluations=state.evaluations,
            best=best,
            certificate=certificate,
            history=tuple(state.history),
            validations=(),
        )
