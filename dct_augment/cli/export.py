"""`dct-augment export`: training images, in the formats of other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dct_augment.cli.common import (
    Classes,
    ConfigName,
    Output,
    Overrides,
    bars,
    class_names,
    configure,
    refuse_part_of_run,
    say,
)
from dct_augment.errors import InputError
from dct_augment.remote.urls import url_of, written
from dct_augment.wording import counted

if TYPE_CHECKING:
    from dct_augment.export.classes import SharedNames


def export(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--to", help="folder to write, or its URL (s3://, gs://); new or empty")],
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="run folders to merge; else the run of --config")
    ] = None,
    kind: Annotated[
        str, typer.Option("--format", help="imagefolder, huggingface, parquet, webdataset, or csv")
    ] = "imagefolder",
    config: ConfigName = "pocket",
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
    confidence: Annotated[
        float | None,
        typer.Option("--filter", help="only images that the guide takes for their class, so confidently: 0 to 1"),
    ] = None,
    no_filter: Annotated[
        bool, typer.Option("--no-filter", help="all images, even if the benchmark of the run filtered them")
    ] = False,
    shared_names: Annotated[
        str | None,
        typer.Option("--shared-names", help="of runs of different data sets: merge (one class) or separate (two)"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an export, and nothing else")] = False,
    push: Annotated[str | None, typer.Option("--push", metavar="USER/NAME", help="upload to the Hub, too")] = None,
    private: Annotated[bool, typer.Option("--private", help="with --push: only for its owner to see")] = False,
) -> None:
    """Export training images for other tools, with a data-set card; plain-prompt images to compare with stay out."""
    if runs and (output or overrides or _is_given(context, "config")):
        raise InputError("give the folders of runs, or --config, --set and --output of one run, not both")
    if no_filter and confidence is not None:
        raise InputError("give --filter or --no-filter, not both")
    if push and url_of(to):
        raise InputError(f"--push uploads a folder of this machine; give one as --to, not {url_of(to)}")
    if private and not push:
        raise InputError("--private is for --push; give both, or leave it out")
    if not url_of(to):
        refuse_part_of_run(to, "--to")
    names = class_names(classes)
    if not runs:
        settings = configure(config, overrides=overrides, output=output)
        runs = [settings.root if settings.url is None else Path(settings.url)]
    with bars("stopped; nothing was exported") as report:
        from dct_augment.export import check_push, export_images
        from dct_augment.export import push as upload

        if push:
            check_push(push)
        result = export_images(
            runs,
            to,
            kind,
            classes=names,
            filter_confidence=confidence,
            run_filter=not no_filter,
            shared_names=cast("SharedNames | None", shared_names),  # checked there
            overwrite=overwrite,
            progress=report,
        )
        address = upload(to, push, private=private, overwrite=overwrite) if push else None
    images, of_classes = counted(sum(result.images.values()), "image"), counted(len(result.images), "class")
    say(f"{images} of {of_classes} in {written(to)}, format {kind}")
    for reason, count in result.left_out.items():
        say(f"left out: {count:,}, {reason}")
    if result.without_images:
        say(f"no image is left of: {', '.join(result.without_images)}")
    if result.unfinished:
        say(f"not there: {counted(result.unfinished, 'image')}, planned and not generated yet")
    if address:
        say(f"uploaded to {address}")


def _is_given(context: typer.Context, option: str) -> bool:
    """Tell whether an option is on the command line."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
