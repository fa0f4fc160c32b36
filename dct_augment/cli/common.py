"""What the commands share: options, the console, and a run with progress bars."""

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from dct_augment.errors import InputError

if TYPE_CHECKING:
    from dct_augment.config import Config
    from dct_augment.pipeline.run import Run
    from dct_augment.records import Progress, ProgressCallback

console = Console(stderr=True)

ConfigName = Annotated[str, typer.Option("--config", "-c", help="name of a configuration, or path to a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="e.g. tokens.max_updates=80; repeatable")
]
Classes = Annotated[str | None, typer.Option("--classes", help="only these classes, separated by commas")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="run folder; runs/<name> if not given")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1")]
PerClass = Annotated[int | None, typer.Option("--per-class", help="images per class")]
Full = Annotated[bool, typer.Option("--full", help="seven arms, ratios and curves, six seeds; 200 images a class")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the plan and its cost, and do nothing")]


def configure(
    name: str,
    *,
    overrides: list[str] | None = None,
    classes: str | None = None,
    output: Path | None = None,
    device: str | None = None,
    per_class: int | None = None,
    full: bool = False,
) -> "Config":
    """Read and check the configuration that a command asks for."""
    from dct_augment import config

    names = class_names(classes)
    return config.load(
        name, overrides or [], full=full, per_class=per_class, classes=names, output=output, device=device
    )


def class_names(classes: str | None) -> list[str] | None:
    """List the names that `--classes` gives; None if it is not given.

    Raises:
        InputError: it names none.
    """
    if classes is None:
        return None
    names = [part.strip() for part in classes.split(",") if part.strip()]
    if not names:
        raise InputError(f"--classes {classes!r} names no class; give names, separated by commas, or leave it out")
    return names


@contextmanager
def running(settings: "Config") -> Iterator["Run"]:
    """A run with progress bars on stderr."""
    with progress_bars() as report:
        from dct_augment.pipeline.run import Run

        yield Run(settings, report)


@contextmanager
def progress_bars() -> Iterator["ProgressCallback"]:
    """Progress bars on stderr; warnings are for developers, not for users."""
    with console.status("loading"):
        import warnings

        warnings.filterwarnings("ignore")
        import dct_augment.pipeline.run  # noqa: F401
    with bars() as report:
        yield report


@contextmanager
def bars(
    stopped: str = "stopped; what is finished is kept, and the same command goes on from there",
) -> Iterator["ProgressCallback"]:
    """Progress bars on stderr, of work that loads no model; `stopped` is said when it is interrupted."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Bars(*columns, console=console) as shown:
        try:
            yield _follow(shown)
        except (KeyboardInterrupt, SystemExit):
            shown.stop()
            console.print(stopped)
            raise


_stopped_by: signal.Signals | None = None


def stop(number: int, frame: FrameType | None) -> None:
    """Stop the command: what SIGINT and SIGTERM do."""
    global _stopped_by
    _stopped_by = signal.Signals(number)
    _raise_if_stopped()


def _raise_if_stopped() -> None:
    if _stopped_by is signal.SIGINT:
        raise KeyboardInterrupt
    if _stopped_by is not None:
        raise SystemExit(128 + _stopped_by)


def _follow(shown: Bars) -> "ProgressCallback":
    tasks: dict[str, TaskID] = {}

    def report(progress: "Progress") -> None:
        _raise_if_stopped()  # a library that catches everything may have swallowed it
        if not progress.total:
            shown.console.print(f"{progress.stage}: {progress.note}", markup=False, highlight=False)
            return
        if progress.stage not in tasks:
            tasks[progress.stage] = shown.add_task(progress.stage, note="")
        note = progress.note if len(progress.note) < 48 else progress.note[:45] + "..."
        shown.update(tasks[progress.stage], completed=progress.done, total=progress.total, note=note)

    return report


def print_report(settings: "Config", page: Path | str) -> None:
    """Print the summary of a report, and where it lies."""
    print_summary(settings)
    typer.echo(f"report: {page}")


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as the terminal is now; what users have written is no markup."""
    Console(markup=False, highlight=False).print(table)


def print_summary(settings: "Config") -> None:
    """Print the main numbers of a report, what they answer, and what to do next."""
    from dct_augment.report.page import answer_in_words, classifier_is_made, headlines

    table = Table(title=f"{settings.name}: judge and test accuracy, 95 % intervals", title_justify="left")
    table.add_column("what")
    table.add_column("mean", justify="right")
    table.add_column("interval", justify="right")
    for title, mean, interval in headlines(settings.root):
        table.add_row(title, f"{mean:.1%}", interval)
    print_table(table)
    for line in answer_in_words(settings.root):
        typer.echo(line)
    if classifier_is_made(settings.root):
        typer.echo(f"next: dct-augment predict {shlex.quote(str(settings.root))} PICTURES...")
