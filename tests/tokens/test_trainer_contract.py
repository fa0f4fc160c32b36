"""What both token trainers promise, the one by a guide's gradient and the one by textual inversion."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from dct_augment.config import SamplingConfig
from dct_augment.diffusion.memory import BatchSizes
from dct_augment.errors import DctAugmentError, ModelError
from dct_augment.records import ClassInfo, Progress, StopReason
from dct_augment.tokens.checkpoint import TrainingCheckpoint
from dct_augment.tokens.state import TrainedToken
from tests import tiny
from tests.tokens.denoisers import counted, little_memory, spoiled
from tests.tokens.trainers import IMAGES, LABELS, OBJECTIVES, PROMPTS, UPDATES, Directions, build, classifier, train

CLOSE = 1e-5  # in double precision, where another batch shape changes no bit that counts
KIWI_ROWS = slice(IMAGES, 2 * IMAGES)  # the second class of the batch
SLUGS = [info.slug for info in tiny.CLASSES]

METHODS = ("look_ahead", "last_step", "last_k", "full", "lv", "direct_align")
RESTARTING = {
    "method": "direct_align",
    "restarts": 1,
    "restart_below_accuracy": 1.0,
    "patience": 1,
    "updates": 2,
    "validate_every": 1,
}

each_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def backend() -> Any:
    """The model that `build` takes."""
    return tiny.backend(tiny.ONE_LEVEL, "float64")


@cache
def undisturbed(objective: str) -> dict[str, TrainedToken]:
    """The tokens of a training in which nothing happens."""
    return train(objective)


def assert_same_training(tokens: dict[str, TrainedToken], expected: dict[str, TrainedToken]) -> None:
    """Compare vectors but for rounding, and work and reason exactly."""
    assert set(tokens) == set(expected)
    for slug, trained in tokens.items():
        torch.testing.assert_close(trained.vector, expected[slug].vector, atol=CLOSE, rtol=0)
        losses = [step.loss for step in expected[slug].history]
        assert [step.loss for step in trained.history] == pytest.approx(losses, rel=100 * CLOSE)
        assert trained.evaluations == expected[slug].evaluations
        assert trained.reason == expected[slug].reason


@pytest.mark.slow
class TestIndependenceOfClasses:
    """A class is trained as if it were alone."""

    @pytest.mark.parametrize(
        ("objective", "changes"),
        [("textual_inversion", {}), *(("classifier", {"method": method}) for method in METHODS)],
    )
    def test_the_number_of_classes_per_batch_does_not_change_the_tokens(self, objective, changes):
        together = train(objective, vectors=2, updates=2, classes_per_batch=3, **changes)
        tokens = train(objective, vectors=2, updates=2, classes_per_batch=2, **changes)  # the third class is alone
        assert_same_training(tokens, together)
        assert not torch.allclose(together["crane"].vector, together["kiwi"].vector, atol=1e-3)

    @each_objective
    def test_the_other_classes_and_their_order_do_not_change_a_token(self, objective):
        expected = undisturbed(objective)
        for classes in (tiny.CLASSES[1:2], tiny.CLASSES[::-1]):
            tokens = train(objective, classes)
            assert_same_training(tokens, {slug: expected[slug] for slug in tokens})

    def test_contexts_of_one_class_do_not_change_the_token_of_another(self):
        settings = PROMPTS.model_copy(update={"contexts": {"kiwi": ("on the sand",)}})
        expected, tokens = undisturbed("classifier"), train("classifier", prompts=settings)
        assert torch.equal(tokens["crane"].vector, expected["crane"].vector)
        assert not torch.allclose(tokens["kiwi"].vector, expected["kiwi"].vector, atol=1e-3)


class TestStart:
    """Where a token begins."""

    @each_objective
    def test_a_class_starts_from_its_own_word_or_from_a_vector_that_is_given(self, objective):
        start = torch.full((2, tiny.WIDTH), 0.25)
        words = {"kiwi": "green", "default": "{class}"}
        trainer = build(objective, vectors=2, init_word=words, starts={"crane": start})
        vectors = {info.slug: trainer._new_state(info).vector.detach() for info in tiny.CLASSES}
        assert torch.equal(vectors["crane"], start)
        assert torch.equal(vectors["kiwi"], backend().word("green").repeat(2, 1))
        red_bird = (backend().word("red") + backend().word("bird")) / 2
        torch.testing.assert_close(vectors["red-bird"], red_bird.repeat(2, 1))

    @each_objective
    def test_a_start_word_that_the_model_lacks_is_refused_before_any_class_is_trained(self, objective):
        trainer = build(objective, init_word={"kiwi": "鶴"}, backend=tiny.backend("pixart"))
        with pytest.raises(ModelError, match="'鶴' is not in this model's vocabulary"):
            next(trainer.train(tiny.CLASSES))


@pytest.mark.slow
class TestReproduction:
    """Training is decided by its settings and seed."""

    @each_objective
    def test_the_same_settings_give_the_same_bits_and_another_seed_does_not(self, objective):
        again, reseeded = train(objective), train(objective, seed=1)
        for slug, trained in undisturbed(objective).items():
            assert torch.equal(again[slug].vector, trained.vector)
            assert replace(again[slug], vector=trained.vector) == trained
            assert not torch.allclose(reseeded[slug].vector, trained.vector, atol=1e-3)

    @each_objective
    def test_the_judge_measures_and_does_not_train(self, objective):
        class Judge(Directions):
            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                assert not torch.is_grad_enabled()
                return super().forward(pixels).flip(1)

        judged = train(objective, judge=classifier(Judge(), LABELS[::-1]))
        for slug, trained in undisturbed(objective).items():
            assert torch.equal(judged[slug].vector, trained.vector)
            assert trained.certificate.judge is None
            assert judged[slug].certificate.judge == judged[slug].certificate.guide == trained.certificate.guide

    @each_objective
    def test_more_images_for_the_certificate_do_not_change_the_vector(self, objective):
        larger = train(objective, certificate_images=9)
        for slug, trained in undisturbed(objective).items():
            certificate = larger[slug].certificate
            assert torch.equal(larger[slug].vector, trained.vector)
            assert certificate.guide.gain.count == 9
            assert certificate.guide.gain.mean == pytest.approx(certificate.guide.token - certificate.guide.plain)
            assert certificate.diversity > 0
            assert larger[slug].evaluations - trained.evaluations == 2 * 7 * 3 * 2  # kinds, images, steps, branches


@each_objective
def test_an_undecided_certificate_takes_more_images_whatever_the_other_classes(objective):
    changes: dict[str, Any] = {"certificate_images": 4, "certificate_looks": 3, "updates": 1}
    together = train(objective, **changes)
    counts = [trained.certificate.guide.gain.count for trained in together.values()]
    assert set(counts) <= {4, 8, 16}
    assert max(counts) > 4
    for slug, trained in together.items():
        count = trained.certificate.guide.gain.count
        first_alone = train(objective, [trained.info], **changes, classes_per_batch=1)[slug]
        assert first_alone.certificate.guide == trained.certificate.guide
        once = train(objective, [trained.info], **{**changes, "certificate_looks": 1})[slug]
        assert trained.evaluations - once.evaluations == 2 * (count - 4) * 3 * 2  # kinds, images, steps, branches


@each_objective
@pytest.mark.parametrize("family", ["epsilon", "xl", "pixart", "sd3", "sana"])
def test_training_changes_no_weight_of_the_model_and_no_word_of_its_vocabulary(objective, family):
    model = tiny.backend(family)
    modules = [model.denoiser, model.vae, *(encoder.model for encoder in model.encoders)]
    before = [{name: weight.clone() for name, weight in module.state_dict().items()} for module in modules]
    vocabulary_sizes = [len(encoder.tokenizer) for encoder in model.encoders]
    for trained in train(objective, backend=model, updates=2).values():
        assert trained.vector.shape == (1, model.width)
        assert not trained.vector.requires_grad
    for module, weights in zip(modules, before, strict=True):
        after = module.state_dict()
        assert after.keys() == weights.keys()
        assert all(torch.equal(after[name], weight) for name, weight in weights.items())
        assert all(not weight.requires_grad and weight.grad is None for weight in module.parameters())
        assert not module.training
    assert [len(encoder.tokenizer) for encoder in model.encoders] == vocabulary_sizes


class TestProgress:
    """What is told while training goes on, and what is recorded of it."""

    @each_objective
    def test_progress_counts_the_updates_of_all_classes(self, objective):
        messages: list[Progress] = []
        list(build(objective, classes_per_batch=2).train(tiny.CLASSES, messages.append))
        assert [progress.done for progress in messages] == [2, 4, 6, 8, 9, 10, 11, 12]
        assert {progress.total for progress in messages} == {len(tiny.CLASSES) * UPDATES}
        assert messages[0].note == "crane, kiwi"
        assert messages[-1].note == ""

    @each_objective
    def test_the_history_has_a_step_for_every_update(self, objective):
        for trained in undisturbed(objective).values():
            assert [step.update for step in trained.history] == [1, 2, 3, 4]
            assert (trained.updates, trained.attempts, trained.usable) == (UPDATES, 1, True)
            assert trained.reason is StopReason.UPDATES
            assert trained.best.update <= UPDATES
            assert 0 < trained.best.probability < 1
            assert trained.certificate.mean_pixel_change > 1
            assert trained.certificate.guide.gain.count == 2

    @each_objective
    @pytest.mark.parametrize("scale", [1.0, 4.0])
    @pytest.mark.parametrize("scheduler", [None, "HeunDiscreteScheduler"])
    def test_the_reported_evaluations_are_the_counted_ones(self, objective, scheduler, scale):
        """Also with a scheduler that takes more of them than the steps asked for."""
        model = tiny.backend("epsilon")
        sampling = SamplingConfig(num_inference_steps=3, guidance_scale=scale, scheduler=scheduler)
        with counted(model) as evaluations:
            changes: dict[str, Any] = {"certificate_images": 4, "certificate_looks": 3, "plain_first": True}
            tokens = train(objective, backend=model, sampling=sampling, updates=2, **changes)
        assert sum(trained.evaluations for trained in tokens.values()) == evaluations[0]


class TestUnknownClasses:
    """Classes that a classifier does not know are refused."""

    @each_objective
    @pytest.mark.parametrize("role", ["guide", "judge"])
    def test_a_class_that_guide_or_judge_do_not_know_is_refused_before_training(self, objective, role):
        without_kiwi = classifier(Directions(), ("stone", "crane", "gull", "red bird"))
        classifiers: dict[str, Any] = {role: without_kiwi}
        with counted(backend()) as evaluations, pytest.raises(ModelError, match="'kiwi'"):
            next(build(objective, **classifiers).train(tiny.CLASSES))
        assert evaluations == [0]


@pytest.mark.slow
class TestNonFiniteLoss:
    """A loss that is not finite stops its class, and no other."""

    @each_objective
    def test_a_nan_in_the_third_update_stops_its_class_after_two(self, objective):
        with spoiled(backend(), KIWI_ROWS, update=3, value=torch.nan):
            tokens = train(objective)
        kiwi, expected = tokens.pop("kiwi"), dict(undisturbed(objective))
        assert (kiwi.reason, kiwi.usable, kiwi.updates) == (StopReason.NON_FINITE, False, 2)
        assert kiwi.history == expected.pop("kiwi").history[:2]
        assert torch.equal(kiwi.vector, train(objective, updates=2)["kiwi"].vector)
        assert_same_training(tokens, expected)

    @each_objective
    def test_an_infinite_loss_in_the_first_update_frees_the_place_of_its_class(self, objective):
        messages: list[Progress] = []
        with spoiled(backend(), KIWI_ROWS, update=1, value=torch.inf):
            results = list(build(objective, classes_per_batch=2).train(tiny.CLASSES, messages.append))
        tokens = {trained.info.slug: trained for trained in results}
        assert [trained.info.slug for trained in results] == ["kiwi", "crane", "red-bird"]
        assert messages[1].note == "crane, red bird"
        kiwi, expected = tokens.pop("kiwi"), dict(undisturbed(objective))
        assert (kiwi.reason, kiwi.usable, kiwi.updates) == (StopReason.NON_FINITE, False, 0)
        assert torch.equal(kiwi.vector, backend().word("a")[None].to(kiwi.vector))
        del expected["kiwi"]
        assert_same_training(tokens, expected)


@pytest.mark.slow
class TestLittleMemory:
    """Training goes on in smaller batches where memory runs out."""

    @each_objective
    def test_little_memory_halves_the_batch_and_gives_the_same_tokens(self, objective):
        messages: list[Progress] = []
        sizes: dict[str, Any] = {"images": 4, "certificate_images": 4}
        expected = train(objective, **sizes)
        with little_memory(backend(), largest_batch=8) as batch_sizes:
            results = list(build(objective, **sizes).train(tiny.CLASSES, messages.append))
        assert max(batch_sizes) > 8
        notes = [progress.note for progress in messages if not progress.total]
        # Without gradient, both branches of guidance are one batch.
        expected_sizes = (6, 3) if objective == "classifier" else (6,)
        assert notes == [f"out of memory: going on with {size} images at once" for size in expected_sizes]
        tokens = {trained.info.slug: trained for trained in results}
        assert_same_training(tokens, expected)
        for slug, trained in tokens.items():
            pixel_change = expected[slug].certificate.mean_pixel_change
            assert trained.certificate.mean_pixel_change == pytest.approx(pixel_change, rel=1e-4)

    @each_objective
    def test_memory_that_runs_out_in_a_backward_pass_leaves_no_gradient_behind(self, objective):
        """When some classes have their gradients already, and others have not."""
        encodings, exhausted = [0], []

        def exhaust(gradient: torch.Tensor) -> None:
            exhausted.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def count(module: Any, args: Any, output: Any) -> None:
            if output[0].requires_grad:
                encodings[0] += 1
                if encodings[0] == 4:  # the first class in the second update; its turn is last on the way back
                    output[0].register_hook(exhaust)

        handle = backend().encoders[0].model.register_forward_hook(count)
        try:
            tokens = train(objective)
        finally:
            handle.remove()
            backend().batch_sizes = BatchSizes()  # others share this model, with all its memory
        assert exhausted == [True]
        assert_same_training(tokens, undisturbed(objective))

    @each_objective
    def test_memory_too_little_for_one_image_names_the_settings_that_help(self, objective):
        message = r"with a single image: set model\.memory=low"
        with little_memory(backend(), largest_batch=0), pytest.raises(DctAugmentError, match=message):
            train(objective)

    @each_objective
    def test_an_update_in_batches_of_less_than_a_class_gives_the_same_tokens(self, objective):
        sizes: dict[str, Any] = {"images": 3, "certificate_images": 4}
        expected = train(objective, **sizes)
        for purpose in ("update", "inversion", "generate"):
            backend().batch_sizes.limit(purpose, 2)
        try:
            tokens = train(objective, **sizes)
        finally:
            backend().batch_sizes = BatchSizes()  # others share this model, with all its memory
        assert_same_training(tokens, expected)


@dataclass(frozen=True)
class StoppableTraining:
    """A training that was never stopped, and the checkpoints that it wrote, one for each number of rounds."""

    build: Callable[[], Any]
    tokens: dict[str, TrainedToken]
    folder: Path
    states: list[dict[str, Any]]

    def checkpoint(self, rounds: int) -> TrainingCheckpoint:
        """The checkpoint after so many rounds."""
        return TrainingCheckpoint(self.folder, rounds, {"seed": 0})

    def assert_unchanged(self, trained: TrainedToken) -> None:
        """Compare a token with that of the training which was never stopped, to the bit."""
        expected = self.tokens[trained.info.slug]
        assert torch.equal(trained.vector, expected.vector)
        assert replace(trained, vector=expected.vector) == expected


@pytest.fixture(
    scope="module",
    params=[
        ("classifier", {"method": "look_ahead", "plain_first": True, "certificate_looks": 3}),
        ("classifier", RESTARTING),
        ("textual_inversion", {}),
    ],
    ids=["look_ahead", "restarting", "textual_inversion"],
)
def training(request, tmp_path_factory) -> StoppableTraining:
    """A training of three classes, two at a time."""
    objective, changes = request.param
    folder = tmp_path_factory.mktemp("checkpoints")
    states: list[dict[str, Any]] = []

    def new_trainer() -> Any:
        return build(objective, classes_per_batch=2, **changes)

    def checkpoint(state: dict[str, Any]) -> None:
        TrainingCheckpoint(folder, len(states), {"seed": 0}).write(state)
        states.append(state)

    tokens = {trained.info.slug: trained for trained in new_trainer().train(tiny.CLASSES, checkpoint=checkpoint)}
    assert max(trained.attempts for trained in tokens.values()) == 1 + changes.get("restarts", 0)
    return StoppableTraining(new_trainer, tokens, folder, states)


@pytest.mark.slow
class TestResume:
    """A killed training goes on from its last checkpoint."""

    def test_a_checkpoint_is_written_before_the_first_round_and_after_every_round(self, training):
        unfinished = [len(state["waiting"]) + len(state["active"]) for state in training.states]
        assert len(training.states[0]["active"]) == 0
        assert unfinished == sorted(unfinished, reverse=True)
        assert (unfinished[0], unfinished[-1]) == (3, 0)
        updates = sum(trained.updates for trained in training.tokens.values())
        assert len(training.states) >= 1 + updates / 2

    def test_training_resumes_from_every_checkpoint_to_the_same_bits(self, training):
        for rounds, state in enumerate(training.states):
            unfinished = [*state["waiting"], *(active["slug"] for active in state["active"])]
            finished = [slug for slug in SLUGS if slug not in unfinished]
            resume = training.checkpoint(rounds).read(unfinished, finished)
            assert resume is not None
            results = list(training.build().train(tiny.CLASSES, resume=resume))
            assert sorted(trained.info.slug for trained in results) == sorted(unfinished), rounds
            for trained in results:
                training.assert_unchanged(trained)

    def test_training_on_does_not_change_an_earlier_state(self, training):
        """Neither the training that gave the state, nor one that resumes from it."""
        for _ in range(2):
            results = list(training.build().train(tiny.CLASSES, resume=training.states[2]))
            assert len(results) == 3
            for trained in results:
                training.assert_unchanged(trained)


class Killed(Exception):
    """Ends a training from outside."""


@each_objective
def test_a_training_killed_while_it_writes_a_checkpoint_has_yielded_what_that_finished(objective):
    """So no class is lost: a class is given to the caller before a state says that it is done."""
    yielded: list[ClassInfo] = []

    def kill(state: dict[str, Any]) -> None:
        unfinished = [*state["waiting"], *(active["slug"] for active in state["active"])]
        assert [info.slug for info in yielded] == [slug for slug in SLUGS if slug not in unfinished]
        if yielded:
            raise Killed

    def collect() -> None:
        for trained in build(objective, updates=2, classes_per_batch=1).train(tiny.CLASSES, checkpoint=kill):
            yielded.append(trained.info)

    with pytest.raises(Killed):
        collect()
    assert len(yielded) == 1
