"""What the commands share: options, the console, and a run with progress bars."""

import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from dct_augment import stopping
from dct_augment.errors import InputError
from dct_augment.files import check_writable
from dct_augment.remote.urls import written
from dct_augment.wording import visible

if TYPE_CHECKING:
    from dct_augment.config import Config
    from dct_augment.pipeline.run import Run
    from dct_augment.records import Progress, ProgressCallback


class Screen(Console):
    """A console on which names of users are no markup, and steer nothing."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See rich."""
        return super().render_str(visible(text), **options)


console = Screen(stderr=True)

_NARROW = 110
"""Columns of a terminal below which bars are short, so that the notes beside them can be read."""

_UNLIMITED = 10_000
"""Columns of what is no terminal."""

ConfigName = Annotated[str, typer.Option("--config", "-c", help="name of a configuration, or path to a YAML file")]
RunConfig = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="name of a configuration, or path to a YAML file; else the one that the run of --output has recorded, or "
        "pocket",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="e.g. tokens.max_updates=80; repeatable")
]
Classes = Annotated[str | None, typer.Option("--classes", help="only these classes, separated by commas")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="run folder, or its URL (s3://, gs://); runs/<name> if not given")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1")]
PerClass = Annotated[int | None, typer.Option("--per-class", help="images per class")]
Full = Annotated[bool, typer.Option("--full", help="seven arms, ratios and curves, six seeds; 200 images a class")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the plan and its cost, and do nothing")]
Price = Annotated[
    float | None,
    typer.Option("--price", min=0, metavar="PER_HOUR", help="of an hour of this machine: --dry-run says the cost, too"),
]


def plan_is_asked(dry_run: bool, price: float | None) -> bool:
    """Tell whether a command is to print its plan alone.

    Raises:
        BadParameter: there is a price, and no plan that says what it comes to; or it is no number.
    """
    if price is not None and not math.isfinite(price):
        raise typer.BadParameter(f"--price {price:g} is no price; give what an hour of this machine costs, e.g. 2.50")
    if price is not None and not dry_run:
        raise typer.BadParameter("--price is a part of the plan that --dry-run prints; add --dry-run, or leave it out")
    return dry_run


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
    """Read and check the configuration that a command asks for.

    Raises:
        ConfigError: it is wrong.
        InputError: its run would lie in another one.
    """
    from dct_augment import config

    names = class_names(classes)
    settings = config.load(
        name, overrides or [], full=full, per_class=per_class, classes=names, output=output, device=device
    )
    outer = settings.root.absolute().parent
    if settings.url is None and _is_run(outer):
        raise InputError(f"{settings.root} lies in the run {outer}; give that, or a folder outside, as --output")
    return settings


def config_of(config: str | None, output: Path | None) -> str:
    """Name the configuration of a command that reads a run: the one that is given, or that the run itself recorded."""
    if config is not None:
        return config
    from dct_augment.remote.store import local_folder

    recorded = None if output is None else local_folder(output, may_be_new=True) / "config.yaml"
    if recorded is None or not recorded.is_file():
        return "pocket"
    _refuse_damaged(recorded)
    return str(recorded)


def _refuse_damaged(recorded: Path) -> None:
    """Check that the configuration that a run has recorded can be read; a user has not written it.

    Raises:
        InputError: it cannot, and is not what was written.
    """
    from dct_augment.config import is_as_recorded, load
    from dct_augment.errors import ConfigError

    if is_as_recorded(recorded):
        return
    try:
        load(str(recorded))
    except ConfigError as error:
        raise InputError(
            f"{recorded} is damaged: the run wrote something else there. Give the configuration of the run with "
            "--config, and --set if it had any"
        ) from error


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


def command(verb: str, config: str | None, *, overrides: list[str] | None = None, output: Path | None = None) -> str:
    """Write a command with the options of this one."""
    words = ["dct-augment", *verb.split(), *(["--config", config] if config is not None else [])]
    for setting in overrides or ():
        words += ["--set", setting]
    if output is not None:
        words += ["--output", written(output)]
    return shlex.join(words)


_OF_A_RUN = (
    *("tokens", "shards", "comparison", "selection", "arms", "benchmark", "classifier", "report"),
    *("guide", "checks", "data", "config.yaml", "times.json", ".prefect"),
)


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.yaml", "times.json"))


def refuse_part_of_run(path: Path, option: str) -> None:
    """Check that a path is none of the files and folders that a run keeps its own in.

    Raises:
        InputError: it is.
    """
    whole = path.expanduser().resolve()
    for folder in whole.parents:
        if whole.relative_to(folder).parts[0] in _OF_A_RUN and _is_run(folder):
            raise InputError(
                f"{option} {str(path)!r} is the run's own, of {str(folder)!r}, which nothing else may write to; give "
                "another path"
            )


@contextmanager
def running(settings: "Config", *, writes: bool = True) -> Iterator["Run"]:
    """A run with progress bars on stderr; one that `writes` is refused before models are loaded if it cannot.

    Raises:
        OSError: nothing can be written in the folder of the run.
    """
    if writes:
        check_writable(settings.root)
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
    # Where a line is too narrow, rich shortens the columns that may wrap: the description and the note alone.
    columns = (
        _ShortenedColumn("description"),
        BarColumn(12 if console.width < _NARROW else 40, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("ETA", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        _ShortenedColumn("note", style="dim"),
    )
    with Bars(*columns, console=console) as shown:
        try:
            yield _follow(shown)
        except (KeyboardInterrupt, SystemExit):
            shown.stop()
            stopping.say(stopped)
            raise


class _ShortenedColumn(ProgressColumn):
    """Shows the description or a field of a task in one line, cut with an ellipsis where there is no room for it."""

    def __init__(self, name: str, style: str = "") -> None:
        super().__init__()
        self._name, self._style = name, style

    def render(self, task: Task) -> Text:
        """Render the text of a task."""
        text = task.description if self._name == "description" else str(task.fields[self._name])
        return Text(text, style=self._style, no_wrap=True, overflow="ellipsis")


def _follow(shown: Bars) -> "ProgressCallback":
    tasks: dict[str, TaskID] = {}
    told: dict[str, int] = {}

    def tell_a_log(progress: "Progress") -> None:
        """Write a line for each quarter of a stage: a log shows no bar before its end."""
        quarter = 4 * progress.done // progress.total
        if quarter > told.get(progress.stage, 0):
            told[progress.stage] = quarter
            line = f"{progress.stage}: {progress.done:,} of {progress.total:,}"
            shown.console.print(line, markup=False, highlight=False)

    def report(progress: "Progress") -> None:
        stopping.raise_if_stopped()  # a library that catches everything may have swallowed it
        if not progress.total:
            shown.console.print(f"{progress.stage}: {progress.note}", markup=False, highlight=False)
            return
        if progress.stage not in tasks:
            tasks[progress.stage] = shown.add_task(progress.stage, total=progress.total, note="")
        note = progress.note if len(progress.note) < 48 else progress.note[:45] + "..."
        if not shown.console.is_terminal:
            tell_a_log(progress)
        shown.update(tasks[progress.stage], completed=progress.done, total=progress.total, note=note)

    return report


def say(line: str) -> None:
    """Print a line on stdout; no name in it steers the terminal."""
    typer.echo(visible(line))


def print_report(settings: "Config", page: Path | str) -> None:
    """Print the summary of a report, and where it lies."""
    print_summary(settings)
    say(f"report: {page}")
    if settings.url:
        say(f"published: {settings.url}")


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream of this process is a terminal; one that was closed before the start is None."""
    return stream is not None and stream.isatty()


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as the terminal is now; what users have written is no markup."""
    out = Screen(markup=False, highlight=False)
    if not is_terminal(sys.stdout):  # a file or another program gets all of it
        wide = Screen(markup=False, highlight=False, width=_UNLIMITED)
        out.width = max(out.width, wide.measure(table).maximum)
    out.print(table)


def print_summary(settings: "Config") -> None:
    """Print the main numbers of a report, what they answer, and what to do next."""
    from dct_augment.report.page import answer_in_words, classifier_is_made, headlines

    measured = "judge and test accuracy" if settings.judge else "test accuracy"
    table = Table(title=f"{settings.name}: {measured}, 95 % intervals", title_justify="left")
    table.add_column("what")
    table.add_column("mean", justify="right")
    table.add_column("interval", justify="right")
    for title, mean, interval in headlines(settings.root):
        table.add_row(title, f"{mean:.1%}", interval)
    print_table(table)
    for line in answer_in_words(settings.root):
        say(line)
    if classifier_is_made(settings.root):
        say(f"next: dct-augment predict {shlex.quote(settings.url or str(settings.root))} PICTURES...")
