"""What generated images cost beyond denoising and decoding them: texts, scores of guide and judge, files.

    OMP_NUM_THREADS=1 python -m benchmarks.generation_overhead
    OMP_NUM_THREADS=1 python -m benchmarks.generation_overhead --large

All figures are CPU seconds of this process. On Pocket, a shard as a run makes it takes turns with the bare denoiser
and decoder on the same rows, `--rounds` times: their ratio is a median with its interval, as in `benchmarks.savings`. A
class has as many images and texts as in the shipped run, and its texts are encoded anew in each round.

`--large` is Stable Diffusion 1.5 at 512 pixels with random weights, where whole images take too long on a CPU. One
evaluation of the denoiser and the decoding of one image are timed; `bare` is computed from them: the steps of
`configs/cub.yaml`, two evaluations each, and one decoding. Scores and files are those of photographs.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from benchmarks.gpu import models
from benchmarks.savings import median
from dct_augment import Run, config
from dct_augment.classifiers import Classifier
from dct_augment.config import Config
from dct_augment.diffusion import Conditioning, Sampler
from dct_augment.generation import plan
from dct_augment.generation.generator import Generator
from dct_augment.generation.shards import ShardFolder
from dct_augment.images import square
from dct_augment.pipeline.stages import ImageStage, TokenStage
from dct_augment.records import ClassInfo, ImageKind, PlanRow
from dct_augment.tokens.formats import Token, split

CLASSES = ("crane", "kiwi")
LARGE_CLASSES = tuple(ClassInfo(number, f"class {number}", f"class-{number}") for number in range(4))


@dataclass(frozen=True)
class Shard:
    """One shard that is to be made: its rows, and what makes images of them."""

    settings: Config
    classes: Sequence[ClassInfo]
    spec: plan.ShardSpec
    rows: Sequence[PlanRow]
    vectors: Mapping[str, torch.Tensor]
    sampler: Sampler
    guide: Classifier
    judge: Classifier

    def generator(self, guide: Classifier | None = None) -> Generator:
        """Make a generator that knows no text yet."""
        image_format = self.settings.generation.image_format
        return Generator(self.sampler, classes=self.classes, guide=guide, image_format=image_format)

    def texts(self) -> list[Conditioning]:
        """Encode the text of each row."""
        generator = self.generator()
        with torch.no_grad():
            return [generator._encode(row, self.vectors.get(row.slug)) for row in self.rows]

    def batches(self) -> Iterator[slice]:
        """Yield which rows are generated at once."""
        size = self.settings.generation.batch_size
        for start in range(0, len(self.rows), size):
            yield slice(start, start + size)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Time one call, in CPU seconds of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def pocket_run(folder: Path, classes: Sequence[str], overrides: Sequence[str]) -> Run:
    """Make a run of some birds, whose class tokens are the embedding of a word."""
    run = Run(config.load("pocket", overrides, classes=classes, output=folder))
    identity, widths = run.identity("tokens"), run.backend.encoder_widths
    for info in run.classes:
        token = Token(run.tokens.word(info), split(run.backend.word("a")[None], widths))
        run.tokens.import_token(token, info, run.config.narrow(identity, [info]), run.base_model)
    TokenStage(run).publish()
    return run


def shard_of(run: Run, stage: ImageStage) -> Shard:
    """Return the first shard of a run, with the models of the run."""
    assert run.judge is not None
    spec, tokens = stage.layout(run.classes)[0], stage.tokens(run.classes)
    settings = run.config
    rows = plan.rows(spec, ImageKind.CLASS_TOKEN, run.classes, settings.prompts, tokens, settings.generation.seed)
    vectors = {info.slug: run.tokens.vector(info) for info in run.classes}
    return Shard(settings, run.classes, spec, rows, vectors, run.generation_sampler, run.guide, run.judge)


def bare(shard: Shard, texts: Sequence[Conditioning]) -> torch.Tensor:
    """Denoise and decode all rows, whose texts are encoded, to images (B, 3, H, W) in [-1, 1]."""
    images = []
    for batch in shard.batches():
        seeds = [row.seed for row in shard.rows[batch]]
        images.append(shard.sampler.generate(seeds, Conditioning.cat(texts[batch])))
    return torch.cat(images)


def parts(shard: Shard, images: torch.Tensor, folder: Path, rounds: int) -> dict[str, float]:
    """Time what is not denoising or decoding, part by part, for images (B, 3, H, W) of a shard: the least of rounds."""
    shards = ShardFolder(folder, "parts", "train")
    plain = shard.generator()

    def score(generator: Generator) -> None:
        for batch in shard.batches():
            generator._scorers[0].score(images[batch], shard.rows[batch])

    def store() -> None:
        generated = []
        for batch in shard.batches():
            generated += plain._score_and_encode(shard.rows[batch], images[batch])
        shards.write(shard.spec, generated, {}, shard.settings.generation.image_format)

    works = {
        "texts": shard.texts,
        "guide": lambda: score(shard.generator(shard.guide)),
        "judge": lambda: score(shard.generator(shard.judge)),
        "pixels and files": store,
    }
    for work in works.values():
        work()  # kernels are chosen, memory is had
    return {name: min(cpu_seconds(work) for _ in range(rounds)) for name, work in works.items()}


def print_parts(found: Mapping[str, float], bare_seconds: float, count: int) -> None:
    """Print a row for each part, and for all."""
    print("\n| part | ms an image | % of bare |\n|---|---|---|")
    for name, value in {**found, "all": sum(found.values()), "bare": bare_seconds}.items():
        print(f"| {name} | {1000 * value / count:.1f} | {100 * value / bare_seconds:.2f} |", flush=True)


def measure_pocket(options: argparse.Namespace, folder: Path) -> None:
    """Let a shard of a run and its bare denoiser and decoder take turns."""
    run = pocket_run(folder, options.classes.split(","), options.overrides)
    stage = ImageStage(run, ImageKind.CLASS_TOKEN)
    shard, unit = shard_of(run, stage), stage.pending()[0]
    texts = shard.texts()

    def whole() -> None:
        ImageStage(run, ImageKind.CLASS_TOKEN).do(unit)  # a new one has encoded no text yet

    def without() -> None:
        bare(shard, texts)

    print(f"{len(shard.rows)} images, {len({row.prompt for row in shard.rows})} texts\n")
    whole(), without()
    wholes, bares = [], []
    for number in range(options.rounds):
        for side, found in ((whole, wholes), (without, bares))[:: 1 if number % 2 else -1]:
            found.append(cpu_seconds(side))
    ratio = median([one / other for one, other in zip(wholes, bares, strict=True)])
    print("| shard / bare | shard, s | bare, s |\n|---|---|---|")
    print(f"| {ratio} | {min(wholes):.2f} | {min(bares):.2f} |", flush=True)
    found = parts(shard, bare(shard, texts), folder / "parts", options.rounds)
    print_parts(found, min(bares), len(shard.rows))


def measure_large(options: argparse.Namespace, folder: Path) -> None:
    """Time one evaluation, one decoding, and all that is done with the images of photographs."""
    settings = config.load("cub", options.overrides)
    pipe = models.build((models.TINY_SHAPES if options.tiny else models.SHAPES)["sd15"], [], "cpu", torch.float32)
    backend = models.backend(pipe, "cpu", "fast")
    sampler = Sampler.from_config(backend, settings.sampling, negative_prompt="")
    (spec,) = plan.extend((), LARGE_CLASSES, 1, len(LARGE_CLASSES))
    rows = plan.rows(spec, ImageKind.PLAIN_PROMPT, LARGE_CLASSES, settings.prompts, {}, 0)
    names = ("test_resnet",) * 2 if options.tiny else ("vit_base_patch16_224", "resnet50")
    guide, judge = (models.classifier(name, 200, "cpu") for name in names)
    shard = Shard(settings, LARGE_CLASSES, spec, rows, {}, sampler, guide, judge)
    text = sampler.backend.encode([rows[0].prompt])
    with torch.no_grad():
        latents, timestep = backend.latents([0]), torch.tensor([500])
        evaluation = cpu_seconds(lambda: backend.denoise(latents, timestep, text, sampler.guidance_scale))
        decoding = cpu_seconds(lambda: backend.decode(latents))
    steps = sampler.steps * sampler.evaluations_per_step
    print(f"one evaluation {evaluation:.2f} s, one decoding {decoding:.2f} s; {steps} evaluations an image")
    images = torch.cat([image for image, _ in zip(photographs(backend.image_size), rows, strict=False)])
    print_parts(parts(shard, images, folder, options.rounds), (steps * evaluation + decoding) * len(rows), len(rows))


def photographs(side: int) -> Iterator[torch.Tensor]:
    """Yield squares (1, 3, side, side) of scikit-learn's two photographs, again and again."""
    from sklearn.datasets import load_sample_images

    while True:
        for pixels in load_sample_images().images:
            yield square(Image.fromarray(pixels), side)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation_overhead", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classes", default=",".join(CLASSES), help="of Pocket's birds, comma-separated")
    parser.add_argument("--large", action="store_true", help="Stable Diffusion 1.5 at 512 pixels")
    parser.add_argument("--tiny", action="store_true", help="with --large: the same kinds of models, very small")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with TemporaryDirectory() as folder:
        (measure_large if options.large else measure_pocket)(options, Path(folder))


if __name__ == "__main__":
    main()
