"""Continuous batching: many classes learn in one batch, and one that is done frees its slot for the next.

What all ways of training a token share: slots, resume, prompts, and the certificate on fresh noise. What an update is,
and when a class is done, each way says for itself.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch

from dct_augment import prompts
from dct_augment.classifiers import Classifier
from dct_augment.config import PromptsConfig, SamplingConfig, TokensConfig
from dct_augment.diffusion import Backend, Conditioning, ShrinkingBatches, Trajectory, advance
from dct_augment.records import ClassInfo, Progress, ProgressCallback, StopReason, ignore_progress
from dct_augment.tokens.certificate import Certificate, Score, certify, score
from dct_augment.tokens.state import Step, TrainedToken

MARK = "<dct-training>"
"""How prompts call the token in training; its vectors are put in where it stands."""


class TokenState(Protocol):
    """The training state of one class, done when there is a `reason`; `evaluations` are those of the U-Net."""

    info: ClassInfo
    generator: torch.Generator
    history: list[Step]
    evaluations: int
    reason: StopReason | None

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on exactly here."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of this class."""
        ...


L = TypeVar("L", bound=TokenState)


class Trainer(ABC, Generic[L]):
    """Trains class tokens on one back-end; a class takes at most `updates`, as far as progress is concerned."""

    _lower = "tokens.images_per_update and tokens.validation_images"
    """The settings that make the work on one class smaller."""

    def __init__(
        self,
        backend: Backend,
        guide: Classifier,
        judge: Classifier | None,
        *,
        tokens: TokensConfig,
        sampling: SamplingConfig,
        prompting: PromptsConfig,
        updates: int,
    ) -> None:
        self._backend, self._guide, self._judge = backend, guide, judge
        self._tokens, self._sampling, self._prompting = tokens, sampling, prompting
        with torch.no_grad():
            self._unconditional = backend.unconditional(prompting.negative)
        self._initial = backend.word(tokens.init_word).repeat(tokens.vectors, 1)
        self._updates = updates
        self._batches = ShrinkingBatches(tokens.classes_per_batch, "classes")

    @abstractmethod
    def _learner(self, info: ClassInfo) -> L:
        """A class at its beginning."""

    @abstractmethod
    def _advance(self, active: Sequence[L]) -> None:
        """One update of every class, and what is due after it; those that are done get their reason."""

    @abstractmethod
    def _finish(self, one: L) -> TrainedToken:
        """The result of a class that is done."""

    def _check(self, classes: Sequence[ClassInfo]) -> None:
        """See that these classes can be trained."""
        for classifier in (self._guide, self._judge):
            if classifier is not None:
                classifier.targets(classes)

    def train(
        self,
        classes: Sequence[ClassInfo],
        on_progress: ProgressCallback = ignore_progress,
        *,
        resume: Mapping[str, Any] | None = None,
        checkpoint: Callable[[dict[str, Any]], None] | None = None,
    ) -> Iterator[TrainedToken]:
        """Train every class, yielding each as it is finished (not in order).

        `tokens.classes_per_batch` classes are trained in one batch; a class that stops frees its slot. Before the
        first round and after every round `checkpoint` receives a state; given back as `resume` for the same
        classes, it makes training go on with the very batches, and so the very bits, of a run that was never stopped.

        Raises:
            ModelError: guide or judge do not know a class.
        """

        def remember() -> None:
            if checkpoint is not None:
                checkpoint({
                    "classes": [info.slug for info in classes],
                    "waiting": [info.slug for info in waiting],
                    "active": [one.state() for one in active],
                })  # fmt: skip

        self._batches = ShrinkingBatches(self._tokens.classes_per_batch, "classes", on_progress, self._lower)
        waiting, active = self._start(classes, resume)
        done, whole = len(classes) - len(waiting) - len(active), self._updates
        remember()
        while waiting or active:
            while waiting and len(active) < self._tokens.classes_per_batch:
                active.append(self._learner(waiting.popleft()))
            self._advance(active)
            finished = [one for one in active if one.reason is not None]
            active = [one for one in active if one.reason is None]
            for one in finished:
                done += 1
                yield self._finish(one)
            part = sum(min(len(one.history), whole - 1) for one in active)
            note = ", ".join(one.info.name for one in active)
            on_progress(Progress("tokens", done * whole + part, len(classes) * whole, note))
            remember()

    def _start(
        self, classes: Sequence[ClassInfo], resume: Mapping[str, Any] | None
    ) -> tuple[deque[ClassInfo], list[L]]:
        known = {info.slug: info for info in classes}
        states = {} if resume is None else {state["slug"]: state for state in resume["active"]}
        waiting = deque(classes if resume is None else (known[slug] for slug in resume["waiting"]))
        self._check([*(known[slug] for slug in states), *waiting])
        active = [self._learner(known[slug]) for slug in states]
        for one in active:
            one.restore(states[one.info.slug])
        return waiting, active

    def _certify(self, one: L, vector: torch.Tensor) -> tuple[Certificate, torch.Tensor]:
        """A vector (n, D) against the plain prompt, on fresh noise; and the images (B, 3, H, W) drawn with it."""
        count = self._tokens.certificate_images
        seeds = torch.randint(2**62, (count,), generator=one.generator).tolist()
        token = self._images(one, seeds, self._encode(one.info, vector, 0, count))
        plain = self._images(one, seeds, self._backend.encode(self._prompts(one.info, None, 0, count)))
        guide, judge = _score(self._guide, one.info, plain, token), None
        if self._judge:
            judge = _score(self._judge, one.info, plain, token)
        return certify(plain, token, guide, judge, self._tokens.min_diversity_ratio), token

    def _images(self, one: L, seeds: Sequence[int], conditioning: Conditioning) -> torch.Tensor:
        """Images of one class (B, 3, H, W) from these seeds."""

        def draw(rows: Sequence[int]) -> torch.Tensor:
            trajectory = self._begin([seeds[row] for row in rows], conditioning[list(rows)])
            scale = self._sampling.guidance_scale
            (cost,) = advance(self._backend, [trajectory], [trajectory.length], self._unconditional, scale)
            images = self._backend.decode(trajectory.latents).clamp(-1, 1)
            one.evaluations += cost
            return images

        batches = ShrinkingBatches(self._batches.size * self._tokens.validation_images, "images")
        return torch.cat([images for _, images in batches.run(range(len(seeds)), draw)])

    def _encode(self, info: ClassInfo, vector: torch.Tensor, first: int, count: int) -> Conditioning:
        """The prompts of some images in a row, with a vector (n, D) as their token."""
        return self._backend.encode(self._prompts(info, MARK, first, count), vector.expand(count, -1, -1))

    def _prompts(self, info: ClassInfo, token: str | None, first: int, count: int) -> list[str]:
        lines = []
        for number in range(first, first + count):
            template, context = prompts.choose(self._prompting.templates, self._prompting.contexts, number)
            lines.append(prompts.build(template, info.name, token=token, context=context))
        return lines

    def _begin(self, seeds: Sequence[int], conditioning: Conditioning, steps: int | None = None) -> Trajectory:
        steps = steps or self._sampling.num_inference_steps
        return Trajectory.begin(self._backend, seeds, conditioning, steps=steps, scheduler=self._sampling.scheduler)


def _score(classifier: Classifier, info: ClassInfo, plain: torch.Tensor, token: torch.Tensor) -> Score:
    """What a classifier makes of images with the plain prompt and with the token."""
    (target,) = classifier.targets([info])
    right = [(classifier.logits(images).argmax(1) == target).cpu() for images in (plain, token)]
    return score(right[0], right[1])
