"""Checks a run folder: shards against their rows, plan, hashes and index; tokens against their use."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dct_augment import files
from dct_augment.errors import InputError
from dct_augment.generation.shards import ShardFolder, shard_folders
from dct_augment.records import ImageKind
from dct_augment.tokens import formats


@dataclass(frozen=True)
class Findings:
    """How much was checked, and every problem in words."""

    shards: int
    images: int
    tokens: int
    problems: tuple[str, ...]


def verify(root: Path, run: str) -> Findings:
    """Read all shards and tokens of the run `run` in the folder `root`, and compare them.

    Raises:
        ShardError: a plan.json is not readable.
    """
    digests = {path.stem: files.sha256(path) for path in _token_files(root)}
    problems = _token_problems(_token_files(root))
    folders = [shards for kind, shards in shard_folders(root, run).items() if _is_expected(kind, shards)]
    shard_count = image_count = 0
    for shards in folders:
        rows = shards.rows(["key", "status", "token_sha256"])
        shard_count += len(shards.layout())
        image_count += int((rows["status"] == "ok").sum()) if len(rows) else 0
        for spec in shards.layout():
            problems += shards.check(spec)
        if shards.layout() and not shards.is_recorded:
            problems.append("plan.json: missing; the next command writes it again")
        problems += _wrong_tokens(shards.split, rows, digests)
    for path in dict.fromkeys(shards.path for shards in folders):
        in_path = [shards for shards in folders if shards.path == path]
        problems += _info_problems(path, in_path)
        problems += _unplanned_files(path, in_path)
    return Findings(shard_count, image_count, len(digests), tuple(problems))


def _is_expected(kind: ImageKind, shards: ShardFolder) -> bool:
    """Whether a run has this folder: the images to compare with are not part of every run."""
    return kind is ImageKind.CLASS_TOKEN or shards.path.is_dir()


def _token_files(root: Path) -> list[Path]:
    return sorted((root / "tokens").glob("*.safetensors"))


def _token_problems(paths: Iterable[Path]) -> list[str]:
    """Find the files that cannot be read, or hold another number of tokens than one."""
    problems = []
    for path in paths:
        try:
            if (count := len(formats.read(path))) != 1:
                problems.append(f"{path.name}: holds {count} tokens, not one")
        except InputError as error:
            problems.append(f"{path.name}: {error}")
    return problems


def _wrong_tokens(split: str, rows: pd.DataFrame, digests: Mapping[str, str]) -> list[str]:
    """Find the classes whose images were generated with another token than the one in `tokens/`."""
    if rows.empty:
        return []
    with_token = rows[rows["token_sha256"] != ""]
    used = {
        (key.rsplit("-", 1)[0], digest)
        for key, digest in zip(with_token["key"], with_token["token_sha256"], strict=True)
    }
    return [
        f"split {split}: images of {slug!r} were generated with another token than {slug}.safetensors"
        for slug, digest in used
        if digests.get(slug) != digest
    ]


def _info_problems(path: Path, folders: Sequence[ShardFolder]) -> list[str]:
    """Compare the `_info.json` of a folder with its shards."""
    info = path / "_info.json"
    if not info.is_file():
        return ["_info.json: missing"]
    try:
        stated = files.load_json(info).get("splits")
    except ValueError as error:
        return [f"_info.json: cannot be read: {error}"]
    if not isinstance(stated, dict):
        return ["_info.json: it has no splits"]
    actual: dict[str, Any] = {}
    for shards in folders:
        actual |= shards.info()
    return [
        f"_info.json: what it says of split {split} is not what the shards hold"
        for split in sorted({*stated, *actual})
        if stated.get(split) != actual.get(split)
    ]


def _unplanned_files(path: Path, folders: Sequence[ShardFolder]) -> list[str]:
    """Find the files that belong to no planned shard."""
    expected = {"plan.json", "_info.json"}
    for shards in folders:
        for spec in shards.layout():
            expected |= {shards.tar(spec).name, shards.parquet(spec).name}
    present = {file.name for file in path.glob("*") if not file.name.startswith(".")}
    return [f"{name}: no part of the plan" for name in sorted(present - expected)]
