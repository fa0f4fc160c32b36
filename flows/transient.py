"""Which errors may pass if one waits: a download cut off, memory or disk full. All others are raised at once."""

import errno
from collections.abc import Iterator
from typing import Any

from prefect import State

from dct_augment.devices import is_out_of_memory

_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOMEM,
        errno.EIO,
        errno.ESTALE,
        errno.EAGAIN,
        errno.EMFILE,
        errno.ENFILE,
        errno.ETIMEDOUT,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTUNREACH,
        errno.ECONNRESET,
    }
)

_NETWORK = frozenset(
    {"ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "RemoteProtocolError"}
    | {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"}
)
"""Errors of httpx, by which huggingface_hub downloads, and of botocore; they derive from nothing of Python's own."""


def transient(error: BaseException) -> bool:
    """Whether an error, or one that led to it, may pass."""
    return any(_passes(cause) for cause in _chain(error))


def retry(task: Any, run: Any, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: decide by the exception of a failed task."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and transient(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _passes(error: BaseException) -> bool:
    if type(error).__name__ == "OfflineModeIsEnabled":  # a ConnectionError, of the user's own making
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status == 429 or status >= 500
    if is_out_of_memory(error) or type(error).__name__ in _NETWORK:
        return True
    return isinstance(error, (ConnectionError, TimeoutError)) or (isinstance(error, OSError) and error.errno in _ERRNOS)
