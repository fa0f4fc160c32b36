"""Textual inversion: class tokens from a few real images, by the denoiser's own training objective.

An Image is Worth One Word (arXiv 2208.01618), section 3, as in diffusers' example: the token for which the model
best tells the noise that was put on the images. No classifier has a part in it, so it is what class tokens are
compared with.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from PIL import Image

from dct_augment import pixels, prompts
from dct_augment.certificates import Certificate, Score, certify, score
from dct_augment.classifiers import Classifier
from dct_augment.config import PromptsConfig, SamplingConfig, TextualInversionConfig, TokensConfig, seed_from
from dct_augment.diffusion import Backend, Batches, Conditioning, Trajectory, advance
from dct_augment.errors import InputError
from dct_augment.learner import Step, Trained, Validation
from dct_augment.records import ClassInfo, Progress, Report, StopReason, silent

_MARK = "<dct-training>"


@dataclass
class Learned:
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

    def forget(self) -> None:
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
        self.forget()
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
class Draw:
    """What one class sees in one step: B clean latents and noises (B, C, h, w), timesteps (B,), and prompts."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    lines: Sequence[str]


class InversionTrainer:
    """Trains tokens on `pictures`, by class slug; guide and judge only look at what came of it.

    The last state is kept, as the method has it: to choose one by a guide that saw other images would help it.
    """

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
        self._backend, self._guide, self._judge, self._pictures = backend, guide, judge, pictures
        self._settings, self._tokens, self._sampling, self._prompting = settings, tokens, sampling, prompting
        with torch.no_grad():
            self._unconditional = backend.unconditional(prompting.negative)
        self._initial = backend.word(tokens.init_word).repeat(tokens.vectors, 1)
        norms = zip(backend.blocks, backend.word_norms(), strict=True)
        self._words = tuple((width, mean) for (_, width), (mean, _) in norms)
        # In half precision small gradients would vanish.
        self._loss_scale = 1024.0 if backend.dtype == torch.float16 else 1.0
        self._batches = Batches(tokens.slots, "classes")

    def train(
        self,
        classes: Sequence[ClassInfo],
        report: Report = silent,
        *,
        resume: Mapping[str, Any] | None = None,
        checkpoint: Callable[[dict[str, Any]], None] | None = None,
    ) -> Iterator[Trained]:
        """Train every class, `tokens.slots` in one batch; see `TokenTrainer.train` for `resume` and `checkpoint`.

        Raises:
            InputError: a class that is yet to be trained has no pictures.
            ModelError: guide or judge do not know it.
        """

        def remember() -> None:
            if checkpoint is not None:
                checkpoint({
                    "classes": [info.slug for info in classes],
                    "waiting": [info.slug for info in waiting],
                    "active": [one.state() for one in active],
                })  # fmt: skip

        self._batches = Batches(self._tokens.slots, "classes", report)
        waiting, active = self._start(classes, resume)
        done, whole = len(classes) - len(waiting) - len(active), self._settings.steps
        remember()
        while waiting or active:
            while waiting and len(active) < self._tokens.slots:
                active.append(self._learned(waiting.popleft()))
            self._update(active)
            finished = [one for one in active if one.reason is not None]
            active = [one for one in active if one.reason is None]
            for one in finished:
                done += 1
                yield self._result(one)
            part = sum(min(len(one.history), whole - 1) for one in active)
            report(Progress("tokens", done * whole + part, len(classes) * whole, _names(active)))
            remember()

    def _start(
        self, classes: Sequence[ClassInfo], resume: Mapping[str, Any] | None
    ) -> tuple[deque[ClassInfo], list[Learned]]:
        known = {info.slug: info for info in classes}
        states = {} if resume is None else {state["slug"]: state for state in resume["active"]}
        waiting = deque(classes if resume is None else (known[slug] for slug in resume["waiting"]))
        wanted = [*(known[slug] for slug in states), *waiting]
        if missing := [info.name for info in wanted if not self._pictures.get(info.slug)]:
            raise InputError(f"textual inversion has no few-shot image of: {', '.join(missing)}")
        for classifier in (self._guide, self._judge):
            if classifier:
                classifier.targets(wanted)
        active = [self._learned(known[slug]) for slug in states]
        for one in active:
            one.restore(states[one.info.slug])
        return waiting, active

    def _learned(self, info: ClassInfo) -> Learned:
        size = self._backend.image_size
        each = [self._backend.compress(pixels.square(picture, size)) for picture in self._pictures[info.slug]]
        mean, deviation = (torch.cat(parts) for parts in zip(*each, strict=True))
        return Learned(info, self._initial, self._words, mean, deviation, self._settings)

    def _update(self, batch: Sequence[Learned]) -> None:
        """One update of every class, as many at once as memory holds."""
        for _ in self._batches.run([(one, self.draw(one)) for one in batch], self._update_together):
            pass

    def draw(self, one: Learned) -> Draw:
        """What a class sees in its next step, drawn from its generator."""
        count, random = self._settings.batch_size, one.generator
        chosen = torch.randint(len(one.mean), (count,), generator=random)
        timesteps = torch.randint(self._backend.training_steps, (count,), generator=random)
        noise, jitter = (torch.randn(count, *one.mean.shape[1:], generator=random).to(one.mean) for _ in range(2))
        numbers = torch.randint(len(self._prompting.templates), (count,), generator=random).tolist()
        latents = one.mean[chosen] + one.deviation[chosen] * jitter
        # Without a context: it would say of the images what they do not show.
        lines = [prompts.build(self._prompting.templates[number], one.info.name, token=_MARK) for number in numbers]
        return Draw(latents, noise, timesteps.to(one.mean.device), lines)

    def _update_together(self, drawn: Sequence[tuple[Learned, Draw]]) -> None:
        for one, _ in drawn:
            one.forget()
        losses = self.losses([draw for _, draw in drawn], [one.vector for one, _ in drawn])
        (losses.sum() * self._loss_scale).backward()
        for (one, draw), loss in zip(drawn, losses.tolist(), strict=True):
            one.evaluations += 3 * len(draw.lines)
            one.update(loss, self._loss_scale)

    def losses(self, draws: Sequence[Draw], vectors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean squared error of what the denoiser predicts for each class with its vector (n, D); (K,).

        Costs 3 U-Net evaluations an image with its backward pass.
        """
        parts = zip(*((one.latents, one.noise, one.timesteps) for one in draws), strict=True)
        latents, noise, timesteps = (torch.cat(part) for part in parts)
        inputs, target = self._backend.noised(latents, noise, timesteps)
        encoding = Conditioning.cat(self._encode(one.lines, vector) for one, vector in zip(draws, vectors, strict=True))
        output = self._backend.denoise(inputs, timesteps, encoding, self._sampling.guidance_scale)
        exact = torch.promote_types(output.dtype, torch.float32)
        errors = (output.to(exact) - target.to(exact)).square().flatten(1).mean(1)
        return torch.stack([one.mean() for one in errors.split([len(draw.lines) for draw in draws])])

    def _encode(self, lines: Sequence[str], vector: torch.Tensor) -> Conditioning:
        """Encoded prompts; equal ones once."""
        distinct = sorted(set(lines))
        encoded = self._backend.encode(distinct, vector.expand(len(distinct), -1, -1))
        return encoded[torch.tensor([distinct.index(line) for line in lines])]

    @torch.no_grad()
    def _result(self, one: Learned) -> Trained:
        vector = one.vector.detach().clone()
        certificate, probability = self._certify(one, vector)
        return Trained(
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

    def _certify(self, one: Learned, vector: torch.Tensor) -> tuple[Certificate, float]:
        """The token against the plain prompt on fresh noise, and the mean probability that the guide gives it."""
        count = self._tokens.certificate_images
        seeds = torch.randint(2**62, (count,), generator=one.generator).tolist()
        images = [self._images(one, seeds, vector if named else None) for named in (False, True)]
        guide, judge = self._score(self._guide, one.info, images), None
        if self._judge:
            judge = self._score(self._judge, one.info, images)
        (target,) = self._guide.targets([one.info])
        probability = self._guide.logits(images[1]).softmax(1)[:, target].mean().item()
        return certify(images[0], images[1], guide, judge, self._tokens.least_diversity), probability

    def _score(self, classifier: Classifier, info: ClassInfo, images: Sequence[torch.Tensor]) -> Score:
        (target,) = classifier.targets([info])
        plain, token = ((classifier.logits(one).argmax(1) == target).cpu() for one in images)
        return score(plain, token)

    def _images(self, one: Learned, seeds: Sequence[int], vector: torch.Tensor | None) -> torch.Tensor:
        """Images (B, 3, H, W) from these seeds and the prompts of generation; without a vector from plain prompts."""

        def drawn(rows: Sequence[int]) -> torch.Tensor:
            walk = Trajectory.begin(
                self._backend, [seeds[row] for row in rows], self._generation_prompts(one.info, rows, vector),
                steps=self._sampling.num_inference_steps, scheduler=self._sampling.scheduler,
            )  # fmt: skip
            scale = self._sampling.guidance_scale
            (cost,) = advance(self._backend, [walk], [walk.length], self._unconditional, scale)
            images = self._backend.decode(walk.latents).clamp(-1, 1)
            one.evaluations += cost
            return images

        batches = Batches(self._batches.size * self._tokens.validation_images, "images")
        return torch.cat([images for _, images in batches.run(range(len(seeds)), drawn)])

    def _generation_prompts(self, info: ClassInfo, numbers: Sequence[int], vector: torch.Tensor | None) -> Conditioning:
        chosen = [prompts.choose(self._prompting.templates, self._prompting.contexts, number) for number in numbers]
        mark = None if vector is None else _MARK
        lines = [prompts.build(template, info.name, token=mark, context=context) for template, context in chosen]
        return self._backend.encode(lines, None if vector is None else vector.expand(len(lines), -1, -1))


def _names(active: Sequence[Learned]) -> str:
    return ", ".join(one.info.name for one in active)
