"""The state of one class while its token is trained, without a model."""

import pytest
import torch

from dct_augment.config import TokensConfig
from dct_augment.diffusion import WordNorms
from dct_augment.records import StopReason
from dct_augment.tokens.state import ClassTokenState, Validation
from tests import tiny

CONFIG = TokensConfig(
    max_updates=30,
    validate_every=10,
    patience=2,
    restarts=1,
    restart_below_accuracy=0.8,
    target_accuracy=0.95,
    target_probability=0.8,
    validation_images=4,
)


def new_state(**changes) -> ClassTokenState:
    """A class at its beginning, with `CONFIG` but for some changes."""
    config = tiny.changed(CONFIG, **changes)
    return ClassTokenState(tiny.CLASSES[0], 1, torch.ones(1, 16), (WordNorms(16, 2.0, 4.0),), config)


def step(state: ClassTokenState, gradient: torch.Tensor | None, loss: float = 1.0) -> None:
    """Update with this gradient."""
    state.vector.grad = gradient
    state.update(loss)


def validate(state: ClassTokenState, accuracy: float, probability: float, updates: int = 10) -> None:
    """Update so many times and record what a validation gave."""
    for _ in range(updates):
        step(state, torch.ones(1, 16))
    assert state.needs_validation
    state.record_validation(accuracy, probability)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e5])
def test_a_step_is_measured_in_word_norms_whatever_the_size_of_the_gradient(scale):
    state, generator = new_state(), torch.Generator().manual_seed(0)
    gradient = torch.randn(1, 16, generator=generator)
    step(state, gradient * scale)
    moved = state.vector.detach() - torch.ones(1, 16)
    assert moved.norm().item() == pytest.approx(state.config.learning_rate * 2.0, rel=1e-3)
    assert torch.equal(moved.sign(), -gradient.sign())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_class_without_a_step(value):
    for loss, gradient in ((value, torch.ones(1, 16)), (1.0, torch.full((1, 16), value)), (1.0, None)):
        state = new_state()
        step(state, gradient, loss)
        assert state.reason is StopReason.NON_FINITE
        assert (state.updates, state.history) == (0, [])
        assert torch.equal(state.vector, torch.ones(1, 16))
        assert not state.usable


def test_a_class_stops_when_accuracy_and_probability_reach_their_targets():
    state = new_state()
    validate(state, 0.95, 0.79)
    assert state.reason is None
    validate(state, 0.95, 0.8)
    assert (state.reason, state.attempt.number, state.usable) == (StopReason.TARGET, 0, True)


def test_a_good_class_stops_when_its_patience_is_used_up():
    state = new_state(max_updates=100)
    for probability in (0.5, 0.505, 0.52):  # less than a point is no progress, more is
        validate(state, 0.85, probability)
    validate(state, 0.85, 0.52)
    assert state.reason is None
    validate(state, 0.85, 0.52)
    assert (state.reason, state.attempt.number) == (StopReason.PATIENCE, 0)


def test_a_class_stops_when_its_updates_are_used_up():
    state = new_state()
    for probability in (0.5, 0.6, 0.7):
        validate(state, 0.85, probability)
    assert state.reason is StopReason.UPDATES


def test_an_attempt_without_progress_is_restarted_elsewhere_and_the_best_state_kept():
    elsewhere = torch.full((1, 16), 0.5)
    state = new_state(method={"name": "look_ahead", "positions": ((0.0, 0.2), (0.8, 1.0))})
    assert all(state.random_position() < 0.2 for _ in range(20))
    validate(state, 0.7, 0.6)
    best_vector = state.best_vector.clone()
    validate(state, 0.5, 0.5)
    assert not state.needs_restart
    validate(state, 0.5, 0.5)
    assert (state.needs_restart, state.reason) == (True, None)
    state.restart(elsewhere)
    assert (state.needs_restart, state.attempt.number) == (False, 1)
    assert torch.equal(state.vector, elsewhere)
    assert all(0.8 <= state.random_position() < 1.0 for _ in range(20))
    for _ in range(3):
        validate(state, 0.6, 0.4)
    assert (state.needs_restart, state.reason) == (False, StopReason.UPDATES)
    assert state.attempt.number == 1  # one restart only
    assert torch.equal(elsewhere, torch.full((1, 16), 0.5))
    assert state.best == Validation(10, 0.7, 0.6)
    assert torch.equal(state.best_vector, best_vector)
    assert len(state.validations) == 6
    assert state.updates == len(state.history) == 60


