"""Checks a whole run folder: the run, and the runs of its arms inside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.benchmark.arms import ARMS, selected_by_guide
from dct_augment.config import Config
from dct_augment.errors import ShardError
from dct_augment.generation.shards import FOLDERS, ShardFolder, shard_folders
from dct_augment.pipeline import few_shot_guide
from dct_augment.pipeline.stages.images import IMAGE_STAGES
from dct_augment.pipeline.verify.problem import CONFIG, GUIDES, Problem, damaged, json_problems, missing, table_problems
from dct_augment.pipeline.verify.result_files import (
    benchmark_problems,
    classifier_problems,
    look_problems,
    report_problems,
)
from dct_augment.pipeline.verify.shard_files import digests_of, shard_problems
from dct_augment.pipeline.verify.token_files import guide_problems, lora_problems, token_problems
from dct_augment.records import StageName
from dct_augment.tokens.files import TokenFolder

_OF_A_RUN = ("times.json", "tokens/plan.json", "benchmark/trials", "classifier/classifier.json", "arms")
"""What only a run makes, which has a configuration."""


@dataclass(frozen=True)
class Findings:
    """How many shards, images and tokens were checked, and every problem.

    With `at_work`, another process works in the folder: what it has not finished is no problem.
    """

    shards: int
    images: int
    tokens: int
    problems: tuple[Problem, ...]
    at_work: bool = False


def verify(root: Path, run: str, config: Config | None = None) -> Findings:
    """Read all files of the run `run` in the folder `root`, and compare them with their hashes and with each other.

    Args:
        root: the run folder.
        run: name of the run.
        config: its configuration: which guides it has checked, and where its arms lie. If None, that is not checked.
    """
    at_work = files.is_locked(root)
    arms = (config.benchmark.arms_folder if config else None) or root / "arms"
    problems = list(_of_run(root, run, config))
    if StageName.ARMS in files.read_json(root / "times.json") and not any(arms.glob("*/*")):
        problems.append(missing(arms, StageName.ARMS))
    for folder in sorted(path for path in arms.glob("*/*") if path.is_dir()):
        of_arm = _of_arm(folder, run, arms, config)
        problems += _finished(of_arm, at_work=at_work or files.is_locked(folder))
    problems = [_relative(problem, root) for problem in _told_once(_finished(problems, at_work=at_work))]
    folders = [root, *(path for path in arms.glob("*/*") if path.is_dir())]
    counts = [_count(shards) for folder in folders for shards in _shard_folders(folder, run)]
    tokens = len([*(root / "tokens").glob("*.safetensors"), *arms.glob("tokens-*/*/*.safetensors")])
    shard_count, image_count = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return Findings(shard_count, image_count, tokens, tuple(dict.fromkeys(problems)), at_work)


def _finished(problems: Iterator[Problem] | Sequence[Problem], *, at_work: bool) -> list[Problem]:
    """Leave out what a process that is at work has not done yet, or has replaced."""
    return [each for each in problems if not at_work or not (each.unfinished or not each.path.exists())]


def _told_once(problems: Sequence[Problem]) -> list[Problem]:
    """Leave out that a file is missing where something else has its name: of that is told, too."""
    there = {each.path for each in problems if not each.is_missing}
    return [each for each in problems if not (each.is_missing and each.path in there)]


def _relative(problem: Problem, root: Path) -> Problem:
    """Name a file by its path in the run folder."""
    return problem if not problem.path.is_relative_to(root) else replace(problem, shown=problem.path.relative_to(root))


def _count(shards: ShardFolder) -> tuple[int, int]:
    """Count the shards and the images of a folder."""
    try:
        rows = shards.rows(["status"])
        return len(shards.layout()), int((rows["status"] == "ok").sum()) if len(rows) else 0
    except ShardError:
        return 0, 0


def _shard_folders(root: Path, run: str) -> list[ShardFolder]:
    """The shard folders that there are."""
    return [shards for shards in shard_folders(root, run).values() if shards.path.is_dir()]


def _of_run(root: Path, run: str, config: Config | None) -> Iterator[Problem]:
    """Yield what is wrong with the files of a run, without those of its arms."""
    lock = root / ".lock"
    if (lock.is_symlink() or lock.exists()) and not lock.is_file():
        yield Problem(lock, "it is no file, and cannot keep others from the run; remove it")
    recorded = root / "config.yaml"
    if recorded.is_file() and not configuration.is_as_recorded(recorded):
        yield Problem(recorded, "not what was written", CONFIG, (recorded,))
    elif not recorded.is_file() and any((root / name).exists() for name in _OF_A_RUN):
        yield missing(recorded, CONFIG)
    for problem in json_problems(root.glob("times.json"), ""):
        yield replace(problem, remove=(problem.path,))
    tokens = TokenFolder(root / "tokens", "")
    of_tokens = list(token_problems(tokens, StageName.TOKENS))
    yield from of_tokens
    yield from _of_guides(root, tokens, config)
    digests = digests_of([tokens.path], [problem.path for problem in of_tokens])
    times = files.read_json(root / "times.json")
    if StageName.TOKENS in times and not any((root / "tokens").glob("[!.]*")):
        yield missing(root / "tokens", StageName.TOKENS)
    for kind, stage in IMAGE_STAGES.items():
        path = root / FOLDERS[kind]
        if path.is_dir():
            shards = [each for each in _shard_folders(root, run) if each.path == path]
            yield from shard_problems(shards, digests, stage, StageName.TOKENS)
        elif stage in times:
            yield missing(path, stage)
    yield from table_problems(sorted(root.glob("selection/*.parquet")), StageName.CLASSIFIER)
    yield from benchmark_problems(root / "benchmark", root / "report", was_made=StageName.BENCHMARK in times)
    yield from classifier_problems(root / "classifier", root / "benchmark", root / "report")
    if (root / "report").is_dir():
        yield from report_problems(root / "report")
    elif StageName.REPORT in times:
        yield missing(root / "report", StageName.REPORT)
    yield from look_problems(root / "data")


def _of_guides(root: Path, tokens: TokenFolder, config: Config | None) -> Iterator[Problem]:
    """Yield what is wrong with the checks of guide and judge, and with a guide of all photos."""
    yield from json_problems(sorted(root.glob("checks/*.json")), GUIDES)
    for folder in sorted(root.glob("guide/[!.]*")):
        yield from guide_problems(folder, GUIDES)
    if config is None or not tokens.groups():  # nothing has been trained
        return
    of_photos = few_shot_guide.few_shot_member(config.guide) is not None
    for role, is_checked in (("guide", not of_photos), ("judge", bool(config.judge))):
        path = root / "checks" / f"{role}.json"
        if is_checked and not path.is_file():
            yield missing(path, GUIDES)
    if of_photos and not any(root.glob("guide/[!.]*")):
        yield missing(root / "guide", GUIDES)


def _of_arm(folder: Path, run: str, arms: Path, config: Config | None) -> Iterator[Problem]:
    """Yield what is wrong with the files of an arm on a draw: a run, or the tokens or the LoRA of several."""
    maker = StageName.ARMS
    if folder.parent.name.startswith("tokens-"):
        yield from token_problems(TokenFolder(folder, ""), maker, of_draw=True)
        if (folder / "guide").is_dir():
            yield from guide_problems(folder / "guide", maker)
        elif any(folder.glob("*.safetensors")) and not folder.parent.name.startswith("tokens-textual_inversion"):
            yield missing(folder / "guide", maker)
        return
    if folder.parent.name.startswith("lora-"):
        yield from lora_problems(folder, maker)
        return
    recorded = folder / "config.yaml"
    if not recorded.is_file():
        yield missing(recorded, maker)
    elif not configuration.is_as_recorded(recorded, in_place=True):
        if configuration.is_as_recorded(recorded):  # and so may be all that lies beside it
            yield Problem(recorded, "it is of another arm or draw", maker, (folder,))
        else:
            yield damaged(recorded, maker)
    arm = folder.parent.name.rpartition("-")[0]
    made_with = arm if arm in ARMS and ARMS[arm].tokens_from else "*"
    of_draw = [path for path in arms.glob(f"tokens-{made_with}-*/{folder.name}") if path.is_dir()]
    of_tokens = (token_problems(TokenFolder(path, ""), maker, of_draw=True) for path in of_draw)
    digests = digests_of(of_draw, [problem.path for problems in of_tokens for problem in problems])
    there = _shard_folders(folder, run)
    for shards in there:
        yield from shard_problems([shards], digests, maker, maker)
    if not there and arm in ARMS and (kind := ARMS[arm].images):
        yield missing(folder / FOLDERS[kind], maker)
    yield from table_problems(sorted(folder.glob("selection/*.parquet")), maker)
    is_selected = config is not None and arm in ARMS and selected_by_guide(config.benchmark, arm)
    if is_selected and not any(folder.glob("selection/*.parquet")):
        yield missing(folder / "selection", maker)
