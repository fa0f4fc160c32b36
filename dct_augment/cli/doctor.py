"""`dct-augment doctor`: what a run needs, before it starts."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from dct_augment.cli.common import ConfigName, Output, Overrides, configure, is_terminal, print_table, say

if TYPE_CHECKING:
    from dct_augment.pipeline.doctor.finding import Finding

COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


def doctor(config: ConfigName = "pocket", overrides: Overrides = None, output: Output = None) -> None:
    """Say what is present, what is missing and where to get it; downloads nothing. Exit code 1 if something is."""
    from dct_augment.pipeline.doctor.examination import examine

    findings = list(examine(configure(config, overrides=overrides, output=output)))
    if is_terminal(sys.stdout):
        _print_as_table(findings)
    else:  # a table as wide as the longest detail could not be read
        _print_as_lines(findings)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def _print_as_table(findings: "Sequence[Finding]") -> None:
    table = Table(show_lines=True)
    for column in ("what", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(finding.what, state, finding.detail, finding.fix)
    print_table(table)


def _print_as_lines(findings: "Sequence[Finding]") -> None:
    """Print a line for each finding, and one below it for what to do."""
    width = max(map(len, COLOURS))
    for finding in findings:
        say(f"{finding.state:<{width}}  {finding.what}: {finding.detail}")
        if finding.fix:
            say(f"{'':<{width}}  -> {finding.fix}")
