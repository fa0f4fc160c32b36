"""Continuous batching: many classes train in one batch, and a class that is done frees its slot for the next.

What all ways of training a token share: slots, resume, prompts, and the certificate on fresh noise. What an update is,
and when a class is done, each way says for itself.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

import torch

from dct_augment import prompts
from dct_augment.classifiers import Classifier
from dct_augment.config import PromptsConfig, TokensConfig
from dct_augment.diffusion import Conditioning, Sampler, ShrinkingBatches
from dct_augment.diffusion.image_memory import fit_batches
from dct_augment.diffusion.memory import Purpose
from dct_augment.records import ClassInfo, Progress, ProgressCallback, StopReason, ignore_progress
from dct_augment.tokens.certificate import Certificate, Certification, PairedTest, Recognised
from dct_augment.tokens.state import Step, TrainedToken, new_seeds


class TokenState(Protocol):
    """The training state of one class, done when there is a `reason`; `evaluations` are those of the U-Net."""

    info: ClassInfo
    generator: torch.Generator
    history: list[Step]
    evaluations: int
    reason: StopReason | None

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on exactly here."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of this class."""
        ...


State = TypeVar("State", bound=TokenState)

_MOST_CONFUSED = 10
"""Other classes that a certificate names."""


@dataclass(frozen=True, eq=False)
class ImageRequest(Generic[State]):
    """Images of one class that are to be generated: from B seeds, with B rows of conditioning."""

    state: State
    seeds: Sequence[int]
    conditioning: Conditioning


@dataclass
class _Queue(Generic[State]):
    """The classes of one training: those that wait, those in a slot, and how many are finished."""

    classes: Sequence[ClassInfo]
    waiting: deque[ClassInfo]
    active: list[State]

    @property
    def finished(self) -> int:
        """How many classes are neither waiting nor in a slot."""
        return len(self.classes) - len(self.waiting) - len(self.active)

    def fill(self, slots: int, new_state: Callable[[ClassInfo], State]) -> None:
        """Give free slots to the classes that wait."""
        while self.waiting and len(self.active) < slots:
            self.active.append(new_state(self.waiting.popleft()))

    def remove_finished(self) -> list[State]:
        """Free the slots of the classes that have a reason to stop; return them."""
        finished = [state for state in self.active if state.reason is not None]
        self.active = [state for state in self.active if state.reason is None]
        return finished

    def checkpoint(self) -> dict[str, Any]:
        """Return what `Trainer.train` takes as `resume`."""
        return {
            "classes": [info.slug for info in self.classes],
            "waiting": [info.slug for info in self.waiting],
            "active": [state.state() for state in self.active],
        }

    def progress(self, updates: int) -> Progress:
        """Count updates, with `updates` for each finished class, and fewer for one that is still in its slot."""
        active = sum(min(len(state.history), updates - 1) for state in self.active)
        names = ", ".join(state.info.name for state in self.active)
        return Progress("tokens", self.finished * updates + active, len(self.classes) * updates, names)


