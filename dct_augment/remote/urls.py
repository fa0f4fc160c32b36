"""Names of places on stores, what opens them, and what their errors mean to a user."""

import errno
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.errors import StoreError
from dct_augment.wording import in_one_line, reason_of

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/{1,2}([^/].*)")  # a Path makes one slash of two


@dataclass(frozen=True)
class _Scheme:
    """What opens the URLs of a scheme: a package, the extra that installs it, how it gets credentials, and its host."""

    package: str
    extra: str
    credentials: str
    host: str


SCHEMES: Mapping[str, _Scheme] = {
    "s3": _Scheme("s3fs", "s3", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", "AWS_ENDPOINT_URL"),
    "gs": _Scheme(
        "gcsfs",
        "gs",
        "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
        "STORAGE_EMULATOR_HOST",
    ),
    "hf": _Scheme("huggingface_hub", "", "set HF_TOKEN, or run `hf auth login`", "HF_ENDPOINT"),
}
"""The stores that are known; huggingface_hub is part of every installation."""

_LOCAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG})
"""What the disk of this machine says, not a store."""

_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
    | {"DefaultCredentialsError", "LocalTokenNotFoundError", "NoAuthTokenError"}
)
_NO_NETWORK = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "SSLError"}
    | {"ProxyConnectionError", "HTTPClientError", "ClientConnectorError", "ServerDisconnectedError", "ConnectError"}
    | {"ConnectTimeout", "ReadTimeout", "ReadError", "RemoteProtocolError", "TransportError", "OfflineModeIsEnabled"}
)
_ALL_OBJECTS = re.compile(r"/b/[^/]+/o$")
"""The address that gcsfs says is not there, where a bucket is not."""


_NOT_THERE = frozenset({"NoSuchBucket", "RepositoryNotFoundError", "RevisionNotFoundError"})


def url_of(path: str | Path) -> str | None:
    """Give the URL that a path is, with the two slashes that `Path` made one; None for a path of this machine."""
    match = _URL.fullmatch(str(path))
    if match is None or match[1].lower() not in SCHEMES:
        return None
    return f"{match[1].lower()}://{match[2].rstrip('/')}"


def has_scheme(path: str | Path) -> bool:
    """Tell whether a path is written as a URL, of whatever scheme."""
    return _URL.fullmatch(str(path)) is not None


def is_scheme_alone(path: str | Path) -> bool:
    """Tell whether a path is the beginning of a URL of a store and names nothing there: `s3://`."""
    scheme, colon, rest = str(path).partition(":")
    return bool(colon) and scheme.lower() in SCHEMES and not rest.strip("/")


def written(path: str | Path) -> str:
    """Write a path, or the URL that it is, as users write it."""
    return url_of(path) or str(path)


def mirror(url: str) -> Path:
    """Give the folder of this machine in which the files of a URL lie; the folder of what is below it is inside."""
    scheme, _, place = url.partition("://")
    return files.cache_folder() / "stores" / scheme / place


def open_store(url: str) -> tuple[Any, str]:
    """Open the store of a URL: fsspec's file system, and the path in it.

    Raises:
        StoreError: a package is missing.
    """
    scheme = url.partition("://")[0]
    needed = SCHEMES[scheme]
    if importlib.util.find_spec(needed.package) is None:
        raise StoreError(f"{url}: {scheme}:// needs another package: pip install 'dct-augment[{needed.extra}]'")
    import fsspec

    with asking(url):
        system = fsspec.filesystem(scheme, use_listings_cache=False)
        system.invalidate_cache()
        return system, str(system._strip_protocol(url))


def listing(url: str) -> dict[str, dict[str, Any]]:
    """List the objects below a URL by their path from there, with what the store says of each.

    Raises:
        StoreError: the store cannot be asked, or a name leads out of the folder.
    """
    system, root = open_store(url)
    with asking(url):
        try:
            found = system.find(root, detail=True)
        except FileNotFoundError as error:
            if url.startswith("gs://"):  # what is below a bucket that is there is an empty list at worst
                raise StoreError(f"{url}: {_no_such_place(url)}") from error
            raise
    objects = {}
    for name, info in found.items():
        path = name.removeprefix(root).removeprefix("/")
        if not path or path.endswith("/") or info.get("type", "file") != "file":
            continue  # the object itself, or what stands for a folder
        if any(part in ("", ".", "..") or "\0" in part for part in path.split("/")):
            raise StoreError(f"{url}: the name of object {path!r} leads out of its folder; rename it")
        objects[path] = info
    return objects


def version_of(info: Mapping[str, Any]) -> str:
    """Give what changes when an object does: its ETag, or else size and time."""
    for key in ("ETag", "etag", "md5Hash", "blob_id", "oid"):
        if info.get(key):
            return str(info[key])
    times = [str(info[key]) for key in ("LastModified", "updated", "mtime", "last_commit") if info.get(key)]
    return "-".join([str(info.get("size")), *times])


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Turn what a store says, in whichever of its libraries' errors, into one message.

    Raises:
        StoreError: it said something.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _LOCAL:
            raise
        reason = _reason(url, error)
        if reason is None:
            raise
        raise StoreError(f"{url}: {reason}") from error


def _reason(url: str, error: Exception) -> str | None:
    """Say what is wrong and what to do; None for an error that is no store's."""
    chain = list(_chain(error))
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    words = in_one_line(reason_of(error), 200)
    scheme = SCHEMES[url.partition("://")[0]]
    credentials = scheme.credentials
    if names & _NO_CREDENTIALS:
        return f"there are no credentials ({words}); {credentials}"
    if names & _NOT_THERE or "bucket does not exist" in words or _ALL_OBJECTS.search(words):
        return _no_such_place(url)
    if "PermissionError" in names or _status(chain) in (401, 403):
        return f"permission is denied ({words}); {credentials} of one who may list, read, write and delete there"
    if names & {"ConnectionError", "TimeoutError"} or names & _NO_NETWORK:
        return (
            f"the store cannot be reached ({words}). Check the network, and {scheme.host} if that is set; "
            "the same command goes on where this one was"
        )
    if isinstance(error, FileNotFoundError):
        return "the object is not there, or vanished while it was read; run the same command again"
    of_a_store = isinstance(error, OSError) and error.filename is None
    if of_a_store or names & {"ClientError", "BotoCoreError", "HttpError", "HfHubHTTPError"}:
        return f"the store refuses ({words}); correct the URL, or ask who runs the store"
    return None


def _no_such_place(url: str) -> str:
    """Say that what the first part of a URL names is not there."""
    return f"there is no such {'repository' if url.startswith('hf:') else 'bucket'}; create it, or correct its name"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__


def _status(chain: list[BaseException]) -> int | None:
    """Give the status of HTTP in a chain of errors, if one has it."""
    for error in chain:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None
