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

from dct_augment import prompts
from dct_augment.classifiers import Classifier
from dct_augment.config import PromptsConfig, SamplingConfig, TextualInversionConfig, TokensConfig, seed_from
from dct_augment.diffusion import Backend, Conditioning
from dct_augment.errors import InputError
from dct_augment.images import square
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.state import Step, TrainedToken, Validation
from dct_augment.tokens.trainer import MARK, Trainer


@dataclass
class InversionState:
    """The training state of one class; all that is random comes from its own generator.

    `mean` and `deviation` (N, C, h, w) are of the latents of its N images. The vector (n, D) is float32; its step is
    relative to the words of each text encoder, whose embedding widths and mean norms are `words`.
    """

    info: ClassInfo
    initial: torch.Tensor
    words: tuple[tuple[int, float], ...]
    mean: torch.Tensor
    deviation: torch.Tensor
    settings: TextualInversionConfig
    history: list[Step] = field(default_factory=list)
    evaluations: int = 0
    reason: StopReason | None = None

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(seed_from("inversion", self.settings.seed, self.info.slug))
        self._parts = [one.clone().requires_grad_(True) for one in self._split(self.initial)]
        rate = self.settings.learning_rate
        groups = [
            {"params": [part], "lr": rate * norm / math.sqrt(width)}
            for part, (width, norm) in zip(self._parts, self.words, strict=True)
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay)

    @property
    def vector(self) -> torch.Tensor:
        """The token as it is now, (n, D), differentiable."""
        return self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts, 1)

    def zero_grad(self) -> None:
        """Drop gradients, also those of an update that did not come to its end."""
        self._optimizer.zero_grad(set_to_none=True)

    def update(self, loss: float, scale: float = 1.0) -> None:
        """Take one step along the gradient that `backward` left, `scale` times too long; stop if it is not finite."""
        gradients = [part.grad for part in self._parts if part.grad is not None]
        if not math.isfinite(loss) or not gradients or not all(bool(one.isfinite().all()) for one in gradients):
            self.reason = StopReason.NON_FINITE
            return
        for gradient in gradients:
            gradient.div_(scale)
        self._optimizer.step()
        self.zero_grad()
        self.history.append(Step(len(self.history) + 1, loss, self.vector.detach().norm(dim=1).max().item()))
        if len(self.history) >= self.settings.steps:
            self.reason = StopReason.UPDATES

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on exactly here: tensors and plain values."""
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
        with torch.no_grad():
            for part, saved in zip(self._parts, self._split(state["vector"]), strict=True):
                part.copy_(saved)
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.history = [Step(*values) for values in state["history"]]
        self.evaluations = state["evaluations"]

    def _split(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return vector.split([width for width, _ in self.words], 1)


@dataclass(frozen=True)
class NoisedBatch:
    """What one class sees in one step: B clean latents and noises (B, C, h, w), timesteps (B,), and prompts."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    lines: Sequence[str]


