"""The parts of the benchmark: each measures one thing and returns plain rows."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, get_args

import numpy as np
import timm
import torch
from PIL import Image
from torch.nn import functional

from benchmarks import paper_loop
from benchmarks.gpu.bench import Bench, refuse_not_finite
from benchmarks.gpu.measuring import Measured, NotFiniteError, Side, Work, capped
from dct_augment import diffusion
from dct_augment.config import DownstreamConfig, GradientMethodConfig
from dct_augment.diffusion import memory as budget
from dct_augment.diffusion.memory import Memory, Purpose
from dct_augment.downstream import training
from dct_augment.downstream.in_memory import PicturesInMemory
from dct_augment.downstream.mixing import Mixture, RealImages
from dct_augment.downstream.transforms import Transforms
from dct_augment.generation import plan
from dct_augment.generation.generator import Generator
from dct_augment.prompts import token_name
from dct_augment.records import ClassToken, Example, GeneratedImage, ImageKind, PlanRow
from dct_augment.tokens.class_token_trainer import ClassTokenTrainer, Update
from dct_augment.tokens.gradients import DirectAlign

Row = dict[str, Any]

METHODS: tuple[str, ...] = tuple(kind().name for kind in get_args(get_args(GradientMethodConfig)[0]))
"""Every gradient method that a configuration can name."""
_PAPER = "the paper's loop"
_ANY = 10**9
_CARD = 8 * 10**9
"""Bytes of the smallest GPU that is promised to be enough."""


def method_setting(name: str) -> str:
    """Name a gradient method as an override; one that stops at random places stops at their mean."""
    if name == "look_ahead":  # its cost depends on the place
        return "tokens.method={name: look_ahead, positions: [[0.45, 0.4501]]}"
    return f"tokens.method={name}"


def updates(bench: Bench, seconds: float, model: str, *, memory: Memory, classes: int, images: int) -> list[Row]:
    """Measure updates by each gradient method, and the paper's loop at its batch of one image."""
    trainers: dict[str, ClassTokenTrainer] = {}
    sides = {}
    for name in METHODS:
        sides[name], trainers[name] = _method(bench, model, memory, name, classes, images)
    sides[_PAPER] = _paper(bench, model, memory)
    measured = bench.clock(seconds).compare(sides)
    rows = []
    for name, of_method in measured.items():
        row: Row = {"method": name, **of_method.row}
        if name != _PAPER and not of_method.failed:
            row["times_as_fast_as_the_paper"] = of_method.times_as_fast_as(measured[_PAPER])
            if (at_once := trainers[name]._batches.size) < classes:
                row["note"] = f"{at_once} of {classes} classes at once: out of memory with more"
        rows.append(row)
    return rows


def _method(
    bench: Bench, model: str, memory: Memory, name: str, classes: int, images: int
) -> tuple[Side, ClassTokenTrainer]:
    """Return updates of some classes by a gradient method: as many as one finished image of it serves."""
    overrides = (
        method_setting(name),
        f"tokens.images_per_update={images}",
        f"tokens.classes_per_batch={classes}",
        "tokens.max_updates=1000000",
    )

    trainer = bench.trainer(bench.backend(model, memory), *overrides)
    short = bench.trainer(bench.backend(model, memory), *overrides, "sampling.num_inference_steps=2")
    count = _updates_of_an_image(trainer)
    work, warm_up = (_updating(one, bench, classes, count) for one in (trainer, short))
    return Side(work, len(bench.classes[:classes]) * images * count, warm_up), trainer


def _updates_of_an_image(trainer: ClassTokenTrainer) -> int:
    method = trainer._gradient_method
    return method.updates_per_image if isinstance(method, DirectAlign) else 1


def _updating(trainer: ClassTokenTrainer, bench: Bench, classes: int, count: int) -> Work:
    states = [trainer._new_state(info) for info in bench.classes[:classes]]

    def work() -> None:
        for _ in range(count):
            trainer._update(states)
        for state in states:
            refuse_not_finite(state.reason, f"an update by {trainer._tokens_config.method.name}")

    return work


