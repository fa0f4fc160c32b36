"""Textual inversion against diffusers' own training example, written out around each family's own modules."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dct_augment import config, datasets, diffusion, pocket
from dct_augment.classifiers import Preprocess, SingleClassifier
from dct_augment.config import PromptsConfig, SamplingConfig, TextualInversionConfig, TokensConfig, seed_from
from dct_augment.diffusion import Sampler, WordNorms
from dct_augment.errors import DctAugmentError, InputError, ModelError
from dct_augment.images import square
from dct_augment.pipeline.run import Run
from dct_augment.records import ClassInfo, Progress, ProgressCallback, StopReason, ignore_progress
from dct_augment.tokens import formats
from dct_augment.tokens.checkpoint import TrainingCheckpoint
from dct_augment.tokens.state import TrainedToken
from dct_augment.tokens.textual_inversion import InversionState, TextualInversionTrainer
from tests import tiny
from tests.tokens import test_class_tokens

CLOSE = 1e-5  # in double precision, where another batch shape changes no bit that counts
SCALE = 4.0
SETTINGS = TextualInversionConfig(steps=4, batch_size=3)
TOKENS = TokensConfig(certificate_images=2, classes_per_batch=3)
SAMPLING = SamplingConfig(num_inference_steps=1, guidance_scale=SCALE)
TEMPLATES = ("a photo of a {token} {class}{context}", "a drawing of a {token} {class}{context}")
PROMPTS = PromptsConfig(templates=TEMPLATES, contexts=("", "on the sand"))
WORD = "<of-a-test>"


def pictures(info: ClassInfo, count: int = 3) -> list[Image.Image]:
    """Spots of a class's own, larger than the model draws; the first is grey."""
    spots = np.random.default_rng([info.index, 5]).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    made = [Image.fromarray(one).resize((20, 20), Image.Resampling.BICUBIC) for one in spots]
    return [made[0].convert("L"), *made[1:]]


class Colours(torch.nn.Module):
    """A guide that looks at mean colours."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.weights = gain * torch.randn(3, 4, generator=torch.Generator().manual_seed(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return images.mean((2, 3)) @ self.weights


def guide(gain: float = 1.0, labels: Sequence[str] = test_class_tokens.LABELS) -> SingleClassifier:
    return SingleClassifier(Colours(gain), Preprocess.square(tiny.IMAGE, (0, 0, 0), (1, 1, 1)), labels)


def trainer(
    settings: TextualInversionConfig = SETTINGS,
    tokens: TokensConfig = TOKENS,
    *,
    backend: diffusion.Backend | None = None,
    known: Mapping[str, Sequence[Image.Image]] | None = None,
    **more: Any,
) -> TextualInversionTrainer:
    if known is None:
        known = {info.slug: pictures(info) for info in tiny.CLASSES}
    options = {"guide": guide(), "prompts_config": PROMPTS} | more
    made = Sampler.from_config(
        backend or tiny.backend("epsilon", "float64"), options.pop("sampling", SAMPLING), negative_prompt=""
    )
    return TextualInversionTrainer(made, images=known, inversion_config=settings, tokens_config=tokens, **options)


def train(
    classes: Sequence[ClassInfo] = tiny.CLASSES,
    settings: TextualInversionConfig = SETTINGS,
    tokens: TokensConfig = TOKENS,
    **more: Any,
) -> dict[str, TrainedToken]:
    return {trained.info.slug: trained for trained in trainer(settings, tokens, **more).train(classes)}


@cache
def usual() -> dict[str, TrainedToken]:
    """What training gives."""
    return train()


def changed(**changes: Any) -> TextualInversionConfig:
    return SETTINGS.model_copy(update=changes)


def slots(count: int) -> TokensConfig:
    return TOKENS.model_copy(update={"classes_per_batch": count})


class Example:
    """diffusers' textual inversion example, plainly: a pipeline in double precision, its vocabulary resized.

    The last rows of the table of each text encoder are the token, (n, D).
    """

    def __init__(self, folder: Path, vector: torch.Tensor) -> None:
        self.pipe = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float64)
        self.schedule = diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.texts = [(self.pipe.tokenizer, self.pipe.text_encoder)]
        if hasattr(self.pipe, "text_encoder_2"):
            self.texts.append((self.pipe.tokenizer_2, self.pipe.text_encoder_2))
        names = [WORD.replace(">", f"-{number}>") for number in range(len(vector))]
        self.words, self.count, self.tables = " ".join(names), len(names), []
        self.widths = [model.get_input_embeddings().weight.shape[1] for _, model in self.texts]
        for tokenizer, model in self.texts:
            tokenizer.add_tokens(names)
            table = model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            assert tokenizer.convert_tokens_to_ids(names) == [*range(len(table.weight))][-len(names) :]
            self.tables.append(table.weight)
        self.put(vector)

    def put(self, vector: torch.Tensor) -> None:
        """Another token."""
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
        known = self.pipe.vae.encode(images).latent_dist
        shift = self.pipe.vae.config.shift_factor or 0.0
        return ((known.mean + known.std * jitter - shift) * self.pipe.vae.config.scaling_factor).detach()

    def loss(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, lines: Sequence[str]
    ) -> torch.Tensor:
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
            weights = torch.full((len(lines),), SCALE - 1)
            guided = pipe.get_guidance_scale_embedding(weights, width, noisy.dtype)
        return pipe.unet(noisy, timesteps, hidden, timestep_cond=guided).sample


def plain_images(info: ClassInfo) -> torch.Tensor:
    """The pictures of a class as the example's data set makes them."""
    size = (tiny.IMAGE, tiny.IMAGE)
    resized = [one.convert("RGB").resize(size, Image.Resampling.BICUBIC) for one in pictures(info)]
    return torch.tensor(np.stack(resized) / 127.5 - 1.0).permute(0, 3, 1, 2)


