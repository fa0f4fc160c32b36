"""Settings that a user gives class by class, in the configuration or in a file of their own: `class: value`."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dct_augment.errors import InputError
from dct_augment.records import ClassInfo
from dct_augment.wording import did_you_mean, in_one_line, reason_of

DEFAULT = "default"
"""The key whose value is for every class that is not named."""

_DELIMITERS = (",", "\t", ";")  # the last is what spreadsheets write where the comma is in numbers
_NO_CONTEXT = '""'  # on a line of its own
_MERGE, _DATE = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"
_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
"""What YAML 1.2 takes for numbers, as far as our loader knows them."""

Value = TypeVar("Value")


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML, and refuses a key that is written twice: the first value would be lost without a word.

    What looks like a date is text: no setting is a date, and a class may be called so. Likewise `1:30` and `010`, which
    YAML 1.1 takes for 90 and 8.
    """

    keys_are_text = False

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """See yaml."""
        found: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in found:
                problem = f"the key {key.value!r} is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            found.add(key.value)
            if self.keys_are_text:
                key.tag = "tag:yaml.org,2002:str"
        return dict(super().construct_mapping(node, deep))


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _ClassLoader(_StrictLoader):
    """Reads YAML whose keys are names of classes: `no`, `012` and `1.0` are what they look like."""

    keys_are_text = True


def parse_yaml(text: str, *, keys_are_text: bool = False) -> Any:
    """Parse YAML; `keys_are_text` takes every key for a name as it is written.

    Raises:
        yaml.YAMLError: it is not valid, is nested too deeply, or holds a key twice.
    """
    try:
        return yaml.load(text, _ClassLoader if keys_are_text else _StrictLoader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply; settings have four levels at most") from None
    except (ValueError, OverflowError) as error:
        words = in_one_line(error)
        raise yaml.YAMLError("a number has too many digits" if "digits" in words else words) from None


def yaml_reason(error: yaml.YAMLError) -> str:
    """Say in one line what is wrong with a text that is no YAML, and in which line and column."""
    parts = (getattr(error, "context", None), getattr(error, "problem", None))
    mark = getattr(error, "problem_mark", None)
    words = ": ".join(" ".join(part.split()) for part in parts if part) or in_one_line(error).partition(' in "<')[0]
    return words if mark is None else f"{words}, at line {mark.line + 1}, column {mark.column + 1}"


def read_yaml(path: Path, setting: str) -> Any:
    """Read a YAML file whose keys are names of classes.

    Raises:
        InputError: it cannot be read, is not valid, is empty, or holds a key twice; names setting and file.
    """
    text = read_text(path, setting)
    try:
        return parse_yaml(text, keys_are_text=True)
    except yaml.YAMLError as error:
        raise InputError(f"{setting} {str(path)!r} cannot be read: {yaml_reason(error)}") from error


def read_text(path: Path, setting: str) -> str:
    """Read a file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, or holds nothing; names setting and file.
    """
    try:
        refuse_pipe(path.expanduser())
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{setting} {str(path)!r} is not written in UTF-8; save it as UTF-8 ({error})") from error
    except OSError as error:
        raise InputError(f"{setting} {str(path)!r} cannot be read: {reason_of(error)}; correct the path") from error
    if not text.strip():
        raise InputError(f"{setting} {str(path)!r} is empty; fill it, or leave the setting out")
    return text


def refuse_pipe(path: Path) -> None:
    """Check that a path is no pipe or device: to read one is to wait, maybe for ever.

    Raises:
        OSError: it is one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("it is no file, but a pipe or a device")


def read_words(path: Path, setting: str) -> dict[str, str]:
    """Read `class: words` from YAML, or from CSV or TSV with the columns `class` and `words`.

    Raises:
        InputError: the file is not such a table, or names a class twice.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        pairs = _csv_pairs(path, setting)
    else:
        data = read_yaml(path, setting)
        if not isinstance(data, dict):
            raise InputError(f"{setting} {str(path)!r} must map classes to words, e.g. `n02012849: crane bird`")
        pairs = list(data.items())
    return check_words(pairs, f"{setting} {str(path)!r}")


def check_words(pairs: Sequence[tuple[Any, Any]], where: str) -> dict[str, str]:
    """Make a mapping from classes to words, by `folded` names; `where` they stand is for messages.

    Raises:
        InputError: the words of a class are no text, or a class is named twice.
    """
    for key, text in pairs:
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{where}: the words of class {key!r} must be text, e.g. `{key}: crane bird`, got {text!r}"
            )
    return {key: text.strip() for key, text in folded(pairs, where).items()}


