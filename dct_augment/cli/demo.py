"""`dct-augment demo`: from five photos of a class to a classifier, on what is shipped."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dct_augment.cli.common import configure, print_summary, running, say
from dct_augment.cli.init import init
from dct_augment.cli.predict import predict

_TEST_PHOTOS, _NEW_PHOTOS = 20, 10


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of photos, configurations and runs")] = Path(
        "runs"
    ),
) -> None:
    """Get a classifier out of five photos of each Pocket bird, and of each digit: init, run, predict.

    Twenty other photos of each test it. What is there already is used again.
    """
    for name, dataset in (("birds", "pocket"), ("digits", "digits")):
        _photos_to_predictions(output, name, dataset)


def _photos_to_predictions(output: Path, name: str, dataset: str) -> None:
    from dct_augment.datasets import load
    from dct_augment.datasets.photos import write_photos

    given, new = output / "photos" / name, output / "photos" / f"new-{name}"
    config, run_folder = output / f"{name}.yaml", output / name
    if not given.is_dir():
        counts = {"test_photos": _TEST_PHOTOS, "new_photos": _NEW_PHOTOS}
        write_photos(load(dataset), given, new, **counts, replace=True)  # what a killed demo has left
    say(f"{given}: five photos of each class, {_TEST_PHOTOS} to test on; {new}: {_NEW_PHOTOS} others")
    if not config.is_file():
        _say("init", given, "--to", config, "--model", "pocket", "--quick", "--yes")
        init(given, to=config, model="pocket", quick=True, yes=True)
    _say("run", "--config", config, "--output", run_folder)
    with running(configure(str(config), output=run_folder)) as run:
        page = run.run_all()
        print_summary(run.config)
        say(f"report: {page}")
        run.check()
    _say("predict", run_folder, new)
    predict(str(run_folder), [str(new)])


def _say(*words: object) -> None:
    """Show the command that does the same."""
    say(f"\n$ dct-augment {shlex.join(map(str, words))}")