def plain_step(example: Example, info: ClassInfo, random: torch.Generator, count: int) -> torch.Tensor:
    """The loss of one step of the example; `random` gives pictures, timesteps, noise, latents and templates in turn."""
    images = plain_images(info)
    chosen = torch.randint(len(images), (count,), generator=random)
    timesteps = torch.randint(1000, (count,), generator=random)
    noise, jitter = (torch.randn(count, *tiny.LATENT, generator=random).double() for _ in range(2))
    lines = example.prompts(info, torch.randint(2, (count,), generator=random).tolist())
    return example.loss(example.latents(images[chosen], jitter), noise, timesteps, lines)


def generator(info: ClassInfo, settings: TextualInversionConfig = SETTINGS) -> torch.Generator:
    return torch.Generator().manual_seed(seed_from("inversion", settings.seed, info.slug))


def start(backend: diffusion.Backend, count: int) -> torch.Tensor:
    return backend.word("a").repeat(count, 1)


def edited(family: str, folder: Path, **changes: Mapping[str, Any]) -> Path:
    """The tiny model of a family with other settings of some of its parts."""
    shutil.copytree(tiny.pipeline_folder(family), folder)
    for part, values in changes.items():
        (path,) = (folder / part).glob("*config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def learned(info: ClassInfo, backend: diffusion.Backend, initial: torch.Tensor, **changes: Any) -> InversionState:
    """The state of a class before its first step."""
    each = [backend.encode_images(square(one, backend.image_size)) for one in pictures(info)]
    mean, deviation = (torch.cat(parts) for parts in zip(*each, strict=True))
    return InversionState(info, initial, backend.word_norms(), mean, deviation, changed(**changes))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_loss_and_gradient_are_those_of_diffusers_example(tmp_path, family, prediction):
    """Of a real row in a resized vocabulary there; two classes share a batch here."""
    folder = edited(family, tmp_path / "model", scheduler={"prediction_type": prediction}, vae={"shift_factor": 0.3})
    backend = diffusion.load(str(folder), dtype="float64")
    made, count = trainer(backend=backend, tokens=TOKENS.model_copy(update={"vectors": 2})), SETTINGS.batch_size
    moved = 0.05 * torch.randn(2, backend.width, generator=torch.Generator().manual_seed(1))
    vectors = [(start(backend, 2) + sign * moved).double().requires_grad_() for sign in (1, -1)]
    infos = tiny.CLASSES[1:]
    draws = [made.new_batch(learned(info, backend, start(backend, 2))) for info in infos]
    losses = made.losses(draws, vectors)
    gradients = torch.autograd.grad(losses.sum(), vectors)
    example = Example(folder, start(backend, 2))
    for info, vector, loss, gradient in zip(infos, vectors, losses, gradients, strict=True):
        example.put(vector.detach())
        expected = plain_step(example, info, generator(info), count)
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=CLOSE, atol=0)
        assert example.gradient.norm() > 1e-5
        assert (gradient - example.gradient).norm() / example.gradient.norm() < CLOSE
    assert (losses[0] - losses[1]).abs() > 1e-3


