"""One class token while it is trained: its vector, optimiser, random stream, best state and fate."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import astuple, dataclass, field
from typing import Any

import torch

from dct_augment.config import DEFAULT_POSITIONS, DirectAlignConfig, TokensConfig, seed_from
from dct_augment.diffusion import WordNorms
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.certificate import Certificate
from dct_augment.tokens.denoising import PhotoLatents
from dct_augment.tokens.vector import TokenVector

_PROGRESS = 0.01
"""How much the probability of the class must rise to count as progress."""


def new_seeds(generator: torch.Generator, count: int) -> list[int]:
    """Return seeds of fresh initial latents."""
    return torch.randint(2**62, (count,), generator=generator).tolist()


@dataclass(frozen=True)
class Step:
    """One update as recorded in the history."""

    update: int
    loss: float
    norm: float


@dataclass(frozen=True)
class Validation:
    """What fresh images showed: share recognised, and mean probability of the class."""

    update: int
    accuracy: float
    probability: float

    def is_better_than(self, other: "Validation") -> bool:
        """Whether more images are recognised, or as many with more probability."""
        return (self.accuracy, self.probability) > (other.accuracy, other.probability)


@dataclass(frozen=True)
class TrainedToken:
    """What training one class gave: the best vector (n, d) and how it came about.

    `best` is the validation that chose the vector; the certificate compares it with the plain prompt on fresh noise.
    A class without a usable token has none. `plain` is the validation of the plain prompt, if there was one.
    """

    info: ClassInfo
    vector: torch.Tensor
    usable: bool
    reason: StopReason
    updates: int
    attempts: int
    evaluations: int
    best: Validation | None
    certificate: Certificate | None
    history: tuple[Step, ...]
    validations: tuple[Validation, ...]
    plain: Validation | None = None


@dataclass
class Attempt:
    """One attempt at a class, from one start; `downhill` (n, D) is minus the sum of its normalised gradients."""

    number: int
    downhill: torch.Tensor
    updates: int = 0
    best_probability: float | None = None
    validations_without_progress: int = 0

    def record_probability(self, probability: float) -> None:
        """Count validations without progress."""
        if self.best_probability is None or probability > self.best_probability + _PROGRESS:
            self.best_probability = probability
            self.validations_without_progress = 0
        else:
            self.validations_without_progress += 1


@dataclass
class ClassTokenState:
    """The training state of one class; all that is random comes from its own generator.

    The vector (n, D) is float32. Its step is relative to the words of the model: the gradient is scaled
    to norm 1 after backward, and an Adam step has the length `learning_rate` x the mean word norm. With
    several text encoders, each one's part steps and is limited relative to its own words.

    `finished` are clean latents (B, C, h, w) that have `times_used` so many updates. `plain` is the validation of the
    plain prompt, which comes before the first update if `plain_first` is set.
    """

    info: ClassInfo
    target: int
    initial: torch.Tensor
    word_norms: tuple[WordNorms, ...]
    config: TokensConfig
    history: list[Step] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    evaluations: int = 0
    updates: int = 0
    reason: StopReason | None = None
    finished: torch.Tensor | None = None
    plain: Validation | None = None
    photos: PhotoLatents | None = None
    times_used: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(seed_from("token", self.config.seed, self.info.slug))
        self.validation_seeds = self.new_seeds(self.config.validation_images)
        self.best: Validation | None = None
        self.best_vector = self.initial.clone()
        self._begin_attempt(0, self.initial)

    def restart(self, start: torch.Tensor) -> None:
        """Begin another attempt at `start` (n, d); the best state of earlier attempts is kept."""
        self._begin_attempt(self.attempt.number + 1, start)

    def _begin_attempt(self, number: int, start: torch.Tensor) -> None:
        self.attempt = Attempt(number, torch.zeros_like(self.initial))
        self.needs_restart = False
        self.finished, self.times_used = None, 0
        self.token = TokenVector(start, self.word_norms)
        groups = [
            {"params": [part], "lr": self._rate(words)}
            for part, words in zip(self.token.parts, self.word_norms, strict=True)
        ]
        self._optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def new_seeds(self, count: int) -> list[int]:
        """Return seeds of fresh initial latents."""
        return new_seeds(self.generator, count)

    def random_position(self) -> float:
        """Return where in the trajectory this update looks ahead, in [0, 1); the range changes at a restart."""
        # Every method takes this number from the stream, so that all see the same noise.
        ranges = getattr(self.config.method, "positions", DEFAULT_POSITIONS)
        low, high = ranges[self.attempt.number % len(ranges)]
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def update(self, loss: float, pull: torch.Tensor | None = None) -> None:
        """Take one step along the gradient that `backward` left, or stop if anything is not finite.

        `pull` (n, D) is the gradient of another loss; its norm becomes `photo_weight` of that gradient's.
        """
        gradient = self.token.gradient
        if gradient is None or not math.isfinite(loss) or not bool(gradient.isfinite().all()):
            self.reason = StopReason.NON_FINITE
            return
        if pull is not None and not bool(pull.isfinite().all()):
            self.reason = StopReason.NON_FINITE
            return
        norm = _norm(gradient)
        self.attempt.downhill -= gradient / norm
        self._step(norm, self.config.photo_weight * pull / _norm(pull) if pull is not None else None)
        self.updates += 1
        self.attempt.updates += 1
        self.history.append(Step(self.updates, loss, self.token.largest_norm()))

    @torch.no_grad()
    def _step(self, norm: torch.Tensor, pull: torch.Tensor | None = None) -> None:
        """Take an Adam step along the gradient of this norm and a pull, and limit the length of the vectors."""
        pairs = list(zip(self.token.parts, self.word_norms, strict=True))
        pulls = pull.split([words.width for words in self.word_norms], 1) if pull is not None else [None] * len(pairs)
        for (part, words), pull_of_part in zip(pairs, pulls, strict=True):
            part.grad = _steered(part, norm, words, self.config.norm_prior)
            if pull_of_part is not None:
                part.grad += pull_of_part
        self._schedule()
        self._optimizer.step()
        self.zero_grad()
        for part, words in pairs:
            limit = self.config.max_norm * words.largest_norm
            part.mul_((limit / part.norm(dim=1, keepdim=True)).clamp(max=1.0))

    def store_finished(self, finished: torch.Tensor | None) -> None:
        """Remember the finished latents that an update used, for as many updates as they may serve."""
        self.times_used += 1
        self.finished = finished
        method = self.config.method
        if finished is None or not isinstance(method, DirectAlignConfig) or self.times_used >= method.updates_per_image:
            self.finished, self.times_used = None, 0

    @property
    def first_prompt(self) -> int:
        """The number of the next update's first prompt; finished latents keep theirs."""
        return (self.updates - self.times_used) * self.config.images_per_update

    @property
    def vector(self) -> torch.Tensor:
        """The class token as it is now, (n, D), differentiable."""
        return self.token.value

    @property
    def gradient(self) -> torch.Tensor | None:
        """The gradient (n, D) that `backward` left; None if there is none."""
        return self.token.gradient

    def zero_grad(self) -> None:
        """Drop gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def downhill_words(self, words: torch.Tensor, count: int) -> torch.Tensor:
        """Rows of `words` (V, d) that lie furthest downhill of this attempt, at most `count`; (k,) indices.

        First order, as in HotFlip (arXiv 1712.06751): the gradients of the attempt say which words would
        have lowered the loss most.
        """
        return (words @ self.attempt.downhill.sum(0)).topk(min(count, len(words))).indices

    @property
    def needs_validation(self) -> bool:
        """Whether it is time to generate validation images."""
        return self.attempt.updates % self.config.validate_every == 0 or self._updates_are_used_up

    @property
    def _updates_are_used_up(self) -> bool:
        return self.attempt.updates >= self.config.max_updates

    @property
    def needs_plain_validation(self) -> bool:
        """Whether it is still to be seen what the plain prompt does."""
        return self.config.plain_first and self.plain is None

    def record_plain_validation(self, accuracy: float, probability: float) -> None:
        """Take into account what the plain prompt does on validation noise; a class where that is enough stops."""
        self.plain = Validation(0, accuracy, probability)
        if self._reaches_the_target(self.plain):
            self.reason = StopReason.PLAIN_IS_ENOUGH

    def record_validation(self, accuracy: float, probability: float) -> None:
        """Take a validation into account: keep the best state; stop, ask for a restart, or go on."""
        validation = Validation(self.updates, accuracy, probability)
        self.validations.append(validation)
        if self.best is None or validation.is_better_than(self.best):
            self.best, self.best_vector = validation, self.vector.detach().clone()
        self.attempt.record_probability(probability)
        if self._reaches_the_target(validation):
            self.reason = StopReason.TARGET
        elif self._attempt_is_over(validation):
            if self._may_restart and self.best.accuracy < self.config.restart_below_accuracy:
                self.needs_restart = True
            else:
                self.reason = StopReason.UPDATES if self._updates_are_used_up else StopReason.PATIENCE

    def _reaches_the_target(self, validation: Validation) -> bool:
        accurate = validation.accuracy >= self.config.target_accuracy
        return accurate and validation.probability >= self.config.target_probability

    def _attempt_is_over(self, validation: Validation) -> bool:
        """Whether updates or patience are used up, or another start is the only hope."""
        if self._updates_are_used_up or self.attempt.validations_without_progress >= self.config.patience:
            return True
        return self._may_restart and validation.probability < self.config.give_up_below

    @property
    def _may_restart(self) -> bool:
        return self.attempt.number < self.config.restarts

    @property
    def usable(self) -> bool:
        """Whether there is a token at all; its certificate says whether it is worth using."""
        return self.reason not in (StopReason.NON_FINITE, StopReason.PLAIN_IS_ENOUGH)

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on exactly here: tensors and plain values."""
        return {
            "slug": self.info.slug,
            "generator": self.generator.get_state(),
            "vector": self.vector.detach().clone(),
            "best_vector": self.best_vector,
            "downhill": self.attempt.downhill.clone(),
            "optimizer": deepcopy(self._optimizer.state_dict()),  # it goes on with its tensors in place
            "history": [astuple(step) for step in self.history],
            "validations": [astuple(validation) for validation in self.validations],
            "best": astuple(self.best) if self.best else None,
            "plain": astuple(self.plain) if self.plain else None,
            "finished": self.finished,
            "counters": {
                "evaluations": self.evaluations,
                "updates": self.updates,
                "attempt": self.attempt.number,
                "times_used": self.times_used,
                "_tries": self.attempt.updates,
                "_stale": self.attempt.validations_without_progress,
                "_attempt_best": self.attempt.best_probability,
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of this class."""
        self.generator.set_state(state["generator"])
        self.best_vector = state["best_vector"]
        self.token.set(state["vector"])
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.history = [Step(*values) for values in state["history"]]
        self.validations = [Validation(*values) for values in state["validations"]]
        self.best = Validation(*state["best"]) if state["best"] else None
        self.plain = Validation(*state["plain"]) if state["plain"] else None
        self.finished = state["finished"]
        counters = state["counters"]
        self.evaluations, self.updates = counters["evaluations"], counters["updates"]
        self.times_used = counters["times_used"]
        self.attempt = Attempt(
            counters["attempt"],
            state["downhill"].clone(),
            updates=counters["_tries"],
            best_probability=counters["_attempt_best"],
            validations_without_progress=counters["_stale"],
        )

    def _rate(self, words: WordNorms) -> float:
        """The Adam step, of every dimension, with which a step of all is `learning_rate` mean word norms long."""
        return self.config.learning_rate * words.mean_norm / math.sqrt(words.width)

    def _schedule(self) -> None:
        """Set the learning rate of the next step."""
        if self.config.schedule == "constant":
            return
        share = 0.5 * (1 + math.cos(math.pi * self.attempt.updates / self.config.max_updates))
        for group, words in zip(self._optimizer.param_groups, self.word_norms, strict=True):
            group["lr"] = share * self._rate(words)


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    """The norm of a gradient, never 0."""
    return gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)


def _steered(part: torch.Tensor, norm: torch.Tensor, words: WordNorms, prior: float) -> torch.Tensor:
    """The gradient of a part (n, d), of norm 1 over all parts, and the pull of the prior on its norm."""
    assert part.grad is not None
    gradient = part.grad / norm
    if prior:
        length = part.norm(dim=1, keepdim=True)
        gradient += prior * (length / words.mean_norm - 1) * part / length
    return gradient
