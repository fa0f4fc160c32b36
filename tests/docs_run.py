"""A small finished run that examples in docs and docstrings start from, and small settings for their commands."""

from pathlib import Path

from dct_augment import Run, load_config, load_dataset

SMALL = (
    "tokens.max_updates=4",
    "tokens.validate_every=4",
    "tokens.validation_images=2",
    "tokens.certificate_images=2",
    "tokens.restarts=0",
    "tokens.learning_rate=4",
    "generation.allow_uncertified=true",
)
"""Settings that make every command quick; what it makes is not good."""


def make(folder: Path, *classes: str) -> None:
    """Write tokens and shards of some Pocket classes into `folder/runs/pocket`."""
    config = load_config("pocket", SMALL, classes=classes, per_class=4, output=folder / "runs" / "pocket", device="cpu")
    Run(config).generate()


def write_photos(folder: Path) -> None:
    """Write photos of two classes into `folder/data/parts`, as the how-to has them."""
    names = {0: "M6_hex", 1: "M6_socket"}
    for number, example in enumerate(load_dataset("pocket").examples("train")):
        if example.label in names:
            path = folder / "data" / "parts" / names[example.label] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            example.open().save(path)
