"""Writes values as YAML with comments, so that any name of a class reads back as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any

import yaml

_WIDE = 10**9  # characters; nothing is folded


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes text with unusual characters in double quotes, on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """See yaml. Items of a list stand further right than its key."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """See yaml."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class YamlSection:
    """A section of a configuration: its name, what it is in lines of comment, its values, and comments on some keys.

    A section without a name stands at the top level.
    """

    name: str
    comment: Sequence[str]
    values: Mapping[str, Any]
    remarks: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"# {line}" for line in self.comment]
        body = []
        for key, value in self.values.items():
            if key in self.remarks:
                body.append(f"# {self.remarks[key]}")
            body.append(dump({key: value}))
        if not self.name:
            return "\n".join([*lines, *body]) + "\n"
        return "\n".join([*lines, f"{self.name}:", indent("\n".join(body), "  ")]) + "\n"


def dump(value: Any) -> str:
    """Write a value as YAML, one line for each key and item, without the last line break."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDE, default_flow_style=False)
    return str(text).rstrip("\n")


def one_line(text: str) -> str:
    """Make a text fit for a comment: what is no printable character is escaped."""
    return text if text.isprintable() else ascii(text)
