"""Files that are either whole or not there: temporary name, fsync, rename."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import eq
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dct_augment.errors import BusyRunError, InputError
from dct_augment.wording import why_no_json

_LOCKED: dict[Path, int] = {}

_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""What a disk says that takes no more: an error without the name of a file."""

_OF_RUST = re.compile(r"\(os error (\d+)\)")

_IS_THERE = frozenset({errno.ENOTEMPTY, errno.EEXIST})
"""What the system says where a folder with files has the name that another one is to get."""

_HASH = "sha256"
"""The key of a JSON file for the hash of all the others."""

_HASH_LENGTH = 64


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and becomes `path`.

    On any exception, Ctrl-C included, the temporary file is removed and `path` is as before. An empty folder of that
    name gives way; one that holds something stays, and is an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary(path)
    try:
        with _named(path, partial):
            mode = _mode_of_new_files(path.parent)
            yield partial
            _open_to_others(partial, mode)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            try:
                os.replace(partial, path)
            except IsADirectoryError as error:
                with suppress(OSError):
                    path.rmdir()
                if path.is_dir():
                    raise error
                os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Make up a name beside `path` that no other writer has: processes of two containers may have one number."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def _host() -> str:
    """Name this machine, or container, in a few letters that any file system takes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", os.uname().nodename)[:24]


@contextmanager
def _named(path: Path, partial: Path) -> Iterator[None]:
    """Let an error of the system name the file that was to be written: a full disk has no name, ours is temporary."""
    try:
        yield
    except OSError as error:
        if error.filename == str(partial) or (error.filename is None and error.errno in _OF_WRITING):
            error.filename = str(path)
        raise
    except Exception as error:  # safetensors writes in Rust, whose errors are none of Python's
        found = _OF_RUST.search(str(error))
        if found is None or int(found[1]) not in _OF_WRITING:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success its files are fsynced and it becomes `path`.

    `path` is new or an empty folder; with `replace`, the folder that is there goes when the new one is whole. On any
    exception, Ctrl-C included, the temporary folder is removed and `path` is as before. What killed processes left
    beside `path` is removed first.
    """
    path = path.resolve() if path.is_symlink() else path
    for abandoned in _abandoned(path):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = _temporary(path)
    partial.mkdir(parents=True)
    try:
        with _named(path, partial):
            mode = _mode_of_new_files(partial)
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    _open_to_others(file, mode)
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
            _move(partial, path, replace=replace)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _mode_of_new_files(folder: Path) -> int:
    """Make a file to tell the mode of new ones: to read the umask itself is to change it for all threads."""
    path = _temporary(folder / "mode")
    path.touch()
    mode = path.stat().st_mode
    path.unlink()
    return mode


def _open_to_others(file: Path, mode: int) -> None:
    """Give a file at least the mode of a new one: safetensors writes files that only their owner may read."""
    missing = mode & ~file.stat().st_mode
    if missing:
        file.chmod(file.stat().st_mode | missing)


def _move(partial: Path, path: Path, *, replace: bool) -> None:
    """Give a folder its name; with `replace`, one of that name is removed, and the last of several processes wins."""
    while True:
        try:
            os.replace(partial, path)
            return
        except OSError as error:
            if not replace or error.errno not in _IS_THERE:
                raise
        old = _temporary(path)
        with suppress(FileNotFoundError):  # another process has just moved it
            os.replace(path, old)
            try:
                os.replace(partial, path)
                return
            except BaseException as error:
                if not isinstance(error, OSError) or error.errno not in _IS_THERE:
                    os.replace(old, path)
                    raise
            finally:
                shutil.rmtree(old, ignore_errors=True)