class Trainer(ABC, Generic[State]):
    """Trains class tokens with one sampler.

    A class takes at most `updates`, as far as progress is concerned, of so many `images` each.
    """

    _purpose: Purpose = "update"

    def __init__(
        self,
        sampler: Sampler,
        guide: Classifier,
        *,
        judge: Classifier | None,
        tokens_config: TokensConfig,
        prompts_config: PromptsConfig,
        starts: Mapping[str, torch.Tensor] | None,
        rivals: Sequence[ClassInfo],
        updates: int,
        images: int,
    ) -> None:
        self._sampler, self._backend = sampler, sampler.backend
        self._guide, self._judge = guide, judge
        self._tokens_config, self._prompts_config = tokens_config, prompts_config
        self._starts = dict(starts or {})
        self._rivals = rivals
        self._word_norms = self._backend.word_norms()
        self._updates, self._images_per_update = updates, images
        self._batches = self._update_batches(ignore_progress)

    @abstractmethod
    def _new_state(self, info: ClassInfo) -> State:
        """Return a class at its beginning."""

    @abstractmethod
    def _train_round(self, states: Sequence[State]) -> None:
        """Do one update of every class, and what is due after it; those that are done get their reason."""

    @abstractmethod
    def _finish(self, state: State) -> TrainedToken:
        """Return the result of a class that is done."""

    def _check(self, classes: Sequence[ClassInfo]) -> None:
        """Check that these classes can be trained.

        Raises:
            ModelError: guide or judge do not know a class, or the text encoder its start word.
        """
        for info in classes:
            self._initial(info)
        for classifier in (self._guide, self._judge):
            if classifier is not None:
                classifier.targets(classes)

    def _initial(self, info: ClassInfo) -> torch.Tensor:
        """Return where the token of a class starts, (n, D): at a vector that is given, or at its start word."""
        if info.slug in self._starts:
            return self._starts[info.slug]
        return self._start_word(info)

    def _start_word(self, info: ClassInfo) -> torch.Tensor:
        """Return the embedding of a class's start word, (n, D): the same for each of its vectors."""
        return self._backend.word(self._tokens_config.start_word(info)).repeat(self._tokens_config.vectors, 1)

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
        slots = self._tokens_config.classes_per_batch
        self._fit_batches()
        self._batches = self._update_batches(on_progress)
        queue = self._start(classes, resume)
        if checkpoint is not None:
            checkpoint(queue.checkpoint())
        while queue.waiting or queue.active:
            queue.fill(slots, self._new_state)
            self._train_round(queue.active)
            for state in queue.remove_finished():
                yield self._finish(state)
            on_progress(queue.progress(self._updates))
            if checkpoint is not None:
                checkpoint(queue.checkpoint())

    def _fit_batches(self) -> None:
        """Limit batches to the memory of the device."""
        fit_batches(self._sampler, self._guide.logits)

    def _update_batches(self, on_progress: ProgressCallback) -> ShrinkingBatches:
        """Return the batches of images, of whatever classes, that an update is made of."""
        count, sizes = self._tokens_config.classes_per_batch * self._images_per_update, self._backend.batch_sizes
        return ShrinkingBatches(count, "image", on_progress, sizes=sizes, purpose=self._purpose)

    def _start(self, classes: Sequence[ClassInfo], resume: Mapping[str, Any] | None) -> _Queue[State]:
        """Queue all classes, or those that a checkpoint has not finished, each as it was."""
        if resume is None:
            self._check(classes)
            return _Queue(classes, deque(classes), [])
        by_slug = {info.slug: info for info in classes}
        waiting = deque(by_slug[slug] for slug in resume["waiting"])
        unfinished = [by_slug[saved["slug"]] for saved in resume["active"]]
        self._check([*unfinished, *waiting])
        active = []
        for info, saved in zip(unfinished, resume["active"], strict=True):
            state = self._new_state(info)
            state.restore(saved)
            active.append(state)
        return _Queue(classes, waiting, active)

    def _certify(self, state: State, vector: torch.Tensor) -> tuple[Certificate, float]:
        """Compare a vector (n, D) with the plain prompt, on fresh noise, in as many looks as it takes.

        Also returns the guide's mean probability of the class with the vector.
        """
        info, settings = state.info, self._tokens_config
        test = PairedTest(settings.certificate_images, settings.certificate_looks)
        certification, probabilities = Certification(test, settings.min_diversity_ratio), []
        while count := certification.next_pairs:
            seeds, first = new_seeds(state.generator, count), test.pairs
            token = self._images_of(state, seeds, self._encode(info, vector, first=first, count=count))
            plain = self._images_of(state, seeds, self._encode_plain(info, first=first, count=count))
            guide, of_labels = _recognised(self._guide, info, plain, token)
            judge = _recognised(self._judge, info, plain, token)[0] if self._judge else None
            certification.add(plain, token, guide, judge)
            probabilities.append(of_labels)
        mean = torch.cat(probabilities).mean(0)
        certificate = replace(certification.certificate(), confused_with=self._confused_with(info, mean))
        return certificate, mean[self._guide.targets([info])[0]].item()

    def _confused_with(self, info: ClassInfo, probabilities: torch.Tensor) -> tuple[str, ...]:
        """Name the rivals of a class that the guide gives most of these probabilities (L,), by slug; the first few."""
        rivals = [rival for rival in self._rivals if rival.slug != info.slug]
        if not rivals:
            return ()
        order = probabilities[list(self._guide.targets(rivals))].argsort(descending=True, stable=True)
        return tuple(rivals[place].slug for place in order[:_MOST_CONFUSED].tolist())

    def _images_of(self, state: State, seeds: Sequence[int], conditioning: Conditioning) -> torch.Tensor:
        """Generate images of one class (B, 3, H, W) from these seeds."""
        ((_, images),) = self._generate([ImageRequest(state, seeds, conditioning)])
        return images

    def _generate(self, requests: Sequence[ImageRequest[State]]) -> Iterator[tuple[State, torch.Tensor]]:
        """Generate the images of some classes, (n, 3, H, W) each, as many at once as memory holds.

        A class is yielded as soon as it has all its images.
        """
        rows = [(request, row) for request in requests for row in range(len(request.seeds))]
        images: list[torch.Tensor] = []
        for done, generated in self._image_batches("image").run(rows, self._generate_rows):
            for (request, row), image in zip(done, generated, strict=True):
                images.append(image)
                if row == len(request.seeds) - 1:
                    yield request.state, torch.stack(images)
                    images = []

    def _generate_rows(self, rows: Sequence[tuple[ImageRequest[State], int]]) -> torch.Tensor:
        """Generate some images of some classes in one batch, (B, 3, H, W)."""
        chosen = [(request, [row for _, row in group]) for request, group in groupby(rows, key=itemgetter(0))]
        trajectories = [
            self._sampler.begin([request.seeds[row] for row in own], request.conditioning[own])
            for request, own in chosen
        ]
        evaluations = self._sampler.advance(trajectories)
        images = torch.cat([self._sampler.images(trajectory) for trajectory in trajectories])
        for (request, _), count in zip(chosen, evaluations, strict=True):
            request.state.evaluations += count
        return images

    def _image_batches(self, noun: str, images_per_item: int = 1) -> ShrinkingBatches:
        """Return the batches in which images are generated without gradient: as many as one validation needs."""
        settings, sizes = self._tokens_config, self._backend.batch_sizes
        count = settings.classes_per_batch * settings.validation_images
        return ShrinkingBatches(count, noun, sizes=sizes, images_per_item=images_per_item)

    def _encode(self, info: ClassInfo, vector: torch.Tensor, *, first: int, count: int) -> Conditioning:
        """Encode the prompts of `count` images, with a vector (n, D) as their token."""
        lines = self._prompts(info, token=prompts.PLACEHOLDER, first=first, count=count)
        return self._with_negative(info, self._backend.encode(lines, vector.expand(count, -1, -1)))

    def _encode_plain(self, info: ClassInfo, *, first: int, count: int) -> Conditioning:
        """Encode the plain prompts of `count` images."""
        encoded = self._backend.encode(self._prompts(info, token=None, first=first, count=count))
        return self._with_negative(info, encoded)

    def _with_negative(self, info: ClassInfo, encoded: Conditioning) -> Conditioning:
        """Add the negative prompt of a class, where classes have their own."""
        if len(self._prompts_config.negatives) == 1:
            return encoded
        return self._sampler.with_negatives(encoded, [self._prompts_config.negative_of(info)] * len(encoded))

    def _prompts(self, info: ClassInfo, *, token: str | None, first: int, count: int) -> list[str]:
        """Build the prompts number `first` and following of a class."""
        lines, contexts = [], self._prompts_config.contexts_of(info)
        for number in range(first, first + count):
            template, context = prompts.choose(self._prompts_config.templates, contexts, number)
            lines.append(prompts.build(template, info.name, token=token, context=context))
        return lines


def _recognised(
    classifier: Classifier, info: ClassInfo, plain: torch.Tensor, token: torch.Tensor
) -> tuple[Recognised, torch.Tensor]:
    """Let one classifier recognise images with the plain prompt and with the token.

    Also returns its probabilities (n, L) of all its labels for these.
    """
    (target,) = classifier.targets([info])
    plain_right = (classifier.logits(plain).argmax(1) == target).cpu()
    probabilities = classifier.logits(token).softmax(1).cpu()
    return Recognised.count(plain_right, probabilities.argmax(1) == target), probabilities
