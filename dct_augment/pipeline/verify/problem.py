"""What can be wrong with a file of a run, and the checks that files of every kind share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dct_augment import files, tables
from dct_augment.generation.shards import FOLDERS
from dct_augment.wording import reason_of

LOOK, GUIDES, CONFIG = "look", "guides", "config"
"""What makes files that no stage makes: the look at the data; the checks of guide and judge, and a guide of photos;
the configuration that is given."""

_MISSING = "missing"


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be.

    `maker` makes it again: the name of a stage, LOOK or GUIDES; empty if nothing does. `remove` are the files that must
    go before. A file that is `unfinished` may be one that a run which is at work has not written yet. `shown` is the
    path as it is told.
    """

    path: Path
    what: str
    maker: str = ""
    remove: tuple[Path, ...] = ()
    unfinished: bool = False
    shown: Path | None = None

    @property
    def is_of_plan(self) -> bool:
        """Whether it is the plan of images of a shard folder."""
        return self.path.name == "plan.json" and self.path.parent.name in FOLDERS.values()

    @property
    def is_missing(self) -> bool:
        """Whether no file has its name."""
        return self.what.startswith(_MISSING)

    def __str__(self) -> str:
        return f"{self.shown or self.path}: {self.what}"


def damaged(path: Path, maker: str, reason: str = "") -> Problem:
    """Say that a file is damaged; it goes before it is made again."""
    return Problem(path, f"damaged{reason and ': '}{reason}", maker, (path,))


def missing(path: Path, maker: str, why: str = "") -> Problem:
    """Say that a file is not there, and why it should be."""
    return Problem(path, f"{_MISSING}{why and '; '}{why}", maker, unfinished=True)


def json_problems(paths: Iterable[Path], maker: str) -> Iterator[Problem]:
    """Yield the JSON files that are not what was written."""
    for path in paths:
        try:
            files.load_json(path)
        except ValueError as error:
            yield damaged(path, maker, str(error))
        except OSError as error:
            yield Problem(path, f"cannot be read: {reason_of(error)}", maker)


def table_problems(paths: Iterable[Path], maker: str) -> Iterator[Problem]:
    """Yield the tables that are not what was written."""
    for path in paths:
        if not tables.is_intact(path):
            yield damaged(path, maker)