@pytest.mark.parametrize(("family", "count"), [("epsilon", 1), ("v_prediction", 2), ("xl", 2), ("pixart", 1)])
def test_training_is_the_examples_loop_with_real_rows_of_the_vocabulary(family, count):
    """AdamW on the whole table, whose other rows are put back after every step."""
    info, backend, settings = tiny.CLASSES[0], tiny.backend(family, "float64"), SETTINGS
    example, random = Example(tiny.pipeline_folder(family), start(backend, count)), generator(info)
    original = [table.detach().clone() for table in example.tables]
    groups = [
        {"params": [table], "lr": settings.learning_rate * words.mean_norm / words.width**0.5}
        for table, words in zip(example.tables, backend.word_norms(), strict=True)
    ]
    optimizer, losses = torch.optim.AdamW(groups, weight_decay=settings.weight_decay), []
    for _ in range(settings.steps):
        loss = plain_step(example, info, random, settings.batch_size)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        with torch.no_grad():
            for table, before in zip(example.tables, original, strict=True):
                table[:-count] = before[:-count]
    found = train([info], backend=backend, tokens=TOKENS.model_copy(update={"vectors": count}))[info.slug]
    torch.testing.assert_close(found.vector.double(), example.vector, atol=CLOSE, rtol=0)
    assert [step.loss for step in found.history] == pytest.approx(losses, rel=CLOSE)
    assert found.history[-1].norm == pytest.approx(example.vector.norm(dim=1).max().item(), rel=CLOSE)
    assert (found.vector - start(backend, count)).abs().min() > 1e-4


@pytest.mark.parametrize("family", ["epsilon", "xl", "pixart"])
def test_no_weight_and_no_word_is_touched(family):
    backend = tiny.backend(family)
    models = [backend.denoiser, backend.vae, *(one.model for one in backend.encoders)]
    before = [{name: one.clone() for name, one in model.state_dict().items()} for model in models]
    sizes = [len(one.tokenizer) for one in backend.encoders]
    found = train(backend=backend)
    assert all(trained.vector.shape == (1, backend.width) for trained in found.values())
    assert all(not trained.vector.requires_grad for trained in found.values())
    for model, weights in zip(models, before, strict=True):
        now = model.state_dict()
        assert now.keys() == weights.keys()
        assert all(torch.equal(now[name], one) for name, one in weights.items())
        assert all(not weight.requires_grad and weight.grad is None for weight in model.parameters())
        assert not model.training
    assert [len(one.tokenizer) for one in backend.encoders] == sizes


def test_the_number_of_slots_does_not_change_the_vectors():
    one, two, eight = (train(tokens=slots(count)) for count in (1, 2, 8))
    for slug, expected in eight.items():
        for other in (one[slug], two[slug]):
            torch.testing.assert_close(other.vector, expected.vector, atol=CLOSE, rtol=0)
            assert [step.loss for step in other.history] == pytest.approx(
                [step.loss for step in expected.history], rel=CLOSE
            )
            assert (other.updates, other.evaluations, other.reason) == (
                expected.updates, expected.evaluations, expected.reason,
            )  # fmt: skip
    assert not torch.allclose(eight["crane"].vector, eight["kiwi"].vector, atol=1e-2)


def test_a_class_does_not_depend_on_the_others():
    together, alone, turned = usual(), train(tiny.CLASSES[1:2]), train(tiny.CLASSES[::-1])
    for other in (alone, turned):
        torch.testing.assert_close(other["kiwi"].vector, together["kiwi"].vector, atol=CLOSE, rtol=0)


def test_the_same_settings_give_the_same_bits_and_another_seed_does_not():
    first, again, other = usual(), train(), train(settings=changed(seed=1))
    for slug, trained in first.items():
        assert torch.equal(trained.vector, again[slug].vector)
        assert replace(again[slug], vector=trained.vector) == trained
        assert not torch.allclose(trained.vector, other[slug].vector, atol=1e-2)


