"""Textual inversion against diffusers' own training example, written out around each family's own modules.

What it shares with class tokens is in `test_trainer_contract.py`.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AddedToken

from dct_augment import config, datasets, diffusion, pocket
from dct_augment.classifiers import SingleClassifier
from dct_augment.config import PromptsConfig, seed_from
from dct_augment.diffusion import WordNorms
from dct_augment.diffusion.tokenization import instruction_of
from dct_augment.errors import InputError
from dct_augment.images import square
from dct_augment.pipeline.run import Run
from dct_augment.records import ClassInfo, Progress, ProgressCallback, StopReason, ignore_progress
from dct_augment.tokens import formats
from dct_augment.tokens.denoising import PhotoLatents, denoising_losses
from dct_augment.tokens.state import TrainedToken
from dct_augment.tokens.textual_inversion import InversionState, TextualInversionTrainer
from tests import tiny
from tests.tokens.denoisers import little_memory
from tests.tokens.trainers import INVERSION, LABELS, PROMPTS, SAMPLING, UPDATES, build, classifier, pictures

CLOSE = 1e-5  # in double precision, where another batch shape changes no bit that counts
IMAGES = 3  # of a class in one update
WORD = "<of-a-test>"


class Colours(torch.nn.Module):
    """A guide that looks at mean colours."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.weights = gain * torch.randn(3, 4, generator=torch.Generator().manual_seed(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return images.mean((2, 3)) @ self.weights


def guide(gain: float = 1.0, labels: Sequence[str] = LABELS) -> SingleClassifier:
    """A guide that only measures."""
    return classifier(Colours(gain), labels)


def trainer(*, backend: diffusion.Backend | None = None, **changes: Any) -> TextualInversionTrainer:
    """A trainer by textual inversion in double precision."""
    backend = backend or tiny.backend(tiny.ONE_LEVEL, "float64")
    settings: dict[str, Any] = {"images": IMAGES, "guide": guide()} | changes
    return cast(TextualInversionTrainer, build("textual_inversion", backend=backend, **settings))


def train(classes: Sequence[ClassInfo] = tiny.CLASSES, **changes: Any) -> dict[str, TrainedToken]:
    """Train by textual inversion; the tokens by class slug."""
    return {trained.info.slug: trained for trained in trainer(**changes).train(classes)}


@cache
def undisturbed() -> dict[str, TrainedToken]:
    """The tokens of a training in which nothing is changed."""
    return train()


