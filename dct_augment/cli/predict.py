"""`dct-augment predict`: the class of pictures, by the classifier that a run has kept."""

import csv
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dct_augment.cli.common import Device, console, is_terminal, refuse_part_of_run
from dct_augment.errors import InputError
from dct_augment.files import check_writable
from dct_augment.remote.store import local_folder
from dct_augment.remote.urls import url_of
from dct_augment.wording import counted, counted_of, name_problem, visible

if TYPE_CHECKING:
    from dct_augment.classifiers import Classifier, ClassPrediction
    from dct_augment.downstream.picture_files import PictureFiles

Row = Callable[[str, "ClassPrediction"], None]
"""Writes what was found for the picture of a name."""

_NAMES = ("pocket/", "local-dir:", "hf-hub:")
_WIDEST = 40


def predict(
    run_or_folder: Annotated[
        str, typer.Argument(metavar="RUN_OR_FOLDER", help="run folder, folder of a classifier, or `pocket/NAME`")
    ],
    pictures: Annotated[
        list[str], typer.Argument(metavar="PICTURES...", help="files, folders with all below them, patterns, or a tar")
    ],
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="write a CSV table instead of printing one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a line of JSON per picture, and nothing else")] = False,
    top: Annotated[int, typer.Option("--top", help="how many of the likeliest classes are listed")] = 3,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", help="0 to 1: a less probable class is `unknown`; the classifier's own if not given"
        ),
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", help="pictures at once; changes speed")] = 32,
) -> None:
    """Predict the class of pictures with a kept classifier. A picture that cannot be read is a row with the reason."""
    from dct_augment.downstream.picture_files import PictureFiles

    _check_numbers(top, threshold, batch_size)
    sources = PictureFiles(pictures)
    sources.refuse_none()
    if csv_file:
        _check_csv(csv_file)
    classifier = _load(run_or_folder, device or "auto")
    top = min(top, len(classifier.labels))
    with ExitStack() as outputs:
        rows = [outputs.enter_context(_csv_rows(csv_file, top))] if csv_file else []
        if as_json:
            rows.append(_json_row)
        elif not csv_file:
            rows.append(_table_rows(classifier.labels, has_threshold=bool(threshold or classifier.threshold)))
        counts = _predict_all(classifier, sources, rows, top=top, threshold=threshold, batch_size=batch_size)
    _say_rest(counts, sources, csv_file)


