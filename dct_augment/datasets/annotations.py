"""Reads the annotation files of published data sets: lines of text, JSON, MATLAB. What is damaged is one message."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dct_augment.errors import DatasetError
from dct_augment.wording import in_one_line, why_no_json


def damaged(path: Path, expected: str, reason: str) -> DatasetError:
    """Make the error for a file whose content is not as published."""
    return DatasetError(f"{str(path)!r} is damaged: {reason}. It must hold {expected}. Download it again")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """List number and text of every line that is not empty and no `#` comment.

    Raises:
        DatasetError: the file is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, "text", f"it is no UTF-8 ({error.reason} at byte {error.start})") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def fields(path: Path, pattern: str, expected: str) -> Iterator[tuple[str, ...]]:
    """List the groups of a regular expression in every line.

    Raises:
        DatasetError: a line that the expression does not match, or no line at all.
    """
    empty = True
    for number, line in lines(path):
        match = re.fullmatch(pattern, line)
        if match is None:
            raise damaged(path, f"lines `{expected}`", f"line {number} is {line[:80]!r}")
        empty = False
        yield match.groups()
    if empty:
        raise damaged(path, f"lines `{expected}`", "it has no lines")


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        raise damaged(path, expected, why_no_json(error)) from error


def read_mat(path: Path, variable: str, expected: str) -> Any:
    """Read one variable of a MATLAB file as an array without axes of length 1, but one.

    Raises:
        DatasetError: it is no MATLAB file, or lacks the variable.
    """
    import scipy.io

    stored = io.BytesIO(path.read_bytes())
    try:
        content = scipy.io.loadmat(stored, squeeze_me=True, variable_names=[variable])
    except Exception as error:  # scipy raises nearly everything over damaged bytes
        reason = in_one_line(error)
        raise damaged(path, expected, f"it is no MATLAB file ({reason})") from error
    if variable not in content:
        raise damaged(path, expected, f"it has no variable {variable!r}")
    return np.atleast_1d(content[variable])