class Example:
    """diffusers' textual inversion example, plainly: a pipeline in double precision, its vocabulary resized.

    The last rows of the table of each text encoder are the token, (n, D).
    """

    def __init__(self, folder: Path, vector: torch.Tensor) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        missing = {part: None for part, named in index.items() if named == [None, None]}
        self.pipe = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float64, **missing)
        settings = self.pipe.scheduler.config
        self.is_flow = settings.get("prediction_type", "flow_prediction") == "flow_prediction"
        if not self.is_flow:
            self.schedule = diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        parts = [part for part in ("", "_2", "_3") if getattr(self.pipe, f"text_encoder{part}", None) is not None]
        self.texts = [
            (getattr(self.pipe, f"tokenizer{part}"), getattr(self.pipe, f"text_encoder{part}")) for part in parts
        ]
        names = [WORD.replace(">", f"-{number}>") for number in range(len(vector))]
        self.words, self.count, self.tables = " ".join(names), len(names), []
        self.widths = [model.get_input_embeddings().weight.shape[1] for _, model in self.texts]
        for tokenizer, model in self.texts:
            tokenizer.add_tokens([AddedToken(name, lstrip=True, normalized=False) for name in names])
            table = model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            assert tokenizer.convert_tokens_to_ids(names) == [*range(len(table.weight))][-len(names) :]
            self.tables.append(table.weight)
        self.set_vector(vector)

    def set_vector(self, vector: torch.Tensor) -> None:
        """Take another token."""
        for table, part in zip(self.tables, vector.split(self.widths, 1), strict=True):
            table.data[-self.count :] = part
            table.grad = None

    @property
    def vector(self) -> torch.Tensor:
        return torch.cat([table.detach()[-self.count :] for table in self.tables], 1)

    @property
    def gradient(self) -> torch.Tensor:
        return torch.cat([table.grad[-self.count :] for table in self.tables], 1)

    def prompts(self, info: ClassInfo, numbers: Sequence[int]) -> list[str]:
        kinds = ("photo", "drawing")
        return [f"a {kinds[number]} of a {self.words} {info.name}" for number in numbers]

    def latents(self, images: torch.Tensor, jitter: torch.Tensor) -> torch.Tensor:
        encoded, settings = self.pipe.vae.encode(images), self.pipe.vae.config
        if isinstance(self.pipe, diffusers.SanaPipeline):  # its autoencoder is without noise
            latents = encoded.latent
        else:
            latents = encoded.latent_dist.mean + encoded.latent_dist.std * jitter
        return ((latents - (settings.shift_factor or 0.0)) * settings.scaling_factor).detach()

    def loss(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, lines: Sequence[str]
    ) -> torch.Tensor:
        if self.is_flow:  # as in diffusers' example of Stable Diffusion 3: timesteps are listed from the noisiest on
            settings = self.pipe.scheduler.config
            shift = settings.get("flow_shift", settings.get("shift"))
            schedule = diffusers.FlowMatchEulerDiscreteScheduler.from_config(settings, shift=shift)
            told = schedule.timesteps.flip(0)[timesteps].double()
            levels = (told / 1000).view(-1, 1, 1, 1)
            noisy = (1 - levels) * latents + levels * noise
            return functional.mse_loss(self.predict(noisy, told, list(lines)), noise - latents, reduction="mean")
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        if self.schedule.config.prediction_type == "v_prediction":
            target = self.schedule.get_velocity(latents, noise, timesteps)
        else:
            target = noise
        return functional.mse_loss(self.predict(noisy, timesteps, list(lines)), target, reduction="mean")

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, lines: list[str]) -> torch.Tensor:
        pipe = self.pipe
        if isinstance(pipe, diffusers.PixArtSigmaPipeline):
            lines = [line.lower() for line in lines]
            read = pipe.tokenizer(lines, padding="max_length", max_length=300, truncation=True, return_tensors="pt")
            hidden = pipe.text_encoder(read.input_ids, attention_mask=read.attention_mask)[0]
            return pipe.transformer(
                noisy, hidden, timesteps, {"resolution": None, "aspect_ratio": None},
                encoder_attention_mask=read.attention_mask,
            ).sample.chunk(2, 1)[0]  # fmt: skip
        if isinstance(pipe, diffusers.ZImagePipeline):
            words, _ = pipe.encode_prompt(lines, do_classifier_free_guidance=False)
            output = pipe.transformer([*noisy.unsqueeze(2)], (1000 - timesteps) / 1000, words).sample
            return -torch.stack(output).squeeze(2)
        if isinstance(pipe, diffusers.FluxPipeline):
            hidden, pooled, places = pipe.encode_prompt(lines)
            side = tiny.LATENT[1] // 2
            image_places = pipe._prepare_latent_image_ids(1, side, side, "cpu", noisy.dtype)
            packed = pipe._pack_latents(noisy, len(noisy), *tiny.LATENT)
            told = torch.full((len(lines),), SAMPLING.guidance_scale)
            output = pipe.transformer(packed, hidden, pooled, timesteps / 1000, image_places, places, told).sample
            return pipe._unpack_latents(output, tiny.IMAGE, tiny.IMAGE, pipe.vae_scale_factor)
        if isinstance(pipe, diffusers.SanaPipeline):
            instruction = instruction_of("SanaPipeline").split("\n")
            hidden, mask, _, _ = pipe.encode_prompt(lines, False, complex_human_instruction=instruction)
            told = timesteps * pipe.transformer.config.timestep_scale
            return pipe.transformer(noisy, hidden, told, encoder_attention_mask=mask).sample
        if isinstance(pipe, diffusers.StableDiffusion3Pipeline):
            hidden, _, pooled, _ = pipe.encode_prompt(lines, None, None, do_classifier_free_guidance=False)
            return pipe.transformer(noisy, hidden, pooled, timesteps).sample
        ids = [
            tokenizer(
                lines, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
            ).input_ids
            for tokenizer, _ in self.texts
        ]
        if isinstance(pipe, diffusers.StableDiffusionXLPipeline):
            first = pipe.text_encoder(ids[0], output_hidden_states=True).hidden_states[-2]
            second = pipe.text_encoder_2(ids[1], output_hidden_states=True)
            side = tiny.IMAGE
            times = torch.tensor([[side, side, 0, 0, side, side]] * len(lines), dtype=noisy.dtype)
            added = {"text_embeds": second[0], "time_ids": times}
            hidden = torch.cat([first, second.hidden_states[-2]], -1)
            return pipe.unet(noisy, timesteps, hidden, added_cond_kwargs=added).sample
        hidden, guided = pipe.text_encoder(ids[0])[0], None
        if width := pipe.unet.config.time_cond_proj_dim:  # an LCM is told the guidance scale
            weights = torch.full((len(lines),), SAMPLING.guidance_scale - 1)
            guided = pipe.get_guidance_scale_embedding(weights, width, noisy.dtype)
        return pipe.unet(noisy, timesteps, hidden, timestep_cond=guided).sample


