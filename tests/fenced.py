"""Reads the examples of a Markdown page, and runs them in a folder.

The convention, for README.md and docs/:

- a block fenced as ```bash is run by bash, but its `dct-augment` commands in this process, with small settings;
- a block fenced as ```python is run; all blocks of a page share their names, from top to bottom;
- any block with `title="FILE"` is written to that file instead;
- `<!-- no test: REASON -->` in the line before a block keeps it from being run;
- blocks of any other kind are text.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dct_augment.cli.commands import app
from tests.docs_run import SMALL

_FENCE = re.compile(
    r"(?:^<!-- no test: (?P<reason>[^>]+) -->\n)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<file>[^\"]+)\")?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_WITHOUT_SETTINGS = ("demo", "init", "predict", "serve", "study", "tokens compare")
"""Commands that take no `--set`."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its first line in the page, its code, a file it is to become, why it is not run."""

    language: str
    line: int
    code: str
    file: str
    reason: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        parts = (match["language"], line, match["code"], match["file"] or "", (match["reason"] or "").strip())
        yield Block(*parts)


def run_page(text: str, folder: Path) -> int:
    """Run the examples of a page in a folder, which is the working folder too; return how many ran."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for block in blocks(text):
        if block.reason:
            continue
        if block.file:
            (folder / block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, "page", "exec"), names)
        elif block.language == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                _run_line(line, folder)
        else:
            continue
        count += 1
    return count


def _run_line(line: str, folder: Path) -> None:
    """Run one line of a shell block."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] != "dct-augment":
        subprocess.run(["bash", "-ec", line], cwd=folder, check=True)
        return
    arguments = words[1:]
    if not " ".join(arguments).startswith(_WITHOUT_SETTINGS):
        position = 2 if arguments[0] == "tokens" else 1
        arguments[position:position] = [part for setting in SMALL for part in ("--set", setting)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
