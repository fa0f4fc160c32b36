"""The embedded world: models small enough to ship, on which everything runs without a download."""

from importlib import resources
from pathlib import Path

BIRDS_AND_DIGITS, DEFECTS = "pocket", "pocket/defects"
"""The text-to-image models, by what `model.path` calls them."""

TEXT_TO_IMAGE, TINY_DECODER = "text-to-image", "tiny-decoder"
DEFECTS_TEXT_TO_IMAGE = "defects-text-to-image"
MODELS = {BIRDS_AND_DIGITS: TEXT_TO_IMAGE, DEFECTS: DEFECTS_TEXT_TO_IMAGE}
"""Their folders."""

TINY_DECODERS = {BIRDS_AND_DIGITS: TINY_DECODER}
"""The folders of small decoders, by the model that each is for; `model.tiny_decoder` calls them so, too."""

CLASSIFIERS = (
    "birds-guide",
    "birds-judge",
    "digits-guide",
    "digits-judge",
    "winter-guide",
    "winter-judge",
    "defects-guide",
    "defects-judge",
)
BACKBONE = "backbone"
"""A classifier of other birds and strokes, of use for what its layers have learned."""


def path(name: str = TEXT_TO_IMAGE) -> Path:
    """Folder of a shipped model: a diffusers pipeline, or a classifier in timm's Hub layout."""
    return Path(str(resources.files("dct_augment"))) / "pocket" / "weights" / name