def plain_images(info: ClassInfo) -> torch.Tensor:
    """The pictures of a class as the example's data set makes them."""
    size = (tiny.IMAGE, tiny.IMAGE)
    resized = [picture.convert("RGB").resize(size, Image.Resampling.BICUBIC) for picture in pictures(info)]
    return torch.tensor(np.stack([np.array(image) for image in resized]) / 127.5 - 1.0).permute(0, 3, 1, 2)


def plain_step(example: Example, info: ClassInfo, random: torch.Generator) -> torch.Tensor:
    """The loss of one step of the example; `random` gives pictures, timesteps, noise, latents and templates in turn."""
    images, count = plain_images(info), IMAGES
    rows = torch.randint(len(images), (count,), generator=random)
    timesteps = torch.randint(1000, (count,), generator=random)
    noise, jitter = (torch.randn(count, *tiny.LATENT, generator=random).double() for _ in range(2))
    lines = example.prompts(info, torch.randint(2, (count,), generator=random).tolist())
    return example.loss(example.latents(images[rows], jitter), noise, timesteps, lines)


def generator(info: ClassInfo) -> torch.Generator:
    """The random stream of a class."""
    return torch.Generator().manual_seed(seed_from("inversion", INVERSION.seed, info.slug))


def start(backend: diffusion.Backend, count: int) -> torch.Tensor:
    """The vectors (n, D) that a token starts from."""
    return backend.word("a").repeat(count, 1)


def edited(family: str, folder: Path, **changes: Mapping[str, Any]) -> Path:
    """The tiny model of a family with other settings of some of its parts."""
    shutil.copytree(tiny.pipeline_folder(family), folder)
    for part, values in changes.items():
        (path,) = (folder / part).glob("*config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def new_state(info: ClassInfo, backend: diffusion.Backend, initial: torch.Tensor) -> InversionState:
    """The state of a class before its first step."""
    encoded = [backend.encode_images(square(picture, backend.image_size)) for picture in pictures(info)]
    photos = PhotoLatents(*(torch.cat(parts) for parts in zip(*encoded, strict=True)))
    return InversionState(info, initial, backend.word_norms(), photos, INVERSION)


PREDICTIONS: list[tuple[str, str | None]] = [
    (family, kind) for family in tiny.FAMILIES if family not in tiny.FLOWS for kind in ("epsilon", "v_prediction")
]
PREDICTIONS += [(family, None) for family in tiny.FLOWS]


@pytest.mark.parametrize(("family", "prediction"), PREDICTIONS)
def test_loss_and_gradient_equal_those_of_the_diffusers_example(tmp_path, family, prediction):
    """The example has a real row in a resized vocabulary; here two classes share a batch."""
    changes: dict[str, Any] = {} if prediction is None else {"scheduler": {"prediction_type": prediction}}
    folder = edited(family, tmp_path / "model", vae={"shift_factor": 0.3}, **changes)
    backend = diffusion.load(str(folder), dtype="float64", image_size=tiny.image_size(family))
    trainer_of_pairs = trainer(backend=backend, vectors=2)
    moved = 0.05 * torch.randn(2, backend.width, generator=torch.Generator().manual_seed(1))
    vectors = [(start(backend, 2) + sign * moved).double().requires_grad_() for sign in (1, -1)]
    infos = tiny.CLASSES[1:]
    batches = [trainer_of_pairs.new_batch(new_state(info, backend, start(backend, 2))) for info in infos]
    losses = denoising_losses(trainer_of_pairs._sampler, batches, vectors)
    gradients = torch.autograd.grad(losses.sum(), vectors)
    example = Example(folder, start(backend, 2))
    for info, vector, loss, gradient in zip(infos, vectors, losses, gradients, strict=True):
        example.set_vector(vector.detach())
        expected = plain_step(example, info, generator(info))
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=CLOSE, atol=0)
        assert example.gradient.norm() > 1e-5
        assert (gradient - example.gradient).norm() / example.gradient.norm() < CLOSE
    assert (losses[0] - losses[1]).abs() > 1e-3


