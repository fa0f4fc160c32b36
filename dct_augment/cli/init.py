"""`dct-augment init`: the first configuration, for a folder of photos."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dct_augment.cli.common import Classes, Screen, bars, class_names, console, is_terminal


def init(
    photos: Annotated[
        Path, typer.Argument(help="folder that holds one folder of photos per class; or a table of photos, or shards")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="file to write; <folder name>.yaml in this folder if not given")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="`pocket`, a folder or a Hub id; what fits this machine if not given"),
    ] = None,
    classes: Classes = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="for a first answer: fewer folds, updates and images, wider intervals")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="write without asking")] = False,
) -> None:
    """Look at a folder of photos, and write a commented configuration for them that `run` takes as it is."""
    with console.status("loading"):
        from dct_augment.pipeline.first_config import composing, findings, target
        from dct_augment.pipeline.first_config.models import Machine
        from dct_augment.pipeline.first_config.photos import look_at

    path = to or target.default_path(photos)
    target.check_target(path)
    chosen = class_names(classes)
    with bars("stopped; nothing is written") as report:
        found = look_at(photos, chosen, report)
    with console.status("looking at this machine"):
        prepared = composing.prepare(
            path, found, Machine.here(), model, _command(photos, to, model, classes, quick), quick=quick
        )
        lines = findings.lines(prepared)
    out = Screen(markup=False, highlight=False)
    for line in lines:
        out.print(line, soft_wrap=True)
    if not yes and is_terminal(sys.stdin) and not typer.confirm(f"write {path}?", default=True):
        out.print("nothing is written")
        raise typer.Exit(1)
    prepared.write()
    file = shlex.quote(str(path))
    words = prepared.words_path
    out.print(f"written: {path}" + (f" and {words}" if words else ""), soft_wrap=True)
    out.print(f"next: dct-augment doctor --config {file}, then dct-augment run --config {file}", soft_wrap=True)


def _command(photos: Path, to: Path | None, model: str | None, classes: str | None, quick: bool) -> str:
    """Write the command as the user may call it again."""
    words = ["dct-augment", "init", str(photos)]
    for option, value in (("--to", to), ("--model", model), ("--classes", classes)):
        if value is not None:
            words += [option, str(value)]
    if quick:
        words.append("--quick")
    return shlex.join(words)
