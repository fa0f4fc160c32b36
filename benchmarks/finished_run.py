"""How long a finished run is looked at before nothing is done, and in how much memory; by the number of images.

    OMP_NUM_THREADS=1 python -m benchmarks.finished_run --classes 1000 --per-class 1000

It writes a run folder with tokens and shards as the stages write them, of pictures of a few pixels, and asks each stage
in a fresh process what is missing. Seconds are of the processor. The first look reads every byte, later ones do not.
"""

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dct_augment import Run, config
from dct_augment.generation import plan
from dct_augment.pipeline.stages import ImageStage, Stage, TokenStage
from dct_augment.records import GeneratedImage, ImageKind, PlanRow
from dct_augment.tokens.formats import Token, split


def run_of(folder: Path, options: argparse.Namespace) -> Run:
    """Give the run, whose photos are one small picture of each class."""
    settings = {
        "name": "large",
        "output": str(folder / "runs"),
        "dataset": {"name": "folder", "path": str(folder / "photos"), "val": 0, "test": 0, "title": "large"},
        "model": {"path": "pocket"},
        "guide": {"name": "few_shot", "backbone": "pocket/backbone"},
        "generation": {"per_class": options.per_class, "shard_size": options.shard_size},
    }
    return Run(config.validate(settings))


def write_photos(folder: Path, classes: int) -> None:
    """Write a picture of each class, each of its own colours."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        path = folder / "photos" / f"species {number:04d}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def write_tokens(run: Run) -> None:
    """Write a token of every class, as if they came from elsewhere."""
    import torch

    identity, base = run.identity("tokens"), run.base_model
    widths = run.backend.encoder_widths
    for info in run.classes:
        vector = torch.randn(1, sum(widths.values()), generator=torch.Generator().manual_seed(info.index))
        token = Token(run.tokens.word(info), split(vector, widths))
        run.tokens.import_token(token, info, run.config.narrow(identity, [info]), base)
    TokenStage(run).publish()


def numbered() -> Callable[[PlanRow], GeneratedImage]:
    """Give a function that makes pictures of four pixels, each with its number in it."""
    numbers = itertools.count()

    def generate(row: PlanRow) -> GeneratedImage:
        picture = Image.frombytes("RGB", (2, 2), next(numbers).to_bytes(12, "big"))
        return GeneratedImage(row, picture, guide_label="x", guide_right=True, guide_confidence=0.9)

    return generate


def write_shards(run: Run, generate: Callable[[PlanRow], GeneratedImage]) -> None:
    """Write the shards of all images that `generate` makes."""
    stage, shards = ImageStage(run, ImageKind.CLASS_TOKEN), run.shards[ImageKind.CLASS_TOKEN]
    layout = stage.layout(run.classes)
    shards.record(layout)
    tokens, settings = stage.tokens(run.classes), run.config.generation
    for spec in layout:
        rows = plan.rows(spec, ImageKind.CLASS_TOKEN, run.classes, run.config.prompts, tokens, settings.seed)
        shards.write(spec, [*map(generate, rows)], stage.identity(spec, tokens), settings.image_format)
    stage.publish()


def stages(run: Run) -> Iterator[Stage]:
    """Yield the stages up to the images."""
    yield TokenStage(run)
    yield ImageStage(run, ImageKind.CLASS_TOKEN)


def look(run: Run) -> None:
    """In a fresh process: ask what is missing, and print a row."""
    before, base = time.process_time(), peak()
    seconds = []
    for stage in stages(run):
        began = time.process_time()
        units = stage.pending()
        if units:
            raise SystemExit(f"{stage.name}: {len(units)} units are not recognised as finished")
        stage.publish()
        seconds.append(time.process_time() - began)
    parts = " | ".join(f"{each:.1f}" for each in seconds)
    print(f"| {parts} | {time.process_time() - before:.1f} | {before:.1f} | {base:.0f} | {peak():.0f} |", flush=True)


def peak() -> float:
    """Give the most memory that this process has had so far, in MB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="keep the run here; one that is there is looked at again")
    parser.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look:
        return look(run_of(options.folder, options))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "photos").is_dir():
            began = time.process_time()
            write_photos(folder, options.classes)
            run = run_of(folder, options)
            write_tokens(run)
            write_shards(run, numbered())
            print(f"{options.classes * options.per_class:,} images written in {time.process_time() - began:.0f} s\n")
        print(
            "| tokens, s | images, s | both, s | start, s | peak before, MB | peak, MB |\n" + "| --- " * 6 + "|",
            flush=True,
        )
        for _ in range(2):
            command = [
                sys.executable,
                "-m",
                "benchmarks.finished_run",
                *sys.argv[1:],
                "--look",
                "--folder",
                str(folder),
            ]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
