"""Checks a run folder: shards against their rows, plan, hashes and index; tokens against their use."""

import json
from dataclasses import dataclass
from pathlib import Path

from dct_augment import files
from dct_augment.errors import InputError
from dct_augment.generation.shards import PLAIN, TRAIN, ShardFolder
from dct_augment.tokens import formats


@dataclass(frozen=True)
class Findings:
    """What was looked at, and every problem in words."""

    shards: int
    images: int
    tokens: int
    problems: tuple[str, ...]


def verify(shards: Path, run: str, tokens: Path) -> Findings:
    """Read everything in a run's shards and tokens folders and compare it."""
    folder = ShardFolder(shards, run)
    problems: list[str] = []
    known: dict[str, str] = {}
    for path in sorted(tokens.glob("*.safetensors")):
        known[path.stem] = files.sha256(path)
        try:
            if (count := len(formats.read(path))) != 1:
                problems.append(f"{path.name}: holds {count} tokens, not one")
        except InputError as error:
            problems.append(f"{path.name}: {error}")
    images = count = 0
    expected = {"plan.json", "_info.json"}
    for split in (TRAIN, PLAIN):
        for spec in folder.layout(split):
            count += 1
            problems += folder.check(spec)
            expected |= {folder.tar(spec).name, folder.parquet(spec).name}
        rows = folder.rows(split)
        images += int((rows["status"] == "ok").sum()) if len(rows) else 0
        for slug, digest in _used(rows):
            if known.get(slug) != digest:
                problems.append(
                    f"split {split}: images of {slug!r} were drawn with another token than {slug}.safetensors"
                )
    problems += _index_problems(folder, shards)
    present = {path.name for path in shards.glob("*") if not path.name.startswith(".")}
    problems += [f"{name}: no part of the plan" for name in sorted(present - expected)]
    return Findings(count, images, len(known), tuple(problems))


def _used(rows) -> set[tuple[str, str]]:  # type: ignore[no-untyped-def]
    if not len(rows):
        return set()
    named = rows[rows["token_sha256"] != ""]
    return {(key.rsplit("-", 1)[0], digest) for key, digest in zip(named["key"], named["token_sha256"], strict=True)}


def _index_problems(folder: ShardFolder, shards: Path) -> list[str]:
    path = shards / "_info.json"
    if not path.is_file():
        return ["_info.json: missing"]
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["splits"])
    except (ValueError, KeyError, TypeError) as error:
        return [f"_info.json: cannot be read: {error}"]
    wanted = folder.info()["splits"]
    return [
        f"_info.json: what it says of split {split} is not what the shards hold"
        for split in sorted({*found, *wanted})
        if found.get(split) != wanted.get(split)
    ]