@pytest.mark.parametrize(("family", "count"), [("epsilon", 1), ("v_prediction", 2), ("xl", 2), ("pixart", 1)])
def test_training_equals_the_loop_of_the_diffusers_example(family, count):
    """The example has AdamW on the whole table, whose other rows are put back after every step."""
    info, backend = tiny.CLASSES[0], tiny.backend(family, "float64")
    example, random = Example(tiny.pipeline_folder(family), start(backend, count)), generator(info)
    original = [table.detach().clone() for table in example.tables]
    groups = [
        {"params": [table], "lr": INVERSION.learning_rate * words.mean_norm / words.width**0.5}
        for table, words in zip(example.tables, backend.word_norms(), strict=True)
    ]
    optimizer, losses = torch.optim.AdamW(groups, weight_decay=INVERSION.weight_decay), []
    for _ in range(UPDATES):
        loss = plain_step(example, info, random)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        with torch.no_grad():
            for table, before in zip(example.tables, original, strict=True):
                table[:-count] = before[:-count]
    trained = train([info], backend=backend, vectors=count)[info.slug]
    torch.testing.assert_close(trained.vector.double(), example.vector, atol=CLOSE, rtol=0)
    assert [step.loss for step in trained.history] == pytest.approx(losses, rel=CLOSE)
    assert trained.history[-1].norm == pytest.approx(example.vector.norm(dim=1).max().item(), rel=CLOSE)
    assert (trained.vector - start(backend, count)).abs().min() > 1e-4
    certificate = 2 * 2 * 3 * 2  # kinds, images, steps, branches
    assert trained.evaluations == 3 * UPDATES * IMAGES + certificate
    assert trained.best.update == UPDATES
    assert trained.best.accuracy == trained.certificate.guide.token


@pytest.mark.slow
def test_the_token_of_a_class_depends_on_its_pictures_alone():
    """Not on the name of the class, the guide, the judge, or the contexts of generation."""
    expected = undisturbed()
    kiwi_pictures = {info.slug: pictures(tiny.CLASSES[1]) for info in tiny.CLASSES}
    with_kiwi_pictures = train(few_shot_images=kiwi_pictures)
    assert torch.equal(with_kiwi_pictures["kiwi"].vector, expected["kiwi"].vector)
    assert not torch.allclose(with_kiwi_pictures["crane"].vector, expected["crane"].vector, atol=1e-3)
    by_the_water = PROMPTS.model_copy(update={"contexts": ("by the water",)})
    measured_otherwise = train(guide=guide(-9.0), judge=guide(), prompts=by_the_water)
    for slug, trained in expected.items():
        assert torch.equal(measured_otherwise[slug].vector, trained.vector)
        assert measured_otherwise[slug].best != trained.best


@pytest.mark.slow
def test_a_class_may_have_fewer_pictures_than_an_update_takes():
    """And the classes of a batch may have different numbers of them, as in a long tail."""
    few_shot_images = {info.slug: pictures(info, 1 + info.index) for info in tiny.CLASSES}
    together = train(few_shot_images=few_shot_images)
    for info in tiny.CLASSES:
        alone = train([info], few_shot_images=few_shot_images)[info.slug]
        assert alone.updates == UPDATES
        torch.testing.assert_close(together[info.slug].vector, alone.vector, atol=CLOSE, rtol=0)


