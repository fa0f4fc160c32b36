"""Resolves the names of text-to-image models: a folder, or an id on the Hub."""

from pathlib import Path

from dct_augment import pocket


def local_folder(path: str) -> Path | None:
    """Resolve a text-to-image model to the folder that it lies in; None if `path` is an id on the Hub.

    `pocket` is the shipped model. What is a folder, or is not written like an id, `OWNER/NAME`, is a folder, which need
    not exist.
    """
    if path == "pocket":
        return pocket.path()
    folder = Path(path).expanduser()
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    return folder if looks_local or folder.is_dir() else None


def cached_file(repository: str, file: str, revision: str | None) -> Path | None:
    """Find a file in the Hub's cache, without network; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


def folder_here(path: str, revision: str | None) -> Path | None:
    """Find the folder in which a text-to-image model lies on this machine, without network; None if it does not."""
    folder = local_folder(path)
    if folder is not None:
        return folder if (folder / "model_index.json").is_file() else None
    index = cached_file(path, "model_index.json", revision)
    return index.parent if index is not None else None