def _csv_pairs(path: Path, setting: str) -> list[tuple[str, str]]:
    """Read the rows under the line `class,words`."""
    text = read_text(path, setting)
    first_line = text.lstrip().splitlines()[0]
    header = next((mark for mark in _DELIMITERS if _cells(first_line, mark) == ["class", "words"]), None)
    if header is None:
        raise InputError(f"{setting} {str(path)!r} must begin with the line `class,words`, got {first_line[:80]!r}")
    pairs = []
    lines = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=header, strict=True)
    try:
        for row in list(lines)[1:]:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != 2:
                raise InputError(
                    f"{setting} {str(path)!r}: the row {header.join(row)!r} has {len(row)} columns, not 2; put words "
                    f"that hold {header!r} into double quotes"
                )
            pairs.append((row[0], row[1]))
    except csv.Error as error:
        raise InputError(f"{setting} {str(path)!r} cannot be read: line {lines.line_num}: {error}") from error
    return pairs


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in line.split(delimiter)]


def folded(pairs: Iterable[tuple[Any, Value]], where: str) -> dict[str, Value]:
    """Make a mapping whose keys are compared with the spellings of a class: text, stripped, in lower case.

    Raises:
        InputError: a key is no text, or two are alike but for case.
    """
    values: dict[str, Value] = {}
    for key, value in pairs:
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise InputError(f"{where}: {key!r} is no name of a class; put the name into quotes")
        name = unicodedata.normalize("NFC", str(key).strip().lower())  # macOS takes accents apart
        if name in values:
            raise InputError(f"{where}: class {str(key)!r} is named twice; keep one of the two")
        values[name] = value
    return values


def value_of(values: Mapping[str, Value], info: ClassInfo) -> Value | None:
    """Find the value of a class; None if it is not named. Its own name goes before its slug, that before its words."""
    for spelling in info.spellings:
        if spelling in values:
            return values[spelling]
    return None


def check_classes(keys: Iterable[str], classes: Sequence[ClassInfo], setting: str) -> None:
    """Check that every key names a class.

    Raises:
        InputError: one does not; the message lists all of them, each with a class that is spelled like it.
    """
    known = {spelling for info in classes for spelling in info.spellings}
    unknown = [key for key in keys if key not in known]
    if not unknown:
        return
    described = [f"{key!r}{did_you_mean(key, known)}" for key in unknown[:5]]
    more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
    raise InputError(f"{setting}: there is no class {', '.join(described)}{more}")


def read_contexts(value: Any, setting: str) -> Any:
    """Bring contexts into one of two forms: a tuple, or a mapping from classes to tuples.

    A text is a file: YAML (`.yaml`, `.yml`, `.json`), or one context a line.

    Raises:
        InputError: the value is of no such form, is empty, or a file cannot be read.
    """
    if isinstance(value, str | Path):
        return _read_context_file(Path(value), setting)
    if isinstance(value, Mapping):
        if not value:
            raise InputError(f"{setting} names no class; leave the setting out, or give `class: [contexts]`")
        by_class = folded(value.items(), setting)
        return {name: _context_list(of_class, f"{setting}.{name}") for name, of_class in by_class.items()}
    return _context_list(value, setting)


def _read_context_file(path: Path, setting: str) -> Any:
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        data = read_yaml(path, setting)
        if isinstance(data, str):
            raise InputError(f"{setting} {str(path)!r} must hold a list of contexts, or `class: [contexts]`")
        return read_contexts(data, f"{setting} {str(path)!r}")
    if not path.expanduser().is_file():
        raise InputError(
            f"{setting} {str(path)!r} is no file; give a file with one context a line, a list such as "
            f"['', {path!s}], or `class: [contexts]`"
        )
    lines = [line.strip() for line in read_text(path, setting).splitlines()]
    return tuple("" if line == _NO_CONTEXT else line for line in lines if line)


def _context_list(value: Any, setting: str) -> tuple[str, ...]:
    """Check a list of contexts; a text is a file with one a line."""
    if isinstance(value, str | Path):
        value = _read_context_file(Path(value), setting)
    if not isinstance(value, list | tuple) or not all(isinstance(context, str) for context in value):
        raise InputError(f"{setting} must be a list of texts, e.g. ['', at sea], or a file with one context a line")
    if not value:
        raise InputError(f"{setting} is an empty list; give at least one context, which may be ''")
    return tuple(value)