def test_a_finished_class_needs_no_pictures_when_training_resumes():
    states: list[dict[str, Any]] = []
    tokens = {}
    for trained in trainer(classes_per_batch=2).train(tiny.CLASSES, checkpoint=states.append):
        tokens[trained.info.slug] = trained
    red_bird_alone = trainer(classes_per_batch=2, few_shot_images={"red-bird": pictures(tiny.CLASSES[2])})
    (resumed,) = red_bird_alone.train(tiny.CLASSES, resume=states[5])  # crane and kiwi are done after four rounds
    assert torch.equal(resumed.vector, tokens["red-bird"].vector)


@pytest.mark.parametrize(
    ("few_shot_images", "message"),
    [
        ({}, "no few-shot image of: crane, kiwi, red bird$"),
        ({"crane": pictures(tiny.CLASSES[0]), "kiwi": []}, "no few-shot image of: kiwi, red bird$"),
    ],
)
def test_classes_without_pictures_are_refused_by_name(few_shot_images, message):
    with pytest.raises(InputError, match=message):
        next(trainer(few_shot_images=few_shot_images).train(tiny.CLASSES))


@pytest.mark.slow
def test_memory_too_little_for_the_certificate_alone_does_not_change_the_batches_of_training():
    messages: list[Progress] = []
    sizes: dict[str, Any] = {"images": 1, "certificate_images": 4}
    expected = train(**sizes)
    with little_memory(tiny.backend(tiny.ONE_LEVEL, "float64"), largest_batch=6) as batch_sizes:
        results = list(trainer(**sizes).train(tiny.CLASSES, messages.append))
    assert max(batch_sizes) > 6
    assert not [progress for progress in messages if not progress.total]
    for trained in results:
        torch.testing.assert_close(trained.vector, expected[trained.info.slug].vector, atol=CLOSE, rtol=0)
        assert trained.evaluations == expected[trained.info.slug].evaluations


@pytest.mark.slow
@pytest.mark.parametrize("family", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("kind", "close"), [("float16", 0.005), ("bfloat16", 0.05)])
def test_half_precision_has_nearly_the_same_gradient_and_a_token_in_single_precision(family, kind, close):
    losses, gradients = [], []
    for dtype in ("float64", kind):
        backend, info = tiny.backend(family, dtype), tiny.CLASSES[1]
        model_trainer, vector = trainer(backend=backend), start(backend, 1).requires_grad_()
        batch = model_trainer.new_batch(new_state(info, backend, start(backend, 1)))
        loss = denoising_losses(model_trainer._sampler, [batch], [vector])
        (gradient,) = torch.autograd.grad(loss.sum() * 1024, vector)
        assert gradient.dtype == torch.float32
        losses.append(loss.item())
        gradients.append(gradient.flatten())
    assert losses[1] == pytest.approx(losses[0], rel=close)
    assert functional.cosine_similarity(gradients[1], gradients[0], dim=0) > 1 - close
    for trained in train(backend=tiny.backend(family, kind)).values():
        assert (trained.updates, trained.usable) == (UPDATES, True)
        assert trained.vector.dtype == torch.float32
        assert 0.01 < (trained.vector - start(tiny.backend(family), 1)).abs().max() < 0.2


def test_the_loss_scale_of_half_precision_changes_no_bit_of_a_token():
    """It is a power of two: where nothing over- or underflows, it changes no bit of a gradient."""
    expected, scaled = undisturbed(), trainer()
    scaled._loss_scale = 1024.0  # as with a model in float16
    for trained in scaled.train(tiny.CLASSES):
        assert torch.equal(trained.vector, expected[trained.info.slug].vector)
        assert trained.history == expected[trained.info.slug].history


