"""The commands that run stages; each calls one method of `pipeline.Run`."""

import errno
import os
import re
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dct_augment import __version__
from dct_augment.cli import data as look
from dct_augment.cli import demo as demos
from dct_augment.cli import doctor as doctors
from dct_augment.cli import export as exports
from dct_augment.cli import init as inits
from dct_augment.cli import predict as predictions
from dct_augment.cli import study as studies
from dct_augment.cli import tokens
from dct_augment.cli import verify as verifying
from dct_augment.cli.common import (
    Classes,
    ConfigName,
    Device,
    DryRun,
    Full,
    Output,
    Overrides,
    PerClass,
    Price,
    RunConfig,
    command,
    config_of,
    configure,
    console,
    plan_is_asked,
    print_report,
    print_table,
    progress_bars,
    running,
    say,
)
from dct_augment.cli.plan import print_plan
from dct_augment.errors import DctAugmentError, InputError, UntrainedClassesError
from dct_augment.files import check_writable
from dct_augment.records import ImageKind, StageName
from dct_augment.remote.urls import written
from dct_augment.wording import counted, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dct_augment.config import Config
    from dct_augment.pipeline.run import Run
    from dct_augment.records import ProgressCallback


class ExportFormat(StrEnum):
    """What a classifier can be written as, beside its folder."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch_export"


_PATH_FIXES: dict[type[OSError], str] = {
    FileExistsError: "it is in the way of a folder; move it away, or give another path, e.g. --output",
    FileNotFoundError: "correct the path",
    NotADirectoryError: "a folder of this path is a file; correct the path",
    IsADirectoryError: "it is a folder; give the path of a file, or remove it where a file is to be",
    PermissionError: "change its permissions, or give another path",
}
"""What a user can do about a path that cannot be used."""

_FULL = "free some room, and the same command goes on; or give another path, e.g. --output"
_FIXES = {
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "a link of this path leads to itself; correct the path",
    errno.EROFS: "give a path on another disk, e.g. --output",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the size of files is limited: raise the limit (ulimit -f)",
}
"""The same, where Python has no kind of error of its own."""

_LOOP = "Symlink loop from "

_ENDINGS = {ExportFormat.ONNX: "onnx", ExportFormat.TORCH_EXPORT: "pt2"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Synthetic training images for classes that have few. Without --config, everything runs on the "
    "embedded Pocket models, on a CPU, with no download.",
)


app.add_typer(tokens.app, name="tokens")
app.command()(doctors.doctor)
app.command()(look.data)
app.command()(exports.export)
app.command()(inits.init)
app.command()(demos.demo)
app.command()(predictions.predict)
app.command()(studies.study)
app.command()(verifying.verify)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def train(
    config: ConfigName = "pocket",
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
    device: Device = None,
    dry_run: DryRun = False,
    price: Price = None,
) -> None:
    """Train the class tokens that are missing."""
    settings = configure(config, overrides=overrides, classes=classes, output=output, device=device)
    if plan_is_asked(dry_run, price):
        return print_plan(settings, StageName.TOKENS, price=price)
    with running(settings) as run:
        run.train()
        _token_table(run)
        run.check()
        run.check_guide()


@app.command()
def generate(
    config: ConfigName = "pocket",
    per_class: PerClass = None,
    plain: Annotated[bool, typer.Option("--plain", help="use plain prompts, to compare with")] = False,
    allow_uncertified: Annotated[
        bool, typer.Option("--allow-uncertified", help="use tokens that were not certified, instead of plain prompts")
    ] = False,
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
    device: Device = None,
    dry_run: DryRun = False,
    price: Price = None,
) -> None:
    """Generate labelled images into WebDataset shards; missing class tokens are trained first."""
    overrides = [*(overrides or []), *(["generation.allow_uncertified=true"] if allow_uncertified else [])]
    settings = configure(
        config, overrides=overrides, classes=classes, output=output, device=device, per_class=per_class
    )
    if plan_is_asked(dry_run, price):
        goal = StageName.PLAIN_PROMPT_IMAGES if plain else StageName.CLASS_TOKEN_IMAGES
        return print_plan(settings, goal, price=price)
    with running(settings) as run:
        if plain:
            run.generate_plain()
        else:
            run.generate()
        _shard_table(run)
        run.check()


@app.command()
def benchmark(
    config: ConfigName = "pocket",
    full: Full = False,
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
    device: Device = None,
    dry_run: DryRun = False,
    price: Price = None,
) -> None:
    """Train the low-resource classifier in every arm; makes missing tokens and images first."""
    settings = configure(config, overrides=overrides, classes=classes, output=output, device=device, full=full)
    if plan_is_asked(dry_run, price):
        return print_plan(settings, StageName.BENCHMARK, price=price)
    with running(settings) as run:
        run.benchmark()
        print_report(run.config, run.report())
        run.check()


@app.command()
def fit(
    config: ConfigName = "pocket",
    full: Full = False,
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
    device: Device = None,
    dry_run: DryRun = False,
    price: Price = None,
    export: Annotated[
        ExportFormat | None, typer.Option("--format", help="write it for other programs, too: onnx or torch_export")
    ] = None,
) -> None:
    """Train the classifier that you keep, in the best arm on all photos; makes missing trials first."""
    settings = configure(config, overrides=overrides, classes=classes, output=output, device=device, full=full)
    if plan_is_asked(dry_run, price):
        return print_plan(settings, StageName.CLASSIFIER, price=price)
    with running(settings) as run:
        folder = run.fit()
        say(f"classifier: {run.kept_classifier()}")
        say(f"in {folder}; try: dct-augment predict {shlex.quote(run.config.url or str(run.config.root))} PICTURES")
        if export:
            from dct_augment.downstream.exporting import export_classifier

            path = run.config.root / f"classifier.{_ENDINGS[export]}"
            with run.locked():
                say(f"exported: {export_classifier(folder, export, path)}")
        run.check()


@app.command()
def report(
    config: RunConfig = None,
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
) -> None:
    """Write the report of what there is."""
    given, config = config, config_of(config, output)
    settings = configure(config, overrides=overrides, classes=classes, output=output)
    if settings.url is None and not settings.root.exists():
        check_writable(settings.root)  # else `run` could not make it
        make = command("run", given, overrides=overrides, output=output)
        raise InputError(f"{settings.root} does not exist, so there is nothing to report; make it with `{make}`")
    from dct_augment.pipeline.reporting import refuse_other_trials

    with running(settings) as run:
        refuse_other_trials(run)
        print_report(run.config, run.report())


@app.command(name="run")
def run_command(
    config: ConfigName = "pocket",
    per_class: PerClass = None,
    full: Full = False,
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
    device: Device = None,
    dry_run: DryRun = False,
    price: Price = None,
) -> None:
    """Run all stages as the flow `augment`: tokens, shards, benchmark, classifier, report."""
    settings = configure(
        config,
        overrides=overrides,
        classes=classes,
        output=output,
        device=device,
        per_class=per_class,
        full=full,
    )
    if plan_is_asked(dry_run, price):
        return print_plan(settings, StageName.REPORT, price=price)
    overrides = [*(overrides or []), *([f"device={device}"] if device else [])]
    check_writable(settings.root)
    try:
        with progress_bars() as report:
            page = _flow(config, per_class, settings, overrides, full, report)
    except UntrainedClassesError:  # all else is done, the report too
        print_report(settings, settings.root / "report" / "index.html")
        raise
    print_report(settings, page)


@app.command()
def serve(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="of a server that is started")] = 4200,
) -> None:
    """Prefect with history and UI: a server if none answers, every deployment of prefect.yaml, and a worker."""
    with console.status("loading"):
        from flows import serving
    serving.serve(port, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))


def main() -> None:
    """Run the command that was typed; errors become one message and an exit code."""
    try:
        _refuse_empty(sys.argv[1:])
        app()
    except DctAugmentError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        path = f"{str(error.filename)!r}: " if error.filename is not None else ""
        fix = next((fix for kind, fix in _PATH_FIXES.items() if isinstance(error, kind)), "")
        fix = fix or _FIXES.get(error.errno or 0, "")
        _complain(f"{path}{reason_of(error)}{fix and '; '}{fix}")
        sys.exit(2 if fix else 1)
    except RuntimeError as error:
        if not str(error).startswith(_LOOP):  # what Path.resolve says
            raise
        _complain(f"{str(error).removeprefix(_LOOP)}: {_FIXES[errno.ELOOP]}")
        sys.exit(2)


def _refuse_empty(words: Sequence[str]) -> None:
    """Check that no word of a command is empty, as a variable of the shell is that is not set: as a path it is `.`.

    Raises:
        InputError: one is.
    """
    for number, word in enumerate(words):
        option = words[number - 1] if number and words[number - 1].startswith("-") else "an argument"
        if re.fullmatch(r"--[a-z-]+=", word):
            option, word = word, ""
        if not word:
            raise InputError(f"{option} is given as '', an empty text; give a value, or leave it out")


def _complain(text: str) -> None:
    console.print("[bold red]error:[/]", end=" ")
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _flow(
    config: str, per_class: int | None, settings: "Config", overrides: list[str], full: bool, report: "ProgressCallback"
) -> str:
    """Run the flow here; its log goes to the server, the console has bars."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows import server
    from flows.augment import augment, progress_listener

    progress_listener.set(report)
    server.ensure_server(settings.root, lambda line: console.print(line, markup=False, highlight=False))
    classes, output = settings.dataset.classes, settings.output
    return augment(
        config,
        per_class=per_class,
        classes=None if classes is None else list(classes),  # none at all is refused by the flow
        output=written(output) if output else None,
        overrides=overrides,
        full=full,
    )


