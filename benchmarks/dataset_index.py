"""Indexing large data sets: seconds and peak memory for N pictures, and for a quarter of them, in one run.

    python benchmarks/dataset_index.py --pictures 1000000

Makes a tree of empty files (deleted afterwards), 1,000 to a folder, and indexes each size in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def grow(root: Path, begin: int, end: int) -> None:
    for number in range(begin, end):
        folder = root / f"class-{number // 1000:04d}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"picture-{number:08d}.jpg").touch()


def index(root: str) -> None:
    """In a fresh process: load, and say how long it took and what the process needed more than before."""
    from dct_augment import config, datasets

    settings = config.FolderDataset(name="folder", path=Path(root))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    data = datasets.load(settings)
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    total = sum(len(data.examples(split)) for split in ("train", "val", "test"))
    each = f"{1e6 * seconds / total:.1f} us and {1024 * grown / total:.0f} bytes each"
    print(f"{total:>10,} pictures: {seconds:.1f} s, {grown / 1024:.0f} MB; {each}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--index", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index:
        return index(options.index)
    with tempfile.TemporaryDirectory(prefix="dct-index-") as folder:
        begin = 0
        for size in (options.pictures // 4, options.pictures):
            grow(Path(folder), begin, size)
            begin = size
            subprocess.run([sys.executable, __file__, "--index", folder], check=True)


if __name__ == "__main__":
    main()