class TextualInversionTrainer(Trainer[InversionState]):
    """Trains tokens on `pictures`, by class slug; guide and judge only look at what came of it.

    The last state is kept, as the method has it: to choose one by a guide that saw other images would help it.
    """

    _lower = "textual_inversion.batch_size"

    def __init__(
        self,
        backend: Backend,
        guide: Classifier,
        *,
        pictures: Mapping[str, Sequence[Image.Image]],
        judge: Classifier | None = None,
        settings: TextualInversionConfig,
        tokens: TokensConfig,
        sampling: SamplingConfig,
        prompting: PromptsConfig,
    ) -> None:
        super().__init__(
            backend, guide, judge, tokens=tokens, sampling=sampling, prompting=prompting, updates=settings.steps
        )
        self._settings, self._pictures = settings, pictures
        norms = zip(backend.blocks, backend.word_norms(), strict=True)
        self._words = tuple((width, mean) for (_, width), (mean, _) in norms)
        # In half precision small gradients would vanish.
        self._loss_scale = 1024.0 if backend.dtype == torch.float16 else 1.0

    def _check(self, classes: Sequence[ClassInfo]) -> None:
        """See `Trainer`.

        Raises:
            InputError: a class has no pictures.
        """
        if missing := [info.name for info in classes if not self._pictures.get(info.slug)]:
            raise InputError(f"textual inversion has no few-shot image of: {', '.join(missing)}")
        super()._check(classes)

    def _learner(self, info: ClassInfo) -> InversionState:
        size = self._backend.image_size
        each = [self._backend.compress(square(picture, size)) for picture in self._pictures[info.slug]]
        mean, deviation = (torch.cat(parts) for parts in zip(*each, strict=True))
        return InversionState(info, self._initial, self._words, mean, deviation, self._settings)

    def _advance(self, active: Sequence[InversionState]) -> None:
        """One update of every class, as many at once as memory holds."""
        for _ in self._batches.run([(one, self.draw(one)) for one in active], self._update_together):
            pass

    def draw(self, one: InversionState) -> NoisedBatch:
        """What a class sees in its next step, drawn from its generator."""
        count, random = self._settings.batch_size, one.generator
        chosen = torch.randint(len(one.mean), (count,), generator=random)
        timesteps = torch.randint(self._backend.training_steps, (count,), generator=random)
        noise, jitter = (torch.randn(count, *one.mean.shape[1:], generator=random).to(one.mean) for _ in range(2))
        numbers = torch.randint(len(self._prompting.templates), (count,), generator=random).tolist()
        latents = one.mean[chosen] + one.deviation[chosen] * jitter
        # Without a context: it would say of the images what they do not show.
        lines = [prompts.build(self._prompting.templates[number], one.info.name, token=MARK) for number in numbers]
        return NoisedBatch(latents, noise, timesteps.to(one.mean.device), lines)

    def _update_together(self, drawn: Sequence[tuple[InversionState, NoisedBatch]]) -> None:
        for one, _ in drawn:
            one.zero_grad()
        losses = self.losses([draw for _, draw in drawn], [one.vector for one, _ in drawn])
        (losses.sum() * self._loss_scale).backward()
        for (one, draw), loss in zip(drawn, losses.tolist(), strict=True):
            one.evaluations += 3 * len(draw.lines)
            one.update(loss, self._loss_scale)

    def losses(self, draws: Sequence[NoisedBatch], vectors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean squared error of what the denoiser predicts for each class with its vector (n, D); (K,).

        Costs 3 U-Net evaluations an image with its backward pass.
        """
        parts = zip(*((one.latents, one.noise, one.timesteps) for one in draws), strict=True)
        latents, noise, timesteps = (torch.cat(part) for part in parts)
        inputs, target = self._backend.noised(latents, noise, timesteps)
        encoding = Conditioning.cat(self._texts(one.lines, vector) for one, vector in zip(draws, vectors, strict=True))
        output = self._backend.denoise(inputs, timesteps, encoding, self._sampling.guidance_scale)
        exact = torch.promote_types(output.dtype, torch.float32)
        errors = (output.to(exact) - target.to(exact)).square().flatten(1).mean(1)
        return torch.stack([one.mean() for one in errors.split([len(draw.lines) for draw in draws])])

    def _texts(self, lines: Sequence[str], vector: torch.Tensor) -> Conditioning:
        """Encoded prompts; equal ones once."""
        distinct = sorted(set(lines))
        encoded = self._backend.encode(distinct, vector.expand(len(distinct), -1, -1))
        return encoded[torch.tensor([distinct.index(line) for line in lines])]

    @torch.no_grad()
    def _finish(self, one: InversionState) -> TrainedToken:
        """See `Trainer`: the last vector, certified."""
        vector = one.vector.detach().clone()
        certificate, images = self._certify(one, vector)
        (target,) = self._guide.targets([one.info])
        probability = self._guide.logits(images).softmax(1)[:, target].mean().item()
        return TrainedToken(
            info=one.info,
            vector=vector,
            usable=one.reason is not StopReason.NON_FINITE,
            reason=one.reason or StopReason.UPDATES,
            updates=len(one.history),
            attempts=1,
            evaluations=one.evaluations,
            best=Validation(len(one.history), certificate.guide.token, probability),
            certificate=certificate,
            history=tuple(one.history),
            validations=(),
        )
