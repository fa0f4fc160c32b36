"""Class-token training: what is learned, what stops it, what is kept, and the file it ends in."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors import safe_open

from dct_augment import prompts
from dct_augment.classifiers import Preprocess, SingleClassifier
from dct_augment.config import PromptsConfig, SamplingConfig, TokensConfig
from dct_augment.diffusion import Sampler, WordNorms, split_by_encoder
from dct_augment.errors import DctAugmentError, InputError, ModelError, StaleRunError
from dct_augment.intervals import Estimate
from dct_augment.records import ClassInfo, Progress, StopReason, Verdict
from dct_augment.tokens.certificate import Certificate, Score, certify, diversity, score
from dct_augment.tokens.checkpoint import TrainingCheckpoint
from dct_augment.tokens.class_tokens import ClassTokenTrainer, TrainedToken
from dct_augment.tokens.files import TokenFolder
from dct_augment.tokens.state import ClassTokenState, Validation
from tests import tiny

BASE = {"path": "tiny", "revision": None, "family": "StableDiffusion", "blocks": [("", tiny.WIDTH)]}
CLOSE = 2e-4  # random weights magnify the last bits that another batch shape changes; a wrong seed changes 0.1
LABELS = ("stone", "crane", "kiwi", "red bird")
SCALE = 8.0
SAMPLING = SamplingConfig(num_inference_steps=3, guidance_scale=SCALE)
PROMPTS = PromptsConfig(templates=("a photo of a {token} {class}{context}", "a drawing of a {token} {class}{context}"))
QUICK = TokensConfig(
    images_per_update=2,
    max_updates=4,
    learning_rate=0.1,
    validate_every=2,
    validation_images=4,
    target_probability=1.0,
    restarts=0,
    restart_words=4,
    classes_per_batch=3,
)


def sampler(backend) -> Sampler:
    return Sampler.from_config(backend, SAMPLING, negative_prompt=PROMPTS.negative)


@cache
def looks() -> tuple[torch.Tensor, torch.Tensor]:
    """What a token can do for each class: the mean image (K, D) of the first vector, and a way (K, D) from there.

    The way is the change of the image for a step in some direction of the embedding space, and leads
    away from the image of the plain prompt.
    """
    backend, generator = tiny.backend("v_prediction"), torch.Generator().manual_seed(21)
    start = backend.word("a")[None]

    def mean_image(prompt, vector=None):
        encoding = backend.encode([prompt], None if vector is None else vector[None])
        seeds = list(range(40, 48))
        return sampler(backend).generate(seeds, encoding.expand(len(seeds))).flatten(1).mean(0)

    origins, ways = [], []
    for info in tiny.CLASSES:
        named, step = f"a photo of a <dct-x-y> {info.name}", torch.randn(1, tiny.WIDTH, generator=generator) / 8
        origins.append(mean_image(named, start))
        way = mean_image(named, start + step) - origins[-1]
        away = origins[-1] - mean_image(f"a photo of a {info.name}")
        ways.append((way if way @ away > 0 else -way) / way.square().sum())
    return torch.stack(origins), torch.stack(ways)


class Looks(torch.nn.Module):
    """A linear guide that a token can please: how far an image has gone on the way of each class."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.origins, self.ways = looks()

    def forward(self, pixels):
        images = pixels.flatten(1) * 2 - 1
        scores = self.gain * ((images[:, None] - self.origins) * self.ways).sum(2)
        return torch.cat([torch.zeros_like(scores[:, :1]), scores], 1)


class Hopeless(Looks):
    """Gives one label no chance at all: its loss is infinite, that of the others is not."""

    def forward(self, pixels):
        logits = super().forward(pixels).clone()
        logits[:, LABELS.index("kiwi")] = -torch.inf
        return logits