def _paper(bench: Bench, model: str, memory: Memory) -> Side:
    """Return an update by the paper's loop, with models as its code has them: nothing is recomputed or sliced."""

    @contextmanager
    def as_in_its_code() -> Iterator[None]:
        bench.backend(model, "fast")
        try:
            yield
        finally:
            bench.backend(model, memory)

    def update(steps: int) -> Work:
        loop = paper_loop.train(
            bench.backend(model, "fast"),
            bench.guide,
            bench.classes[0],
            bench.settings,
            learning_rate=paper_loop.LEARNING_RATE,
            steps=steps,
            scale=bench.settings.sampling.guidance_scale,
            stops=False,
            epochs=1_000_000,
            images=1,
        )
        next(loop)

        def work() -> None:
            _, vector = next(loop)
            if not bool(vector.isfinite().all()):
                raise NotFiniteError("the paper's loop: its vector is not finite")

        return work

    with as_in_its_code():
        return Side(update(bench.settings.sampling.num_inference_steps), 1, update(2), as_in_its_code)


def generation(bench: Bench, seconds: float, model: str) -> list[Row]:
    """Measure generated images, with guide and judge, against the pipeline of diffusers, which only generates."""
    pipe, backend, batch = bench.pipe(model), bench.backend(model, "balanced"), bench.shape(model).batch
    sampler = bench.sampler(backend)
    (spec,) = plan.extend((), bench.classes[:2], batch, 2 * batch)  # two batches: one is scored while the next denoises
    rows = plan.rows(spec, ImageKind.PLAIN_PROMPT, bench.classes[:2], bench.settings.prompts, {}, 0)
    pixels: dict[str, list[Image.Image]] = {}

    def ours(rows: Sequence[PlanRow]) -> None:
        generator = Generator(sampler, classes=bench.classes, guide=bench.guide, judge=bench.judge)
        pixels["ours"] = [_finite(image) for image in generator.generate(rows, {}, batch)]

    def bare(rows: Sequence[PlanRow]) -> None:
        pixels["bare"] = []
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            pixels["bare"] += pipe(
                [row.prompt for row in some],
                num_inference_steps=sampler.steps,
                guidance_scale=sampler.guidance_scale,
                generator=backend.generators([row.seed for row in some]),
            ).images

    sides = {
        "dct-augment, with guide and judge": Side(partial(ours, rows), len(rows), partial(ours, rows[:batch])),
        "diffusers, images alone": Side(
            partial(bare, rows), len(rows), partial(bare, rows[:batch]), lambda: _as_published(pipe)
        ),
    }
    measured = bench.clock(seconds).compare(sides)
    found: list[Row] = [{"pipeline": name, "batch": batch, **of_side.row} for name, of_side in measured.items()]
    ours_measured, bare_measured = measured.values()
    if not (ours_measured.failed or bare_measured.failed):
        found[0]["times_as_fast_as_diffusers"] = ours_measured.times_as_fast_as(bare_measured)
        found[0]["largest_mean_difference_of_pixels"] = _difference(pixels["ours"], pixels["bare"])
    return found


@contextmanager
def _as_published(pipe: Any) -> Iterator[None]:
    """Let the autoencoder have the precision of the pipeline, which upcasts it by itself; the package keeps it so."""
    own = pipe.vae.dtype
    pipe.vae.to(pipe.unet.dtype)
    try:
        yield
    finally:
        pipe.vae.to(own)


def _finite(image: GeneratedImage) -> Image.Image:
    if image.image is None:
        raise NotFiniteError(f"generation: {image.row.key}: {image.error}")
    return image.image