def test_the_pictures_of_a_class_make_its_token():
    """And not its name, nor a guide, a judge, or the contexts of generation."""
    expected = usual()
    swapped = train(known={info.slug: pictures(tiny.CLASSES[1]) for info in tiny.CLASSES})
    assert torch.equal(swapped["kiwi"].vector, expected["kiwi"].vector)
    assert not torch.allclose(swapped["crane"].vector, expected["crane"].vector, atol=1e-3)
    others = train(
        guide=guide(-9.0), judge=guide(), prompts_config=PROMPTS.model_copy(update={"contexts": ("by the water",)})
    )
    for slug, trained in expected.items():
        assert torch.equal(others[slug].vector, trained.vector)
        assert others[slug].best != trained.best
        assert trained.certificate.judge is None
        assert others[slug].certificate.judge is not None


def test_a_class_may_have_fewer_pictures_than_a_batch():
    """And the classes of a batch may have different numbers of them, as in a long tail."""
    known = {info.slug: pictures(info, 1 + info.index) for info in tiny.CLASSES}
    together = train(known=known)
    for info in tiny.CLASSES:
        alone = train([info], known=known)[info.slug]
        assert alone.updates == SETTINGS.steps
        torch.testing.assert_close(together[info.slug].vector, alone.vector, atol=CLOSE, rtol=0)


def test_histories_and_progress_are_whole():
    seen: list[Progress] = []
    results = list(trainer(tokens=slots(2)).train(tiny.CLASSES, seen.append))
    assert [trained.info.slug for trained in results] == ["crane", "kiwi", "red-bird"]
    for trained in results:
        assert [step.update for step in trained.history] == [1, 2, 3, 4]
        assert (trained.updates, trained.attempts, trained.usable) == (4, 1, True)
        assert trained.reason is StopReason.UPDATES
        assert trained.best.update == 4
        assert trained.best.accuracy == trained.certificate.guide.token
        assert 0 < trained.best.probability < 1
        assert trained.history[-1].norm == pytest.approx(trained.vector.norm(dim=1).max().item())
        assert trained.certificate.mean_pixel_change > 0
        assert trained.certificate.guide.gain.count == 2
    whole = len(tiny.CLASSES) * SETTINGS.steps
    assert [progress.done for progress in seen] == [2, 4, 6, 8, 9, 10, 11, 12]
    assert {progress.total for progress in seen} == {whole}
    assert [progress.note for progress in seen][:: len(seen) - 1] == ["crane, kiwi", ""]


class Killed(Exception):
    """Ends a run from outside."""


LAST = 9  # states of three classes in two slots: before the first step, and after each of 4 + 4 steps


@cache
def unstopped() -> tuple[dict[str, TrainedToken], list[dict[str, Any]]]:
    """A run that is never stopped, and the states that it leaves behind."""
    states: list[dict[str, Any]] = []
    found = trainer(tokens=slots(2)).train(tiny.CLASSES, checkpoint=states.append)
    return {trained.info.slug: trained for trained in found}, states


@pytest.mark.parametrize("stop_after", range(1, LAST + 1))
def test_training_resumes_to_the_same_bits(tmp_path, stop_after):
    """Stopped after any step and resumed from the file, every class ends as if nothing had happened."""
    whole, _ = unstopped()
    slugs = [info.slug for info in tiny.CLASSES]
    memo, finished, rounds = TrainingCheckpoint(tmp_path, 0, {"seed": 0}), {}, []

    def checkpoint(state: Mapping[str, Any]) -> None:
        memo.write(state)
        rounds.append(len(state["active"]))
        if len(rounds) == stop_after:
            raise Killed

    def collect(**more: Any) -> None:
        for trained in trainer(tokens=slots(2)).train(tiny.CLASSES, **more):
            assert trained.info.slug not in finished
            finished[trained.info.slug] = trained

    with pytest.raises(Killed):
        collect(checkpoint=checkpoint)
    assert rounds == [0, 2, 2, 2, 0, 1, 1, 1, 0][:stop_after]
    state = memo.read([slug for slug in slugs if slug not in finished], list(finished))
    assert state is not None
    collect(resume=state)
    assert set(finished) == set(slugs)
    for slug, trained in finished.items():
        assert torch.equal(trained.vector, whole[slug].vector)
        assert trained == replace(whole[slug], vector=trained.vector)


