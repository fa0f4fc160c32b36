"""A look at large data sets: seconds and peak memory for N pictures, and for a quarter of them.

    python benchmarks/data_look.py --pictures 20000

Makes a tree of small JPEG files (deleted afterwards): parts of scikit-learn's photographs; each tenth is a copy in
another quality. Each size is looked at twice, in processes of their own: the second look opens nothing.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 48


def grow(root: Path, begin: int, end: int) -> None:
    from sklearn.datasets import load_sample_images  # here: a look is measured without it

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(begin, end):
        folder = root / f"class-{number // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        copies = number % 10 == 9
        rng = np.random.default_rng(number - 1 if copies else number)
        photograph = photographs[int(rng.integers(2))]
        side = int(rng.integers(120, 420))
        left = int(rng.integers(photograph.width - side))
        top = int(rng.integers(photograph.height - side))
        cut = photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        cut = cut.rotate(90 * int(rng.integers(4)))
        cut.save(folder / f"picture-{number:08d}.jpg", quality=80 if copies else 95)


def look(root: str, output: str) -> None:
    """In a fresh process: look, and say how long it took and what this process needed more than before."""
    from dct_augment import config, datasets

    settings = config.FolderDataset(name="folder", path=Path(root), duplicates="drop")
    data = datasets.load(settings)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    overview = datasets.look(data, settings, Path(output))
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    total = sum(overview.counts.values())
    each = f"{seconds:.1f} s, {1e3 * seconds / total:.2f} ms each"
    print(f"{total:>10,} pictures, {len(overview.groups):,} groups: {each}; {grown / 1024:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--look", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look:
        return look(*options.look)
    with tempfile.TemporaryDirectory(prefix="dct-look-") as folder:
        begin = 0
        for size in (options.pictures // 4, options.pictures):
            grow(Path(folder) / "data", begin, size)
            begin = size
            arguments = [str(Path(folder) / "data"), str(Path(folder) / str(size))]
            for _ in range(2):
                subprocess.run([sys.executable, __file__, "--look", *arguments], check=True)


if __name__ == "__main__":
    main()