def _token_table(run: "Run") -> None:
    index = run.tokens.index()
    roles = ("guide", "judge") if run.config.judge else ("guide",)
    table = Table(title=f"class tokens in {run.config.named(run.tokens.path)}", title_justify="left")
    of_roles = [f"{role} {when}" for role in roles for when in ("before", "after")]
    for column in ("class", "updates", *of_roles, "verdict", "stopped"):
        table.add_column(column, justify="left" if column in ("class", "verdict", "stopped") else "right")
    for row in index.to_dict("records"):
        shares = [row[f"{prefix}{role}_accuracy"] for role in roles for prefix in ("plain_", "")]
        percents = ["-" if share is None or share != share else f"{share:.0%}" for share in shares]
        verdict = row["verdict"] if isinstance(row["verdict"], str) and row["verdict"] else "-"  # NaN without a token
        table.add_row(row["class"], str(row["updates"]), *percents, verdict, row["stop_reason"])
    print_table(table)


def _shard_table(run: "Run") -> None:
    for kind, folder in run.shards.items():
        rows = folder.rows(["status", "kind", "class_name"])
        if rows.empty:
            continue
        images, shards = int((rows["status"] == "ok").sum()), rows["shard"].nunique()
        failed = len(rows) - images
        place = run.config.named(folder.path)
        say(
            f"{folder.split}: {counted(images, 'image')} in {counted(shards, 'shard')} in {place}"
            + (f", {failed} failed" if failed else "")
        )
        fallback = rows.loc[rows["kind"] == ImageKind.PLAIN_PROMPT, "class_name"].unique()
        if kind is ImageKind.CLASS_TOKEN and len(fallback):
            say(f"generated with plain prompts, for want of a certified token: {', '.join(fallback)}")
