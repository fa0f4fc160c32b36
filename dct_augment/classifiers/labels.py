"""Finds the output of a classifier that means a class: by the data set's own id, by name, by index, or by a file."""

import difflib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dct_augment.config import by_class
from dct_augment.errors import InputError, ModelError
from dct_augment.prompts import normalize_label, normalize_labels, without_indices
from dct_augment.records import ClassInfo
from dct_augment.wording import counted, counted_of, reason_of, why_no_json


@dataclass(frozen=True)
class Labels:
    """The outputs of a classifier, in order: their names, and their ids in a public list (WordNet), if known."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def match(self, classes: Sequence[ClassInfo], how: str | Path = "name") -> tuple[int, ...]:
        """Find the output of each class.

        `name` takes the class's own id where the labels have ids, and else its name or what the data set calls it,
        whatever the case, hyphens, numbers that count the labels, and synonyms; `index` its place in the data set; a
        path, a YAML file `class: label`, where a class is named by name, slug or id, and a label by name, id or index.

        Raises:
            ModelError: a class has no label, more than one, or that of another class; all are listed. Only a file
                may give two classes one label.
        """
        if how == "index":
            return self._match_index(classes)
        mapping = _mapping(how) if isinstance(how, Path) else {}
        candidates = [self._candidates(info, mapping) for info in classes]
        unmatched = [(info, outputs) for info, outputs in zip(classes, candidates, strict=True) if len(outputs) != 1]
        if unmatched:
            raise ModelError(self._explain_unmatched(unmatched, len(classes)))
        targets = tuple(outputs[0] for outputs in candidates)
        if how == "name" and len(set(targets)) < len(targets):
            raise ModelError(self._explain_shared(classes, targets))
        return targets

    def _match_index(self, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
        beyond = [info.name for info in classes if info.index >= len(self.names)]
        if beyond:
            raise ModelError(
                f"match: index, but the classifier has {counted(len(self.names), 'output')} and "
                f"{counted(len(beyond), 'class', 'lies')} beyond: {_listed(beyond)}"
            )
        return tuple(info.index for info in classes)

    def _candidates(self, info: ClassInfo, mapping: Mapping[str, Any]) -> list[int]:
        """List the outputs that may mean a class; `mapping` holds the labels that the user gave to some."""
        label = by_class.value_of(mapping, info)
        if label is not None:
            return self._outputs_of(label)
        if info.original_name and info.original_name in self.ids:
            return [self.ids.index(info.original_name)]
        for spelling in (info.name, info.original_name, info.default_name):
            if outputs := self._outputs_like(normalize_label(spelling)):
                return outputs
        return []

    def _outputs_of(self, label: Any) -> list[int]:
        """List the outputs that a label in the user's file means: an index, an id or a name."""
        if isinstance(label, int) and not isinstance(label, bool):
            return [label] if 0 <= label < len(self.names) else []
        if label in self.ids:
            return [self.ids.index(label)]
        return self._outputs_named(normalize_label(str(label)))

    def _outputs_like(self, name: str) -> list[int]:
        """List the outputs with a normalised name, or else those that have it among their synonyms."""
        return (self._outputs_named(name) or self._by_synonym.get(name, [])) if name else []

    def _outputs_named(self, name: str) -> list[int]:
        """List the outputs with a normalised name, as it is written or without the numbers that count the labels."""
        return self._by_written_name.get(name) or self._by_name.get(name, [])

    @cached_property
    def _by_written_name(self) -> Mapping[str, list[int]]:
        return _outputs_by_name([[normalize_label(name)] for name in self.names])

    @cached_property
    def _by_name(self) -> Mapping[str, list[int]]:
        return _outputs_by_name([[name] for name in normalize_labels(self.names)])

    @cached_property
    def _by_synonym(self) -> Mapping[str, list[int]]:
        synonyms = [label.split(",") for label in without_indices(self.names)]
        return _outputs_by_name([list(map(normalize_label, names)) for names in synonyms])

    def _explain_unmatched(self, unmatched: Sequence[tuple[ClassInfo, list[int]]], count: int) -> str:
        lines = []
        for info, outputs in unmatched[:10]:
            if outputs:
                lines.append(f"{info.name!r} is " + " and ".join(self._label(output) for output in outputs[:4]))
            else:
                lines.append(f"{info.name!r}{self._hint(info.name)}")
        more = f" and {len(unmatched) - 10:,} more" if len(unmatched) > 10 else ""
        return (
            f"the classifier has no single label for {counted_of(len(unmatched), count, 'class')}: "
            f"{'; '.join(lines)}{more}. Its labels: {_listed(self.names, 20)}. Say which with match: FILE.yaml "
            "(`class: label`), or match: index if its outputs are in the data set's order"
        )

    def _hint(self, name: str) -> str:
        """Suggest labels that are spelled like a name."""
        close = difflib.get_close_matches(normalize_label(name), list(self._by_name), n=2)
        return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""

    def _explain_shared(self, classes: Sequence[ClassInfo], targets: Sequence[int]) -> str:
        """Name the classes that have one output: the guide could not tell them apart."""
        lines = []
        for output in sorted(target for target, count in Counter(targets).items() if count > 1):
            names = []
            for info, target in zip(classes, targets, strict=True):
                if target == output:
                    names.append(f"{info.name!r} ({info.original_name})" if info.original_name else repr(info.name))
            lines.append(f"{' and '.join(names)} are both {self._label(output)}")
        more = f" and {len(lines) - 10:,} more" if len(lines) > 10 else ""
        return (
            f"the classifier has one label for several classes: {'; '.join(lines[:10])}{more}. Say which label each "
            "class has with match: FILE.yaml (`class: label`), or match: index"
        )

    def _label(self, output: int) -> str:
        return f"{self.names[output]!r} ({self.ids[output] if self.ids else output})"


