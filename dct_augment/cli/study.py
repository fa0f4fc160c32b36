"""`dct-augment study`: one question, answered by ordinary runs."""

from pathlib import Path
from typing import Annotated

import typer

from dct_augment.cli.common import progress_bars


def study(
    name: Annotated[str | None, typer.Argument(help="name of a study, or path to a YAML file")] = None,
    show: Annotated[bool, typer.Option("--list", help="print all studies with their questions")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="the part of it that shows the direction in minutes")] = False,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="on the draws on which settings are chosen, not on those of the report")
    ] = False,
    draws: Annotated[int | None, typer.Option("--draws", min=2, help="only the first few draws")] = None,
    shots: Annotated[str | None, typer.Option("--shots", help="only these numbers, separated by commas")] = None,
    datasets: Annotated[str | None, typer.Option("--datasets", help="only these, separated by commas")] = None,
    recipes: Annotated[str | None, typer.Option("--recipes", help="only these, separated by commas")] = None,
    rows: Annotated[str | None, typer.Option("--rows", help="only these, separated by commas")] = None,
    only_read: Annotated[bool, typer.Option("--only-read", help="make nothing; say what finished trials say")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="make nothing; say what is left to do")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder; runs/studies/NAME if unset")] = None,
) -> None:
    """Answer a question by ordinary runs on the same draws; a second call goes on where the first was stopped."""
    from dct_augment.config.studies import available_studies, load_study
    from dct_augment.errors import InputError

    if show or name is None:
        for known in available_studies():
            typer.echo(f"{known}: {load_study(known).question}")
        return
    whole = load_study(name)
    if not tuning:
        for_tuning = set(whole.rows) - set(whole.reported().rows)
        if unreported := [row for row in _names(rows) or () if row in for_tuning]:
            raise InputError(f"--rows {', '.join(unreported)}: for tuning only; add --tuning, or leave it out")
        whole = whole.reported()
    less = whole.quick if quick else None
    if quick and less is None:
        raise InputError(f"{name} has no quick part; give --draws, --shots, --datasets or --rows")
    chosen = whole.narrowed(
        shots=_numbers(shots) or (less.shots if less else None),
        datasets=_names(datasets) or (less.datasets if less else None),
        recipes=_names(recipes) or (less.recipes if less else None),
        rows=_names(rows) or (less.rows if less else None),
    )
    of_study = chosen.tuning if tuning else chosen.draws
    count = draws or (less.draws if less else of_study.count)
    if count > of_study.count:
        raise InputError(f"--draws {count}: the study has {of_study.count}; give at most so many")
    of_study = of_study.model_copy(update={"count": count})
    root = (output or Path("runs") / "studies" / Path(name).stem) / ("tuning" if tuning else "draws")
    with progress_bars() as progress:
        from dct_augment.studies.running import markdown, remaining, remaining_as_markdown, run_study

        if dry_run:
            for line in remaining_as_markdown(remaining(chosen, of_study, root, progress)):
                typer.echo(line)
            return
        findings = run_study(chosen, of_study, root, progress, only_read=only_read)
    for line in markdown(chosen, findings):
        typer.echo(line)
    if findings.rows:
        typer.echo(f"findings: {root / 'findings.json'}")


def _names(text: str | None) -> tuple[str, ...] | None:
    """Split a list of names; None if it is not given."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """Split a list of whole numbers.

    Raises:
        InputError: one of them is none.
    """
    from dct_augment.errors import InputError

    names = _names(text)
    if names is None:
        return None
    if not names or not all(name.isdecimal() for name in names):
        raise InputError(f"--shots {text!r}: give whole numbers, separated by commas, such as 1,5")
    return tuple(int(name) for name in names)
