"""Checks the shards of a folder against their rows, plan, hashes and index, and against the tokens that made them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dct_augment import files
from dct_augment.errors import ShardError
from dct_augment.generation.plan import ShardSpec
from dct_augment.generation.shards import ShardFolder
from dct_augment.pipeline.verify.problem import Problem, damaged, json_problems, missing
from dct_augment.wording import in_one_line

Digests = Mapping[str, Sequence[str]]
"""The hashes of the files that may be the token of a class, by its slug; none if that is damaged."""


def shard_problems(folders: Sequence[ShardFolder], digests: Digests, maker: str, token_maker: str) -> Iterator[Problem]:
    """Yield what is wrong with the kinds of images that lie in one folder: one, or two in a run of version 0.1.0.

    A class that `digests` has no hash for, but knows, has a damaged token, of which is told already. `token_maker`
    makes the token of one that it does not know.
    """
    path = folders[0].path
    plan, has_plan = path / "plan.json", True
    try:
        layouts = [(shards, shards.layout()) for shards in folders]
    except ShardError as error:
        yield damaged(plan, maker, in_one_line(error.__cause__ or error)) if plan.is_file() else missing(plan, maker)
        layouts, has_plan = [(shards, shards.layout_of_files()) for shards in folders], False
    expected = {"plan.json", "_info.json"}
    for shards, layout in layouts:
        has_all_rows = all(shards.digest(spec) for spec in layout)
        for spec in layout:
            expected |= {shards.tar(spec).name, shards.parquet(spec).name}
            yield from _of_shard(shards, spec, maker)
        if not has_plan:  # what more there is to say needs it
            continue
        if layout and not shards.is_recorded:
            yield missing(plan, maker)
        yield from _wrong_tokens(shards, digests, token_maker)
        if layout and has_all_rows and (problem := shards.info_problem()):
            info = path / "_info.json"
            yield Problem(info, problem, maker, (info,) if info.is_file() else (), unfinished=True)
    yield from json_problems(path.glob(".checked-*.json"), maker)
    present = {file.name for file in path.glob("*") if not file.name.startswith(".")}
    for name in sorted(present - expected):
        yield Problem(path / name, "no part of the plan")


def _of_shard(shards: ShardFolder, spec: ShardSpec, maker: str) -> Iterator[Problem]:
    tar, parquet = shards.tar(spec), shards.parquet(spec)
    for path, what in shards.check(spec):
        unfinished = not parquet.is_file() or not tar.is_file()
        both = tuple(file for file in (tar, parquet) if file.is_file())
        yield Problem(path, what, maker, () if unfinished else both, unfinished)


def _wrong_tokens(shards: ShardFolder, digests: Digests, token_maker: str) -> Iterator[Problem]:
    """Yield the classes whose images were generated with a token that is not there, or with another one."""
    rows = shards.rows(["key", "token_sha256"])
    if rows.empty:
        return
    for slug, digest in sorted(_used(rows)):
        known = digests.get(slug, ())
        images = f"split {shards.split}: images of {slug!r} were generated with"
        if slug not in digests:
            what = f"{images} a token that is missing: {slug}.safetensors"
            yield Problem(shards.path, what, token_maker, unfinished=True)
        elif known and digest not in known:
            yield Problem(shards.path, f"{images} another token than {slug}.safetensors")


def _used(rows: pd.DataFrame) -> set[tuple[str, str]]:
    with_token = rows[rows["token_sha256"] != ""]
    return {
        (key.rsplit("-", 1)[0], digest)
        for key, digest in zip(with_token["key"], with_token["token_sha256"], strict=True)
    }


def digests_of(folders: Sequence[Path], damaged: Collection[Path] = ()) -> dict[str, list[str]]:
    """Hash the token files of some folders, by the slug of their class; none of a file that is damaged or lost."""
    digests: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            if path.is_file():
                digests.setdefault(path.stem, []).append(files.sha256(path))
    return digests | {path.stem: [] for path in damaged}