class NanOnce(Looks):
    """Gives NaN for the second class of the batch, in the third update only."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, pixels):
        logits = super().forward(pixels)
        if torch.is_grad_enabled():
            self.calls += 1
            if self.calls == 3:
                logits = logits.clone()
                logits[2:4] = torch.nan
        return logits


class Constant(torch.nn.Module):
    """Says the same of every picture."""

    def forward(self, pixels):
        return pixels.mean((1, 2, 3))[:, None] * 0 + torch.tensor([[3.0, 0.0, 0.0, 0.0]])


def guide(model: torch.nn.Module) -> SingleClassifier:
    return SingleClassifier(model, Preprocess.square(tiny.IMAGE, (0, 0, 0), (1, 1, 1)), LABELS)


def trainer(settings=QUICK, model=None, judge=None, backend=None) -> ClassTokenTrainer:
    return ClassTokenTrainer(
        sampler(backend or tiny.backend("v_prediction")),
        guide(model or Looks()),
        judge=judge,
        tokens_config=settings,
        prompts_config=PROMPTS,
    )


def train(classes=tiny.CLASSES, settings=QUICK, model=None, **more) -> dict[str, TrainedToken]:
    return {trained.info.slug: trained for trained in trainer(settings, model, **more).train(classes)}


def probability(settings: TokensConfig, info: ClassInfo, vector: torch.Tensor | None, seeds=None) -> float:
    """Mean chance of the class by the linear guide over validation images, drawn here from scratch."""
    backend = tiny.backend("v_prediction")
    known = ClassTokenState(info, 1, torch.zeros(1, tiny.WIDTH), (WordNorms(tiny.WIDTH, 1.0, 1.0),), settings)
    seeds = seeds or known.validation_seeds
    token = None if vector is None else "<dct-x-y>"
    lines = []
    for number in range(len(seeds)):
        template, context = prompts.choose(PROMPTS.templates, PROMPTS.contexts, number)
        lines.append(prompts.build(template, info.name, token=token, context=context))
    with torch.no_grad():
        encoding = backend.encode(lines, None if vector is None else vector.expand(len(seeds), -1, -1))
        images = sampler(backend).generate(seeds, encoding)
        return guide(Looks()).logits(images).softmax(1)[:, LABELS.index(info.name)].mean().item()


METHODS = ["look_ahead", "last_step", "last_k", "full", "lv", "direct_align"]


@pytest.mark.parametrize("method", METHODS)
def test_training_finds_the_look_that_the_guide_wants(method):
    if method == "direct_align":  # one step from much noise is far from what this untrained model draws in three
        method = {"name": method, "updates_per_image": 1, "positions": ((0.7, 1.0),)}
    settings = tiny.changed(QUICK, method=method, max_updates=6, images_per_update=3, learning_rate=0.1)
    start, fresh = tiny.backend("v_prediction").word("a")[None], list(range(100, 116))
    gains = []
    for slug, trained in train(settings=settings).items():
        assert trained.best.probability > probability(settings, trained.info, None) + 0.05, slug
        assert trained.usable
        assert trained.certificate.mean_pixel_change >= 1.0
        gained = probability(settings, trained.info, trained.vector, fresh)
        gains.append(gained - probability(settings, trained.info, start, fresh))
    assert sum(gains) / len(gains) > 0.01


def test_the_best_state_is_what_is_returned():
    """Drawn again from the returned vector, the validation images give the best validation."""
    settings = QUICK.model_copy(update={"learning_rate": 2.0, "max_updates": 6, "validate_every": 1, "patience": 9})
    by_class = train(settings=settings)
    for info in tiny.CLASSES:
        trained = by_class[info.slug]
        assert trained.best == max(trained.validations, key=lambda seen: (seen.accuracy, seen.probability))
        assert probability(settings, info, trained.vector) == pytest.approx(trained.best.probability, abs=1e-4)
    assert any(trained.best.update < trained.updates for trained in by_class.values())  # the last state is not it


@pytest.mark.parametrize(("dtype", "close"), [("float32", CLOSE), ("float64", 1e-5)])
@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_slots_does_not_change_the_vectors(method, dtype, close):
    settings = tiny.changed(QUICK, method=method, vectors=2)
    backend = tiny.backend("v_prediction", dtype)
    one, two, eight = (
        train(settings=tiny.changed(settings, classes_per_batch=slots), backend=backend) for slots in (1, 2, 8)
    )
    for slug, expected in eight.items():
        for other in (one[slug], two[slug]):
            torch.testing.assert_close(other.vector, expected.vector, atol=close, rtol=0)
            assert (other.updates, other.evaluations, other.reason) == (
                expected.updates,
                expected.evaluations,
                expected.reason,
            )
    assert not torch.allclose(eight["crane"].vector, eight["kiwi"].vector, atol=1e-3)


def test_the_same_settings_give_the_same_bits_and_another_seed_does_not():
    first, again = train(), train()
    other = train(settings=QUICK.model_copy(update={"seed": 1}))
    for slug, trained in first.items():
        assert torch.equal(trained.vector, again[slug].vector)
        assert trained.history == again[slug].history
        assert trained.validations == again[slug].validations
        assert not torch.equal(trained.vector, other[slug].vector)


def test_a_class_does_not_depend_on_the_others():
    together, alone = train(), train(tiny.CLASSES[1:2])
    torch.testing.assert_close(alone["kiwi"].vector, together["kiwi"].vector, atol=CLOSE, rtol=0)


def test_histories_are_whole():
    settings = QUICK.model_copy(update={"max_updates": 5, "validate_every": 2, "patience": 9})
    seen = []
    results = list(trainer(settings).train(tiny.CLASSES, on_progress=seen.append))
    for trained in results:
        assert trained.updates == 5
        assert [step.update for step in trained.history] == [1, 2, 3, 4, 5]
        assert [look.update for look in trained.validations] == [2, 4, 5]
        assert trained.reason is StopReason.UPDATES
        assert trained.attempts == 1
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert (seen[-1].done, seen[-1].total) == (15, 15)


@pytest.mark.parametrize("method", ["look_ahead", "direct_align"])
def test_reported_evaluations_are_the_real_ones(method):
    backend, work = tiny.backend("v_prediction"), [0]

    def count(module, args, output):
        work[0] += len(output.sample)
        if output.sample.requires_grad:
            output.sample.register_hook(lambda gradient: work.__setitem__(0, work[0] + 2 * len(gradient)))

    handle = backend.denoiser.register_forward_hook(count)
    if method == "direct_align":
        method = {"name": method, "updates_per_image": 3}
    results = train(settings=tiny.changed(QUICK, method=method))
    handle.remove()
    assert sum(trained.evaluations for trained in results.values()) == work[0]


def test_an_infinite_loss_stops_that_class_alone():
    with_kiwi = train(model=Hopeless(), settings=tiny.changed(QUICK, classes_per_batch=2))
    assert with_kiwi["kiwi"].reason is StopReason.NON_FINITE
    assert (with_kiwi["kiwi"].updates, with_kiwi["kiwi"].usable) == (0, False)
    without = train((tiny.CLASSES[0], tiny.CLASSES[2]), model=Hopeless())
    for slug, trained in without.items():
        assert trained.updates == QUICK.max_updates
        torch.testing.assert_close(with_kiwi[slug].vector, trained.vector, atol=CLOSE, rtol=0)


def test_a_nan_in_mid_training_stops_that_class_alone():
    settings = QUICK.model_copy(update={"validate_every": 4})
    broken, sound = train(model=NanOnce(), settings=settings), train(settings=settings)
    kiwi = broken["kiwi"]
    assert (kiwi.reason, kiwi.usable, kiwi.updates, len(kiwi.history)) == (StopReason.NON_FINITE, False, 2, 2)
    assert kiwi.vector.isfinite().all()
    for slug in ("crane", "red-bird"):
        assert broken[slug].updates == settings.max_updates
        torch.testing.assert_close(broken[slug].vector, sound[slug].vector, atol=CLOSE, rtol=0)


def test_a_guide_that_does_not_look_certifies_nothing(tmp_path):
    folder, rows = TokenFolder(tmp_path, "tiny"), []
    for trained in train(model=Constant()).values():
        assert trained.certificate.verdict in (Verdict.NO_GAIN, Verdict.COLLAPSED)
        rows.append(folder.save(trained, {"schema": 1}, BASE))
    folder.publish(rows)
    assert "certified" not in folder.index()["verdict"].tolist()


def test_the_norm_is_clamped_vector_by_vector():
    settings = QUICK.model_copy(update={"max_norm": 0.5, "learning_rate": 3.0, "vectors": 2})
    limit = 0.5 * tiny.backend("v_prediction").word_norms()[0].largest_norm
    assert tiny.backend("v_prediction").word("a").norm() > limit
    for trained in train(settings=settings).values():
        assert all(step.norm <= limit * (1 + 1e-5) for step in trained.history)
        assert (trained.vector.norm(dim=1) <= limit * (1 + 1e-5)).all()
        assert trained.history[0].norm == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize("words", [0, 4])
def test_a_restart_happens_and_the_best_of_all_attempts_is_kept(words):
    settings = QUICK.model_copy(
        update={
            "restarts": 1,
            "restart_below": 1.0,
            "restart_words": words,
            "max_updates": 2,
            "validate_every": 1,
            "patience": 9,
        }
    )
    # with so low a gain nobody is ever sure, so every attempt ends below the bar
    for trained in train(settings=settings, model=Looks(gain=0.5)).values():
        assert trained.attempts == 2
        assert trained.updates == len(trained.history) == len(trained.validations) == 4
        assert trained.best == max(trained.validations, key=lambda seen: (seen.accuracy, seen.probability))


def test_the_judge_looks_but_does_not_teach():
    class Other(Looks):
        def forward(self, pixels):
            assert not torch.is_grad_enabled()
            return super().forward(pixels).flip(1)

    judged = train(judge=SingleClassifier(Other(), Preprocess.square(16, (0, 0, 0), (1, 1, 1)), LABELS[::-1]))
    for slug, trained in train().items():
        assert torch.equal(judged[slug].vector, trained.vector)
        assert trained.certificate.judge is None
        assert judged[slug].certificate.judge == judged[slug].certificate.guide == trained.certificate.guide


def test_an_unknown_class_is_refused_before_training():
    with pytest.raises(ModelError, match="'gull'"):
        next(trainer().train([*tiny.CLASSES, ClassInfo(3, "gull", "gull")]))


class Killed(Exception):
    """Ends a run from outside."""


@pytest.mark.parametrize(("stop_after", "method"), [(1, "look_ahead"), (2, "direct_align"), (6, "look_ahead")])
def test_training_resumes_to_the_same_bits(tmp_path, stop_after, method):
    """Stopped after any round and resumed from the file, every class ends as if nothing had happened."""
    settings = tiny.changed(
        QUICK, method=method, classes_per_batch=2, restarts=1, restart_below_accuracy=1.0, patience=1
    )
    whole = train(settings=settings)
    slugs = [info.slug for info in tiny.CLASSES]
    memo, finished, rounds = TrainingCheckpoint(tmp_path, 0, {"seed": 0}), {}, []

    def checkpoint(state):
        memo.write(state)
        rounds.append(state["active"])
        if len(rounds) == stop_after:
            raise Killed

    def collect(**more):
        for trained in trainer(settings).train(tiny.CLASSES, **more):
            finished[trained.info.slug] = trained

    with pytest.raises(Killed):
        collect(checkpoint=checkpoint)
    state = memo.read([slug for slug in slugs if slug not in finished], list(finished))
    assert state is not None
    assert len(state["active"]) == (0 if stop_after == 1 else 2)  # the first state is from before the first round
    collect(resume=state)
    assert set(finished) == set(slugs)
    for slug, trained in finished.items():
        assert torch.equal(trained.vector, whole[slug].vector)
        assert trained == replace(whole[slug], vector=trained.vector)
    assert TrainingCheckpoint(tmp_path, 0, {"seed": 1}).read(slugs, []) is None  # other settings
    assert memo.read([*slugs, "gull"], []) is None  # a class the state knows nothing of
    assert TrainingCheckpoint(tmp_path, 1, {"seed": 0}).read(slugs, []) is None  # another group
    memo.clear()
    assert memo.read(slugs, []) is None


def certificate(effect: float = 12.3, verdict: Verdict = Verdict.CERTIFIED) -> Certificate:
    guide, judge = (Score(0.25, share, Estimate(share - 0.25, 0.1, 0.9, 24)) for share in (0.75, 0.7))
    return Certificate(verdict, guide, judge, 40.0, 50.0, effect)


class TestLearner:
    """The transitions of one class, without a model."""

    SETTINGS = TokensConfig(
        max_updates=30, validate_every=10, patience=2, restarts=1, restart_below_accuracy=0.8,
        target_accuracy=0.95, target_probability=0.8, validation_images=4,
    )  # fmt: skip

    def learner(self, **changes) -> ClassTokenState:
        settings = tiny.changed(self.SETTINGS, **changes)
        return ClassTokenState(tiny.CLASSES[0], 1, torch.ones(1, 16), (WordNorms(16, 2.0, 4.0),), settings)

    def step(self, learner: ClassTokenState, gradient: torch.Tensor, loss: float = 1.0) -> None:
        learner.vector.grad = gradient
        learner.update(loss)

    @pytest.mark.parametrize("scale", [1e-7, 1.0, 1e5])
    def test_a_step_is_measured_in_words_whatever_the_gradient(self, scale):
        learner, generator = self.learner(), torch.Generator().manual_seed(0)
        gradient = torch.randn(1, 16, generator=generator)
        self.step(learner, gradient * scale)
        moved = learner.vector.detach() - torch.ones(1, 16)
        assert moved.norm().item() == pytest.approx(learner.config.learning_rate * 2.0, rel=1e-3)
        assert torch.equal(moved.sign(), -gradient.sign())

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_stops_without_a_step(self, bad):
        for loss, gradient in ((bad, torch.ones(1, 16)), (1.0, torch.full((1, 16), bad)), (1.0, None)):
            learner = self.learner()
            self.step(learner, gradient, loss)
            assert learner.reason is StopReason.NON_FINITE
            assert (learner.updates, learner.history) == (0, [])
            assert torch.equal(learner.vector, torch.ones(1, 16))
            assert not learner.usable

    def look(self, learner: ClassTokenState, accuracy: float, probability: float, updates: int = 10) -> None:
        for _ in range(updates):
            self.step(learner, torch.ones(1, 16))
        assert learner.needs_validation
        learner.record_validation(accuracy, probability)

    def test_target(self):
        learner = self.learner()
        self.look(learner, 0.95, 0.79)
        assert learner.reason is None
        self.look(learner, 0.95, 0.8)
        assert (learner.reason, learner.attempt.number, learner.usable) == (StopReason.TARGET, 0, True)

    def test_patience_ends_a_good_class(self):
        learner = self.learner(max_updates=100)
        for probability in (0.5, 0.505, 0.52):  # less than a point is no progress, more is
            self.look(learner, 0.85, probability)
        self.look(learner, 0.85, 0.52)
        assert learner.reason is None
        self.look(learner, 0.85, 0.52)
        assert (learner.reason, learner.attempt.number) == (StopReason.PATIENCE, 0)

    def test_updates_run_out(self):
        learner = self.learner()
        for probability in (0.5, 0.6, 0.7):
            self.look(learner, 0.85, probability)
        assert learner.reason is StopReason.UPDATES

    def test_a_bad_attempt_is_stuck_and_restarted_elsewhere(self):
        learner, elsewhere = (
            self.learner(method={"name": "look_ahead", "positions": ((0.0, 0.2), (0.8, 1.0))}),
            torch.full((1, 16), 0.5),
        )
        assert all(learner.random_position() < 0.2 for _ in range(20))
        self.look(learner, 0.7, 0.6)
        kept = learner.best_vector.clone()
        self.look(learner, 0.5, 0.5)
        assert not learner.needs_restart
        self.look(learner, 0.5, 0.5)
        assert (learner.needs_restart, learner.reason) == (True, None)
        learner.restart(elsewhere)
        assert (learner.needs_restart, learner.attempt.number) == (False, 1)
        assert torch.equal(learner.vector, elsewhere)
        assert all(0.8 <= learner.random_position() < 1.0 for _ in range(20))
        for _ in range(3):
            self.look(learner, 0.6, 0.4)
        assert (learner.needs_restart, learner.reason, learner.attempt.number) == (
            False,
            StopReason.UPDATES,
            1,
        )  # one restart only
        assert torch.equal(elsewhere, torch.full((1, 16), 0.5))
        assert learner.best == Validation(10, 0.7, 0.6)
        assert torch.equal(learner.best_vector, kept)
        assert len(learner.validations) == 6
        assert learner.updates == len(learner.history) == 60

    def test_a_later_attempt_may_be_the_best(self):
        learner = self.learner()
        for _ in range(3):
            self.look(learner, 0.5, 0.5)
        learner.restart(torch.zeros(1, 16))
        self.look(learner, 0.7, 0.7)
        assert learner.best == Validation(40, 0.7, 0.7)
        assert torch.equal(learner.best_vector, learner.vector)

    def test_promising_words_lie_against_the_gradients_of_this_attempt(self):
        learner, words = self.learner(), torch.eye(16)
        for scale in (1e-3, 1e3):  # the direction of a gradient counts, not its size
            self.step(learner, -words[3:4] * scale)
        self.step(learner, -words[7:8])
        self.step(learner, words[5:6])
        assert learner.downhill_words(words, 2).tolist() == [3, 7]
        assert 5 not in learner.downhill_words(words, 15).tolist()
        assert len(learner.downhill_words(words, 99)) == 16
        learner.restart(torch.ones(1, 16))
        self.step(learner, -words[9:10])
        assert learner.downhill_words(words, 1).tolist() == [9]

    def test_no_restart_for_a_good_class(self):
        learner = self.learner()
        for _ in range(3):
            self.look(learner, 0.9, 0.5)
        assert learner.attempt.number == 0
        assert learner.reason in (StopReason.PATIENCE, StopReason.UPDATES)

    @pytest.mark.parametrize(
        ("effect", "looked", "expected"),
        [(5.0, True, StopReason.UPDATES), (0.9, True, StopReason.NO_EFFECT), (5.0, False, StopReason.NO_EFFECT)],
    )
    def test_conclude(self, effect, looked, expected):
        learner = self.learner(restarts=0)
        if looked:
            self.look(learner, 0.7, 0.6)
        learner.reason = StopReason.UPDATES
        learner.set_certificate(certificate(effect=effect))
        assert learner.reason is expected
        assert learner.usable is (expected is StopReason.UPDATES)
        assert learner.certificate == certificate(effect=effect)

    def test_conclude_keeps_the_reason_of_a_class_that_never_got_a_look(self):
        learner = self.learner()
        self.step(learner, None)
        learner.set_certificate(certificate(effect=0.0))
        assert (learner.reason, learner.usable) == (StopReason.NON_FINITE, False)

    def test_the_cosine_schedule_ends_in_short_steps(self):
        learner, places = self.learner(schedule="cosine", max_updates=10), []
        for _ in range(10):
            before = learner.vector.detach().clone()
            self.step(learner, torch.ones(1, 16))
            places.append((learner.vector.detach() - before).norm().item())
        whole = learner.config.learning_rate * 2.0
        assert places[0] == pytest.approx(whole, rel=1e-3)
        assert places == sorted(places, reverse=True)
        assert places[5] == pytest.approx(whole / 2, rel=0.02)
        assert places[-1] < 0.05 * whole

    def test_the_prior_pulls_to_the_norm_of_words(self):
        gradient = torch.eye(16)[:1]  # across the vector: it says nothing of its length
        for start, sign in ((torch.ones(1, 16), -1), (torch.ones(1, 16) / 8, 1)):  # words have norm 2
            settings = self.SETTINGS.model_copy(update={"norm_prior": 5.0})
            pulled = ClassTokenState(tiny.CLASSES[0], 1, start.clone(), (WordNorms(16, 2.0, 4.0),), settings)
            self.step(pulled, gradient.clone())
            assert sign * (pulled.vector.detach().norm() - start.norm()).item() > 0

    def test_a_finished_image_serves_so_many_updates_and_keeps_its_prompts(self):
        learner, image = self.learner(method={"updates_per_image": 3}, images_per_update=4), torch.ones(4, 1, 2, 2)
        firsts = []
        for update in range(7):
            firsts.append(learner.first_prompt)
            assert (learner.finished is None) is (update % 3 == 0)
            self.step(learner, torch.ones(1, 16))
            learner.store_finished(image)
        assert firsts == [0, 0, 0, 12, 12, 12, 24]
        learner.restart(torch.zeros(1, 16))
        assert (learner.finished, learner.first_prompt) == (None, 28)

    def test_validation_latents_are_never_those_of_training(self):
        learner = self.learner()
        drawn = [seed for _ in range(50) for seed in learner.new_seeds(6)]
        assert not set(drawn) & set(learner.validation_seeds)
        assert len(set(drawn)) == len(drawn)


IDENTITY = {"schema": 2, "tokens": {"seed": 0, "look_ahead": [[0.1, 0.5]]}, "guide": {"name": "pocket/x"}}


def made(count: int = 1, info: ClassInfo = tiny.CLASSES[2]) -> TrainedToken:
    vector = torch.randn(count, tiny.WIDTH, generator=torch.Generator().manual_seed(5))
    seen = Validation(2, 0.75, 0.6)
    return TrainedToken(info, vector, True, StopReason.TARGET, 2, 1, 99, seen, certificate(), (), (seen,))


class TestTokenFolder:
    """The files that a run leaves, and what is made of them when it starts again."""

    @pytest.mark.parametrize("count", [1, 3])
    def test_round_trip(self, tmp_path, count):
        folder, trained = TokenFolder(tmp_path / "tokens", "Tiny Set"), made(count)
        facts = folder.save(trained, IDENTITY, BASE)
        assert facts["token"] == "<dct-tiny-set-red-bird>"
        assert folder.file(trained.info) == tmp_path / "tokens" / "red-bird.safetensors"
        assert torch.equal(folder.vector(trained.info), trained.vector)
        assert folder.metadata(trained.info, IDENTITY) == json.loads(json.dumps(facts))
        expected = {"usable": True, "stop_reason": "target reached", "updates": 2, "unet_evaluations": 99,
                    "plain_guide_accuracy": 0.25, "guide_accuracy": 0.75, "plain_judge_accuracy": 0.25,
                    "judge_accuracy": 0.7, "verdict": "certified",
                    "gain": 0.5, "gain_low": 0.1, "gain_high": 0.9,
                    "diversity": 40.0, "plain_diversity": 50.0, "mean_pixel_change": 12.3,
                    "class": "red bird", "class_index": 2, "attempts": 1}  # fmt: skip
        assert {key: facts[key] for key in expected} == expected
        token = folder.token(trained.info)
        assert (token.word, token.slug, len(token.sha256)) == ("<dct-tiny-set-red-bird>", "red-bird", 64)
        assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["red-bird.safetensors"]

    def test_the_same_token_is_the_same_file(self, tmp_path):
        hashes = set()
        for name in "ab":
            folder = TokenFolder(tmp_path / name, "tiny")
            folder.save(made(), IDENTITY, BASE)
            hashes.add(folder.token(made().info).sha256)
        assert len(hashes) == 1

    def test_a_missing_token_has_no_metadata(self, tmp_path):
        assert TokenFolder(tmp_path, "tiny").metadata(tiny.CLASSES[0], IDENTITY) is None

    def test_other_settings_are_named(self, tmp_path):
        folder = TokenFolder(tmp_path, "tiny")
        folder.save(made(), IDENTITY, BASE)
        changed = IDENTITY | {"tokens": {"seed": 7, "look_ahead": [[0.1, 0.5]]}}
        with pytest.raises(StaleRunError, match=r"red-bird\.safetensors.*tokens\.seed: 0 -> 7") as caught:
            folder.metadata(made().info, changed)
        assert "look_ahead" not in str(caught.value)

    @pytest.mark.parametrize("store_finished", [0, 4, 40, -1])
    def test_a_damaged_file_counts_as_missing(self, tmp_path, store_finished):
        folder = TokenFolder(tmp_path, "tiny")
        folder.save(made(), IDENTITY, BASE)
        path = folder.file(made().info)
        path.write_bytes(path.read_bytes()[:store_finished])
        assert folder.metadata(made().info, IDENTITY) is None

    @pytest.mark.parametrize("metadata", [None, {"dct_augment": "{"}, {"dct_augment": "{}"}, {"dct_augment": "[1]"}])
    def test_a_file_of_someone_else_counts_as_missing(self, tmp_path, metadata):
        from safetensors.torch import save_file

        folder = TokenFolder(tmp_path, "tiny")
        save_file({"<dct-tiny-red-bird>": torch.zeros(16)}, folder.file(made().info), metadata=metadata)
        assert folder.metadata(made().info, IDENTITY) is None

    @pytest.mark.parametrize("count", [1, 2])
    def test_diffusers_loads_it_under_the_documented_name(self, tmp_path, count):
        folder, pipe = TokenFolder(tmp_path, "tiny"), tiny.pipeline()
        for info in tiny.CLASSES:  # all classes into one pipeline: no two names collide
            folder.save(made(count, info), IDENTITY, BASE)
            pipe.load_textual_inversion(str(folder.file(info)))
        table = pipe.text_encoder.get_input_embeddings().weight
        for info in tiny.CLASSES:
            word = f"<dct-tiny-{info.slug}>"
            assert folder.word(info) == word
            number = pipe.tokenizer.convert_tokens_to_ids(word)
            assert torch.equal(table[number : number + count], made(count, info).vector)
        with safe_open(folder.file(tiny.CLASSES[0]), "pt") as stored:
            assert list(stored.keys()) == ["<dct-tiny-crane>"]
            shape = stored.get_tensor("<dct-tiny-crane>").shape
        assert shape == ((tiny.WIDTH,) if count == 1 else (count, tiny.WIDTH))

    def test_the_index_has_a_row_per_class_in_order(self, tmp_path):
        folder = TokenFolder(tmp_path, "tiny")
        assert folder.index().empty
        failed = replace(
            made(info=tiny.CLASSES[0]), usable=False, reason=StopReason.NO_EFFECT, best=None, certificate=None
        )
        folder.publish([folder.save(one, IDENTITY, BASE) for one in (made(), made(info=tiny.CLASSES[1]), failed)])
        index = folder.index()
        assert index["slug"].tolist() == ["crane", "kiwi", "red-bird"]
        assert index["usable"].tolist() == [False, True, True]
        assert index["stop_reason"].tolist()[0] == "no effect"
        assert index["guide_accuracy"].isna().tolist() == [True, False, False]
        assert "identity" not in index

    def test_a_failure_is_remembered_for_its_settings_and_forgotten_with_a_token(self, tmp_path):
        folder, info = TokenFolder(tmp_path, "tiny"), tiny.CLASSES[0]
        assert folder.failure(info, IDENTITY) is None
        failed = replace(made(info=info), usable=False, reason=StopReason.NO_EFFECT, best=None, certificate=None)
        facts = folder.save(failed, IDENTITY, BASE)
        assert not folder.file(info).exists()
        assert folder.failure(info, IDENTITY) == facts
        assert folder.failure(info, {**IDENTITY, "seed": "other"}) is None
        assert folder.failure(replace(info, name="heron"), IDENTITY) is None
        folder.save(made(info=info), IDENTITY, BASE)
        assert folder.failure(info, IDENTITY) is None

    def test_groups_are_recorded_and_a_damaged_record_is_named(self, tmp_path):
        folder = TokenFolder(tmp_path, "tiny")
        assert folder.groups() == ()
        folder.record((("crane", "ca-bird"), ("gull",)))
        assert folder.groups() == (("crane", "ca-bird"), ("gull",))
        (tmp_path / "plan.json").write_text("[]")
        with pytest.raises(InputError, match=r"plan\.json is damaged"):
            folder.groups()


@contextmanager
def little_memory(backend, most: int) -> Iterator[list[int]]:
    """A denoiser that runs out of memory above a number of samples; the sizes that it was asked for."""
    asked: list[int] = []

    def refuse(module, args, kwargs=None):
        asked.append(len(args[0]))
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = backend.denoiser.register_forward_pre_hook(refuse)
    try:
        yield asked
    finally:
        handle.remove()


def test_little_memory_gives_the_same_tokens_in_smaller_batches():
    told: list[Progress] = []
    expected = train()
    with little_memory(tiny.backend("v_prediction"), 8) as asked:
        found = {one.info.slug: one for one in trainer().train(tiny.CLASSES, told.append)}
    assert max(asked) > 8
    assert [one.note for one in told if not one.total] == ["out of memory: going on with 1 classes at once"]
    for slug, trained in expected.items():
        torch.testing.assert_close(found[slug].vector, trained.vector, atol=CLOSE, rtol=0)
        assert found[slug].evaluations == trained.evaluations


def test_memory_for_no_class_at_all_is_one_message():
    with (
        little_memory(tiny.backend("v_prediction"), 1),
        pytest.raises(DctAugmentError, match=r"classes taken one by one: .*, or lower tokens\.images_per_update and"),
    ):
        train()


@pytest.mark.parametrize("family", ["xl", "pixart", "lcm"])
def test_tokens_of_every_kind_of_model_are_trained_and_kept(tmp_path, family):
    """Two text encoders give a pair of vectors, each measured by its own words."""
    backend = tiny.backend(family)
    settings = QUICK.model_copy(update={"vectors": 2, "max_updates": 2, "target_accuracy": 0.0})
    made = ClassTokenTrainer(
        sampler(backend), tiny.classifier("test_resnet"), tokens_config=settings, prompts_config=PROMPTS
    )
    (trained,) = made.train(tiny.CLASSES[:1])
    assert trained.vector.shape == (2, backend.width)
    start = backend.word("a").expand(2, -1)
    moved = split_by_encoder(trained.vector - start, backend.encoder_widths.values())
    for words, part in zip(backend.word_norms(), moved, strict=True):
        assert 0 < part.abs().max() <= 2.1 * settings.learning_rate * words.mean_norm / words.width**0.5
    folder = TokenFolder(tmp_path, "tiny")
    base = {
        "path": family,
        "revision": None,
        "family": type(backend).__name__,
        "blocks": list(backend.encoder_widths.items()),
    }
    folder.save(replace(trained, usable=True), {"schema": 1}, base)
    torch.testing.assert_close(folder.vector(tiny.CLASSES[0]), trained.vector)
    assert set(folder.read(tiny.CLASSES[0]).parts) == set(backend.encoder_widths)


def test_training_may_start_from_another_token():
    start = torch.randn(1, tiny.WIDTH, generator=torch.Generator().manual_seed(5)) * 0.2
    warm = ClassTokenTrainer(
        sampler(tiny.backend("v_prediction")),
        guide(Looks()),
        tokens_config=QUICK.model_copy(update={"max_updates": 1, "validate_every": 1}),
        prompts_config=PROMPTS,
        starts={"crane": start},
    )
    found = {one.info.slug: one.vector for one in warm.train(tiny.CLASSES[:2])}
    step = QUICK.learning_rate * tiny.backend("v_prediction").word_norms()[0].mean_norm
    assert (found["crane"] - start).norm() <= step * 1.01
    assert (found["kiwi"] - start).norm() > 2 * step


class TestCertificate:
    """What fresh images say of a token."""

    IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1

    def verdict(self, plain_right: int, token_right: int, token: torch.Tensor | None = None) -> Verdict:
        ranks = torch.arange(24)
        guide = score(ranks < plain_right, ranks < token_right)
        token = self.IMAGES.flip(0) if token is None else token
        return certify(self.IMAGES, token, guide, None, 0.5).verdict

    def test_verdicts(self):
        assert self.verdict(6, 20) is Verdict.CERTIFIED
        assert self.verdict(6, 7) is Verdict.NO_GAIN
        assert self.verdict(24, 24) is Verdict.NO_GAIN
        assert self.verdict(20, 6) is Verdict.WORSE
        alike = self.IMAGES[:1] + 0.1 * self.IMAGES
        assert self.verdict(6, 20, alike) is Verdict.COLLAPSED
        assert self.verdict(6, 20, self.IMAGES / 0 * 0) is Verdict.WORSE

    def test_diversity_is_the_mean_distance_of_two_pictures_in_grey_levels(self):
        pictures = torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 1.0)])
        assert diversity(pictures) == pytest.approx((127.5 + 127.5 + 255) / 3)

    def test_images_are_fresh_and_paired(self):
        """Drawn again here from other seeds than training and validation, both kinds give the certified accuracies."""
        settings = QUICK.model_copy(update={"max_updates": 2, "certificate_images": 40})
        small = QUICK.model_copy(update={"max_updates": 2, "certificate_images": 2})
        whole, other = train(settings=settings), train(settings=small)
        for slug, trained in whole.items():
            found = trained.certificate
            assert torch.equal(trained.vector, other[slug].vector)
            assert found.guide.gain.count == 40
            assert found.guide.gain.mean == pytest.approx(found.guide.token - found.guide.plain)
            assert found.diversity > 0
            assert trained.evaluations - other[slug].evaluations == 2 * 38 * 3 * 2


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_autocast_keeps_token_and_optimiser_in_single_precision(kind):
    settings = QUICK.model_copy(update={"autocast": kind, "max_updates": 1, "validate_every": 1})
    sound, kinds = train(settings=settings.model_copy(update={"autocast": None})), set()

    def look(module, args, output):
        if torch.is_grad_enabled():
            kinds.add(output.sample.dtype)

    handle = tiny.backend("v_prediction").denoiser.register_forward_hook(look)
    found = train(settings=settings)
    handle.remove()
    assert kinds == {getattr(torch, kind)}
    for slug, trained in found.items():
        assert trained.vector.dtype == torch.float32
        assert trained.history[0].loss == pytest.approx(sound[slug].history[0].loss, rel=0.3)
