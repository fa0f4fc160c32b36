"""The file `classifier.json`, which lies beside the weights of a classifier that was kept, and where they are found."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.errors import ModelError
from dct_augment.wording import command_of, listed, reason_of

FOLDER = "classifier"
"""Where a run keeps its classifier."""

FILE = "classifier.json"
CARD = "README.md"
SCHEMA = 1

_HASH = "sha256_without_threshold"

_MOST = 1e30  # float() takes no whole number of 400 digits

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
        data = load(path)
        threshold, temperature = _number(data, "threshold"), _number(data, "temperature")
        settings = PredictionSettings(math.nan if temperature is None else temperature, threshold)
        if changed := files.changed(folder, data.get("files")):
            raise ValueError(f"{changed[0]} beside it is not the file that was written with it")
    except (OSError, ValueError) as error:
        again = command_of("fit", folder.parent)
        raise ModelError(f"{str(path)!r} is damaged: {reason_of(error)}; make it again with `{again}`") from error
    if not (settings.temperature > 0 and math.isfinite(settings.temperature)):
        raise ModelError(f"{str(path)!r}: temperature must be a number above 0, not {settings.temperature}")
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise ModelError(f"{str(path)!r}: threshold must be null, or 0 to 1, not {settings.threshold}")
    return settings


def _number(data: Mapping[str, Any], key: str) -> float | None:
    """Give a number, or None for null.

    Raises:
        ValueError: there is neither.
    """
    value = data.get(key, "")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST:
        raise ValueError(f"it has no number {key!r}")
    return float(value)


def signed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the content of `classifier.json` the hash of all but the threshold, which a user may set."""
    return {**metadata, _HASH: _content_hash(metadata)}


def load(path: Path) -> dict[str, Any]:
    """Read `classifier.json`; one of an older version has no hash.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON object, or something but the threshold is not what was written.
    """
    data = files.load_json(path)
    stated = data.pop(_HASH, None) or files.misnamed_hash(data, _HASH, _content_hash)
    if stated is not None and stated != _content_hash(data):
        raise ValueError("its content is not what was written")
    return data


def _content_hash(metadata: Mapping[str, Any]) -> str:
    return files.content_hash({key: value for key, value in metadata.items() if key != "threshold"})
