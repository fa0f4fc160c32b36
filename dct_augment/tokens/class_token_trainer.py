"""Trains class tokens: one small vector per class, by the gradient of a frozen classifier.

Discriminative Class Tokens (arXiv 2303.17155), section 3. Many classes share one batch; each keeps
its own loss, optimiser and random stream, so the number of slots changes speed, and results by rounding only.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from dct_augment.classifiers import Classifier
from dct_augment.config import PromptsConfig, TokensConfig
from dct_augment.diffusion import Conditioning, Sampler, ShrinkingBatches
from dct_augment.diffusion.image_memory import fit_batches
from dct_augment.errors import InputError
from dct_augment.prompts import PLACEHOLDER
from dct_augment.records import ClassInfo, StopReason
from dct_augment.tokens.denoising import NoisedBatch, PhotoLatents, denoising_gradients
from dct_augment.tokens.gradients import ClassBatch, gradient_method
from dct_augment.tokens.state import ClassTokenState, TrainedToken
from dct_augment.tokens.trainer import ImageRequest, Trainer
from dct_augment.tokens.vector import Gathered, ImageOf, by_class, images_of


@dataclass(frozen=True)
class _WordScreen:
    """One pass over candidate words: images per word, steps per image, and the share of the words that takes part."""

    images: int
    steps: int
    share: float


_WORD_SCREENS = (_WordScreen(1, 2, 1.0), _WordScreen(3, 4, 0.125))  # enough to tell a bird from a machine


@dataclass(frozen=True)
class Update:
    """What one class needs for an update: seeds of its images, and a position in [0, 1) of the trajectory.

    `photos` are there if the token is pulled towards the photos of its class. `gathered` and `finished`, the clean
    latents (B, C, h, w) that a method leaves, grow batch by batch.
    """

    state: ClassTokenState
    seeds: list[int]
    position: float
    photos: NoisedBatch | None = None
    gathered: Gathered = field(default_factory=Gathered)
    finished: list[torch.Tensor] = field(default_factory=list)

    def add(self, result: "_Result") -> None:
        """Take in what some of the images gave."""
        self.state.evaluations += result.evaluations
        self.gathered.add(result.loss, result.gradients)
        if result.finished is not None:
            self.finished.append(result.finished)


@dataclass(frozen=True)
class _Result:
    """What some images of an update gave: their share of its loss and of its gradient by the parts of the token."""

    update: Update
    loss: torch.Tensor
    gradients: Sequence[torch.Tensor | None]
    evaluations: int
    finished: torch.Tensor | None


class ClassTokenTrainer(Trainer[ClassTokenState]):
    """Trains class tokens with one sampler under one guide.

    Args:
        sampler: the frozen text-to-image model, with steps and guidance as in generation.
        guide: the frozen classifier whose gradient trains the tokens.
        judge: another classifier, which only measures.
        tokens_config: `config.tokens`.
        prompts_config: `config.prompts`, as in generation.
        starts: vectors (n, D) to begin from, by class slug.
        photos: the training photos of each class, by slug; needed with a `photo_weight`.
        rivals: classes that images of a class may be taken for; the certificate names the first of them.

    Examples:
        >>> import dct_augment
        >>> from dct_augment.diffusion import Sampler
        >>> small = ["tokens.max_updates=2", "tokens.restarts=0", "tokens.certificate_images=2"]
        >>> config = dct_augment.load_config("pocket", small)
        >>> model = dct_augment.load_text_to_image("pocket")
        >>> trainer = dct_augment.ClassTokenTrainer(
        ...     Sampler.from_config(model, config.sampling, negative_prompt=config.prompts.negatives[0]),
        ...     dct_augment.load_classifier("pocket/birds-guide"),
        ...     tokens_config=config.tokens,
        ...     prompts_config=config.prompts,
        ... )
        >>> classes = dct_augment.load_dataset("pocket").classes[:1]
        >>> [(trained.updates, trained.vector.shape) for trained in trainer.train(classes)]
        [(2, torch.Size([1, 128]))]
    """

    def __init__(
        self,
        sampler: Sampler,
        guide: Classifier,
        *,
        judge: Classifier | None = None,
        tokens_config: TokensConfig,
        prompts_config: PromptsConfig,
        starts: Mapping[str, torch.Tensor] | None = None,
        photos: Mapping[str, Sequence[Image.Image]] | None = None,
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
            updates=tokens_config.max_updates,
            images=tokens_config.images_per_update,
        )
        self._gradient_method = gradient_method(tokens_config.method)
        self._photos = dict(photos or {}) if tokens_config.photo_weight else {}
        photos_at_once = tokens_config.classes_per_batch * tokens_config.photos_per_update
        sizes = self._backend.batch_sizes
        self._photo_batches = ShrinkingBatches(photos_at_once, "photo", sizes=sizes, purpose="inversion")

    def _new_state(self, info: ClassInfo) -> ClassTokenState:
        (target,) = self._guide.targets([info])
        state = ClassTokenState(info, target, self._initial(info), self._word_norms, self._tokens_config)
        if self._tokens_config.photo_weight:
            state.photos = PhotoLatents.encode(self._backend, self._photos[info.slug])
        return state

    def _check(self, classes: Sequence[ClassInfo]) -> None:
        """See `Trainer`.

        Raises:
            InputError: tokens are pulled towards photos, and a class has none.
        """
        without = [info.name for info in classes if not self._photos.get(info.slug)]
        if self._tokens_config.photo_weight and without:
            raise InputError(
                f"tokens.photo_weight {self._tokens_config.photo_weight:g} needs training photos of every class; there "
                f"is none of: {', '.join(without)}. Add some, or set tokens.photo_weight=0"
            )
        super()._check(classes)

    def _fit_batches(self) -> None:
        """See `Trainer`."""
        passes = self._gradient_method.waiting_passes
        fit_batches(self._sampler, self._guide.logits, passes=passes, autocast=self._autocast)

    def _train_round(self, states: Sequence[ClassTokenState]) -> None:
        """See `Trainer`; a class whose plain prompt is enough is not trained."""
        self._validate_plain([state for state in states if state.needs_plain_validation])
        states = [state for state in states if state.reason is None]
        self._update(states)
        self._validate([state for state in states if state.reason is None and state.needs_validation])
        for state in states:
            if state.needs_restart:
                state.restart(self._new_start(state))

    @torch.no_grad()
    def _finish(self, state: ClassTokenState) -> TrainedToken:
        """See `Trainer`: the best vector, certified if it is usable."""
        certificate = self._certify(state, state.best_vector)[0] if state.usable else None
        return TrainedToken(
            info=state.info,
            vector=state.best_vector,
            usable=state.usable,
            reason=state.reason or StopReason.UPDATES,
            updates=state.updates,
            attempts=state.attempt.number + 1 if state.updates else 0,
            evaluations=state.evaluations,
            best=state.best,
            certificate=certificate,
            history=tuple(state.history),
            validations=tuple(state.validations),
            plain=state.plain,
        )

    def _update(self, states: Sequence[ClassTokenState]) -> None:
        """Do one update of every class, with as many images at once as memory holds, whatever classes they are of."""
        count = self._tokens_config.images_per_update
        updates = [
            Update(state, state.new_seeds(count), state.random_position(), self._noised_photos(state))
            for state in states
        ]

        def of_some(images: Sequence[ImageOf]) -> list[_Result]:
            return self._gradients([(updates[place], rows) for place, rows in by_class(images)])

        for _, results in self._batches.run(images_of([count] * len(updates)), of_some):
            for result in results:
                result.update.add(result)
        for update, pull in zip(updates, self._pulls(updates), strict=True):
            state, gathered = update.state, update.gathered
            state.token.take(gathered.gradients)
            state.update(gathered.loss, pull)
            state.store_finished(torch.cat(update.finished) if update.finished else None)

    def _gradients(self, chosen: Sequence[tuple[Update, Sequence[int]]]) -> list[_Result]:
        """Denoise some images of some updates in one batch; the loss of each update on them, and its gradient."""
        with self._precision():
            batches = [self._class_batch(update, rows) for update, rows in chosen]
            denoised = self._gradient_method(self._sampler, batches)
        latents = denoised.latents
        copies = len(latents) // sum(len(rows) for _, rows in chosen)
        counts = [copies * len(rows) for _, rows in chosen]
        targets = [update.state.target for (update, _), count in zip(chosen, counts, strict=True) for _ in range(count)]
        share = 1 / (copies * self._tokens_config.images_per_update)
        losses, gradient = self._losses(latents, torch.tensor(targets, device=latents.device), share)
        tokens = [update.state.token for update, _ in chosen]
        leaves = [part for token in tokens for part in token.parts]
        of_leaves = iter(torch.autograd.grad(latents, leaves, gradient, allow_unused=True))
        return [
            _Result(update, loss.sum(), [next(of_leaves) for _ in token.parts], evaluations, batch.finished)
            for (update, _), token, loss, evaluations, batch in zip(
                chosen, tokens, losses.split(counts), denoised.evaluations, batches, strict=True
            )
        ]

    def _noised_photos(self, state: ClassTokenState) -> NoisedBatch | None:
        """Choose the photos of an update, and their noise; None without a `photo_weight`."""
        if state.photos is None:
            return None
        count, templates = self._tokens_config.photos_per_update, self._prompts_config.templates
        steps = self._backend.training_steps
        return state.photos.noised(state.generator, count, steps, templates, state.info.name)

    def _pulls(self, updates: Sequence[Update]) -> Sequence[torch.Tensor | None]:
        """Compute for each class the gradient (n, D) of the denoising loss on its photos; None without any."""
        wanted = [(update.photos, update.state.token) for update in updates if update.photos is not None]
        if not wanted:
            return [None] * len(updates)
        with self._precision():
            gathered = denoising_gradients(self._sampler, wanted, self._photo_batches, scale=self._loss_scale)
        for update, (photos, _) in zip(updates, wanted, strict=True):
            update.state.evaluations += 3 * len(photos)
        return [torch.cat([part for part in of_class.gradients if part is not None], 1) for of_class in gathered]

    def _class_batch(self, update: Update, rows: Sequence[int]) -> ClassBatch:
        """Encode the prompts of some images of an update, and begin at the noise of their seeds."""
        state, seeds = update.state, [update.seeds[row] for row in rows]
        conditioning = self._encode(state.info, state.vector, first=state.first_prompt + rows[0], count=len(rows))
        finished = None if state.finished is None else state.finished[list(rows)]
        return ClassBatch(self._sampler.begin(seeds, conditioning), update.position, finished)

    def _losses(self, latents: torch.Tensor, targets: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `share` of the cross-entropy (B,) of each image, and the gradient of the sum by the latents.

        Latents (B, C, h, w) have targets (B,). A few are decoded at a time, each with its own backward pass: at the
        size of Stable Diffusion the decoder's activations of one image are larger than the denoiser's. The gradient
        is scaled, see `_loss_scale`.
        """

        def of_some(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            few = latents.detach()[list(rows)].requires_grad_()
            with self._precision():
                images = self._backend.decode(few, for_gradient=True)
            logits = self._guide.logits(images)
            losses = functional.cross_entropy(logits.float(), targets[list(rows)].to(logits.device), reduction="none")
            (gradient,) = torch.autograd.grad(losses.sum() * (self._loss_scale * share), few)
            return losses.detach() * share, gradient

        parts = [part for _, part in self._backend.decoding(gradient=True).run(range(len(latents)), of_some)]
        losses, gradients = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return losses, gradients

    def _precision(self) -> AbstractContextManager[Any]:
        """Return the autocast of updates, if one is configured."""
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(torch.device(self._backend.device).type, self._autocast)

    @property
    def _loss_scale(self) -> float:
        """Keeps gradients in the range of float16; they are scaled to norm 1 afterwards in any case."""
        return 1024.0 if torch.float16 in (self._backend.dtype, self._autocast) else 1.0

    @property
    def _autocast(self) -> torch.dtype | None:
        name = self._tokens_config.autocast
        return getattr(torch, name) if name else None

    @torch.no_grad()
    def _validate(self, states: Sequence[ClassTokenState]) -> None:
        """Let the guide recognise fresh images of each class, always from the same noise."""
        count = self._tokens_config.validation_images
        encoded = [self._encode(state.info, state.vector, first=0, count=count) for state in states]
        for state, images in self._generate(_of_validation(states, encoded)):
            state.record_validation(*self._recognised(images, state.target))

    @torch.no_grad()
    def _validate_plain(self, states: Sequence[ClassTokenState]) -> None:
        """Let the guide recognise images of each class with its plain prompt, from the noise of all validations."""
        count = self._tokens_config.validation_images
        encoded = [self._encode_plain(state.info, first=0, count=count) for state in states]
        for state, images in self._generate(_of_validation(states, encoded)):
            state.record_plain_validation(*self._recognised(images, state.target))

    def _recognised(self, images: torch.Tensor, target: int) -> tuple[float, float]:
        """Return the guide's accuracy on images of one class, and its mean probability of that class."""
        probabilities = self._guide.logits(images).softmax(1)
        accuracy = (probabilities.argmax(1) == target).float().mean().item()
        return accuracy, probabilities[:, target].mean().item()

    @torch.no_grad()
    def _new_start(self, state: ClassTokenState) -> torch.Tensor:
        """Choose where a restart begins: the word, of those downhill, whose quick images the guide likes best; (n, D).

        A word that means something else (a crane is a machine) holds the token in a basin that small
        steps do not leave; another word's embedding is a step across.
        """
        most = self._tokens_config.restart_words
        if not most:
            return self._start_word(state.info)
        words = self._backend.words()
        words = words[state.downhill_words(words, most)]
        for screen in _WORD_SCREENS:
            words = words[: max(round(screen.share * most), 1)]
            scores = self._score_words(state, words, screen)
            words = words[scores.argsort(descending=True)]
        return words[:1].repeat(self._tokens_config.vectors, 1)

    def _score_words(self, state: ClassTokenState, words: torch.Tensor, screen: _WordScreen) -> torch.Tensor:
        """Score words (W, D) as the token of quick images: the guide's mean log-probabilities (W,) of the class."""
        seeds = state.new_seeds(screen.images)
        steps = min(screen.steps, self._sampler.steps)

        def score(rows: Sequence[torch.Tensor]) -> torch.Tensor:
            return self._score_word_batch(state, torch.stack(list(rows)), seeds, steps)

        batches = self._image_batches("word", screen.images)
        return torch.cat([scores for _, scores in batches.run(list(words), score)])

    def _score_word_batch(
        self, state: ClassTokenState, words: torch.Tensor, seeds: list[int], steps: int
    ) -> torch.Tensor:
        """Score some words (W, D) in one batch: every word with every seed; (W,)."""
        lines = self._prompts(state.info, token=PLACEHOLDER, first=0, count=len(seeds)) * len(words)
        vectors = words.repeat_interleave(len(seeds), 0)[:, None].expand(-1, self._tokens_config.vectors, -1)
        encoded = self._with_negative(state.info, self._backend.encode(lines, vectors))
        trajectory = self._sampler.begin(seeds * len(words), encoded, steps)
        (evaluations,) = self._sampler.advance([trajectory])
        state.evaluations += evaluations
        logits = self._guide.logits(self._backend.decode(trajectory.latents)).float()
        return logits.log_softmax(1)[:, state.target].view(len(words), len(seeds)).mean(1)


def _of_validation(
    states: Sequence[ClassTokenState], encoded: Sequence[Conditioning]
) -> list[ImageRequest[ClassTokenState]]:
    """Ask for the validation images of some classes: always from the same noise."""
    pairs = zip(states, encoded, strict=True)
    return [ImageRequest(state, state.validation_seeds, conditioning) for state, conditioning in pairs]
