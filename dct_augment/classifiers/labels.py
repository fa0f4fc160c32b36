"""Which output of a classifier means which class: by the data set's own id, by name, by index, or by a file."""

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dct_augment.errors import ModelError
from dct_augment.prompts import normalize_label
from dct_augment.records import ClassInfo


@dataclass(frozen=True)
class Labels:
    """The outputs of a classifier, in order: their names, and their ids in a public list (WordNet), if known."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def match(self, classes: Sequence[ClassInfo], how: str | Path = "name") -> tuple[int, ...]:
        """The output of each class.

        `name` takes the class's own id where the labels have ids, and else its name or what the data set calls it,
        whatever the case, hyphens, leading number and synonyms; `index` its place in the data set; a path, a YAML
        file `class: label`, where a class is named by name, slug or id, and a label by name, id or index.

        Raises:
            ModelError: a class has no label, more than one, or that of another class; all are listed. Only a file
                may give two classes one label.
        """
        if how == "index":
            beyond = [info.name for info in classes if info.index >= len(self.names)]
            if beyond:
                raise ModelError(
                    f"match: index, but the classifier has {len(self.names)} outputs and {len(beyond)} classes lie "
                    f"beyond: {_listed(beyond)}"
                )
            return tuple(info.index for info in classes)
        chosen = _mapping(how) if isinstance(how, Path) else {}
        found = [self._find(info, chosen) for info in classes]
        wrong = [(info, hits) for info, hits in zip(classes, found, strict=True) if len(hits) != 1]
        if wrong:
            raise ModelError(self._explain(wrong, len(classes)))
        targets = tuple(hits[0] for hits in found)
        if how == "name" and len(set(targets)) < len(targets):
            raise ModelError(self._shared(classes, targets))
        return targets

    def _find(self, info: ClassInfo, chosen: dict[str, Any]) -> list[int]:
        for key in (info.original_name, info.slug, info.name):
            if key and key in chosen:
                return self._named(chosen[key])
        if info.original_name and info.original_name in self.ids:
            return [self.ids.index(info.original_name)]
        for wanted in filter(None, (normalize_label(info.name), normalize_label(info.original_name))):
            whole = [index for index, name in enumerate(self.names) if normalize_label(name) == wanted]
            if hits := whole or [
                i for i, name in enumerate(self.names) if wanted in map(normalize_label, name.split(","))
            ]:
                return hits
        return []

    def _named(self, label: Any) -> list[int]:
        if isinstance(label, int) and not isinstance(label, bool):
            return [label] if 0 <= label < len(self.names) else []
        if label in self.ids:
            return [self.ids.index(label)]
        return [index for index, name in enumerate(self.names) if normalize_label(name) == normalize_label(str(label))]

    def _explain(self, wrong: Sequence[tuple[ClassInfo, list[int]]], count: int) -> str:
        lines = []
        for info, hits in wrong[:10]:
            if hits:
                lines.append(f"{info.name!r} is " + " and ".join(self._label(index) for index in hits[:4]))
            else:
                close = difflib.get_close_matches(
                    normalize_label(info.name), [normalize_label(name) for name in self.names], n=2
                )
                lines.append(f"{info.name!r}" + (f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""))
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        return (
            f"the classifier has no single label for {len(wrong)} of {count} classes: "
            f"{'; '.join(lines)}{more}. Its labels: {_listed(self.names, 20)}. Say which with match: FILE.yaml "
            "(`class: label`), or match: index if its outputs are in the data set's order"
        )

    def _shared(self, classes: Sequence[ClassInfo], targets: Sequence[int]) -> str:
        """Two classes on one output: the guide could not tell them apart."""
        lines = []
        for index in sorted(target for target, count in Counter(targets).items() if count > 1):
            sharers = [info for info, target in zip(classes, targets, strict=True) if target == index]
            named = (f"{info.name!r}" + (f" ({info.original_name})" if info.original_name else "") for info in sharers)
            lines.append(f"{' and '.join(named)} are both {self._label(index)}")
        more = f" and {len(lines) - 10} more" if len(lines) > 10 else ""
        return (
            f"the classifier has one label for several classes: {'; '.join(lines[:10])}{more}. Say which label each "
            "class has with match: FILE.yaml (`class: label`), or match: index"
        )

    def _label(self, index: int) -> str:
        return f"{self.names[index]!r} ({self.ids[index] if self.ids else index})"


def read(path: Path, outputs: int | None = None) -> tuple[str, ...]:
    """Label names in output order: a .txt file with a line each, or a .json or .yaml list or `index: name` mapping.

    Raises:
        ModelError: no such file, not such a list, or not as many names as outputs.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"labels: {path} cannot be read: {error}") from error
    if path.suffix == ".txt":
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            names = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ModelError(f"labels: {path} is not valid: {' '.join(str(error).split())}") from error
        if isinstance(names, dict):
            try:
                names = [names[key] for key in sorted(names, key=int)]
            except (TypeError, ValueError) as error:
                raise ModelError(f"labels: {path} must map indices to names, e.g. 0: crane") from error
    if not isinstance(names, list):
        raise ModelError(f"labels: {path} must hold a list of names, got {type(names).__name__}")
    if outputs is not None and len(names) != outputs:
        raise ModelError(f"labels: {path} names {len(names)} labels, but the classifier has {outputs} outputs")
    return tuple(str(name) for name in names)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"match: {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ModelError(f"match: {path} must be a mapping `class: label`, got {type(data).__name__}")
    return {str(key): value for key, value in data.items()}


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(repr(name) for name in names[:most]) + (" ..." if len(names) > most else "")
