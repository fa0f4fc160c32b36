"""Confusion matrices of few classes as tables of numbers; of many classes only the most confused pairs are shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

READABLE = 20
"""Up to so many classes a matrix is shown."""


@dataclass(frozen=True)
class Cell:
    """Count of one (truth, answer), its share of the truth's images in [0, 1], and whether it is a right answer."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix to show: the names of its columns, and its cells by truth."""

    columns: tuple[str, ...]
    grid: Mapping[str, tuple[Cell, ...]]


def render(confusion: Mapping[str, Any], elsewhere: str = "other") -> Matrix | None:
    """Render a summary's confusion (`accuracy.confusion_counts`); None of more classes than are readable.

    Answers outside the classes are one last column.
    """
    names = list(confusion["counts"])
    if len(names) > READABLE:
        return None
    has_outside = any(confusion["elsewhere"].values())
    grid = {truth: _cells(confusion, truth, names, has_outside) for truth in names}
    return Matrix(tuple(names) + ((elsewhere,) if has_outside else ()), grid)


def _cells(confusion: Mapping[str, Any], truth: str, names: list[str], has_outside: bool) -> tuple[Cell, ...]:
    """The cells of one row, one for each answer."""
    images = confusion["images"][truth] or 1
    cells = []
    for answer in names:
        count = confusion["counts"][truth].get(answer, 0)
        cells.append(Cell(count, count / images, truth == answer))
    if has_outside:
        count = confusion["elsewhere"][truth]
        cells.append(Cell(count, count / images, False))
    return tuple(cells)
