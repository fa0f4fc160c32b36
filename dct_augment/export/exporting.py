"""Exports the training images of finished runs as one folder in a format of other tools."""

import csv
import errno
import hashlib
import importlib.metadata
import json
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dct_augment import files
from dct_augment.errors import InputError
from dct_augment.export.card import Export, summarize, write_card
from dct_augment.export.classes import SharedNames, number_classes
from dct_augment.export.folders import TABLES, write_csv, write_imagefolder
from dct_augment.export.grid import Grid
from dct_augment.export.rows import ExportClass, Images
from dct_augment.export.runs import SourceRun, open_runs, public
from dct_augment.export.selection import STAGE, select
from dct_augment.export.tables import PARTS, write_huggingface, write_parquet
from dct_augment.export.webdatasets import write_webdataset
from dct_augment.records import Progress, ProgressCallback, ignore_progress
from dct_augment.remote import downloads
from dct_augment.remote.store import local_folder
from dct_augment.remote.uploads import UNFINISHED, unfinished_files, upload_folder
from dct_augment.remote.urls import listing, url_of
from dct_augment.wording import counted, reason_of

FORMATS: Mapping[str, Callable[[Images, Path, Sequence[ExportClass]], dict[str, Any]]] = {
    "imagefolder": lambda images, folder, classes: write_imagefolder(images, folder),
    "huggingface": write_huggingface,
    "parquet": lambda images, folder, classes: write_parquet(images, folder),
    "webdataset": write_webdataset,
    "csv": lambda images, folder, classes: write_csv(images, folder),
}
"""The formats, and what writes each: it returns what the YAML of the card says of the files."""

MARK = "export.json"
"""The file by which a folder is known as an export."""

_COUNTED_BY_FOLDER = ("imagefolder", "csv")


@dataclass(frozen=True)
class ExportResult:
    """What was exported: the folder, and how many images by class name, in label order.

    `left_out` counts the images that stayed out by reason; `without_images` are the classes of which none is left;
    `unfinished` images are planned and not generated yet.
    """

    folder: Path
    format: str
    images: Mapping[str, int]
    left_out: Mapping[str, int]
    without_images: tuple[str, ...]
    unfinished: int