def _outputs_by_name(names: Sequence[Sequence[str]]) -> Mapping[str, list[int]]:
    """List the outputs of each name; an output may have several names."""
    outputs: dict[str, list[int]] = defaultdict(list)
    for output, spellings in enumerate(names):
        for spelling in dict.fromkeys(spellings):
            outputs[spelling].append(output)
    return dict(outputs)


def read(path: Path, outputs: int | None = None) -> tuple[str, ...]:
    """Read label names in output order: a line each in .txt, a list or mapping `index: name` in .json or .yaml.

    Raises:
        ModelError: no such file, not such a list, or not as many names as outputs.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"labels: {path} cannot be read: {reason_of(error)}; correct guide.labels or the file"
        ) from error
    if path.suffix == ".txt":
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = _parsed(text, path)
    if not isinstance(names, list):
        raise ModelError(f"labels: {path} must hold a list of names, got {type(names).__name__}")
    if outputs is not None and len(names) != outputs:
        raise ModelError(
            f"labels: {path} names {counted(len(names), 'label')}, but the classifier has {counted(outputs, 'output')}"
        )
    return tuple(str(name) for name in names)


def _parsed(text: str, path: Path) -> Any:
    """Parse JSON or YAML; a mapping `index: name` becomes a list."""
    try:
        names = json.loads(text) if path.suffix == ".json" else by_class.parse_yaml(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"labels: {path} is not valid: {why_no_json(error)}") from error
    except yaml.YAMLError as error:
        raise ModelError(f"labels: {path} is not valid: {by_class.yaml_reason(error)}") from error
    if not isinstance(names, dict):
        return names
    try:
        return [names[key] for key in sorted(names, key=int)]
    except (TypeError, ValueError) as error:
        raise ModelError(f"labels: {path} must map indices to names, e.g. 0: crane") from error


def _mapping(path: Path) -> dict[str, Any]:
    """Read the user's file `class: label`; classes are in lower case."""
    try:
        data = by_class.read_yaml(path, "match")
        if not isinstance(data, dict):
            raise ModelError(f"match: {path} must be a mapping `class: label`, got {type(data).__name__}")
        return by_class.folded(data.items(), f"match {str(path)!r}")
    except InputError as error:
        raise ModelError(str(error)) from error


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(repr(name) for name in names[:most]) + (" ..." if len(names) > most else "")
