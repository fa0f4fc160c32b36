"""`dct-augment verify`: every file of a run is checked, and what is damaged is made again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dct_augment.cli.common import (
    Device,
    Output,
    Overrides,
    RunConfig,
    command,
    config_of,
    configure,
    console,
    running,
    say,
)
from dct_augment.errors import InputError
from dct_augment.wording import counted

if TYPE_CHECKING:
    from dct_augment.config import Config
    from dct_augment.pipeline.verify import Findings, Problem


def verify(
    config: RunConfig = None,
    overrides: Overrides = None,
    output: Output = None,
    device: Device = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="remove what is damaged, and make again what is damaged or lost")
    ] = False,
) -> None:
    """Check every file of a run: hashes, and what belongs together. Exit code 1 if anything is wrong."""
    given, config = config, config_of(config, output)
    settings = configure(config, overrides=overrides, output=output, device=device)
    _bring_here(settings)
    if not (settings.root / "config.yaml").is_file() if settings.url else not settings.root.is_dir():
        make = command("generate", config, overrides=overrides, output=output)
        if not settings.url and settings.root.exists():
            raise InputError(f"{settings.root} is a file; give the folder of a run")
        raise InputError(f"{settings.url or settings.root} does not exist; make it with `{make}`")
    from dct_augment.pipeline.verify import verify as check

    name = _name_by_shards(settings.root) if given is None else ""
    found = check(settings.root, name, None) if name else check(settings.root, settings.name, settings)
    if not (settings.root / "config.yaml").is_file() and not found.problems and not found.tokens + found.shards:
        raise InputError(
            f"{settings.root} is no run folder: it has no config.yaml, and no token or image; correct --output"
        )
    _print_findings(found)
    doubt = _doubt_of_config(settings, given)
    if found.problems and repair:
        if doubt:
            raise InputError(f"{doubt}: `{command('verify --repair', '...', output=output)}`")
        _repair(settings, found.problems)
        found = check(settings.root, settings.name, settings)
        _print_findings(found)
    if found.problems:
        if not repair and any(problem.maker for problem in found.problems):
            again = command("verify --repair", "..." if doubt else given, overrides=overrides, output=output)
            console.print(f"`{again}` makes it again", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _name_by_shards(root: Path) -> str:
    """Tell the name of a run that has lost its configuration by its shards; empty if it has not, or they do not say."""
    if (root / "config.yaml").is_file():
        return ""
    names = {path.name.rpartition("-train-")[0] for path in root.glob("shards/*-train-??????.parquet")}
    return names.pop() if len(names) == 1 else ""


def _print_findings(found: "Findings") -> None:
    for problem in found.problems:
        console.print(f"wrong: {problem}", markup=False, highlight=False, soft_wrap=True)
    if found.at_work:
        console.print("another command works in this folder: what it has not finished is left out", soft_wrap=True)
    say(
        f"{counted(found.shards, 'shard')}, {counted(found.images, 'image')}, {counted(found.tokens, 'token')}: "
        + (counted(len(found.problems), "problem") if found.problems else "all agree")
    )


def _doubt_of_config(settings: "Config", given: str | None) -> str:
    """Say why the configuration cannot be that of the run; empty if it is given, or recorded as it was written."""
    from dct_augment.config import is_as_recorded

    recorded = settings.root / "config.yaml"
    if (given is not None and Path(given).absolute() != recorded.absolute()) or is_as_recorded(recorded):
        return ""
    state = "damaged" if recorded.is_file() else "missing"
    return f"{recorded} is {state}, and says how all else is made. Give the configuration of the run"


def _repair(settings: "Config", problems: "Sequence[Problem]") -> None:
    """Remove what is damaged, and make it again."""
    from dct_augment.files import remove
    from dct_augment.pipeline.repair import repair, restore_plans

    if any(problem.is_of_plan for problem in problems):  # what is left of damaged shards tells what was planned
        from dct_augment.pipeline.verify import verify as check

        with running(settings) as run, run.locked():
            restore_plans(run)
        problems = check(settings.root, settings.name, settings).problems
    with running(settings) as run, run.locked():
        for path in dict.fromkeys(path for problem in problems for path in problem.remove):
            console.print(f"removing {settings.named(path)}", markup=False, highlight=False, soft_wrap=True)
            remove(path)
        repair(run, {problem.maker for problem in problems if problem.maker})


def _bring_here(settings: "Config") -> None:
    """Have all files of a run that is on a store in its mirror."""
    if settings.url is not None:
        from dct_augment.remote.store import local_folder

        with console.status(f"reading {settings.url}"):
            local_folder(Path(settings.url), images=True, may_be_new=True)
