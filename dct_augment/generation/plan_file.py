"""`plan.json`: which images lie in which shard, written before any shard."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.errors import ShardError
from dct_augment.generation.plan import Layout, ShardSpec
from dct_augment.wording import command_of, in_one_line


@dataclass(frozen=True)
class Plan:
    """What a plan.json holds: the splits in it, and the layout of one of them."""

    splits: frozenset[str]
    layout: Layout


@dataclass(frozen=True)
class PlanFile:
    """A plan.json, and the split that is read from it; a file that has not changed is read once."""

    path: Path
    split: str
    _read: dict[tuple[int, ...], Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def is_there(self) -> bool:
        """Whether anything has its name."""
        return self.path.exists()

    @property
    def damage(self) -> str:
        """Say what is wrong: `lost`, or damaged and how; nothing if it can be read."""
        if not self.path.is_file():
            return "lost"
        try:
            self.read()
        except ShardError as error:
            return f"damaged ({in_one_line(error.__cause__ or error)})"
        return ""

    def read(self) -> Plan:
        """Read the ranges of every shard of the split.

        Raises:
            ShardError: it is damaged.
        """
        status = self.path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        if stamp not in self._read:
            plan = self._parse()
            self._read.clear()
            self._read[stamp] = plan
        return self._read[stamp]

    def write(self, layout: Layout) -> None:
        """Write a layout; a line for each shard."""
        ranges = [dict(spec.ranges) for spec in layout]
        shards = ",\n".join(json.dumps(each, separators=(",", ":")) for each in ranges)
        digest = files.signed({self.split: ranges})["sha256"]
        text = f'{{{json.dumps(self.split)}: [\n{shards}\n],\n"sha256": "{digest}"}}\n'
        files.write_text(self.path, text)
        self._read.clear()

    def _parse(self) -> Plan:
        try:
            splits = files.load_json(self.path)
            if self.split not in splits:
                raise ValueError(f"it is of {' and '.join(splits) or 'nothing'}, not of {self.split}")
            shards = _list(splits[self.split])
            return Plan(frozenset(splits), tuple(_spec(number, ranges) for number, ranges in enumerate(shards)))
        except ValueError as error:
            again = command_of("verify --repair", self.path.parent.parent)
            raise ShardError(
                f"{self.path} is damaged: {error}. `{again}` reads the plan from the finished shards"
            ) from error


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("its shards are no list")
    return value


def _spec(number: int, value: Any) -> ShardSpec:
    """Read the ranges of one shard.

    Raises:
        ValueError: they are none.
    """
    ranges = {slug: tuple(_list(pair)) for slug, pair in value.items()} if isinstance(value, dict) else {}
    if not ranges:
        raise ValueError(f"shard {number} has no ranges of images")
    for slug, pair in ranges.items():
        if list(map(type, pair)) != [int, int] or not 0 <= pair[0] < pair[1]:
            raise ValueError(f"shard {number} has no range of images [first, end] of {slug!r}, but {list(pair)}")
    return ShardSpec(number, ranges)
