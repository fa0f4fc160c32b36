"""What each saving in token training is worth, one at a time: time and memory of an update with it and without it.

    python -m benchmarks.savings

Every pair takes turns on the very same seeds, `--rounds` times; a ratio of times is their median, with its interval (at
least 95 %, from their order alone; of fewer than six rounds, their range). `cosine` is that of the two gradients of the
class token: 1 where a saving is exact. Memory is the most that tensors take beyond what was there before.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn import functional

from benchmarks.token_training import Bench, Variant, load, peak_memory, sampler
from dct_augment.diffusion import Conditioning, Sampler
from dct_augment.diffusion.sampling import guided
from dct_augment.generation.generator import Generator
from dct_augment.generation.plan import extend, rows
from dct_augment.records import ImageKind
from dct_augment.tokens.class_token_trainer import ClassTokenTrainer, Update

CLASSES, POSITION = 4, 0.6
IMAGES = 4  # of a class in an update
GENERATED = 32  # images of a class


@dataclass
class Side:
    """One way of doing the same work."""

    work: Callable[[], torch.Tensor | None]
    around: Callable[[], AbstractContextManager[Any]] = ExitStack

    def run(self) -> tuple[float, torch.Tensor | None]:
        with self.around():
            began = time.perf_counter()
            result = self.work()
            return time.perf_counter() - began, result

    def peak(self) -> float:
        with self.around():
            return peak_memory(self.work)


def update(trainer: ClassTokenTrainer, bench: Bench) -> Callable[[], torch.Tensor]:
    """The gradients (n, D) of one update of several classes, always of the same images."""
    states = [trainer._new_state(info) for info in bench.classes[:CLASSES]]
    updates = [Update(state, state.new_seeds(bench.images), POSITION) for state in states]

    def work() -> torch.Tensor:
        results = trainer._gradients([(update, range(bench.images)) for update in updates])
        return torch.cat([cast(torch.Tensor, part) for result in results for part in result.gradients])

    return work


@contextmanager
def both_branches(sampler: Sampler) -> Iterator[None]:
    """Guidance as pipelines write it: both branches in one batch, the gradient through both."""
    backend, scale = sampler.backend, sampler.guidance_scale

    def predict(latents: Any, timesteps: Any, conditioning: Any, **_: Any) -> Any:
        branches = Conditioning.cat([sampler.unconditional.expand(len(latents)), conditioning])
        outputs = backend.denoise(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), branches, scale)
        unconditional, conditional = outputs.chunk(2)
        return guided(conditional, unconditional, scale)

    sampler.predict = predict  # type: ignore[method-assign]
    try:
        yield
    finally:
        del sampler.predict


@contextmanager
def decoded_with_gradient(bench: Bench) -> Iterator[None]:
    """Every decoding keeps its activations, as one that a loss is computed of."""
    backend, decode = bench.backend, bench.backend.decode

    def keeping(latents: torch.Tensor, **options: Any) -> torch.Tensor:
        with torch.enable_grad():
            return decode(latents.requires_grad_(), **options)

    backend.decode = keeping
    try:
        yield
    finally:
        del backend.decode


def generated(bench: Bench, count: int, *, cached: bool) -> Callable[[], None]:
    """So many images of each of two classes, the text of each encoded once, or for every image."""
    settings, classes = bench.settings, bench.classes[:2]
    generator = Generator(sampler(bench.backend, settings), classes=bench.classes)
    (spec,) = extend((), classes, count, 2 * count)
    planned = rows(spec, ImageKind.PLAIN_PROMPT, classes, settings.prompts, {}, 0)

    encode = generator._encode_prompt

    def encode_again(*row: Any) -> Conditioning:
        generator._encoded.clear()
        return encode(*row)

    if not cached:
        generator._encode_prompt = encode_again  # type: ignore[method-assign]

    def work() -> None:
        for _ in generator.generate(planned, {}, 16):
            pass

    return work


def pairs(bench: Bench, compiled: bool, count: int) -> Iterator[tuple[str, Side, Side]]:
    """Title, with the saving, without it. Models are set up for a pair when it is asked for."""
    plain, _ = Variant(bench, balanced=False).trainer()
    here = update(plain, bench)
    yield "no gradient through the empty branch", Side(here), Side(here, lambda: both_branches(plain._sampler))

    def encoding_again() -> torch.Tensor:
        for _ in range(len(bench.classes[:CLASSES]) * bench.images):
            bench.backend.encode([bench.settings.prompts.negatives[0]])
        return here()

    yield "empty prompt encoded once", Side(here), Side(encoding_again)
    once, again = (Side(generated(bench, count, cached=cached)) for cached in (True, False))
    yield "texts of generation encoded once", once, again
    states = [plain._new_state(info) for info in bench.classes[:CLASSES]]

    def validate() -> None:
        plain._validate(states)

    with_gradient = Side(validate, lambda: decoded_with_gradient(bench))
    yield "validation keeps no activations of decoding", Side(validate), with_gradient
    yield "tiny decoder for the gradient", _variant(bench, tiny=True), _variant(bench)
    yield "bfloat16 autocast", _variant(bench, "tokens.autocast=bfloat16"), _variant(bench)
    yield "balanced memory (checkpointing)", _variant(bench, balanced=True), _variant(bench)
    if compiled:
        eager, fast = bench.backend.denoiser, torch.compile(bench.backend.denoiser)

        @contextmanager
        def swapped() -> Iterator[None]:
            bench.backend.denoiser = fast
            try:
                yield
            finally:
                bench.backend.denoiser = eager

        yield "torch.compile", Side(here, swapped), Side(here)


def _variant(bench: Bench, *overrides: str, tiny: bool = False, balanced: bool = False) -> Side:
    variant = Variant(bench, overrides, tiny=tiny, balanced=balanced)
    trainer, _ = variant.trainer()
    work = update(trainer, bench)

    @contextmanager
    def set_up() -> Iterator[None]:
        variant.trainer()
        yield
        Variant(bench, balanced=False).trainer()

    return Side(work, set_up)


def median(values: Sequence[float]) -> str:
    """The median with the interval that holds that of all rounds in 95 %, whatever their distribution."""
    ordered, count = sorted(values), len(values)
    cut, below = 0, 1 / 2**count  # chance that it is outside of all
    while below <= 0.025:
        cut += 1
        below += math.comb(count, cut) / 2**count
    low, high = max(cut - 1, 0), min(count - cut, count - 1)
    return f"{statistics.median(ordered):.2f} ({ordered[low]:.2f} .. {ordered[high]:.2f})"


def main() -> None:
    """Print a Markdown row for each saving."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.savings", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it needs a C++ compiler")
    parser.add_argument("--classes", help="comma-separated; all if not given")
    parser.add_argument("--images", type=int, default=IMAGES, help="images of a class in an update")
    parser.add_argument("--generated", type=int, default=GENERATED, help="images of a class, where some are generated")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = load("pocket", options.overrides, options.classes.split(",") if options.classes else None, options.images)
    print("| saving | time with / without | memory with / without | MB with | MB without | cosine |")
    print("|---|---|---|---|---|---|")
    for title, saving, without in pairs(bench, not options.no_compile, options.generated):
        for side in (saving, without):
            side.run()  # caches are filled, graphs compiled
        rounds = [(saving.run(), without.run()) for _ in range(options.rounds)]
        ratio = median([one[0] / other[0] for one, other in rounds])
        left, right = rounds[-1][0][1], rounds[-1][1][1]
        same = "-"
        if left is not None and right is not None:
            same = f"{functional.cosine_similarity(left.flatten(), right.flatten(), dim=0).item():.4f}"
        peaks = [side.peak() for side in (saving, without)]
        print(
            f"| {title} | {ratio} | {peaks[0] / peaks[1]:.2f} | {peaks[0]:.1f} | {peaks[1]:.1f} | {same} |", flush=True
        )


if __name__ == "__main__":
    main()