def _check_numbers(top: int, threshold: float | None, batch_size: int) -> None:
    """Raise InputError for an option that cannot be."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold:g} must lie in 0 .. 1: it is a probability")
    for option, value in (("--top", top), ("--batch-size", batch_size)):
        if value < 1:
            raise InputError(f"{option} {value} must be 1 or more")


class _Counts:
    """How many pictures there were, how many could not be read, and why the first one could not."""

    def __init__(self) -> None:
        self.pictures, self.unreadable, self.first_reason = 0, 0, ""

    def add(self, name: str, found: "ClassPrediction") -> None:
        """Count a row."""
        self.pictures += 1
        if found.label is None:
            self.unreadable += 1
            self.first_reason = self.first_reason or f"{visible(name)}: {found.reason}"


def _load(name: str, device: str) -> "Classifier":
    if url_of(name):
        name = str(local_folder(Path(name)))
    if not name.startswith(_NAMES) and not Path(name).expanduser().is_dir():
        raise InputError(f"{name!r} is no folder; give a run folder, the folder of a classifier, or pocket/NAME")
    with console.status("loading"):
        import warnings

        warnings.filterwarnings("ignore")
        from dct_augment.classifiers import load
        from dct_augment.devices import resolve_device

        return load(name, device=resolve_device(device))


def _predict_all(classifier: "Classifier", sources: "PictureFiles", rows: list[Row], **options: Any) -> _Counts:
    """Predict every picture and write its rows; only a few pictures are in memory.

    Raises:
        InputError: not one can be read.
    """
    names: deque[str] = deque()

    def stored() -> Iterator[Any]:
        for picture in sources:
            names.append(picture.name)
            yield picture.stored

    counts = _Counts()
    with _bar(sources.count()) as advance:
        for found in classifier.predict_each(stored(), **options):
            name = names.popleft()
            counts.add(name, found)
            for row in rows:
                row(name, found)
            advance()
    if counts.unreadable == counts.pictures:
        what = "the only picture" if counts.pictures == 1 else f"any of {counts.pictures:,} pictures"
        raise InputError(f"cannot read {what}; {counts.first_reason}")
    return counts


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[], None]]:
    """Show progress on stderr; without a total, what is done is counted."""
    columns = (
        TextColumn("predict"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    # On a terminal, rich puts what `print` writes above the bar, on stderr. A pipe or a file gets it on stdout.
    with Progress(*columns, console=console, transient=True, redirect_stdout=is_terminal(sys.stdout)) as shown:
        task = shown.add_task("predict", total=total)
        yield lambda: shown.advance(task)


def _json_row(name: str, found: "ClassPrediction") -> None:
    top = [{"class": label, "probability": round(value, 6)} for label, value in found.top]
    row = {
        "path": name,
        "class": found.label,
        "probability": round(found.probability, 6) if found.label is not None else None,
        "top": top,
        "reason": found.reason or None,
    }
    print(json.dumps(row))  # ASCII: any path can be written


def _table_rows(labels: tuple[str, ...], *, has_threshold: bool) -> Row:
    """Print a line per picture, as a table whose columns have their widths from the start.

    Of a picture of unknown class, the likeliest class is in brackets; the probability is that of this one.
    """
    longest = max(map(len, labels))
    width = min(_WIDEST, max(len("class"), longest + len("unknown ()") if has_threshold else longest))
    print(f"{'class':<{width}}  probability  picture")

    def row(name: str, found: "ClassPrediction") -> None:
        if found.label is None:
            print(f"{'-':<{width}}  {'-':>11}  {visible(name)}: {found.reason}")
            return
        likeliest = found.top[0][0]
        title = found.label if found.label == likeliest else f"{found.label} ({likeliest})"
        others = ", ".join(f"{label} {value:.1%}" for label, value in found.top[1:])
        print(f"{title:<{width}}  {found.probability:>11.1%}  {visible(name)}" + (f"  ({others})" * bool(others)))

    return row


def _check_csv(path: Path) -> None:
    """Check that a file can be written, before a model is loaded for it.

    Raises:
        InputError: it is a folder, or of a run.
        OSError: nothing can be written where it is to be.
    """
    if path.is_dir():
        raise InputError(f"--csv {str(path)!r} is a folder; give the path of a file")
    if path.is_file() and path.stat().st_size and path.suffix.lower() != ".csv":
        raise InputError(f"--csv {str(path)!r} is there and is no .csv; give another path, or remove it")
    refuse_part_of_run(path, "--csv")
    check_writable(path.parent)


@contextmanager
def _csv_rows(path: Path, top: int) -> Iterator[Row]:
    """Write a CSV file, whole or not at all."""
    from dct_augment import files

    with (
        files.atomic(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        table = csv.writer(out)
        likeliest = [f"{kind}_{number}" for number in range(1, top + 1) for kind in ("class", "probability")]
        table.writerow(["path", "class", "probability", "reason", *likeliest])

        def row(name: str, found: "ClassPrediction") -> None:
            probability = f"{found.probability:.6f}" if found.label is not None else ""
            pairs = [value for label, share in found.top for value in (label, f"{share:.6f}")]
            pairs += [""] * (len(likeliest) - len(pairs))  # of a picture that cannot be read
            table.writerow([name, found.label or "", probability, found.reason, *pairs])

        yield row


def _say_rest(counts: _Counts, sources: "PictureFiles", csv_file: Path | None) -> None:
    """Say on stderr what the rows do not."""
    if csv_file:
        _say(f"{counted(counts.pictures, 'picture')} in {csv_file}")
    if counts.unreadable:
        unreadable = counted_of(counts.unreadable, counts.pictures, "picture", "cannot")
        _say(f"{unreadable} be read, e.g. {counts.first_reason}")
    if others := sources.left_out.endings:
        endings = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in others.most_common(8))
        left_out = counted(others.total(), "file", "is")
        _say(f"{left_out} left out, without an ending of pictures: {endings}")
    if sources.left_out.bad_names:
        left_out = counted(sources.left_out.bad_names, "picture", "is")
        _say(f"{left_out} left out, because a name {name_problem()}")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
