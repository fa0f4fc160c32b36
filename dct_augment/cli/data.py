"""`dct-augment data`: a look at the data set, before any work."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dct_augment.cli.common import Classes, ConfigName, Output, Overrides, Screen, bars, configure, console, print_table
from dct_augment.wording import counted

if TYPE_CHECKING:
    from dct_augment.config import Config
    from dct_augment.datasets import Overview

_LISTED = 10
_CLASSES = 500


def data(
    config: ConfigName = "pocket",
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON, and nothing else")] = False,
) -> None:
    """Look at the pictures: counts, sizes, what cannot be read, duplicates. Exit code 2 if a benchmark would fail."""
    settings = configure(config, overrides=overrides, classes=classes, output=output)
    overview = _look(settings)
    if as_json:
        typer.echo(json.dumps(overview.as_json(), indent=1))
    else:
        _print(overview, settings)
    for problem in overview.problems:
        console.print("[bold red]problem:[/]", end=" ")
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    if overview.problems:
        raise typer.Exit(2)


def _look(settings: "Config") -> "Overview":
    from dct_augment import datasets, files
    from dct_augment.benchmark.requirements import classes_with_fewer_images, missing_images
    from dct_augment.config import DatasetOnDisk
    from dct_augment.errors import DatasetError
    from dct_augment.pipeline import stores
    from dct_augment.pipeline.protocol import check_test, load_dataset

    dataset, settings = load_dataset(settings)
    chosen = datasets.used(dataset, settings.dataset)
    if not isinstance(settings.dataset, DatasetOnDisk):
        overview = datasets.look(chosen, settings.dataset, settings.root / "data")
    else:
        with files.lock(settings.root), stores.open_store(settings).held(), bars() as report:
            overview = datasets.look(chosen, settings.dataset, settings.root / "data", report)
    used = datasets.used(dataset, settings.dataset, overview.without)
    problems = missing_images(used, settings.benchmark)
    if problems:
        return overview.extended([], problems)
    try:
        remarks = [classes_with_fewer_images(used, settings.benchmark), check_test(used, dataset, settings)]
    except DatasetError as error:
        return overview.extended([], [str(error)])
    return overview.extended([remark for remark in remarks if remark], [])


def _print(overview: "Overview", settings: "Config") -> None:
    out = Screen(markup=False, highlight=False)
    print_table(_class_table(overview, settings))
    if len(overview.classes) > _CLASSES:
        out.print(f"and {counted(len(overview.classes) - _CLASSES, 'more class')}; --json has all")
    for line in overview.lines()[:-1] if overview.notes or overview.homonyms else overview.lines():
        out.print(line, soft_wrap=True)
    for name, slugs in overview.homonyms.items():
        out.print(f"one name, {len(slugs)} classes: {name}: {', '.join(slugs)}")
    for note in overview.notes:
        out.print(f"note: {note}", soft_wrap=True)
    if overview.unreadable:
        _print_unreadable(out, overview)
    if overview.groups:
        _print_duplicates(out, overview)
    if overview.duplicates:
        out.print(f"tables: {settings.root / 'data'}", soft_wrap=True)


def _class_table(overview: "Overview", settings: "Config") -> Table:
    splits = list(overview.counts)
    table = Table(
        title=f"{settings.name}: {overview.dataset}, {counted(len(overview.classes), 'class')}", title_justify="left"
    )
    for column in ("label", "class", "called in the data", *splits):
        table.add_column(column, justify="left" if column.startswith("c") else "right", overflow="fold")
    for info in overview.classes[:_CLASSES]:
        counts = [f"{info.counts[split]:,}" for split in splits]
        table.add_row(str(info.index), info.name, info.original_name or info.name, *counts)
    table.add_section()
    table.add_row("", "all", "", *(f"{count:,}" for count in overview.counts.values()))
    return table


def _print_unreadable(out: Screen, overview: "Overview") -> None:
    table = Table(title=f"{len(overview.unreadable):,} cannot be read", title_justify="left")
    for column in ("split", "picture", "class", "reason"):
        table.add_column(column, overflow="fold")
    for picture in overview.unreadable[:_LISTED]:
        table.add_row(picture.split, picture.key, picture.class_name, picture.reason)
    print_table(table)
    _print_more(out, len(overview.unreadable))


def _print_duplicates(out: Screen, overview: "Overview") -> None:
    """Print the groups, those across splits first."""
    table = Table(title=counted(len(overview.groups), "group of duplicates"), title_justify="left", show_lines=True)
    for column in ("kind", "across", "pictures"):
        table.add_column(column, overflow="fold")
    for group in sorted(overview.groups, key=lambda group: not group.across_splits)[:_LISTED]:
        across = [
            name for name, crosses in (("splits", group.across_splits), ("classes", group.across_classes)) if crosses
        ]
        names = [f"{p.title} ({p.class_name}){' left out' if p.left_out else ''}" for p in group.pictures[:6]]
        more = [f"and {len(group.pictures) - 6:,} more"] if len(group.pictures) > 6 else []
        table.add_row(group.kind, ", ".join(across) or "-", "\n".join([*names, *more]))
    print_table(table)
    _print_more(out, len(overview.groups))


def _print_more(out: Screen, count: int) -> None:
    if count > _LISTED:
        out.print(f"and {count - _LISTED:,} more; --json shows all")
