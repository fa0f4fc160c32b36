"""One class token while it is learned: its vector, optimiser, random stream, best state and fate."""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

import torch

from dct_augment.config import DEFAULT_POSITIONS, DirectAlignConfig, TokensConfig, seed_from
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.certificate import Certificate

_COUNTERS = ("evaluations", "updates", "attempt", "times_used", "_tries", "_stale", "_attempt_best")


@dataclass(frozen=True)
class Step:
    """One update as recorded in the history."""

    update: int
    loss: float
    norm: float


@dataclass(frozen=True)
class Validation:
    """One look at fresh images: share recognised, and mean probability of the class."""

    update: int
    accuracy: float
    probability: float


@dataclass(frozen=True)
class TrainedToken:
    """What training one class gave: the best vector (n, d) and how it came about.

    `best` is the validation that chose the vector; the certificate compares it with the plain prompt on fresh noise.
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


@dataclass(frozen=True)
class WordNorms:
    """The words of one text encoder: embedding width, mean and largest norm."""

    width: int
    mean_norm: float
    largest_norm: float


@dataclass
class ClassTokenState:
    """The training state of one class; all that is random comes from its own generator.

    The vector (n, D) is float32. Its step is relative to the words of the model: the gradient is scaled
    to norm 1 after backward, and an Adam step has the length `learning_rate` x the mean word norm. With
    several text encoders, each one's part steps and is limited relative to its own words.

    `finished` are clean latents (B, C, h, w) that have `times_used` so many updates.
    """

    info: ClassInfo
    target: int
    initial: torch.Tensor
    word_norms: tuple[WordNorms, ...]
    settings: TokensConfig
    history: list[Step] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    evaluations: int = 0
    updates: int = 0
    attempt: int = -1
    reason: StopReason | None = None
    certificate: Certificate | None = None
    finished: torch.Tensor | None = None
    times_used: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(seed_from("token", self.settings.seed, self.info.slug))
        seeds = torch.randint(2**62, (self.settings.validation_images,), generator=self.generator)
        self.validation_seeds: list[int] = seeds.tolist()
        self.best: Validation | None = None
        self.best_vector = self.initial.clone()
        self._attempt_best: float | None = None
        self._tries = self._stale = 0
        self.restart(self.initial)

    def draw_seeds(self, count: int) -> list[int]:
        """Seeds of fresh initial latents."""
        return torch.randint(2**62, (count,), generator=self.generator).tolist()

    def draw_place(self) -> float:
        """Where in the trajectory this update looks ahead, in [0, 1); the range changes at a restart."""
        # Every method takes this number from the stream, so that all see the same noise.
        positions = getattr(self.settings.method, "positions", DEFAULT_POSITIONS)
        low, high = positions[self.attempt % len(positions)]
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def update(self, loss: float) -> None:
        """Take one step along the gradient that `backward` left, or stop if anything is not finite."""
        gradients = [part.grad for part in self._parts if part.grad is not None]
        if not math.isfinite(loss) or not gradients or not all(bool(one.isfinite().all()) for one in gradients):
            self.reason = StopReason.NON_FINITE
            return
        whole = torch.cat(gradients, 1)
        norm = whole.norm().clamp(min=torch.finfo(whole.dtype).tiny)
        self._downhill -= whole / norm
        with torch.no_grad():
            for part, words in zip(self._parts, self.word_norms, strict=True):
                part.grad = _steered(part, norm, words, self.settings.norm_prior)
            self._schedule()
            self._optimizer.step()
            self.zero_grad()
            for part, words in zip(self._parts, self.word_norms, strict=True):
                limit = self.settings.max_norm * words.largest_norm
                part.mul_((limit / part.norm(dim=1, keepdim=True)).clamp(max=1.0))
        self.updates += 1
        self._tries += 1
        self.history.append(Step(self.updates, loss, self.vector.detach().norm(dim=1).max().item()))

    def store_finished(self, finished: torch.Tensor | None) -> None:
        """Remember the finished latents that an update used, for as many updates as they may serve."""
        self.times_used += 1
        self.finished = finished
        method = self.settings.method
        if finished is None or not isinstance(method, DirectAlignConfig) or self.times_used >= method.updates_per_image:
            self.finished, self.times_used = None, 0

    @property
    def first_prompt(self) -> int:
        """The number of the next update's first prompt; finished latents keep theirs."""
        return (self.updates - self.times_used) * self.settings.images_per_update

    @property
    def vector(self) -> torch.Tensor:
        """The class token as it is now, (n, D), differentiable."""
        return self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts, 1)

    def zero_grad(self) -> None:
        """Drop gradients, also those of an update that did not come to its end."""
        self._optimizer.zero_grad(set_to_none=True)

    def downhill_words(self, words: torch.Tensor, count: int) -> torch.Tensor:
        """Rows of `words` (V, d) that lie furthest downhill of this attempt, at most `count`; (k,) indices.

        First order, as in HotFlip (arXiv 1712.06751): the gradients of the attempt say which words would
        have lowered the loss most.
        """
        return (words @ self._downhill.sum(0)).topk(min(count, len(words))).indices

    @property
    def needs_validation(self) -> bool:
        """Whether it is time to look at validation images."""
        return self._tries % self.settings.validate_every == 0 or self._tries >= self.settings.max_updates

    def judge(self, accuracy: float, probability: float) -> None:
        """Take a validation into account: keep the best state; stop, restart or go on."""
        seen = Validation(self.updates, accuracy, probability)
        self.validations.append(seen)
        if self.best is None or (seen.accuracy, seen.probability) > (self.best.accuracy, self.best.probability):
            self.best, self.best_vector = seen, self.vector.detach().clone()
        if self._attempt_best is None or seen.probability > self._attempt_best + 0.01:
            self._attempt_best, self._stale = seen.probability, 0
        else:
            self._stale += 1
        exhausted = self._tries >= self.settings.max_updates
        hopeless = seen.probability < self.settings.give_up_below and self.attempt < self.settings.restarts
        if seen.accuracy >= self.settings.target_accuracy and seen.probability >= self.settings.target_probability:
            self.reason = StopReason.TARGET
        elif exhausted or hopeless or self._stale >= self.settings.patience:
            if self.best.accuracy < self.settings.restart_below_accuracy and self.attempt < self.settings.restarts:
                self.needs_restart = True
            else:
                self.reason = StopReason.UPDATES if exhausted else StopReason.PATIENCE

    def set_certificate(self, certificate: Certificate) -> None:
        """Take the certificate of the best state; a token that changes less than one grey level has no effect."""
        self.certificate = certificate
        if self.reason is not StopReason.NON_FINITE and (self.best is None or certificate.effect < 1.0):
            self.reason = StopReason.NO_EFFECT

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on exactly here: tensors and plain values."""
        return {
            "slug": self.info.slug,
            "generator": self.generator.get_state(),
            "vector": self.vector.detach().clone(),
            "best_vector": self.best_vector,
            "downhill": self._downhill,
            "optimizer": self._optimizer.state_dict(),
            "history": [astuple(step) for step in self.history],
            "validations": [astuple(seen) for seen in self.validations],
            "best": astuple(self.best) if self.best else None,
            "finished": self.finished,
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of this class."""
        self.generator.set_state(state["generator"])
        self.best_vector, self._downhill = state["best_vector"], state["downhill"]
        with torch.no_grad():
            for part, saved in zip(self._parts, self._split(state["vector"]), strict=True):
                part.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self.history = [Step(*values) for values in state["history"]]
        self.validations = [Validation(*values) for values in state["validations"]]
        self.best = Validation(*state["best"]) if state["best"] else None
        self.finished = state["finished"]
        for name, value in state["counters"].items():
            setattr(self, name, value)

    @property
    def usable(self) -> bool:
        """Whether there is a token at all; its certificate says whether it is worth using."""
        return self.reason not in (StopReason.NON_FINITE, StopReason.NO_EFFECT)

    def restart(self, start: torch.Tensor) -> None:
        """Begin another attempt at `start` (n, d); the best state of earlier attempts is kept."""
        self.attempt += 1
        self.needs_restart = False
        self._downhill = torch.zeros_like(self.initial)
        self._tries, self._stale = 0, 0
        self._attempt_best = None
        self.finished, self.times_used = None, 0
        self._parts = [part.clone().requires_grad_(True) for part in self._split(start)]
        groups = [
            {"params": [part], "lr": self._rate(words)}
            for part, words in zip(self._parts, self.word_norms, strict=True)
        ]
        self._optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def _rate(self, words: WordNorms) -> float:
        """The Adam step, of every dimension, with which a whole step is `learning_rate` mean word norms long."""
        return self.settings.learning_rate * words.mean_norm / math.sqrt(words.width)

    def _schedule(self) -> None:
        if self.settings.schedule == "constant":
            return
        share = 0.5 * (1 + math.cos(math.pi * self._tries / self.settings.max_updates))
        for group, words in zip(self._optimizer.param_groups, self.word_norms, strict=True):
            group["lr"] = share * self._rate(words)

    def _split(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The part of a vector (n, D) that belongs to each text encoder."""
        return vector.split([words.width for words in self.word_norms], 1)


def _steered(part: torch.Tensor, norm: torch.Tensor, words: WordNorms, prior: float) -> torch.Tensor:
    """The gradient of a part (n, d), of norm 1 over all parts, and the pull of the prior on its norm."""
    assert part.grad is not None
    gradient = part.grad / norm
    if prior:
        length = part.norm(dim=1, keepdim=True)
        gradient += prior * (length / words.mean_norm - 1) * part / length
    return gradient
