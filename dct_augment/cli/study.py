"""`dct-augment study`: one question, answered by ordinary runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dct_augment.cli.common import progress_bars, say
from dct_augment.files import check_writable

if TYPE_CHECKING:
    from dct_augment.config.studies import Study
    from dct_augment.config.token_studies import TokenStudy


def study(
    name: Annotated[str | None, typer.Argument(help="name of a study, or path to a YAML file")] = None,
    show: Annotated[bool, typer.Option("--list", help="print all studies with their questions")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="the part of it that shows the direction in minutes")] = False,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="on the draws on which settings are chosen, not on those of the report")
    ] = False,
    draws: Annotated[int | None, typer.Option("--draws", min=1, help="only the first few draws, or seeds")] = None,
    shots: Annotated[str | None, typer.Option("--shots", help="only these numbers, separated by commas")] = None,
    datasets: Annotated[str | None, typer.Option("--datasets", help="only these, separated by commas")] = None,
    recipes: Annotated[str | None, typer.Option("--recipes", help="only these, separated by commas")] = None,
    rows: Annotated[str | None, typer.Option("--rows", help="only these, separated by commas")] = None,
    variants: Annotated[str | None, typer.Option("--variants", help="only these, separated by commas")] = None,
    only_read: Annotated[bool, typer.Option("--only-read", help="make nothing; say what finished work says")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="make nothing; say what is left to do")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder; runs/studies/NAME if unset")] = None,
) -> None:
    """Answer a question by ordinary runs on the same draws; a second call goes on where the first was stopped."""
    from dct_augment.config.studies import Study, available_studies, load_any_study

    if show or name is None:
        for known in available_studies():
            say(f"{known}: {load_any_study(known).question}")
        return
    asked = _Asked(
        draws, _numbers(shots), _names(datasets), _names(recipes), _names(rows), _names(variants), tuning, quick
    )
    whole, root = load_any_study(name), output or Path("runs") / "studies" / Path(name).stem
    check_writable(root)
    if isinstance(whole, Study):
        _study_of_classifiers(whole, name, root, asked, only_read, dry_run)
    else:
        _study_of_tokens(whole, name, root, asked, only_read, dry_run)


@dataclass(frozen=True)
class _Asked:
    """What part of a study is asked for; None is all of it."""

    draws: int | None
    shots: tuple[int, ...] | None
    datasets: tuple[str, ...] | None
    recipes: tuple[str, ...] | None
    rows: tuple[str, ...] | None
    variants: tuple[str, ...] | None
    tuning: bool
    quick: bool


def _study_of_classifiers(whole: "Study", name: str, root: Path, asked: _Asked, only_read: bool, dry_run: bool) -> None:
    """Run a study of classifiers, or say what is left of it."""
    from dct_augment.errors import InputError

    if asked.variants:
        raise InputError(f"--variants: {name} is a study of classifiers; it has --rows")
    if not asked.tuning:
        for_tuning = set(whole.rows) - set(whole.reported().rows)
        if unreported := [row for row in asked.rows or () if row in for_tuning]:
            raise InputError(f"--rows {', '.join(unreported)}: for tuning only; add --tuning, or leave it out")
        whole = whole.reported()
    less = whole.quick if asked.quick else None
    if asked.quick and less is None:
        raise InputError(f"{name} has no quick part; give --draws, --shots, --datasets or --rows")
    chosen = whole.narrowed(
        shots=asked.shots or (less.shots if less else None),
        datasets=asked.datasets or (less.datasets if less else None),
        recipes=asked.recipes or (less.recipes if less else None),
        rows=asked.rows or (less.rows if less else None),
    )
    of_study = chosen.tuning if asked.tuning else chosen.draws
    if asked.draws == 1:
        raise InputError("--draws 1: one draw has no interval; give 2 or more")
    count = asked.draws or (less.draws if less else of_study.count)
    if count > of_study.count:
        raise InputError(f"--draws {count}: the study has {of_study.count}; give at most so many")
    of_study = of_study.model_copy(update={"count": count})
    root = root / ("tuning" if asked.tuning else "draws")
    with progress_bars() as progress:
        from dct_augment.studies.running import markdown, remaining, remaining_as_markdown, run_study

        if dry_run:
            _print(remaining_as_markdown(remaining(chosen, of_study, root, progress)))
            return
        findings = run_study(chosen, of_study, root, progress, only_read=only_read)
    _print(markdown(chosen, findings))
    if findings.rows:
        say(f"findings: {root / 'findings.json'}")


def _study_of_tokens(whole: "TokenStudy", name: str, root: Path, asked: _Asked, only_read: bool, dry_run: bool) -> None:
    """Run a study of tokens, or say what is left of it."""
    from dct_augment.errors import InputError

    not_of_tokens = {
        "--tuning": asked.tuning,
        "--shots": asked.shots,
        "--recipes": asked.recipes,
        "--rows": asked.rows,
    }
    if others := [option for option, value in not_of_tokens.items() if value]:
        raise InputError(f"{', '.join(others)}: {name} is a study of tokens, with --variants, --datasets and --draws")
    less = whole.quick if asked.quick else None
    if asked.quick and less is None:
        raise InputError(f"{name} has no quick part; give --draws, --datasets or --variants")
    chosen = whole.narrowed(
        datasets=asked.datasets or (less.datasets if less else None),
        variants=asked.variants or (less.variants if less else None),
        seeds=asked.draws or (less.seeds if less else None),
    )
    with progress_bars() as progress:
        from dct_augment.studies import token_page, token_running

        if dry_run:
            _print(token_running.remaining_as_markdown(chosen, root))
            return
        findings = token_running.run_token_study(whole, root, progress, part=chosen, only_read=only_read, name=name)
    _print(token_page.markdown(whole, findings))
    if findings.variants:
        say(f"page: {root / token_page.PAGE}")
    elif only_read:
        say(f"nothing is finished in {root} yet; train it: dct-augment study {name}")
    if findings.failed:
        raise typer.Exit(1)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


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