def test_a_state_stays_what_it_was_however_training_goes_on():
    """Of the run that left it, and of one that goes on from it."""
    whole, states = unstopped()
    assert len(states) == LAST
    for _ in range(2):
        resumed = list(trainer(tokens=slots(2)).train(tiny.CLASSES, resume=states[2]))
        for trained in resumed:
            assert torch.equal(trained.vector, whole[trained.info.slug].vector)
        assert len(resumed) == 3


def test_a_class_that_is_done_needs_no_pictures_to_go_on():
    whole, states = unstopped()
    (last,) = trainer(tokens=slots(2), known={"red-bird": pictures(tiny.CLASSES[2])}).train(
        tiny.CLASSES, resume=states[5]
    )
    assert torch.equal(last.vector, whole["red-bird"].vector)


@pytest.mark.parametrize("known", [{}, {"crane": pictures(tiny.CLASSES[0]), "kiwi": []}])
def test_classes_without_pictures_are_refused_by_name(known):
    with pytest.raises(InputError, match="no few-shot image of: kiwi, red bird$" if known else "crane, kiwi, red bird"):
        next(trainer(known=known).train(tiny.CLASSES))


@pytest.mark.parametrize("role", ["guide", "judge"])
def test_a_class_that_guide_or_judge_do_not_know_is_refused_before_training(role):
    backend = tiny.backend("epsilon", "float64")
    with work_of(backend) as work, pytest.raises(ModelError, match="'kiwi'"):
        next(trainer(**{role: guide(labels=("stone", "crane", "gull", "red bird"))}).train(tiny.CLASSES))
    assert work == [0]


@contextmanager
def spoiled(backend: diffusion.Backend, rows: slice, update: int) -> Iterator[None]:
    """A denoiser that gives NaN for some rows of one training batch."""
    calls = [0]

    def spoil(module: Any, args: Any, output: Any) -> Any:
        calls[0] += output.sample.requires_grad
        if output.sample.requires_grad and calls[0] == update:
            weights = torch.ones(len(output.sample), 1, 1, 1, dtype=output.sample.dtype)
            weights[rows] = torch.nan
            output.sample = output.sample * weights
        return output

    handle = backend.denoiser.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


def test_a_nan_stops_its_class_alone():
    backend, count = tiny.backend("epsilon", "float64"), SETTINGS.batch_size
    sound = usual()
    with spoiled(backend, slice(count, count + 1), 3):  # one picture of the second class
        broken = train()
    kiwi = broken.pop("kiwi")
    assert (kiwi.reason, kiwi.usable, kiwi.updates) == (StopReason.NON_FINITE, False, 2)
    assert kiwi.history == sound["kiwi"].history[:2]
    assert torch.equal(kiwi.vector, train(settings=changed(steps=2))["kiwi"].vector)
    for slug, trained in broken.items():
        assert (trained.updates, trained.usable) == (SETTINGS.steps, True)
        torch.testing.assert_close(trained.vector, sound[slug].vector, atol=CLOSE, rtol=0)


@pytest.mark.parametrize(
    ("batch", "most", "said"),
    [
        (4, 8, ["out of memory: going on with 1 classes at once"]),
        (1, 6, []),  # enough for training, too little for the images of the certificate
    ],
)
def test_little_memory_gives_the_same_tokens_in_smaller_batches(batch, most, said):
    settings, tokens = changed(batch_size=batch), TOKENS.model_copy(update={"certificate_images": 4})
    told: list[Progress] = []
    expected = train(settings=settings, tokens=tokens)
    with test_class_tokens.little_memory(tiny.backend("epsilon", "float64"), most) as asked:
        found = {one.info.slug: one for one in trainer(settings, tokens).train(tiny.CLASSES, told.append)}
    assert max(asked) > most
    assert [one.note for one in told if not one.total] == said
    for slug, trained in expected.items():
        torch.testing.assert_close(found[slug].vector, trained.vector, atol=CLOSE, rtol=0)
        assert found[slug].evaluations == trained.evaluations
        assert found[slug].certificate.mean_pixel_change == pytest.approx(
            trained.certificate.mean_pixel_change, rel=1e-4
        )


