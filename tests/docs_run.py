"""A finished run, small enough for a test, that examples in docs and docstrings start from."""

from pathlib import Path

from dct_augment import Run, load_config
from dct_augment.records import StageName

SMALL = (
    "tokens.max_updates=4",
    "tokens.validate_every=4",
    "tokens.validation_images=2",
    "tokens.certificate_images=2",
    "tokens.restarts=0",
    "generation.allow_uncertified=true",
    "generation.per_class=4",
)
"""Settings that make every command quick; what it makes is not good."""


def make(folder: Path, *classes: str) -> None:
    """Write tokens and shards of some Pocket classes into `folder/runs/pocket`."""
    config = load_config("pocket", SMALL, classes=classes, output=folder / "runs" / "pocket", device="cpu")
    run = Run(config)
    run.run_stages(run.stages(StageName.CLASS_TOKEN_IMAGES))
