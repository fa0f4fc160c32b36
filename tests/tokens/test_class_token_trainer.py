"""Training class tokens by a guide's gradient: what is learned, which state is kept, and what a restart does.

What class tokens share with textual inversion is in `test_trainer_contract.py`.
"""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from dct_augment import prompts
from dct_augment.diffusion import Sampler, WordNorms, split_by_encoder
from dct_augment.diffusion.memory import BatchSizes
from dct_augment.errors import InputError
from dct_augment.records import ClassInfo, StopReason, Verdict
from dct_augment.tokens.denoising import PhotoLatents, denoising_losses
from dct_augment.tokens.files import TokenFolder
from dct_augment.tokens.state import ClassTokenState, TrainedToken, Validation
from tests import tiny
from tests.tokens import trainers
from tests.tokens.denoisers import counted
from tests.tokens.trainers import LABELS, PROMPTS, SAMPLING, TOKENS, Directions, build, classifier

METHODS = ["look_ahead", "last_step", "last_k", "full", "lv", "direct_align"]


def backend() -> Any:
    """A model in single precision, as users train."""
    return tiny.backend(tiny.ONE_LEVEL)


def train(classes=tiny.CLASSES, **changes) -> dict[str, TrainedToken]:
    """Train class tokens in single precision; by class slug."""
    return trainers.train("classifier", classes, backend=backend(), **changes)


class Constant(torch.nn.Module):
    """A guide that gives every image the same logits."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, 4)."""
        return pixels.mean((1, 2, 3))[:, None] * 0 + torch.tensor([[3.0, 0.0, 0.0, 0.0]])


def validation_seeds(info: ClassInfo) -> list[int]:
    """The seeds of a class's validation images."""
    return ClassTokenState(
        info, 1, torch.zeros(1, tiny.WIDTH), (WordNorms(tiny.WIDTH, 1.0, 1.0),), TOKENS
    ).validation_seeds


def probability(info: ClassInfo, vector: torch.Tensor | None, seeds: list[int]) -> float:
    """Mean probability of the class by the linear guide over images that are generated here from scratch."""
    token = None if vector is None else "<dct-x-y>"
    lines = []
    for number in range(len(seeds)):
        template, context = prompts.choose(PROMPTS.templates, PROMPTS.contexts_of(info), number)
        lines.append(prompts.build(template, info.name, token=token, context=context))
    with torch.no_grad():
        encoding = backend().encode(lines, None if vector is None else vector.expand(len(seeds), -1, -1))
        sampler = Sampler.from_config(backend(), SAMPLING, negative_prompt=PROMPTS.negatives[0])
        images = sampler.generate(seeds, encoding)
        return classifier(Directions()).logits(images).softmax(1)[:, LABELS.index(info.name)].mean().item()


def quality(validation: Validation) -> tuple[float, float]:
    """What the best validation is the largest of."""
    return validation.accuracy, validation.probability


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_training_raises_the_guide_probability_on_fresh_noise(method):
    if method == "direct_align":  # one step from much noise is far from what this untrained model makes in three
        method = {"name": method, "updates_per_image": 1, "positions": ((0.7, 1.0),)}
    word, fresh_seeds, gains = backend().word("a")[None], list(range(100, 116)), []
    for slug, trained in train(method=method, updates=6, images=3, learning_rate=0.6).items():
        plain = probability(trained.info, None, validation_seeds(trained.info))
        assert trained.best.probability > plain + 0.05, slug
        assert trained.usable
        assert trained.certificate.mean_pixel_change >= 1.0
        gains.append(
            probability(trained.info, trained.vector, fresh_seeds) - probability(trained.info, word, fresh_seeds)
        )
    assert sum(gains) / len(gains) > 0.01