def test_memory_that_runs_out_in_a_backward_pass_leaves_nothing_behind():
    """When some classes have their gradients already, and others have not."""
    encoder, began = tiny.backend("epsilon", "float64").encoders[0].model, [0]

    def exhaust(gradient: torch.Tensor) -> None:
        began.append(-1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def count(module: Any, args: Any, output: Any) -> None:
        if output[0].requires_grad:
            began[0] += 1
            if began[0] == 4:  # the first class in the second step; its turn is last on the way back
                output[0].register_hook(exhaust)

    expected, handle = usual(), encoder.register_forward_hook(count)
    try:
        found = train()
    finally:
        handle.remove()
    assert began[1:] == [-1]
    for slug, trained in expected.items():
        torch.testing.assert_close(found[slug].vector, trained.vector, atol=CLOSE, rtol=0)
        assert found[slug].evaluations == trained.evaluations


def test_memory_for_no_class_at_all_is_one_message():
    with (
        test_class_tokens.little_memory(tiny.backend("epsilon", "float64"), 1),
        pytest.raises(DctAugmentError, match=r"classes taken one by one: .*, or lower textual_inversion\.batch_size$"),
    ):
        train()


@contextmanager
def work_of(backend: diffusion.Backend) -> Iterator[list[int]]:
    """Denoiser evaluations as they happen: one for a forward pass, two for a backward pass, of each sample."""
    work = [0]

    def count(module: Any, args: Any, output: Any) -> None:
        work[0] += len(output.sample)
        if output.sample.requires_grad:
            output.sample.register_hook(lambda gradient: work.__setitem__(0, work[0] + 2 * len(gradient)))

    handle = backend.denoiser.register_forward_hook(count)
    try:
        yield work
    finally:
        handle.remove()


@pytest.mark.parametrize("scale", [1.0, SCALE])
@pytest.mark.parametrize("scheduler", [None, "HeunDiscreteScheduler"])
def test_reported_evaluations_are_the_real_ones(scheduler, scale):
    """Also with a scheduler that takes more of them than the steps asked for."""
    sampling = SamplingConfig(num_inference_steps=3, guidance_scale=scale, scheduler=scheduler)
    with work_of(tiny.backend("epsilon", "float64")) as work:
        found = train(sampling=sampling, tokens=TOKENS.model_copy(update={"certificate_images": 7}))
    assert sum(trained.evaluations for trained in found.values()) == work[0]
    length = 5 if scheduler else 3
    branches = 1 if scale == 1.0 else 2
    training = 3 * SETTINGS.steps * SETTINGS.batch_size
    assert {one.evaluations for one in found.values()} == {training + 2 * 7 * length * branches}


@pytest.mark.parametrize("family", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("kind", "close"), [("float16", 0.005), ("bfloat16", 0.05)])
def test_half_precision_learns_nearly_the_same_in_single_precision(family, kind, close):
    found = []
    for dtype in ("float64", kind):
        backend, info = tiny.backend(family, dtype), tiny.CLASSES[1]
        made, vector = trainer(backend=backend), start(backend, 1).requires_grad_()
        loss = made.losses([made.new_batch(learned(info, backend, start(backend, 1)))], [vector])
        (gradient,) = torch.autograd.grad(loss.sum() * 1024, vector)
        assert gradient.dtype == torch.float32
        found.append((loss.item(), gradient.flatten()))
    (expected, wanted), (loss, gradient) = found
    assert loss == pytest.approx(expected, rel=close)
    assert functional.cosine_similarity(gradient, wanted, dim=0) > 1 - close
    for trained in train(backend=tiny.backend(family, kind)).values():
        assert (trained.updates, trained.usable) == (SETTINGS.steps, True)
        assert trained.vector.dtype == torch.float32
        assert 0.01 < (trained.vector - start(tiny.backend(family), 1)).abs().max() < 0.2


def test_the_loss_scale_of_half_precision_is_taken_back_to_the_last_bit():
    """A power of two: where nothing over- or underflows, it changes no bit of a gradient, and so none of the token."""
    expected, made = usual(), trainer()
    made._loss_scale = 1024.0  # as with a model in float16
    for trained in made.train(tiny.CLASSES):
        assert torch.equal(trained.vector, expected[trained.info.slug].vector)
        assert trained.history == expected[trained.info.slug].history


class TestLearned:
    """The steps of one class, without a model."""

    def one(self, widths_and_norms: Sequence[tuple[int, float]] = ((16, 2.0),), **changes: Any) -> InversionState:
        words = tuple(WordNorms(width, norm, 2 * norm) for width, norm in widths_and_norms)
        latents, width = torch.zeros(1, 4, 8, 8), sum(norms.width for norms in words)
        return InversionState(tiny.CLASSES[0], torch.ones(1, width), words, latents, latents, changed(**changes))

    def step(self, one: InversionState, gradient: torch.Tensor, loss: float = 1.0, scale: float = 1.0) -> None:
        one.zero_grad()
        (one.vector * gradient).sum().backward()
        one.update(loss, scale)

    def test_a_step_is_measured_in_words_of_each_encoder(self):
        one = self.one(((16, 2.0), (4, 5.0)), weight_decay=0.0)
        gradient = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
        self.step(one, gradient)
        moved = one.vector.detach() - 1
        for part, norm in zip(moved.split([16, 4], 1), (2.0, 5.0), strict=True):
            assert part.norm().item() == pytest.approx(one.config.learning_rate * norm, rel=1e-3)
        assert torch.equal(moved.sign(), -gradient.sign())

    def test_weights_decay_as_in_adamw(self):
        one = self.one(weight_decay=0.5)
        self.step(one, torch.zeros(1, 16))
        expected = 1 - 0.5 * one.config.learning_rate * 2.0 / 16**0.5
        torch.testing.assert_close(one.vector.detach(), torch.full((1, 16), expected))

    @pytest.mark.parametrize("size", [1e-7, 1.0])
    def test_a_scaled_loss_takes_the_same_step(self, size):
        """Also where a gradient is near Adam's epsilon, and its size does matter."""
        plain, scaled, gradient = self.one(), self.one(), size * torch.arange(-8.0, 8.0)[None]
        self.step(plain, gradient)
        self.step(scaled, 1024 * gradient, scale=1024.0)
        assert torch.equal(plain.vector, scaled.vector)
        assert plain.history == scaled.history

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_stops_without_a_step(self, bad):
        for loss, gradient in ((bad, torch.ones(1, 16)), (1.0, torch.full((1, 16), bad))):
            one = self.one()
            self.step(one, gradient, loss)
            assert one.reason is StopReason.NON_FINITE
            assert one.history == []
            assert torch.equal(one.vector, torch.ones(1, 16))
        one = self.one()
        one.update(1.0)  # no gradient at all
        assert one.reason is StopReason.NON_FINITE

    def test_a_gradient_that_came_to_nothing_is_forgotten(self):
        one, fresh = self.one(), self.one()
        (one.vector * 7).sum().backward()  # memory ran out before the step
        for learned in (one, fresh):
            self.step(learned, torch.arange(16.0)[None])
        assert torch.equal(one.vector, fresh.vector)


@cache
def birds() -> tuple[diffusion.Backend, dict[str, ClassInfo], dict[str, TrainedToken]]:
    """Tokens of two Pocket birds whose words also mean other things."""
    backend, source = diffusion.load("pocket"), datasets.load("pocket")
    known = {info.slug: info for info in source.classes if info.slug in ("crane", "cardinal")}
    split = datasets.few_shot(source, 5, 0)
    few = {slug: [one.open() for one in split.train if one.label == info.index] for slug, info in known.items()}
    labels = ("stone", "pebble", *(info.name for info in known.values()))
    made = trainer(
        changed(steps=32, batch_size=4, learning_rate=0.2), backend=backend, known=few, guide=guide(labels=labels),
        prompts_config=PromptsConfig(),
    )  # fmt: skip
    return backend, known, {trained.info.slug: trained for trained in made.train(tuple(known.values()))}


def test_a_token_tells_the_noise_on_other_pictures_of_its_class_best():
    """Better than the word it began with, and than another class's token: by the example, on pictures held out."""
    backend, known, found = birds()
    assert len(known) == 2
    random, count = torch.Generator().manual_seed(0), 20
    timesteps = torch.arange(count) * 48 + 40
    noise, jitter = (torch.randn(count, *backend.latent_shape, generator=random).double() for _ in range(2))
    vectors = {"word": backend.word("a")[None]} | {slug: trained.vector for slug, trained in found.items()}
    example = Example(pocket.path(), vectors["word"])
    for slug, info in known.items():
        held = [one.open() for one in datasets.load("pocket").examples("val") if one.label == info.index]
        images = torch.cat([square(one, backend.image_size) for one in held]).double().repeat(2, 1, 1, 1)
        latents, lines, losses = example.latents(images, jitter), example.prompts(info, [0] * count), {}
        for name, vector in vectors.items():
            example.put(vector)
            with torch.no_grad():
                losses[name] = example.loss(latents, noise, timesteps, lines).item()
        assert losses[slug] < 0.9 * losses["word"]
        assert all(losses[slug] < 0.98 * loss for name, loss in losses.items() if name != slug), losses
        history = [step.loss for step in found[slug].history]
        assert sum(history[-10:]) < sum(history[:10])


SMALL = [
    "tokens.objective=textual_inversion",
    "textual_inversion.steps=2",
    "textual_inversion.shots=2",
    "tokens.classes_per_batch=1",
    "tokens.certificate_images=2",
    "sampling.num_inference_steps=2",
]


def run(folder: Path, progress: ProgressCallback = ignore_progress, models: Run | None = None) -> Run:
    """A run of two Pocket classes in a folder, with the models of another if there is one."""
    made = Run(config.load("pocket", SMALL, classes=["crane", "kiwi"], output=folder), progress)
    if models:
        made.reuse_models(models)
    return made


def digests(made: Run) -> list[str]:
    return [hashlib.sha256(made.tokens.file(info).read_bytes()).hexdigest() for info in made.classes]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Progress]]:
    """A run of two classes that was never stopped."""
    told: list[Progress] = []
    made = run(tmp_path_factory.mktemp("inversion") / "run", told.append)
    made.train()
    return made, told


