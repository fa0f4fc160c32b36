"""The file `classifier.json`, which lies beside the weights of a classifier that was kept, and where they are found."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from dct_augment.errors import ModelError
from dct_augment.wording import command_of, listed

FOLDER = "classifier"
"""Where a run keeps its classifier."""

FILE = "classifier.json"
SCHEMA = 1

_RUN_FILE = "config.yaml"


@dataclass(frozen=True)
class PredictionSettings:
    """How logits become a prediction: divided by `temperature`; below `threshold`, the class is unknown."""

    temperature: float = 1.0
    threshold: float | None = None


def find(folder: Path) -> Path:
    """Return the folder of a classifier: that of a run is in it, any other is its own.

    Raises:
        ModelError: a run that has kept no classifier.
    """
    if (folder / "config.json").is_file():
        return folder
    if (folder / FOLDER / "config.json").is_file():
        return folder / FOLDER
    if (folder / _RUN_FILE).is_file():
        raise ModelError(f"the run {str(folder)!r} has no classifier yet; make it with `{command_of('fit', folder)}`")
    return folder


def no_classifier_in(name: str) -> str:
    """Say that a folder holds no classifier, what makes one, and in which folders inside there is one."""
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    try:
        inside = sorted(path for path in folder.iterdir() if (path / FOLDER / "config.json").is_file())
    except OSError:
        inside = []
    nearby = f" There is one in: {listed([repr(str(path)) for path in inside], 5)}." if inside else ""
    return (
        f"no classifier in {name!r}: it has no config.json.{nearby} Give the folder of a classifier, or of a run that "
        f"has kept one; `dct-augment fit --config FILE --output {shlex.quote(str(folder))}` makes one there"
    )


def read_settings(folder: Path) -> PredictionSettings:
    """Read `classifier.json`; a folder without one has temperature 1 and no threshold.

    Raises:
        ModelError: it is damaged, or its values cannot be.
    """
    path = folder / FILE
    if not path.is_file():
        return PredictionSettings()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        threshold = data["threshold"]
        settings = PredictionSettings(float(data["temperature"]), None if threshold is None else float(threshold))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{str(path)!r} is damaged: {error!r}; make it again with `{command_of('fit', folder.parent)}`"
        ) from error
    if not (settings.temperature > 0 and math.isfinite(settings.temperature)):
        raise ModelError(f"{str(path)!r}: temperature must be a number above 0, not {settings.temperature}")
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise ModelError(f"{str(path)!r}: threshold must be null, or 0 to 1, not {settings.threshold}")
    return settings
