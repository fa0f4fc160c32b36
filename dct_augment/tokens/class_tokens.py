"""Trains class tokens: one small vector per class, by the gradient of a frozen classifier.

Discriminative Class Tokens (arXiv 2303.17155), section 3. Many classes share one batch; each keeps
its own loss, optimiser and random stream, so the number of slots changes speed, and results by rounding only.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional

from dct_augment.classifiers import Classifier
from dct_augment.config import PromptsConfig, SamplingConfig, TokensConfig
from dct_augment.diffusion import Backend, Conditioning, ShrinkingBatches, advance
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.gradients import ClassBatch, Guidance, method
from dct_augment.tokens.state import ClassTokenState, TrainedToken, WordNorms
from dct_augment.tokens.trainer import MARK, Trainer

_SCREENS = ((1, 2, 1.0), (3, 4, 0.125))  # images, steps, share of the words: enough to tell a bird from a machine


class ClassTokenTrainer(Trainer[ClassTokenState]):
    """Trains class tokens on one back-end under one guide; `starts` (n, D) by slug are where known tokens begin.

    Args:
        backend: the frozen text-to-image model.
        guide: the frozen classifier whose gradient trains the tokens.
        judge: another classifier, which only measures.
        settings: `config.tokens`.
        sampling: `config.sampling`, as in generation.
        prompting: `config.prompts`, as in generation.
        starts: vectors (n, D) to begin from, by class slug.

    Examples:
        >>> import dct_augment
        >>> small = ["tokens.max_updates=2", "tokens.restarts=0", "tokens.certificate_images=2"]
        >>> config = dct_augment.load_config("pocket", small)
        >>> trainer = dct_augment.ClassTokenTrainer(
        ...     dct_augment.load_text_to_image("pocket"),
        ...     dct_augment.load_classifier("pocket/birds-guide"),
        ...     settings=config.tokens,
        ...     sampling=config.sampling,
        ...     prompting=config.prompts,
        ... )
        >>> classes = dct_augment.load_dataset("pocket").classes[:1]
        >>> [(trained.updates, trained.vector.shape) for trained in trainer.train(classes)]
        [(2, torch.Size([1, 128]))]
    """

    def __init__(
        self,
        backend: Backend,
        guide: Classifier,
        *,
        judge: Classifier | None = None,
        settings: TokensConfig,
        sampling: SamplingConfig,
        prompting: PromptsConfig,
        starts: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(
            backend, guide, judge, tokens=settings, sampling=sampling, prompting=prompting, updates=settings.max_updates
        )
        self._guidance = Guidance(self._unconditional, sampling.guidance_scale)
        self._method = method(settings.method)
        self._starts = dict(starts or {})
        norms = zip(backend.blocks, backend.word_norms(), strict=True)
        self._ranges = tuple(WordNorms(width, *both) for (_, width), both in norms)

    def _learner(self, info: ClassInfo) -> ClassTokenState:
        (target,) = self._guide.targets([info])
        return ClassTokenState(info, target, self._starts.get(info.slug, self._initial), self._ranges, self._tokens)

    def _advance(self, active: Sequence[ClassTokenState]) -> None:
        """See `Trainer`."""
        self._update(active)
        self._validate([one for one in active if one.reason is None and one.needs_validation])
        for learner in active:
            if learner.needs_restart:
                learner.restart(self._screen(learner))

    @torch.no_grad()
    def _finish(self, one: ClassTokenState) -> TrainedToken:
        """See `Trainer`: the best vector, certified."""
        certificate, _ = self._certify(one, one.best_vector)
        one.set_certificate(certificate)
        return TrainedToken(
            info=one.info,
            vector=one.best_vector,
            usable=one.usable,
            reason=one.reason or StopReason.UPDATES,
            updates=one.updates,
            attempts=one.attempt + 1,
            evaluations=one.evaluations,
            best=one.best,
            certificate=certificate,
            history=tuple(one.history),
            validations=tuple(one.validations),
        )

    def _update(self, batch: Sequence[ClassTokenState]) -> None:
        """One update of every learner, as many at once as memory holds."""
        count = self._tokens.images_per_update
        drawn = [(one, one.draw_seeds(count), one.draw_place()) for one in batch]
        for _ in self._batches.run(drawn, self._update_together):
            pass

    def _update_together(self, drawn: Sequence[tuple[ClassTokenState, list[int], float]]) -> None:
        learners = [one for one, _, _ in drawn]
        for learner in learners:
            learner.zero_grad()
        with self._precision():
            draws = [self._draw_of(*one) for one in drawn]
            reached = self._method(self._backend, draws, self._guidance)
            images = self._backend.decode(reached.latents, for_gradient=True)
        losses = self._losses(images, learners)
        (losses.sum() * self._loss_scale).backward()
        for learner, draw, loss, cost in zip(learners, draws, losses.tolist(), reached.costs, strict=True):
            learner.evaluations += cost
            learner.update(loss)
            learner.store_finished(draw.finished)

    def _draw_of(self, learner: ClassTokenState, seeds: Sequence[int], place: float) -> ClassBatch:
        encoding = self._encode(learner.info, learner.vector, learner.first_prompt, len(seeds))
        return ClassBatch(self._begin(seeds, encoding), place, learner.finished)

    def _losses(self, images: torch.Tensor, learners: Sequence[ClassTokenState]) -> torch.Tensor:
        """Mean cross-entropy of each class over its own images; they are side by side, as many for each class."""
        logits = self._guide.logits(images)
        count = len(images) // len(learners)
        truth = torch.tensor([one.target for one in learners], device=logits.device).repeat_interleave(count)
        return functional.cross_entropy(logits.float(), truth, reduction="none").view(-1, count).mean(1)

    def _precision(self) -> AbstractContextManager[Any]:
        kind = self._autocast
        return torch.autocast(torch.device(self._backend.device).type, kind) if kind else nullcontext()

    @property
    def _loss_scale(self) -> float:
        """Keeps gradients in the range of float16; they are scaled to norm 1 afterwards in any case."""
        return 1024.0 if torch.float16 in (self._backend.dtype, self._autocast) else 1.0

    @property
    def _autocast(self) -> torch.dtype | None:
        return getattr(torch, self._tokens.autocast) if self._tokens.autocast else None

    @torch.no_grad()
    def _validate(self, batch: Sequence[ClassTokenState]) -> None:
        if not batch:
            return
        count = self._tokens.validation_images
        conditioning = [self._encode(one.info, one.vector, 0, count) for one in batch]
        for learner, images in zip(batch, self._draw(batch, conditioning), strict=True):
            learner.judge(*self._look(images, learner))

    @torch.no_grad()
    def _screen(self, learner: ClassTokenState) -> torch.Tensor:
        """Where a restart begins: the word, of those downhill, whose quick drawings the guide likes best; (n, d).

        A word that means something else (a crane is a machine) holds the token in a basin that small
        steps do not leave; another word's embedding is a step across.
        """
        if not self._tokens.restart_words:
            return self._initial
        words = self._backend.words()
        words = words[learner.downhill_words(words, self._tokens.restart_words)]
        for images, steps, share in _SCREENS:
            words = words[: max(round(share * self._tokens.restart_words), 1)]
            words = words[self._first_looks(learner, words, images, steps).argsort(descending=True)]
        return words[:1].repeat(self._tokens.vectors, 1)

    def _first_looks(self, learner: ClassTokenState, words: torch.Tensor, images: int, steps: int) -> torch.Tensor:
        """How much the guide likes quick drawings with each word (W, D) as the token: log-probabilities (W,)."""
        seeds = learner.draw_seeds(images)
        batches = ShrinkingBatches(
            self._tokens.classes_per_batch * self._tokens.validation_images // images or 1, "words"
        )
        looks = batches.run(list(words), lambda some: self._glance(learner, torch.stack(list(some)), seeds, steps))
        return torch.cat([chances for _, chances in looks])

    def _glance(self, learner: ClassTokenState, words: torch.Tensor, seeds: list[int], steps: int) -> torch.Tensor:
        lines = self._prompts(learner.info, MARK, 0, len(seeds)) * len(words)
        vectors = words.repeat_interleave(len(seeds), 0)[:, None].expand(-1, self._tokens.vectors, -1)
        steps = min(steps, self._sampling.num_inference_steps)
        trajectory = self._begin(seeds * len(words), self._backend.encode(lines, vectors), steps)
        spent = advance(
            self._backend, [trajectory], [trajectory.length], self._guidance.unconditional, self._guidance.scale
        )
        learner.evaluations += spent[0]
        chances = self._guide.logits(self._backend.decode(trajectory.latents)).float().log_softmax(1)[:, learner.target]
        return chances.view(len(words), len(seeds)).mean(1)

    def _draw(self, batch: Sequence[ClassTokenState], conditioning: Sequence[Conditioning]) -> list[torch.Tensor]:
        """Validation images of each learner, (validation_images, 3, H, W)."""
        pairs = list(zip(batch, conditioning, strict=True))
        return [images for _, some in self._batches.run(pairs, self._draw_together) for images in some]

    def _draw_together(self, pairs: Sequence[tuple[ClassTokenState, Conditioning]]) -> list[torch.Tensor]:
        trajectories = [self._begin(one.validation_seeds, part) for one, part in pairs]
        stops = [trajectory.length for trajectory in trajectories]
        costs = advance(self._backend, trajectories, stops, self._guidance.unconditional, self._guidance.scale)
        images = [self._backend.decode(trajectory.latents).clamp(-1, 1) for trajectory in trajectories]
        for (learner, _), cost in zip(pairs, costs, strict=True):
            learner.evaluations += cost
        return images

    def _look(self, images: torch.Tensor, learner: ClassTokenState) -> tuple[float, float]:
        """Accuracy and mean probability of the class, by the guide."""
        chances = self._guide.logits(images).softmax(1)
        right = (chances.argmax(1) == learner.target).float().mean().item()
        return right, chances[:, learner.target].mean().item()