@pytest.mark.slow
def test_the_returned_vector_is_the_one_of_the_best_validation():
    """Generated again from the returned vector, the validation images give the best validation."""
    tokens = train(learning_rate=2.0, updates=6, validate_every=1, patience=9)
    for trained in tokens.values():
        assert trained.best == max(trained.validations, key=quality)
        seeds = validation_seeds(trained.info)
        assert probability(trained.info, trained.vector, seeds) == pytest.approx(trained.best.probability, abs=1e-4)
    assert any(trained.best.update < trained.updates for trained in tokens.values())  # the last state is not the best


def test_a_class_is_validated_at_its_interval_and_after_its_last_update():
    for trained in train(updates=5, validate_every=2, patience=9).values():
        assert [validation.update for validation in trained.validations] == [2, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "direct_align"])
def test_the_number_of_classes_per_batch_changes_tokens_in_single_precision_by_rounding_only(method):
    """Random weights magnify the last bits that another batch shape changes; a wrong seed changes 0.1."""
    together, alone = train(method=method, vectors=2), train(method=method, vectors=2, classes_per_batch=1)
    for slug, trained in alone.items():
        torch.testing.assert_close(trained.vector, together[slug].vector, atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", ["look_ahead", {"name": "direct_align", "updates_per_image": 3}])
def test_the_reported_evaluations_of_a_method_are_the_counted_ones(method):
    Directions()  # what it is made of is generated once, and is not to be counted
    with counted(backend()) as evaluations:
        tokens = train(method=method)
    assert sum(trained.evaluations for trained in tokens.values()) == evaluations[0]


def test_a_guide_that_is_blind_to_images_certifies_no_token(tmp_path):
    folder, rows = TokenFolder(tmp_path, "tiny"), []
    base = {"path": "tiny", "revision": None, "family": "StableDiffusion", "blocks": [("", tiny.WIDTH)]}
    for trained in train(guide=classifier(Constant()), certificate_images=24).values():
        assert trained.certificate.verdict in (Verdict.NO_GAIN, Verdict.COLLAPSED)
        rows.append(folder.save(trained, {"schema": 1}, base))
    folder.publish(rows)
    assert "certified" not in folder.index()["verdict"].tolist()


def test_a_class_whose_plain_prompt_is_enough_gets_no_token_and_costs_one_validation(tmp_path):
    class Sure(torch.nn.Module):
        """Takes every image for a crane."""

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((1, 2, 3))[:, None] * 0 + torch.tensor([[0.0, 9.0, 0.0, 0.0]])

    changes: dict[str, Any] = {"guide": classifier(Sure()), "updates": 1, "validate_every": 1}
    tokens = train(plain_first=True, target_probability=0.9, **changes)
    crane = tokens.pop("crane")
    assert (crane.reason, crane.usable, crane.certificate) == (StopReason.PLAIN_IS_ENOUGH, False, None)
    assert (crane.updates, crane.attempts, crane.evaluations) == (0, 0, 4 * 3 * 2)  # images, steps, branches
    expected = train(**changes)
    for slug, trained in tokens.items():
        assert (trained.plain.accuracy, trained.usable) == (0.0, True)
        assert trained.evaluations == expected[slug].evaluations + 4 * 3 * 2
        torch.testing.assert_close(trained.vector, expected[slug].vector, atol=2e-4, rtol=0)
    folder = TokenFolder(tmp_path, "tiny")
    base = {"path": "tiny", "revision": None, "family": "StableDiffusion", "blocks": [("", tiny.WIDTH)]}
    metadata = folder.save(crane, {"schema": 2}, base)
    assert not folder.is_usable(crane.info, any_verdict=True)
    assert (metadata["stop_reason"], metadata["plain_validation_accuracy"]) == ("plain prompt is enough", 1.0)
    assert metadata["plain_validation_probability"] > 0.9


def test_a_token_that_changes_no_image_is_an_ordinary_token_without_gain():
    start = backend().word("a")[None]
    for trained in train(updates=1, learning_rate=1e-6, starts={info.slug: start for info in tiny.CLASSES}).values():
        assert (trained.reason, trained.usable) == (StopReason.UPDATES, True)
        assert trained.certificate is not None


def test_the_norm_of_every_vector_of_a_token_is_limited():
    limit = 0.5 * backend().word_norms()[0].largest_norm
    assert backend().word("a").norm() > limit
    for trained in train(max_norm=0.5, learning_rate=3.0, vectors=2).values():
        assert all(step.norm <= limit * (1 + 1e-5) for step in trained.history)
        assert (trained.vector.norm(dim=1) <= limit * (1 + 1e-5)).all()
        assert trained.history[0].norm == pytest.approx(limit, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("restart_words", [0, 4])
def test_a_class_is_restarted_and_the_best_state_of_both_attempts_is_kept(restart_words):
    unsure = classifier(Directions(gain=0.5))  # every attempt ends below the accuracy that spares a restart
    tokens = train(
        guide=unsure,
        restarts=1,
        restart_below_accuracy=1.0,
        restart_words=restart_words,
        updates=2,
        validate_every=1,
        patience=9,
    )
    for trained in tokens.values():
        assert trained.attempts == 2
        assert trained.updates == len(trained.history) == len(trained.validations) == 4
        assert trained.best == max(trained.validations, key=quality)


@pytest.mark.parametrize("family", ["xl", "pixart", "lcm", "flux", "z_image"])
def test_a_token_of_every_model_family_is_trained_and_saved(tmp_path, family):
    """Two text encoders give a pair of vectors, each part moved by at most two steps in its own words."""
    model = tiny.backend(family)
    guide = tiny.classifier("test_resnet")
    trainer = build("classifier", backend=model, guide=guide, vectors=2, updates=2, target_accuracy=0.0)
    (trained,) = trainer.train(tiny.CLASSES[:1])
    assert trained.vector.shape == (2, model.width)
    start = model.word("a").expand(2, -1)
    moved = split_by_encoder(trained.vector - start, model.encoder_widths.values())
    for words, part in zip(model.word_norms(), moved, strict=True):
        assert 0 < part.abs().max() <= 2.1 * TOKENS.learning_rate * words.mean_norm / words.width**0.5
    folder, blocks = TokenFolder(tmp_path, "tiny"), list(model.encoder_widths.items())
    base = {"path": family, "revision": None, "family": type(model).__name__, "blocks": blocks}
    folder.save(replace(trained, usable=True), {"schema": 1}, base)
    torch.testing.assert_close(folder.vector(tiny.CLASSES[0]), trained.vector)
    assert set(folder.read(tiny.CLASSES[0]).parts) == set(model.encoder_widths)


def test_training_starts_from_the_vectors_it_is_given():
    start = torch.randn(1, tiny.WIDTH, generator=torch.Generator().manual_seed(5)) * 0.2
    tokens = train(tiny.CLASSES[:2], updates=1, validate_every=1, starts={"crane": start})
    step = TOKENS.learning_rate * backend().word_norms()[0].mean_norm
    assert (tokens["crane"].vector - start).norm() <= step * 1.01
    assert (tokens["kiwi"].vector - start).norm() > 2 * step


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_autocast_keeps_the_token_and_its_optimiser_in_single_precision(kind):
    exact, kinds = train(updates=1, validate_every=1), set()

    def record_dtype(module: Any, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            kinds.add(output.sample.dtype)

    handle = backend().denoiser.register_forward_hook(record_dtype)
    tokens = train(updates=1, validate_every=1, autocast=kind)
    handle.remove()
    assert kinds == {getattr(torch, kind)}
    for slug, trained in tokens.items():
        assert trained.vector.dtype == torch.float32
        assert trained.history[0].loss == pytest.approx(exact[slug].history[0].loss, rel=0.3)


class TestPhotoWeight:
    """Tokens that are also pulled towards the photos of their class."""

    @property
    def photos(self) -> dict[str, Any]:
        """The photos of every class."""
        return {info.slug: trainers.pictures(info) for info in tiny.CLASSES}

    def denoising_loss(self, info: ClassInfo, vector: torch.Tensor) -> float:
        """The loss of the vector on the photos of its class, over noise that training does not use."""
        sampler = Sampler.from_config(backend(), SAMPLING, negative_prompt=PROMPTS.negatives[0])
        latents = PhotoLatents.encode(sampler.backend, self.photos[info.slug])
        generator = torch.Generator().manual_seed(99)
        steps = sampler.backend.training_steps
        batch = latents.noised(generator, 64, steps, PROMPTS.templates, info.name)
        with torch.no_grad():
            return denoising_losses(sampler, [batch], [vector]).item()

    def test_the_pull_lowers_the_denoising_loss_on_the_photos(self) -> None:
        info = tiny.CLASSES[0]
        options: dict[str, Any] = {"updates": 12, "few_shot_images": self.photos, "photos_per_update": 8}
        losses = {}
        for weight in (0.0, 20.0):
            trained = train([info], photo_weight=weight, **options)[info.slug]
            losses[weight] = self.denoising_loss(info, trained.vector)
        assert losses[20.0] < losses[0.0]

    def test_another_weight_gives_another_token_and_counts_its_evaluations(self) -> None:
        info = tiny.CLASSES[0]
        without = train([info], updates=2)[info.slug]
        tokens = [
            train([info], updates=2, photo_weight=weight, photos_per_update=3, few_shot_images=self.photos)[info.slug]
            for weight in (0.5, 1.0)
        ]
        assert not torch.equal(tokens[0].vector, tokens[1].vector)
        assert tokens[0].evaluations == without.evaluations + 2 * 3 * 3

    def test_a_class_without_a_photo_is_named(self) -> None:
        with pytest.raises(InputError, match=r"photo_weight 1 needs training photos .* none of: "):
            train([tiny.CLASSES[0]], updates=1, photo_weight=1.0, few_shot_images={})

    def test_training_goes_on_with_the_same_photos_where_it_was_stopped(self) -> None:
        classes, states = tiny.CLASSES[:2], []
        options: dict[str, Any] = {"updates": 4, "photo_weight": 0.5, "few_shot_images": self.photos}
        whole = {
            trained.info.slug: trained.vector
            for trained in build("classifier", backend=backend(), **options).train(
                classes, checkpoint=lambda state: states.append(copy.deepcopy(state))
            )
        }
        resumed = build("classifier", backend=backend(), **options).train(classes, resume=states[2])
        for trained in resumed:
            assert torch.equal(trained.vector, whole[trained.info.slug])


def test_the_pull_has_its_weight_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (WordNorms(4, 2.0, 4.0),)
    state = ClassTokenState(tiny.CLASSES[0], 0, torch.ones(1, 4), words, tiny.changed(TOKENS, photo_weight=0.5))
    (state.vector * torch.tensor([3.0, 0.0, 0.0, 0.0])).sum().backward()
    stepped: list[Any] = []
    monkeypatch.setattr(state._optimizer, "step", lambda: stepped.append(state.gradient))
    state.update(1.0, torch.tensor([[0.0, 7.0, 0.0, 0.0]]))
    assert stepped[0].tolist() == [[1.0, 0.5, 0.0, 0.0]]


def test_a_pull_that_is_not_finite_stops_the_class() -> None:
    state = ClassTokenState(tiny.CLASSES[0], 0, torch.ones(1, 4), (WordNorms(4, 2.0, 4.0),), TOKENS)
    state.vector.sum().backward()
    state.update(1.0, torch.full((1, 4), float("nan")))
    assert state.reason is StopReason.NON_FINITE


def decoded_at_once(model: Any, monkeypatch: pytest.MonkeyPatch, largest: int = 100) -> list[int]:
    """Note how many images the autoencoder is asked for at once; memory runs out where that is more than `largest`."""
    counts: list[int] = []
    decode = model.vae.decode

    def counting(latents: torch.Tensor, **options: Any) -> Any:
        counts.append(len(latents))
        if len(latents) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(latents, **options)

    monkeypatch.setattr(model.vae, "decode", counting)
    monkeypatch.setattr(model, "batch_sizes", BatchSizes())
    return counts


def assert_same_tokens(tokens: dict[str, TrainedToken], expected: dict[str, TrainedToken]) -> None:
    for slug, trained in tokens.items():
        torch.testing.assert_close(trained.vector, expected[slug].vector, atol=1e-7, rtol=0)
        assert trained.evaluations == expected[slug].evaluations


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direct_align", "lv", "full"])
def test_images_of_a_large_model_are_decoded_one_by_one_and_give_the_same_token(method, monkeypatch):
    model = tiny.backend(tiny.ONE_LEVEL, "float64")
    settings: dict[str, Any] = {"backend": model, "method": method, "updates": 2, "images": 3}
    expected = trainers.train("classifier", **settings)
    counts = decoded_at_once(model, monkeypatch)
    model.batch_sizes.limit("decode", 1)
    model.batch_sizes.limit("decode_gradient", 1)
    tokens = trainers.train("classifier", **settings)
    assert set(counts) == {1}
    assert_same_tokens(tokens, expected)


@pytest.mark.slow
def test_memory_too_little_for_decoding_runs_no_denoising_again(monkeypatch):
    model = tiny.backend(tiny.ONE_LEVEL, "float64")
    settings: dict[str, Any] = {"backend": model, "updates": 2, "images": 3}
    with counted(model) as evaluations:
        expected = trainers.train("classifier", **settings)
    whole = evaluations[0]
    counts = decoded_at_once(model, monkeypatch, largest=4)
    with counted(model) as evaluations:
        assert_same_tokens(trainers.train("classifier", **settings), expected)
    assert evaluations[0] == whole
    assert [count for count in counts if count > 4] == [9]  # it is remembered


@pytest.mark.slow
def test_validations_that_are_too_large_for_memory_leave_updates_as_large_as_they_were():
    model = tiny.backend(tiny.ONE_LEVEL, "float64")
    settings: dict[str, Any] = {"backend": model, "updates": 4, "images": 1, "validation_images": 6}
    expected = trainers.train("classifier", **settings)
    batches: dict[bool, list[int]] = {True: [], False: []}

    def refuse(module: Any, args: Any) -> None:
        batches[torch.is_grad_enabled()].append(len(args[0]))
        if len(args[0]) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = model.denoiser.register_forward_pre_hook(refuse)
    try:
        assert_same_tokens(trainers.train("classifier", **settings), expected)
    finally:
        handle.remove()
        model.batch_sizes = BatchSizes()  # others share this model
    assert max(batches[True]) == 3  # all classes at once
    assert [count for count in batches[False] if count > 12] == [36, 18]  # found out once


def test_a_class_is_trained_against_its_own_negative_prompt():
    own = {"default": "", "kiwi": "a red bird on the sand"}
    together = train(prompts=tiny.changed(PROMPTS, negative=own), restarts=1)
    for slug, negative in (("crane", ""), ("kiwi", own["kiwi"])):
        (info,) = (info for info in tiny.CLASSES if info.slug == slug)
        (alone,) = train([info], prompts=tiny.changed(PROMPTS, negative=negative), restarts=1).values()
        torch.testing.assert_close(together[slug].vector, alone.vector, atol=1e-5, rtol=1e-4)
        assert together[slug].certificate.guide == alone.certificate.guide
        assert together[slug].certificate.diversity == pytest.approx(alone.certificate.diversity, rel=1e-4)
    (crane,) = train(tiny.CLASSES[:1], prompts=tiny.changed(PROMPTS, negative=own["kiwi"])).values()
    assert not torch.allclose(crane.vector, together["crane"].vector)
