"""The embedded world: models small enough to ship, on which everything runs without a download."""

from importlib import resources
from pathlib import Path

TEXT_TO_IMAGE, TINY_DECODER = "text-to-image", "tiny-decoder"
CLASSIFIERS = ("birds-guide", "birds-judge", "digits-guide", "digits-judge", "winter-guide", "winter-judge")
BACKBONE = "backbone"
"""A classifier of other birds and strokes, of use for what its layers have learned."""


def path(name: str = TEXT_TO_IMAGE) -> Path:
    """Folder of a shipped model: the diffusers pipeline, or a classifier in timm's Hub layout."""
    return Path(str(resources.files("dct_augment"))) / "pocket" / "weights" / name