def export_images(
    runs: "Sequence[str | Path] | str | Path",
    to: str | Path,
    format: str = "imagefolder",
    *,
    classes: Collection[str] | None = None,
    filter_confidence: float | None = None,
    run_filter: bool = True,
    shared_names: SharedNames | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> ExportResult:
    """Write the training images of finished runs into one folder, with a data-set card.

    Every image file has the bytes that it has in the shards. The folder appears when it is whole; on a store,
    `export.json` does, after all other files.

    Args:
        runs: folder of a run, or several to merge. Runs of one data set share their classes. URLs are read, too.
        to: folder to write, or its URL (`s3://`, `gs://`); it is new or empty.
        format: `imagefolder`, `huggingface`, `parquet`, `webdataset` or `csv`.
        classes: only these classes, by name or slug; all if not given.
        filter_confidence: only images that the guide takes for their class with at least this confidence.
        run_filter: whether a run whose benchmark has filtered its images is filtered the same way, if
            `filter_confidence` is not given.
        shared_names: what a class name means that runs of different data sets share: `merge` for one class,
            `separate` for two. Such a name is an error if it is not given.
        overwrite: whether an export that is there is replaced; another folder never is.
        progress: receives the progress.

    Returns:
        What was exported, and how many images stayed out for which reason.

    Raises:
        InputError: a run, class, format or folder that cannot be used or written, or no image is left.
        ShardError: a shard is damaged.
        StoreError: a store cannot be read or written.

    Examples:
        >>> import dct_augment
        >>> result = dct_augment.export_images("runs/pocket", "exported", "imagefolder")
        >>> sorted(result.images)
        ['crane', 'kiwi']
    """
    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    _check_arguments(format, filter_confidence, shared_names)
    url = url_of(to)
    target = _check_folder(Path(to), overwrite) if url is None else _check_url(url, overwrite)
    folders = [local_folder(folder, images=True) for folder in folders]
    opened = open_runs(folders)
    confidences = [_confidence(run, filter_confidence, run_filter) for run in opened]
    selection = select(opened, classes=classes, confidences=confidences, progress=progress)
    targets = number_classes(
        opened, selection.classes, shared_names=shared_names, sort_by_folder=format in _COUNTED_BY_FOLDER
    )
    options = {
        "--classes": classes and ",".join(classes),
        "--filter": filter_confidence,
        "--shared-names": shared_names,
    }
    command = _command(folders, format, to, options, run_filter)
    export = Export(
        format,
        selection,
        confidences,
        summarize(selection, targets),
        command,
        importlib.metadata.version("dct-augment"),
    )
    with _writing(target), files.atomic_folder(target, replace=overwrite or url is not None) as partial:
        _write(export, selection.images(targets), partial, progress)
    if url is not None:
        upload_folder(target, url, MARK)
        shutil.rmtree(target, ignore_errors=True)
    return ExportResult(
        folder=Path(to),
        format=format,
        images={summary.target.name: summary.images for summary in export.classes},
        left_out=selection.left_out,
        without_images=selection.without_images,
        unfinished=selection.unfinished,
    )


def _check_arguments(format: str, confidence: float | None, shared_names: str | None) -> None:
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; choose one of: {', '.join(FORMATS)}")
    if confidence is not None and not 0 <= confidence <= 1:
        raise InputError(f"--filter {confidence:g} is no confidence; give a number from 0 to 1")
    if shared_names is not None and shared_names not in get_args(SharedNames):
        raise InputError(
            f"--shared-names {shared_names!r} is unknown; choose one of: {', '.join(get_args(SharedNames))}"
        )


def _check_folder(folder: Path, overwrite: bool) -> Path:
    """Check that a folder may be written, and resolve it.

    Raises:
        InputError: it is a file, or holds something that is not replaced.
    """
    folder = folder.resolve()
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise InputError(f"--to {folder} is a file; give a folder that is new or empty")
    present = {path.name for path in folder.iterdir()}
    if not present:
        return folder
    exported = _exported_names(folder)
    if not exported:
        raise InputError(f"--to {folder} is not empty, and it is no export; give a folder that is new or empty")
    if not overwrite:
        raise InputError(f"--to {folder} is an export already; give another folder, or --overwrite to replace it")
    others = sorted(present - exported) or _other_files(folder)
    if others:
        raise InputError(
            f"--to {folder} holds {', '.join(map(repr, others[:5]))}, which no export wrote; move it away, or give "
            "another folder"
        )
    return folder


def _check_url(url: str, overwrite: bool) -> Path:
    """Check that a URL may be written; return the folder of this machine in which the export is made first.

    Raises:
        InputError: something is there that is not replaced.
    """
    if url.startswith("hf://"):
        raise InputError(f"--to {url}: to the Hub, give --push USER/NAME, and a folder of this machine as --to")
    folder = files.cache_folder() / "exports" / hashlib.sha256(url.encode()).hexdigest()[:16]
    present = listing(url)
    if UNFINISHED in present:
        others = sorted(present.keys() - unfinished_files(url))
    elif present and MARK not in present:
        raise InputError(f"--to {url} is not empty, and it is no export; give a URL that nothing is below")
    elif present and not overwrite:
        raise InputError(f"--to {url} is an export already; give another URL, or --overwrite to replace it")
    else:
        others = _other_objects(url, present) if present else []
    if others:
        raise InputError(
            f"--to {url} holds {', '.join(map(repr, others[:5]))}, which no export wrote; move it away, or give "
            "another URL"
        )
    return folder


def _other_objects(url: str, present: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List what is below the URL of an export that no export wrote."""
    tables = downloads.folder_of(url, lambda path: path in (MARK, *TABLES))
    exported = _exported_names(tables)
    listed = _listed_files(tables)
    inner = (path for path in present if "/" in path and not Path(path).match(PARTS) and path not in listed)
    return sorted({*(path for path in present if path.partition("/")[0] not in exported), *inner})


def _exported_names(folder: Path) -> set[str]:
    """Read what an export wrote into a folder; empty if it is none."""
    names = files.read_json(folder / MARK).get("files")
    return set(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else set()


def _other_files(folder: Path) -> list[str]:
    """List the files in the folders of an export that no export wrote."""
    listed = _listed_files(folder)
    files_below = (path for path in folder.glob("*/**/*") if not path.is_dir() and not path.match(PARTS))
    return sorted({path.relative_to(folder).as_posix() for path in files_below} - listed)


def _listed_files(folder: Path) -> set[str]:
    """Read from the tables of an export which image files it has."""
    listed: set[str] = set()
    for table, column in TABLES.items():
        if (folder / table).is_file():
            with (folder / table).open(encoding="utf-8", errors="replace", newline="") as stream:
                listed.update(row.get(column) or "" for row in csv.DictReader(stream))
    return listed


def _confidence(run: SourceRun, given: float | None, run_filter: bool) -> float | None:
    """Choose by which confidence the images of a run are filtered; None for all images."""
    if given is not None:
        return given
    return run.filter_confidence if run_filter else None


def _command(runs: Sequence[Path], format: str, to: str | Path, options: Mapping[str, Any], run_filter: bool) -> str:
    """Write the command that makes the same export, for anybody to read."""
    words = ["dct-augment", "export", *(public(str(run)) for run in runs), "--format", format, "--to", public(str(to))]
    for option, value in options.items():
        if value is not None:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join([*words, *([] if run_filter else ["--no-filter"])])


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the operating system says while a folder is written into one message."""
    try:
        yield
    except OSError as error:
        space = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space, or give another folder" if space else "give a folder that can be written"
        reason = reason_of(error)
        raise InputError(f"--to {folder} cannot be written: {reason}; {fix}. Nothing was left there") from error


def _write(export: Export, images: Images, folder: Path, progress: ProgressCallback) -> None:
    """Write all files of an export."""
    pictures, digest = Grid(), hashlib.sha256()
    targets = tuple(summary.target for summary in export.classes)
    watched = _watch(_hashed(images, digest), pictures, len(export.selection), progress)
    hub = FORMATS[export.format](watched, folder, targets)
    hub["dataset_info"] = {"description": _description(export, digest.hexdigest()), **hub.get("dataset_info", {})}
    pictures.write(folder)
    names = "".join(f"{target.name}\n" for target in targets)
    (folder / "classes.txt").write_text(names, encoding="utf-8")
    (folder / "README.md").write_text(write_card(export, hub), encoding="utf-8")
    (folder / MARK).write_text(json.dumps(_mark(export, folder), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _watch(images: Images, pictures: Grid, total: int, progress: ProgressCallback) -> Images:
    """Pass images on; the picture grid gets its share, and the caller the progress."""
    for done, image in enumerate(images, 1):
        pictures.add(image)
        yield image
        progress(Progress(STAGE, done, total, image.target.name))


def _hashed(images: Images, digest: "hashlib._Hash") -> Images:
    """Pass images on, and hash their rows and files."""
    for image in images:
        digest.update(json.dumps([image.file_name, image.row]).encode())
        digest.update(image.data)
        yield image


def _description(export: Export, digest: str) -> str:
    """Describe the images for the YAML of the card, where `datasets` looks for what has changed.

    Its cache knows a folder by its last name and this YAML alone. Without a hash of the images, it would give those of
    an earlier export.
    """
    return f"{counted(len(export.selection), 'synthetic image')}, SHA-256 {digest}"


def _mark(export: Export, folder: Path) -> dict[str, Any]:
    """Say what was exported, for programs, and which files and folders are part of it."""
    selection = export.selection
    return {
        "dct_augment": export.version,
        "format": export.format,
        "command": export.command,
        "runs": [{"name": run.name, "prefix": run.prefix, "data_set": run.public_data_set} for run in selection.runs],
        "filter_confidences": list(export.confidences),
        "images": len(selection),
        "left_out": dict(selection.left_out),
        "without_images": list(selection.without_images),
        "unfinished": selection.unfinished,
        "classes": {summary.target.name: summary.images for summary in export.classes},
        "files": sorted({MARK, *(path.name for path in folder.iterdir())}),
    }
