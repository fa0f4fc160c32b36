"""`dct-augment doctor`: what a run needs, before it starts."""

import typer
from rich.table import Table
from rich.text import Text

from dct_augment.cli.common import ConfigName, Output, Overrides, configure, print_table

COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


def doctor(config: ConfigName = "pocket", overrides: Overrides = None, output: Output = None) -> None:
    """Say what is present, what is missing and where to get it; downloads nothing. Exit code 1 if something is."""
    from dct_augment.pipeline.doctor import examine

    findings = list(examine(configure(config, overrides=overrides, output=output)))
    table = Table(show_lines=True)
    for column in ("what", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(finding.what, state, finding.detail, finding.fix)
    print_table(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