def _difference(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Find the largest mean difference of two images, in pixel values of 0 .. 255."""
    pairs = zip(images, others, strict=True)
    differences = [np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() for one, other in pairs]
    return round(float(max(differences)), 3)


def precision(bench: Bench, seconds: float, model: str) -> list[Row]:
    """Compare the gradient of a token in half precision with that in float32, by each method, on the same noise."""
    gradients = {}
    for dtype in ("float32", "float16", "bfloat16"):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            backend = bench.backend(model, "balanced", dtype)
            gradients[dtype] = {name: _gradient(bench, backend, name) for name in METHODS}
    bench.forget()
    rows = []
    for name in METHODS:
        row: Row = {"method": name}
        exact = gradients["float32"][name]
        for dtype in ("float16", "bfloat16"):
            rough = gradients[dtype][name]
            row[f"cosine_{dtype}"] = round(functional.cosine_similarity(rough, exact, dim=0).item(), 5)
            row[f"norm_{dtype}"] = round((rough.norm() / exact.norm()).item(), 5)
        rows.append(row)
    return rows


def _gradient(bench: Bench, backend: diffusion.Backend, name: str) -> torch.Tensor:
    """Compute the gradient (D,) float64 of the token of a class in one update with one image."""
    trainer = bench.trainer(backend, method_setting(name), "tokens.images_per_update=1")
    state = trainer._new_state(bench.classes[0])
    (result,) = trainer._gradients([(Update(state, state.new_seeds(1), state.random_position()), [0])])
    gradients = [gradient for gradient in result.gradients if gradient is not None]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    if not bool(whole.isfinite().all()):
        raise NotFiniteError(f"the gradient by {name} in {backend.dtype}")
    return whole.double().cpu() / trainer._loss_scale


def compiled(bench: Bench, seconds: float, model: str, *, memory: Memory) -> list[Row]:
    """Measure updates with the denoiser compiled and as it is; how long compiling takes is said apart."""

    def updating(compile: bool) -> tuple[Work, int]:
        backend = bench.backend(model, memory)
        if compile:
            backend.denoiser = torch.compile(backend.denoiser)
        trainer = bench.trainer(backend, "tokens.images_per_update=1", "tokens.classes_per_batch=1")
        count = _updates_of_an_image(trainer)
        return _updating(trainer, bench, 1, count), count

    clock = bench.clock(seconds)
    # A test compiles nothing: that takes longer than all else.
    with torch.compiler.set_stance("force_eager" if bench.tiny else "default"):
        (fast, count), (eager, _) = updating(compile=True), updating(compile=False)
        clock.run(eager)
        first, _ = clock.run(fast)
        measured = clock.compare({"compiled": Side(fast, count), "not compiled": Side(eager, count)})
    torch.compiler.reset()
    rows: list[Row] = [{"denoiser": name, **of_side.row} for name, of_side in measured.items()]
    if not measured["compiled"].failed:
        rows[0]["times_as_fast_as_not_compiled"] = measured["compiled"].times_as_fast_as(measured["not compiled"])
        rows[0]["seconds_to_compile"] = round(first - count * min(measured["compiled"].seconds), 1)
    return rows


def memory_8gb(bench: Bench, seconds: float, model: str) -> list[Row]:
    """Train tokens with the settings of CUB, and generate images with them, on what a card of 8 GB has."""
    bench.forget()  # what is loaded must fit, too
    short = ("sampling.num_inference_steps=2", "tokens.max_updates=2", "tokens.validate_every=2", "tokens.restarts=0")
    done: Row = {}

    def work() -> None:
        memory = budget.choose(budget.weight_bytes(bench.pipe(model).components.values()), _CARD)
        backend = bench.backend(model, memory)
        trainer = bench.trainer(backend, *short, "tokens.certificate_looks=1")
        tokens = list(trainer.train(bench.classes))
        for token in tokens:
            refuse_not_finite(token.reason, f"the token of {token.info.name}")
        generator = Generator(trainer._sampler, classes=bench.classes, guide=bench.guide, judge=bench.judge)
        (spec,) = plan.extend((), bench.classes, 2, 2 * len(bench.classes))
        words = {info.slug: ClassToken(token_name("gpu", info.slug), info.slug, info.slug) for info in bench.classes}
        rows = plan.rows(spec, ImageKind.CLASS_TOKEN, bench.classes, bench.settings.prompts, words, 0)
        vectors = {token.info.slug: token.vector for token in tokens}
        images = [_finite(image) for image in generator.generate(rows, vectors, bench.settings.generation.batch_size)]
        limits = [(purpose, backend.batch_sizes.at_most(purpose, _ANY)) for purpose in get_args(Purpose)]
        at_once = ", ".join(f"{purpose} {most}" for purpose, most in limits if most < _ANY)
        certificates = sum(token.certificate is not None for token in tokens)
        done.update(memory=memory, tokens=len(tokens), certificates=certificates, images=len(images))
        done.update(limits=at_once or "none met")

    with capped(bench.device, _CARD) as allowed:
        measured = bench.clock(0).compare({"all": Side(work, warm_up=lambda: None)})["all"]
        most = torch.cuda.max_memory_reserved(bench.device) if bench.on_gpu else None
    row: Row = {"allowed_bytes": allowed, "reserved_bytes": most, **done, **measured.row}
    return [row]


def classifier(bench: Bench, seconds: float, model: str = "") -> list[Row]:
    """Measure the training of the low-resource classifier against a bare loop on a tensor that is on the device."""
    settings = bench.settings.downstream
    transforms = Transforms(settings)
    photos = RealImages(_photos(4 if bench.tiny else 64))
    decoded = RealImages(_photos(4 if bench.tiny else 64), transforms.strong)
    kept = PicturesInMemory(photos, transforms.strong, side=transforms.side)
    few, many = (1, 3) if bench.tiny else (20, 120)
    loops: dict[str, Callable[[int], object]] = {
        "photos kept in memory": partial(_fit, bench, settings, kept),
        "photos decoded whenever drawn": partial(_fit, bench, settings, decoded),
        "bare loop on one tensor": partial(_bare_loop, bench, settings),
    }
    sides = {}
    for name, loop in loops.items():
        for steps in (few, many):
            sides[f"{name}, {steps}"] = Side(partial(loop, steps), 1, partial(loop, 1))
    measured = bench.clock(seconds).compare(sides)
    images = (many - few) * settings.batch_size
    rates = {name: _between(measured[f"{name}, {few}"], measured[f"{name}, {many}"], images) for name in loops}
    bare = rates["bare loop on one tensor"]
    rows: list[Row] = []
    for name, of_loop in rates.items():
        row: Row = {"training": name, "model": settings.model, "batch": settings.batch_size, **of_loop.row}
        row["peak_bytes"] = measured[f"{name}, {many}"].peak
        if of_loop is not bare and not (of_loop.failed or bare.failed):
            row["times_as_fast_as_the_bare_loop"] = of_loop.times_as_fast_as(bare)
        rows.append(row)
    return rows


def _between(few: Measured, many: Measured, images: int) -> Measured:
    """Find the seconds of an image from a short and a long training: what both need to begin is not in it."""
    if few.failed or many.failed:
        return Measured(failed=few.failed or many.failed)
    between = [longer - shorter for shorter, longer in zip(few.seconds, many.seconds, strict=True)]
    if min(between) <= 0:
        return Measured(failed="too few steps to tell")
    return Measured([seconds / images for seconds in between])


def _photos(count: int) -> list[Example]:
    """Make JPEG files of the size of CUB's, in memory."""
    rng = np.random.default_rng(0)
    examples = []
    for number in range(count):
        spots = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        stream = io.BytesIO()
        spots.resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        examples.append(Example(f"photo-{number}", number % 2, partial(_opened, stream.getvalue())))
    return examples


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _fit(bench: Bench, settings: DownstreamConfig, photos: Any, steps: int) -> None:
    settings = settings.model_copy(update={"steps": steps})
    data = Mixture(photos, length=steps * settings.batch_size)
    training.fit(data, settings, classes=200, seed=0, device=bench.device)


def _bare_loop(bench: Bench, settings: DownstreamConfig, steps: int) -> None:
    """Train as a loop does that never waits for pictures, in the fastest way of the device."""
    layout = torch.channels_last if bench.on_gpu else torch.contiguous_format
    model = timm.create_model(settings.model, num_classes=200).to(bench.device, memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=True)
    side = settings.image_size or 224
    images = torch.randn(settings.batch_size, 3, side, side, device=bench.device).to(memory_format=layout)
    labels = torch.zeros(settings.batch_size, dtype=torch.long, device=bench.device)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with _autocast(bench):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    if not bool(loss.isfinite()):
        raise NotFiniteError("the bare loop: its loss is not finite")


def _autocast(bench: Bench) -> AbstractContextManager[Any]:
    half = bench.on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast("cuda" if bench.on_gpu else "cpu", torch.bfloat16, enabled=half)
