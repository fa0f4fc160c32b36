"""Metrics of many images: seconds of each and of all, and peak memory, on random features.

    OMP_NUM_THREADS=1 python benchmarks/metrics_size.py --images 10000 --real 5794

Every number of images is measured in a process of its own, and a quarter of it, too: memory beyond the features should
not grow. Seconds are of the processor, so other programs do not count. The default is the size of CUB.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any


def measure(options: argparse.Namespace) -> None:
    """In a fresh process: compute all metrics, and print a row of the table."""
    import torch

    from dct_augment.metrics.evaluation import evaluate

    def features(count: int, shift: float) -> torch.Tensor:
        """Features whose directions differ as much in size as those of networks do."""
        spread = torch.linspace(0, -2, options.width).mul(2.3).exp()
        return torch.randn(count, options.width) * spread + shift * spread

    torch.manual_seed(0)
    real, synthetic = features(options.real, 0.0), features(options.measure, 0.2)
    labels = torch.arange(options.measure) % options.classes
    spent: dict[str, float] = {}
    before, last = _peak(), time.process_time()

    def add(progress: Any) -> None:
        nonlocal last
        now = time.process_time()
        part = progress.note.partition(",")[0]
        spent[part] = spent.get(part, 0) + now - last
        last = now

    began = last
    evaluate(real, synthetic, labels, k=5, resamples=options.resamples, seed=0, on_progress=add)
    total = time.process_time() - began
    grown, held = _peak() - before, 4 * options.width * (options.real + options.measure) / 1e6
    parts = " | ".join(f"{spent.get(part, 0):.1f}" for part in ("FID", "KID", "neighbourhoods"))
    print(f"| {options.measure:,} | {parts} | {total:.1f} | {held:.0f} | {grown:.0f} |", flush=True)


def _peak() -> float:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="synthetic images")
    parser.add_argument("--real", type=int, default=5_794, help="real images")
    parser.add_argument("--width", type=int, default=768, help="features of an image")
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options)
    print(f"{options.real:,} real images, {options.width} features, {options.resamples} resamples\n")
    print("| synthetic images | FID, s | KID, s | neighbourhoods, s | all, s | features, MB | peak beyond them, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for images in (options.images // 4, options.images):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--measure", str(images)], check=True)


if __name__ == "__main__":
    main()
