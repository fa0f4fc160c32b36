"""How much memory and time a report takes, by the number of classes and of images that it shows.

    OMP_NUM_THREADS=1 python -m benchmarks.report_memory --classes 1000 --images 50

It writes shards of pictures of 64 pixels with little in them, and makes the report in a fresh process. Seconds are of
the processor; memory is the most that the process has while it makes the report, beyond what it had before.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from PIL import Image, ImageOps

from dct_augment import config
from dct_augment.benchmark.arm_comparisons import summarize_trials
from dct_augment.generation import image_files, plan
from dct_augment.generation.shards import shard_folders
from dct_augment.metrics.accuracy import class_titles
from dct_augment.records import ClassInfo, GeneratedImage, ImageKind, Trial
from dct_augment.report.page import write_report

SIDE = 64
PICTURES = 12  # that differ; others are copies


def class_infos(count: int) -> tuple[ClassInfo, ...]:
    """Make up classes."""
    return tuple(ClassInfo(number, f"species {number:04d}", f"species-{number:04d}") for number in range(count))


def pictures() -> list[Image.Image]:
    """Paint a gradient in several colours."""
    grey = Image.linear_gradient("L").resize((SIDE, SIDE))
    return [ImageOps.colorize(grey, f"hsl({30 * number}, 90%, 30%)", "white") for number in range(PICTURES)]


def write_shards(root: Path, classes: Sequence[ClassInfo], images: int) -> None:
    """Write images of each class, of plain prompts."""
    shards = shard_folders(root, "large")[ImageKind.PLAIN_PROMPT]
    stored = [(picture, image_files.encode(picture, "png")) for picture in pictures()]
    prompts = config.PromptsConfig()
    layout = plan.extend((), classes, images, 1000)
    shards.record(layout)
    for spec in layout:
        generated = []
        for row in plan.rows(spec, ImageKind.PLAIN_PROMPT, classes, prompts, {}, 0):
            picture, file = stored[(row.class_index + row.number) % PICTURES]
            scored = {"guide_label": row.class_name, "guide_right": True, "guide_confidence": 0.9}
            generated.append(GeneratedImage(row, picture, file=file, **scored))
        shards.write(spec, generated, {}, "png")


def report(root: Path, classes: Sequence[ClassInfo], images: int) -> None:
    """In a fresh process: make the report, and print a row."""
    data = {"name": "large", "dataset": {"name": "pocket"}, "guide": {"name": "pocket/birds-guide"}}
    settings = config.validate({**data, "report": {"images_per_class": images}})
    trials = pd.DataFrame(columns=[field.name for field in fields(Trial)])
    benchmark = summarize_trials(trials, class_titles(classes), settings.benchmark.shots, settings.benchmark.per_class)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, began = memory("VmRSS"), time.process_time()
    page = write_report(
        root,
        config=settings,
        classes=classes,
        environment={},
        tokens=pd.DataFrame(),
        shards=shard_folders(root, "large"),
        benchmark={**benchmark, "guide_saw": "unknown"},
    )
    spent, taken, size = time.process_time() - began, memory("VmHWM") - before, page.stat().st_size / 1e6
    print(f"| {len(classes):,} | {images} | {spent:.1f} | {taken:.0f} | {size:.1f} |", flush=True)


def memory(name: str) -> float:
    """Give the memory of this process that Linux has under a name, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kilobytes) / 1e6


def main() -> None:
    """Print a row of a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--images", type=int, default=10, help="of each class, all of them shown")
    parser.add_argument("--folder", type=Path, help="keep the images here; those that are there are shown again")
    parser.add_argument("--report", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    classes = class_infos(options.classes)
    if options.report:
        return report(options.folder, classes, options.images)
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "comparison").is_dir():
            write_shards(folder, classes, options.images)
        print("| classes | images of a class | seconds | memory, MB | page, MB |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        command = [sys.executable, "-m", "benchmarks.report_memory", *sys.argv[1:], "--report", "--folder", str(folder)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