def test_the_best_state_may_be_of_a_later_attempt():
    state = new_state()
    for _ in range(3):
        validate(state, 0.5, 0.5)
    state.restart(torch.zeros(1, 16))
    validate(state, 0.7, 0.7)
    assert state.best == Validation(40, 0.7, 0.7)
    assert torch.equal(state.best_vector, state.vector)


def test_downhill_words_lie_against_the_gradients_of_this_attempt():
    state, words = new_state(), torch.eye(16)
    for scale in (1e-3, 1e3):  # the direction of a gradient counts, not its size
        step(state, -words[3:4] * scale)
    step(state, -words[7:8])
    step(state, words[5:6])
    assert state.downhill_words(words, 2).tolist() == [3, 7]
    assert 5 not in state.downhill_words(words, 15).tolist()
    assert len(state.downhill_words(words, 99)) == 16
    state.restart(torch.ones(1, 16))
    step(state, -words[9:10])
    assert state.downhill_words(words, 1).tolist() == [9]


def test_a_class_above_the_accuracy_for_restarts_is_not_restarted():
    state = new_state()
    for _ in range(3):
        validate(state, 0.9, 0.5)
    assert state.attempt.number == 0
    assert state.reason in (StopReason.PATIENCE, StopReason.UPDATES)


@pytest.mark.parametrize(
    ("accuracy", "probability", "reason"),
    [(0.95, 0.8, StopReason.PLAIN_IS_ENOUGH), (0.95, 0.79, None), (0.94, 0.9, None)],
)
def test_a_class_whose_plain_prompt_reaches_both_targets_needs_no_token(accuracy, probability, reason):
    state = new_state()
    assert state.needs_plain_validation
    state.record_plain_validation(accuracy, probability)
    assert not state.needs_plain_validation
    assert (state.reason, state.usable) == (reason, reason is None)
    assert state.plain == Validation(0, accuracy, probability)
    assert (state.validations, state.best) == ([], None)
    again = new_state()
    again.restore(state.state())
    assert again.plain == state.plain


def test_without_plain_first_the_plain_prompt_is_not_looked_at():
    assert not new_state(plain_first=False).needs_plain_validation


def test_the_cosine_schedule_ends_in_short_steps():
    state, lengths = new_state(schedule="cosine", max_updates=10), []
    for _ in range(10):
        before = state.vector.detach().clone()
        step(state, torch.ones(1, 16))
        lengths.append((state.vector.detach() - before).norm().item())
    full_length = state.config.learning_rate * 2.0
    assert lengths[0] == pytest.approx(full_length, rel=1e-3)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[5] == pytest.approx(full_length / 2, rel=0.02)
    assert lengths[-1] < 0.05 * full_length


def test_the_norm_prior_pulls_a_vector_to_the_mean_word_norm():
    gradient = torch.eye(16)[:1]  # across the vector: it says nothing of its length
    for start, sign in ((torch.ones(1, 16), -1), (torch.ones(1, 16) / 8, 1)):  # words have norm 2
        state = new_state(norm_prior=5.0)
        state.restart(start)
        step(state, gradient.clone())
        assert sign * (state.vector.detach().norm() - start.norm()).item() > 0


def test_finished_latents_serve_updates_per_image_updates_and_keep_their_prompts():
    state, latents = new_state(method={"updates_per_image": 3}, images_per_update=4), torch.ones(4, 1, 2, 2)
    first_prompts = []
    for update in range(7):
        first_prompts.append(state.first_prompt)
        assert (state.finished is None) is (update % 3 == 0)
        step(state, torch.ones(1, 16))
        state.store_finished(latents)
    assert first_prompts == [0, 0, 0, 12, 12, 12, 24]
    state.restart(torch.zeros(1, 16))
    assert (state.finished, state.first_prompt) == (None, 28)


def test_seeds_of_validation_are_never_seeds_of_training():
    state = new_state()
    training_seeds = [seed for _ in range(50) for seed in state.new_seeds(6)]
    assert not set(training_seeds) & set(state.validation_seeds)
    assert len(set(training_seeds)) == len(training_seeds)
