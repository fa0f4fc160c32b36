"""Checks class tokens, their index and their plan; guides and LoRAs beside them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dct_augment import files, tables
from dct_augment.benchmark.arms import GUIDE_OF_DRAW
from dct_augment.diffusion import lora
from dct_augment.errors import InputError
from dct_augment.pipeline.verify.problem import Problem, damaged, json_problems, missing, table_problems
from dct_augment.tokens import formats
from dct_augment.tokens.columns import problem_of
from dct_augment.tokens.files import INDEX, PLAN, TokenFolder

_IMPORT = "damaged, and it was imported: import it again with `dct-augment tokens import FILE --replace`"


def token_problems(folder: TokenFolder, maker: str, *, of_draw: bool = False) -> Iterator[Problem]:
    """Yield what is wrong with the tokens of a folder, their index and their plan.

    With `of_draw`, the folder is that of an arm on a draw, and its tokens are of no other.
    """
    path = folder.path
    imported = _imported(folder)
    metadata: dict[str, Mapping[str, Any]] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            (token,) = formats.read(file)
            metadata[file.stem] = token.metadata
            of = token.metadata.get("slug", file.stem)
            if "slug" in token.metadata and (problem := problem_of(token)):  # others were put there by hand
                yield Problem(file, _IMPORT) if file.stem in imported else damaged(file, maker, problem)
            elif of != file.stem and file.stem not in imported:
                yield Problem(file, f"it is the token of {of!r}", maker, (file,))
            elif of_draw and (draw := _draw_of(token.metadata, path)) not in ("", f"{path.parent.name}/{path.name}"):
                yield Problem(file, f"it is the token of {draw}", maker, (file,))
        except (InputError, ValueError) as error:
            if file.stem in imported:
                yield Problem(file, _IMPORT)
            else:
                yield damaged(file, maker, "" if isinstance(error, InputError) else "it holds several tokens")
    yield from json_problems(sorted(path.glob("*.json")), maker)
    yield from table_problems(path.glob(INDEX), maker)
    if not folder.has_damaged_index and not folder.index_agrees:
        yield Problem(path / INDEX, "it is of other tokens", maker, (path / INDEX,))
    failures = {file.name.removesuffix(".failed.json") for file in path.glob("*.failed.json")}
    own = {slug for slug, known in metadata.items() if "slug" in known}  # others were put there by hand
    yield from _lost(folder, own | failures, maker)


def _draw_of(metadata: Mapping[str, Any], path: Path) -> str:
    """The folders, `ARM/DRAW`, of the draw that a token was trained for; empty if its metadata do not say."""
    identity = metadata.get("identity")
    if not isinstance(identity, dict):
        return ""
    learned = identity.get("textual_inversion")
    if isinstance(learned, dict) and {"shots", "few_shot_seed"} <= set(learned):
        return f"{path.parent.name}/{learned['shots']}-{learned['few_shot_seed']}"
    guides = identity.get("guide")
    names = [str(guide.get("name")) for guide in guides if isinstance(guide, dict)] if isinstance(guides, list) else []
    return next((name.removeprefix(GUIDE_OF_DRAW) for name in names if name.startswith(GUIDE_OF_DRAW)), "")


def _imported(folder: TokenFolder) -> set[str]:
    """The classes whose tokens came from elsewhere, as the index says."""
    index = folder.index()
    if not {"slug", "origin"} <= set(index.columns):
        return set()
    return set(index.loc[index["origin"].astype(str).str.startswith("imported"), "slug"])


def _lost(folder: TokenFolder, there: set[str], maker: str) -> Iterator[Problem]:
    """Yield the files that index, plan and tokens say there are, and are not; `there` are classes with one."""
    path, index = folder.path, folder.index()
    indexed = set(index["slug"]) if "slug" in index else set()
    planned = {slug for group in folder.groups() for slug in group}
    for slug in sorted((indexed | planned) - there):
        file = path / f"{slug}.safetensors"
        if not file.exists():
            yield missing(file, maker, "its class has no token")
    if there and not (path / INDEX).is_file():
        yield missing(path / INDEX, maker)
    elif there - indexed and not folder.has_damaged_index:
        what = f"it has no row of {', '.join(sorted(there - indexed))}"
        yield Problem(path / INDEX, what, maker, (path / INDEX,), unfinished=True)
    if planned and not (path / PLAN).is_file():
        yield missing(path / PLAN, maker)


def guide_problems(folder: Path, maker: str) -> Iterator[Problem]:
    """Yield what is wrong with a guide that was made of photos: heads on a backbone, or a classifier of timm."""
    record = next((folder / name for name in ("few_shot.json", "hashes.json") if (folder / name).is_file()), None)
    if record is None and not (folder / "config.json").is_file():
        yield Problem(folder / "few_shot.json", "missing", maker, (folder,))
        return
    if record is None:
        if tables.has_hash(folder.parent / INDEX):  # else an older version wrote both
            yield Problem(folder / "hashes.json", "missing", maker, (folder,))
        return
    problems = list(json_problems([record], maker))
    content = files.read_json(record)
    of_draw = content.pop("made_for", None) or content.pop("draw", None)
    if of_draw is not None and of_draw.partition("/")[0] != folder.parent.name:
        problems.append(Problem(record, f"it is the guide of {of_draw.partition('/')[0]}", maker))
    hashes = content.get("files") if record.name == "few_shot.json" else content
    for name in files.changed(folder, hashes):
        there = (folder / name).is_file()
        problems.append(Problem(folder / name, "damaged" if there else "missing", maker))
    for problem in problems:  # a guide is made whole
        yield Problem(problem.path, problem.what, maker, (folder,))


def lora_problems(folder: Path, maker: str) -> Iterator[Problem]:
    """Yield what is wrong with the LoRA of a draw."""
    file = folder / lora.FILE
    if not file.is_file():
        yield missing(file, maker)
    elif not lora.read_metadata(file):
        yield damaged(file, maker)
