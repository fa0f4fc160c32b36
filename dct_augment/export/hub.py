"""Uploads an export to the Hugging Face Hub, as a data set."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dct_augment.errors import ExportError, InputError
from dct_augment.export.exporting import MARK
from dct_augment.wording import reason_of

MOST_FILES_OF_A_FOLDER = 10_000
"""What the Hub takes in one folder."""


def check_push(repository: str) -> None:
    """Check what an upload needs before work begins: a name, a token, and that the Hub may be asked.

    Raises:
        InputError: one of them is missing.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push {repository!r} is no name of a data set on the Hub: {error}") from error
    if repository.count("/") != 1:
        raise InputError(f"--push {repository!r} must be of the form user/name")
    if constants.HF_HUB_OFFLINE:
        raise InputError("--push needs the Hub, but HF_HUB_OFFLINE is set; unset it, or leave out --push")
    if get_token() is None:
        raise InputError("--push needs a token with write access; log in with `hf auth login`, or set HF_TOKEN")


def push(folder: str | Path, repository: str, *, private: bool = False, overwrite: bool = False) -> str:
    """Upload an export as the data set `user/name`; return its address.

    A data set that is there and not empty is replaced if it is an export and `overwrite` is set; another one never is.

    Raises:
        InputError: the folder or the data set cannot be used, or a token is missing.
        ExportError: the Hub does not answer, or refuses.
    """
    from huggingface_hub import HfApi

    check_push(repository)
    folder = Path(folder)
    _check_export(folder)
    api = HfApi()
    with _asking(repository, folder):
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        present = {name for name in api.list_repo_files(repository, repo_type="dataset") if name != ".gitattributes"}
        if present:
            _check_present(repository, present, overwrite)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Images exported by dct-augment",
            delete_patterns="*" if present else None,
        )
    return str(url)


def _check_export(folder: Path) -> None:
    if not (folder / MARK).is_file():
        raise InputError(f"{folder} is no export; make one with `dct-augment export --to {folder}`")
    counts = Counter(path.parent for path in folder.rglob("*"))
    where, most = counts.most_common(1)[0]
    if most > MOST_FILES_OF_A_FOLDER:
        raise InputError(
            f"{where} holds {most:,} files, but the Hub takes {MOST_FILES_OF_A_FOLDER:,} in a folder; use --format "
            "huggingface"
        )


def _check_present(repository: str, present: set[str], overwrite: bool) -> None:
    if MARK not in present:
        raise InputError(f"--push {repository}: this data set exists, and no export made it; give another name")
    if not overwrite:
        raise InputError(f"--push {repository}: this data set exists; give another name, or --overwrite to replace it")


@contextmanager
def _asking(repository: str, folder: Path) -> Iterator[None]:
    """Turn what goes wrong between here and the Hub into one message."""
    # HTTPError is that of the library which huggingface_hub asks with; which one depends on its version.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        fix = {401: "log in with `hf auth login`", 403: "use a token with write access to it"}.get(status, "try again")
        raise _failed(repository, folder, f"the Hub answers {status}", fix) from error
    except (OSError, HTTPError) as error:
        raise _failed(repository, folder, f"the Hub cannot be reached: {reason_of(error)}", "try again") from error


def _failed(repository: str, folder: Path, reason: str, fix: str) -> ExportError:
    return ExportError(
        f"--push {repository}: {reason}; {fix}. The export is in {folder}; upload it without exporting again by "
        f"`hf upload {repository} {folder} . --repo-type dataset`"
    )
