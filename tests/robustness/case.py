"""What a bad input is: files, a command, and what the message must say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Maker = Callable[[Path], None]
"""Writes something at a path."""

Files = Mapping[str, "str | bytes | Maker"]
"""Files by their path in the working folder: text, bytes, or what writes them. A path that ends in `/` is a folder."""


@dataclass(frozen=True)
class Case:
    """One bad input: `files` are written into an empty folder, in which the command runs."""

    command: tuple[str, ...]
    said: str
    files: Files = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the files."""
        write(folder, self.files)


def write(folder: Path, files: Files) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