class TestInversionState:
    """The steps of state class, without a model."""

    def new_state(self, widths_and_norms: Sequence[tuple[int, float]] = ((16, 2.0),), **changes: Any) -> InversionState:
        words = tuple(WordNorms(width, norm, 2 * norm) for width, norm in widths_and_norms)
        latents, width = torch.zeros(1, 4, 8, 8), sum(norms.width for norms in words)
        return InversionState(
            tiny.CLASSES[0],
            torch.ones(1, width),
            words,
            PhotoLatents(latents, latents),
            tiny.changed(INVERSION, **changes),
        )

    def step(self, state: InversionState, gradient: torch.Tensor, loss: float = 1.0, scale: float = 1.0) -> None:
        state.zero_grad()
        (state.vector * gradient).sum().backward()
        state.update(loss, scale)

    def test_a_step_is_measured_in_the_word_norms_of_each_encoder(self):
        state = self.new_state(((16, 2.0), (4, 5.0)), weight_decay=0.0)
        gradient = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
        self.step(state, gradient)
        moved = state.vector.detach() - 1
        for part, norm in zip(moved.split([16, 4], 1), (2.0, 5.0), strict=True):
            assert part.norm().item() == pytest.approx(state.config.learning_rate * norm, rel=1e-3)
        assert torch.equal(moved.sign(), -gradient.sign())

    def test_the_vector_decays_as_in_adamw(self):
        state = self.new_state(weight_decay=0.5)
        self.step(state, torch.zeros(1, 16))
        expected = 1 - 0.5 * state.config.learning_rate * 2.0 / 16**0.5
        torch.testing.assert_close(state.vector.detach(), torch.full((1, 16), expected))

    @pytest.mark.parametrize("size", [1e-7, 1.0])
    def test_a_scaled_loss_gives_the_same_step(self, size):
        """Also where a gradient is near Adam's epsilon, and its size does matter."""
        plain, scaled, gradient = self.new_state(), self.new_state(), size * torch.arange(-8.0, 8.0)[None]
        self.step(plain, gradient)
        self.step(scaled, 1024 * gradient, scale=1024.0)
        assert torch.equal(plain.vector, scaled.vector)
        assert plain.history == scaled.history

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_or_gradient_that_is_not_finite_stops_the_class_without_a_step(self, value):
        for loss, gradient in ((value, torch.ones(1, 16)), (1.0, torch.full((1, 16), value))):
            state = self.new_state()
            self.step(state, gradient, loss)
            assert state.reason is StopReason.NON_FINITE
            assert state.history == []
            assert torch.equal(state.vector, torch.ones(1, 16))
        state = self.new_state()
        state.update(1.0)  # no gradient at all
        assert state.reason is StopReason.NON_FINITE

    def test_the_gradient_of_an_update_that_ran_out_of_memory_is_dropped(self):
        state, fresh = self.new_state(), self.new_state()
        (state.vector * 7).sum().backward()  # memory ran out before the step
        for each in (state, fresh):
            self.step(each, torch.arange(16.0)[None])
        assert torch.equal(state.vector, fresh.vector)


@cache
def birds() -> tuple[diffusion.Backend, dict[str, ClassInfo], dict[str, TrainedToken]]:
    """Tokens of two Pocket birds whose words also mean other things."""
    backend, dataset = diffusion.load("pocket"), datasets.load("pocket")
    infos = {info.slug: info for info in dataset.classes if info.slug in ("crane", "cardinal")}
    split = datasets.few_shot(dataset, 5, 0)
    tokens = train(
        tuple(infos.values()),
        updates=32,
        images=4,
        inversion={"learning_rate": 0.2},
        backend=backend,
        few_shot_images={slug: images_of(info, split.train) for slug, info in infos.items()},
        guide=guide(labels=("stone", "pebble", *(info.name for info in infos.values()))),
        prompts=PromptsConfig(),
    )
    return backend, infos, tokens


def images_of(info: ClassInfo, examples: Sequence[Any]) -> list[Image.Image]:
    """The images of a class among labelled examples."""
    return [example.open() for example in examples if example.label == info.index]


@pytest.mark.slow
def test_a_token_predicts_the_noise_on_held_out_pictures_of_its_class_best():
    """Better than the word it started from, and than the token of another class, in the diffusers example."""
    backend, infos, tokens = birds()
    assert len(infos) == 2
    random, count = torch.Generator().manual_seed(0), 20
    timesteps = torch.arange(count) * 48 + 40
    noise, jitter = (torch.randn(count, *backend.latent_shape, generator=random).double() for _ in range(2))
    vectors = {"word": backend.word("a")[None]} | {slug: trained.vector for slug, trained in tokens.items()}
    example = Example(pocket.path(), vectors["word"])
    for slug, info in infos.items():
        held_out = images_of(info, datasets.load("pocket").examples("val"))
        images = torch.cat([square(image, backend.image_size) for image in held_out]).double().repeat(2, 1, 1, 1)
        latents, lines, losses = example.latents(images, jitter), example.prompts(info, [0] * count), {}
        for name, vector in vectors.items():
            example.set_vector(vector)
            with torch.no_grad():
                losses[name] = example.loss(latents, noise, timesteps, lines).item()
        assert losses[slug] < 0.9 * losses["word"]
        assert all(losses[slug] < 0.98 * loss for name, loss in losses.items() if name != slug), losses
        history = [step.loss for step in tokens[slug].history]
        assert sum(history[-10:]) < sum(history[:10])