def test_a_run_writes_tokens_that_diffusers_loads(finished):
    made, told = finished
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        pocket.path(), safety_checker=None, requires_safety_checker=False
    )
    before = len(pipe.tokenizer)
    for info in made.classes:
        pipe.load_textual_inversion(str(made.tokens.file(info)))
    assert len(pipe.tokenizer) == before + 2
    table = pipe.text_encoder.get_input_embeddings().weight
    source = datasets.load("pocket")
    split = datasets.few_shot(source, 2, 0)
    few = {info.slug: [one.open() for one in split.train if one.label == info.index] for info in made.classes}
    assert [len(some) for some in few.values()] == [2, 2]
    direct = TextualInversionTrainer(
        made.sampler, made.guide, images=few, inversion_config=made.config.textual_inversion,
        tokens_config=made.config.tokens, prompts_config=made.config.prompts, judge=made.judge,
    )  # fmt: skip
    for trained in direct.train(made.classes):
        info = trained.info
        row = table[pipe.tokenizer.convert_tokens_to_ids(f"<dct-pocket-{info.slug}>")]
        assert torch.equal(row[None], trained.vector)
        (stored,) = formats.read(made.tokens.file(info))
        assert stored.metadata["unet_evaluations"] == trained.evaluations
        assert (stored.metadata["updates"], stored.metadata["stop_reason"]) == (2, "all updates done")
        assert stored.metadata["verdict"] == str(trained.certificate.verdict)
    seen = [one for one in told if one.stage == "tokens"]
    assert [(one.done, one.total) for one in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    index = made.tokens.index()
    assert index["slug"].tolist() == ["crane", "kiwi"]
    assert index["usable"].all()


def test_a_finished_run_has_nothing_left_to_do(finished):
    made, _ = finished
    told: list[Progress] = []
    before = digests(made)
    run(made.config.root, told.append, made).train()
    assert not [one for one in told if one.stage == "tokens"]
    assert digests(made) == before


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_same_files(finished, tmp_path, done):
    """Killed in its first class, when that is written but the state not yet, and in its second class."""

    def kill(seen: Progress) -> None:
        if seen.stage == "tokens" and seen.done == done:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", kill, finished[0]).train()
    again = run(tmp_path / "run", models=finished[0])
    assert again.tokens.file(again.classes[0]).is_file() is (done > 1)
    again.train()
    assert digests(again) == digests(finished[0])
