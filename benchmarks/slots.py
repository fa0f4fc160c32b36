"""How far tokens drift apart that were trained one class at a time and eight at a time, by updates.

    python -m benchmarks.slots

Both see the same seeds. What is left is rounding: kernels sum in another order for another batch size, and training
magnifies it. In double precision (images still go to the guide in single) it begins that much smaller.
"""

import argparse

import torch

from benchmarks.token_training import Bench, Variant, load
from dct_augment import diffusion

UPDATES = (1, 5, 10, 20, 40, 60)


def vectors(bench: Bench, slots: int, last: int) -> dict[str, list[torch.Tensor]]:
    """The token (n, D) of each class before its first update and after every update, up to the last and one more."""
    settings = ["tokens.restarts=0", f"tokens.validate_every={last + 1}", f"tokens.max_updates={last + 1}"]
    settings.append("tokens.certificate_images=2")  # made after training, and of no interest here
    trainer, _ = Variant(bench, [*settings, f"tokens.classes_per_batch={slots}"], balanced=False).trainer()
    vectors_of: dict[str, list[torch.Tensor]] = {info.slug: [trainer._initial] for info in bench.classes}

    def record(state: dict[str, object]) -> None:
        for state_of_class in state["active"]:  # type: ignore[attr-defined]
            vectors_of[state_of_class["slug"]].append(state_of_class["vector"].clone())

    for _ in trainer.train(bench.classes, checkpoint=record):
        pass
    return vectors_of


def main() -> None:
    """Print a Markdown row for each number of updates."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slots", description=__doc__.splitlines()[0])
    parser.add_argument("--classes", default="song sparrow,crane,kiwi,bat")
    parser.add_argument("--updates", default=",".join(map(str, UPDATES)), help="after which tokens are compared")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    options = parser.parse_args()
    updates = sorted(map(int, options.updates.split(",")))
    torch.set_num_threads(1)
    bench = load("pocket", options.overrides, options.classes.split(","), 1)
    drift = []
    for dtype in ("float32", "float64"):
        bench.backend = diffusion.load("pocket", dtype=dtype, memory="fast")
        one, eight = (vectors(bench, slots, updates[-1]) for slots in (1, 8))
        drift.append([max((one[slug][n] - eight[slug][n]).abs().max().item() for slug in one) for n in updates])
    print("| updates | float32 | float64 |", "|---|---|---|", sep="\n")
    for row in zip(updates, *drift, strict=True):
        print("| {} | {:.1e} | {:.1e} |".format(*row))


if __name__ == "__main__":
    main()
