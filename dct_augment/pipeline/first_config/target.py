"""The file that a first configuration is written to, and the name of its run."""

import os
import re
import unicodedata
from pathlib import Path

from dct_augment.errors import InputError


def default_path(photos: Path) -> Path:
    """Return the file that a configuration for some photos is written to: `<folder name>.yaml` here."""
    name = photos.resolve().name
    stem = name if photos.is_dir() else name.partition(".")[0]
    plain = stem.isprintable() and stem[:1] not in ("", "-", ".")
    return Path(f"{stem if plain else run_name(stem)}.yaml")


def run_name(text: str) -> str:
    """Make a name of a run: ASCII letters, digits, - and _."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_text).strip("-_") or "photos"


def check_target(path: Path) -> None:
    """Check that a configuration can be written to a file, before any work.

    Raises:
        InputError: it is no YAML file, is there already, or its folder cannot be written to.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--to {str(path)!r} must end in .yaml: that is how commands tell a file from a name")
    refuse_existing(path)
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"{str(path)!r} cannot be written: {str(folder)!r} is no folder that you may write to. Write it elsewhere: "
            "--to FILE.yaml"
        )


def refuse_existing(*paths: Path | None) -> None:
    """Raise InputError if one of the files is there already."""
    for path in paths:
        if path is not None and (path.exists() or path.is_symlink()):
            raise InputError(f"{str(path)!r} is there already. Write another file: --to OTHER.yaml; or delete it")