def _abandoned(path: Path) -> Iterator[Path]:
    """Yield the temporary folders of `path` whose process is no more; of other hosts nothing is known."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{_host()}-(\d+)-[0-9a-f]+\.partial")
    for folder in path.parent.glob(".*.partial"):
        match = pattern.fullmatch(folder.name)
        if match and not _is_running(int(match[1])):
            yield folder


def _is_running(process: int) -> bool:
    """Tell whether another process of this number runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Check that a folder can be written in, or made; nothing is left there.

    Raises:
        OSError: it cannot; the error names the path.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not existing.is_dir():
        kind = FileExistsError if existing == folder else NotADirectoryError
        number = errno.EEXIST if existing == folder else errno.ENOTDIR
        raise kind(number, os.strerror(number), str(existing))
    try:
        with TemporaryDirectory(prefix=".", suffix=".partial", dir=existing):
            pass
    except OSError as error:
        raise PermissionError(errno.EACCES, f"cannot be written: {error.strerror}", str(existing)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, record: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON object atomically, with the hash of its content, by which `read_json` notices damage.

    The name of the file is in the hash, so that one file cannot stand for another.
    """
    write_text(path, json.dumps(signed(record, path.name), indent=indent, ensure_ascii=False) + "\n")


def signed(record: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Add to a JSON object the hash of its content, and of the name of its file."""
    return {**record, _HASH: content_hash(record, name)}


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, without its hash. One that an older version wrote has none, or one without the file's name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object, or not what was written; the message is the reason alone.
    """
    if not path.is_file() and path.exists():  # to read a pipe is to wait for ever
        raise ValueError("it is no file")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(why_no_json(error)) from error
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object, {...}")
    stated = record.pop(_HASH, None)
    if stated is None:
        stated = misnamed_hash(record, _HASH, lambda others: content_hash(others, path.name))
    if stated is not None and stated not in (content_hash(record, path.name), content_hash(record)):
        raise ValueError("its content is not what was written there")
    return record


def misnamed_hash(record: Mapping[str, Any], name: str, hash_of: Callable[[dict[str, Any]], str]) -> str | None:
    """Find the hash of a record's other values under a damaged name; None in what an older version wrote.

    It is told by what it is the hash of, or, if more than its name is damaged, by what is left of the name.
    """
    for key, value in record.items():
        if not isinstance(value, str) or len(value) != _HASH_LENGTH:
            continue
        is_like_it = len(key) == len(name) and sum(map(eq, key, name)) * 2 >= len(name)
        if is_like_it or value == hash_of({other: found for other, found in record.items() if other != key}):
            return value
    return None


def content_hash(record: Mapping[str, Any], name: str = "") -> str:
    """SHA-256 of a JSON object, whatever the order of its keys, and of a name if it is bound to one."""
    values = json.loads(json.dumps(record))  # keys that are numbers become text, as they are in the file
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{text}\0{name}".encode() if name else text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex; of what is no file, as a pipe, which would be waited for, an empty text."""
    if path.exists() and not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, by name."""
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def changed(folder: Path, recorded: Any) -> list[str]:
    """List the files of a folder that are not there, or not as their recorded hashes say; of no hashes, none."""
    if not isinstance(recorded, Mapping):
        return []
    paths = {str(name): folder / Path(name).name for name in recorded}
    return [name for name, path in paths.items() if not path.is_file() or sha256(path) != recorded[name]]


def cache_folder() -> Path:
    """Give the folder of what can be made again: DCT_AUGMENT_CACHE, or `dct-augment` in the user's cache."""
    own = os.environ.get("DCT_AUGMENT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dct-augment"


def sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished anywhere in `folder`; call it under the run's lock."""
    for partial in list(folder.rglob(".*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def lock(root: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the run folder `root` for this process; re-entrant, and free as soon as the process dies.

    Raises:
        BusyRunError: another process holds it, unless this one is to `wait` until it is free.
        InputError: what has the name of its lock is no file.
    """
    import fcntl

    key = root.resolve()
    if key in _LOCKED:
        yield
        return
    is_new = not root.exists()
    handle = _locked_file(root, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    _LOCKED[key] = handle
    try:
        yield
    finally:
        del _LOCKED[key]
        if is_new and _list(root) == [".lock"]:  # the command was refused
            with suppress(OSError):
                (root / ".lock").unlink()
                root.rmdir()
        os.close(handle)


def _locked_file(root: Path, how: int) -> int:
    """Lock the file `.lock` of a folder, and return its handle. One that was removed meanwhile is no lock any more."""
    import fcntl

    while True:
        root.mkdir(parents=True, exist_ok=True)
        _check_lock(root / ".lock")
        try:
            handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder was removed just now
            continue
        try:
            fcntl.flock(handle, how)
            if _is_file_of(handle, root / ".lock"):
                return handle
        except OSError as error:
            os.close(handle)
            raise BusyRunError(
                f"{root} is being written by another process. Wait for it, or use another --output"
            ) from error
        os.close(handle)


def _is_file_of(handle: int, path: Path) -> bool:
    """Tell whether an open file is the one that has this path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _list(folder: Path) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)
    return []


def is_locked(root: Path) -> bool:
    """Tell whether another process holds a run folder; nothing is written."""
    import fcntl

    if root.resolve() in _LOCKED or not (root / ".lock").is_file():  # a pipe would be waited for
        return False
    try:
        with (root / ".lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it cannot be read
        return False
    return False


def _check_lock(path: Path) -> None:
    """Check that a lock can be one.

    Raises:
        InputError: something else has its name.
    """
    if (path.is_symlink() or path.exists()) and not path.is_file():
        raise InputError(f"{path} is no file, and a run could not be kept from others by it; remove it")


def read_json(path: Path) -> dict[str, Any]:
    """Read what an earlier command found; nothing if the file is not there, or is damaged."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return {}
