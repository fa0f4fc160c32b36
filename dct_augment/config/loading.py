"""From YAML and overrides to a checked configuration; every problem is named at once."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import yaml
from pydantic import ValidationError

from dct_augment.config.benchmark import FULL_BENCHMARK, BenchmarkConfig
from dct_augment.config.by_class import parse_yaml, yaml_reason
from dct_augment.config.datasets import AnyDataset, DatasetConfig
from dct_augment.config.problems import explained, models, shown, tags
from dct_augment.config.renames import take_out
from dct_augment.config.sections import Config
from dct_augment.errors import ConfigError
from dct_augment.remote import downloads
from dct_augment.remote.urls import url_of
from dct_augment.wording import did_you_mean, reason_of

_HASH = "# sha256 of the lines below; leave this one out of a file that you change: "


def folders() -> list[Path]:
    """Where configurations are looked for by name: ./configs, then those shipped with the package."""
    package = Path(str(resources.files("dct_augment")))
    return [Path("configs"), package.parent / "configs", package / "configs"]


def available() -> list[str]:
    """Names of all configurations that `load` finds."""
    return sorted({path.stem for folder in folders() for path in folder.glob("*.yaml")})


def load(
    name_or_path: str,
    overrides: Sequence[str] = (),
    *,
    full: bool = False,
    per_class: int | None = None,
    classes: Sequence[str] | None = None,
    output: Path | None = None,
    device: str | None = None,
) -> Config:
    """Read a configuration by name (`pocket`) or path, apply `section.key=value` overrides, check it.

    The keyword arguments are the settings that people change most. An override of the same setting must say the same,
    but for those of `full`, the whole benchmark, which others may narrow.

    Args:
        name_or_path: name of a configuration (`pocket`, `cub`, ...), or path or URL of a YAML file.
        overrides: settings as `section.key=value`, the value written as in YAML; a later one wins.
        full: whether to take the settings of the whole benchmark first.
        per_class: generated images per class; a benchmark takes no more.
        classes: only these classes, by name or slug.
        output: run folder; `runs/<name>` if not given.
        device: `auto`, `cpu`, `cuda`, or `cuda:1`.

    Returns:
        The checked configuration; it is frozen.

    Raises:
        ConfigError: the file is missing, cannot be read or is not YAML, or any value is wrong; lists every problem.
        StoreError: a URL cannot be read.

    Examples:
        >>> import dct_augment
        >>> config = dct_augment.load_config("pocket", ["tokens.max_updates=4"], classes=["crane", "kiwi"])
        >>> config.tokens.max_updates
        4
    """
    path = _find(name_or_path)
    try:
        data = parse_yaml(_text(path))
    except OSError as error:
        raise ConfigError(str(path), [f"it cannot be read: {reason_of(error)}; give a YAML file"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"it is no text in UTF-8, at byte {error.start}; save it as UTF-8"]) from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not valid YAML: {yaml_reason(error)}"]) from error
    if data is None:
        raise ConfigError(str(path), ["it is empty; begin with `name:` and `dataset:`, as configs/folder.yaml does"])
    if not isinstance(data, dict):
        raise ConfigError(str(path), [f"must be a mapping of sections, got {type(data).__name__}"])
    direct = {
        "generation.per_class": per_class,
        "dataset.classes": None if classes is None else list(classes),
        "output": None if output is None else str(output),
        "device": device,
    }
    direct = {name: value for name, value in direct.items() if value is not None}
    values = copy.deepcopy(data)
    malformed = [_apply(values, override) for override in (*(FULL_BENCHMARK if full else ()), *overrides)]
    _put_all(values, direct)
    config, found = _check(values)
    problems = [f"--set {problem}" for problem in malformed if problem] + _contradictions(overrides, direct)
    if config is None or problems:
        in_file = _check(data)[1]
        _put_all(data, direct)
        without_overrides = _check(data)[1]
        problems += [problem if problem in without_overrides else f"--set {problem}" for problem in found]
        raise ConfigError(str(path) if in_file else f"settings given over {path}", problems)
    if per_class is not None:
        config = config.model_copy(update={"benchmark": _at_most(per_class, config.benchmark, overrides)})
    return config


def _at_most(per_class: int, benchmark: BenchmarkConfig, overrides: Sequence[str]) -> BenchmarkConfig:
    """Let a benchmark need no more images than there are, but for what the user has set beside that number."""
    given: dict[str, Any] = {}
    for line in overrides:
        _apply(given, line)
    set_here = given.get("benchmark")
    asked = [
        key for key in ("per_class", "per_class_curve", "ratios") if isinstance(set_here, dict) and key in set_here
    ]
    return benchmark.at_most(per_class).model_copy(update={key: getattr(benchmark, key) for key in asked})


def validate(data: Mapping[str, Any], where: str = "configuration", problems: Sequence[str] = ()) -> Config:
    """Check a mapping and return the configuration, or raise `ConfigError` with every problem, `problems` first."""
    config, found = _check(data)
    if config is None or problems:
        raise ConfigError(where, [*problems, *found])
    return config


def _check(data: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """Check a mapping: the configuration, or None and every problem."""
    values = copy.deepcopy(dict(data))
    problems = take_out(values)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += explained(error, values, Config)
    return (None, problems) if problems else (config, [])


def override(config: Config, lines: Sequence[str]) -> Config:
    """A configuration with further `section.key=value` settings.

    Raises:
        ConfigError: one of them is wrong; lists every problem.
    """
    data = config.model_dump(mode="json")
    problems = [f"--set {problem}" for line in lines if (problem := _apply(data, line))]
    return validate(data, "configuration", problems)


def dump(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _text(path: Path) -> str:
    """Read a file of this machine, or at a URL."""
    url = url_of(path)
    return path.read_text(encoding="utf-8") if url is None else downloads.read(url).decode("utf-8")


def recorded(config: Config) -> str:
    """The resolved configuration as a run keeps it: YAML, and in its first line the hash of the others."""
    text = dump(config)
    return f"{_HASH}{_hash(text)}\n{text}"


def is_as_recorded(path: Path, *, in_place: bool = False) -> bool:
    """Tell whether a configuration that a run keeps is what was written; older versions wrote no hash.

    Args:
        path: of the configuration.
        in_place: whether it must be of the two folders that it lies in: those of an arm and its draw keep their names
            when a run is moved.
    """
    if path.exists() and not path.is_file():
        return False
    try:
        head, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    if not head.startswith("#"):
        return bool(head)
    if head != f"{_HASH}{_hash(text)}":
        return False
    return not in_place or PurePath(parse_yaml(text)["output"]).parts[-2:] == path.absolute().parent.parts[-2:]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if url_of(path):
        return path
    if path.suffix in {".yaml", ".yml"} or path.parent != Path("."):
        if path.is_file():
            return path
        if path.exists() or path.is_symlink():
            raise ConfigError(name_or_path, ["it is no file that can be read; give the path of a YAML file"])
        raise ConfigError(
            name_or_path, ["no such file; give a path to a YAML file or one of: " + ", ".join(available())]
        )
    for folder in folders():
        if (folder / f"{name_or_path}.yaml").is_file():
            return folder / f"{name_or_path}.yaml"
    raise ConfigError(
        name_or_path,
        [
            f"no such configuration{did_you_mean(name_or_path, available())}; give a path or one of: "
            + ", ".join(available())
        ],
    )


def _apply(data: dict[str, Any], override: str) -> str | None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        return f"{override!r} is not of the form section.key=value, e.g. tokens.max_updates=80"
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        return f"{shown(override)}: {shown(text)} is not a valid YAML value: {yaml_reason(error)}"
    return None if _put(data, name.strip(), value) else f"{override!r}: a part before the last dot is no section"


def _contradictions(overrides: Sequence[str], direct: Mapping[str, Any]) -> list[str]:
    """Name the overrides that set something else than the option of the same setting does."""
    given: dict[str, Any] = {}
    for override in overrides:
        _apply(given, override)
    problems = []
    for name, value in direct.items():
        section, _, key = name.rpartition(".")
        settings = given.get(section) if section else given
        if isinstance(settings, dict) and settings.get(key, value) not in (value, None):
            option = f"--{key.replace('_', '-')}"
            problems.append(
                f"--set {name}={shown(settings[key])} and {option} {shown(value)} set the same; leave one of them out"
            )
    return problems


def _put_all(data: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        _put(data, name, value)


def _put(data: dict[str, Any], name: str, value: Any) -> bool:
    *parents, key = name.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        inner = data[parent]
        if parent in ("method", "guide", "judge") and isinstance(inner, str):
            inner = data[parent] = {"name": inner}
        if not isinstance(inner, dict):
            return False
        data = inner
    data[key] = value
    return True


DATASETS: dict[str, type[AnyDataset]] = {tag: model for model in models(DatasetConfig) for tag in tags(model)}