SMALL = [
    "tokens.objective=textual_inversion",
    "textual_inversion.steps=2",
    "textual_inversion.shots=2",
    "tokens.classes_per_batch=1",
    "tokens.certificate_images=2",
    "sampling.num_inference_steps=2",
]


class Killed(Exception):
    """Ends a run from outside."""


def new_run(folder: Path, on_progress: ProgressCallback = ignore_progress, models: Run | None = None) -> Run:
    """A run of two Pocket classes in a folder, with the models of another run if there is one."""
    run = Run(config.load("pocket", SMALL, classes=["crane", "kiwi"], output=folder), on_progress)
    if models:
        run.reuse_models(models)
    return run


def digests(run: Run) -> list[str]:
    """Hashes of the token files of a run."""
    return [hashlib.sha256(run.tokens.file(info).read_bytes()).hexdigest() for info in run.classes]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Progress]]:
    """A run of two classes that was never stopped."""
    messages: list[Progress] = []
    run = new_run(tmp_path_factory.mktemp("inversion") / "run", messages.append)
    run.train()
    return run, messages


@pytest.mark.slow
def test_a_run_writes_the_tokens_of_the_trainer_and_diffusers_loads_them(finished):
    run, messages = finished
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        pocket.path(), safety_checker=None, requires_safety_checker=False
    )
    vocabulary_size = len(pipe.tokenizer)
    for info in run.classes:
        pipe.load_textual_inversion(str(run.tokens.file(info)))
    assert len(pipe.tokenizer) == vocabulary_size + 2
    table = pipe.text_encoder.get_input_embeddings().weight
    split = datasets.few_shot(datasets.load("pocket"), 2, 0)
    few_shot_images = {info.slug: images_of(info, split.train) for info in run.classes}
    assert [len(images) for images in few_shot_images.values()] == [2, 2]
    direct = TextualInversionTrainer(
        run.sampler,
        run.guide,
        images=few_shot_images,
        inversion_config=run.config.textual_inversion,
        tokens_config=run.config.tokens,
        prompts_config=run.config.prompts,
        judge=run.judge,
    )
    for trained in direct.train(run.classes):
        info = trained.info
        row = table[pipe.tokenizer.convert_tokens_to_ids(f"<dct-pocket-{info.slug}>")]
        assert torch.equal(row[None], trained.vector)
        (token,) = formats.read(run.tokens.file(info))
        assert token.metadata["unet_evaluations"] == trained.evaluations
        assert (token.metadata["updates"], token.metadata["stop_reason"]) == (2, "all updates done")
        assert token.metadata["verdict"] == str(trained.certificate.verdict)
    counts = [(progress.done, progress.total) for progress in messages if progress.stage == "tokens"]
    assert counts == [(1, 4), (2, 4), (3, 4), (4, 4)]
    index = run.tokens.index()
    assert index["slug"].tolist() == ["crane", "kiwi"]
    assert index["usable"].all()


def test_a_finished_run_trains_nothing_when_it_is_started_again(finished):
    run, _ = finished
    messages: list[Progress] = []
    before = digests(run)
    new_run(run.config.root, messages.append, run).train()
    assert not [progress for progress in messages if progress.stage == "tokens"]
    assert digests(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_same_token_files(finished, tmp_path, updates):
    """Killed in its first class, when that is written but the state not yet, and in its second class."""

    def kill(progress: Progress) -> None:
        if progress.stage == "tokens" and progress.done == updates:
            raise Killed

    with pytest.raises(Killed):
        new_run(tmp_path / "run", kill, finished[0]).train()
    resumed = new_run(tmp_path / "run", models=finished[0])
    assert resumed.tokens.file(resumed.classes[0]).is_file() is (updates > 1)
    resumed.train()
    assert digests(resumed) == digests(finished[0])
