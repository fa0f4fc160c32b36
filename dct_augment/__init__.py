"""Synthetic training images for classes that have few, by Discriminative Class Tokens.

The names below are all that code of your own needs. Each is imported when it is first used, so that
`import dct_augment` alone takes no time and loads no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dct_augment.classifiers import load as load_classifier
    from dct_augment.config import Config
    from dct_augment.config import load as load_config
    from dct_augment.datasets import few_shot
    from dct_augment.datasets import load as load_dataset
    from dct_augment.datasets.photos import write_photos
    from dct_augment.diffusion import load as load_text_to_image
    from dct_augment.downstream.exporting import export_classifier
    from dct_augment.downstream.mixing import Mixture, RealImages, SyntheticImages
    from dct_augment.errors import DctAugmentError
    from dct_augment.export import export_images
    from dct_augment.pipeline.run import Run
    from dct_augment.tokens.class_token_trainer import ClassTokenTrainer
    from dct_augment.tokens.pipelines import add_class_tokens

# Nothing is sent of how this is used. Both are read once: by the libraries of Hugging Face and Prefect, and by ONNX
# Runtime, which diffusers imports where it is installed.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0"

__all__ = [
    "ClassTokenTrainer",
    "Config",
    "DctAugmentError",
    "Mixture",
    "RealImages",
    "Run",
    "SyntheticImages",
    "add_class_tokens",
    "export_classifier",
    "export_images",
    "few_shot",
    "load_classifier",
    "load_config",
    "load_dataset",
    "load_text_to_image",
    "write_photos",
]

_PLACES = {
    "ClassTokenTrainer": "tokens.class_token_trainer:ClassTokenTrainer",
    "Config": "config:Config",
    "DctAugmentError": "errors:DctAugmentError",
    "Mixture": "downstream.mixing:Mixture",
    "RealImages": "downstream.mixing:RealImages",
    "Run": "pipeline.run:Run",
    "SyntheticImages": "downstream.mixing:SyntheticImages",
    "add_class_tokens": "tokens.pipelines:add_class_tokens",
    "export_classifier": "downstream.exporting:export_classifier",
    "export_images": "export:export_images",
    "few_shot": "datasets:few_shot",
    "load_classifier": "classifiers:load",
    "load_config": "config:load",
    "load_dataset": "datasets:load",
    "load_text_to_image": "diffusion:load",
    "write_photos": "datasets.photos:write_photos",
}
"""Where each public name is defined: `module:name`, as the imports above say to type checkers."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'dct_augment' has no attribute {name!r}; it has: {', '.join(__all__)}")
    module, _, attribute = _PLACES[name].partition(":")
    value = getattr(import_module(f"dct_augment.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
