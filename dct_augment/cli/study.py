"""`dct-augment study`: one question, answered by ordinary runs."""

from pathlib import Path
from typing import Annotated

import typer

from dct_augment.cli.common import progress_bars


def study(
    name: Annotated[str | None, typer.Argument(help="name of a study, or path to a YAML file")] = None,
    show: Annotated[bool, typer.Option("--list", help="print all studies with their questions")] = False,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="on the draws on which settings are chosen, not on those of the report")
    ] = False,
    draws: Annotated[int | None, typer.Option("--draws", min=2, help="only the first few draws")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=1, help="only this number of shots")] = None,
    datasets: Annotated[str | None, typer.Option("--datasets", help="only these, separated by commas")] = None,
    rows: Annotated[str | None, typer.Option("--rows", help="only these, separated by commas")] = None,
    only_read: Annotated[bool, typer.Option("--only-read", help="make nothing; say what finished trials say")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder; runs/studies/NAME if unset")] = None,
) -> None:
    """Answer a question by ordinary runs on the same draws; a second call goes on where the first was stopped."""
    from dct_augment.config.studies import available_studies, load_study
    from dct_augment.errors import InputError

    if show or name is None:
        for known in available_studies():
            typer.echo(f"{known}: {load_study(known).question}")
        return
    chosen = load_study(name).narrowed(shots=shots, datasets=_names(datasets), rows=_names(rows))
    of_study = chosen.tuning if tuning else chosen.draws
    if draws is not None:
        if draws > of_study.count:
            raise InputError(f"--draws {draws}: the study has {of_study.count}; give at most so many")
        of_study = of_study.model_copy(update={"count": draws})
    root = (output or Path("runs") / "studies" / Path(name).stem) / ("tuning" if tuning else "draws")
    with progress_bars() as progress:
        from dct_augment.studies.running import markdown, run_study

        findings = run_study(chosen, of_study, root, progress, only_read=only_read)
    for line in markdown(chosen, findings):
        typer.echo(line)
    typer.echo(f"findings: {root / 'findings.json'}")


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())
