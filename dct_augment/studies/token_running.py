"""Runs a study of class tokens: an ordinary run for each variant, data set and seed, each resumable."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dct_augment import config as configuration
from dct_augment import files
from dct_augment.config import Config
from dct_augment.config.token_studies import TokenStudy
from dct_augment.errors import ConfigError, DctAugmentError, InputError
from dct_augment.pipeline.run import Run
from dct_augment.records import Progress, ProgressCallback, ignore_progress
from dct_augment.studies import token_page
from dct_augment.studies.token_findings import TokenFindings, find
from dct_augment.tables import write as write_table
from dct_augment.tokens.files import TokenFolder

_OF_INDEX = {
    "slug": "slug",
    "class": "class",
    "usable": "usable",
    "verdict": "verdict",
    "judge_accuracy": "judge",
    "plain_judge_accuracy": "plain_judge",
    "guide_accuracy": "guide",
    "plain_guide_accuracy": "plain_guide",
    "diversity": "diversity",
    "plain_diversity": "plain_diversity",
    "unet_evaluations": "evaluations",
}
"""Columns of a run's index of tokens, and what the study calls them."""


@dataclass(frozen=True)
class TokenRun:
    """An ordinary run: one variant on one data set with one seed."""

    dataset: str
    variant: str
    seed: int
    config: Config = field(compare=False)


def runs(study: TokenStudy, root: Path) -> Iterator[TokenRun]:
    """Plan the runs of a study; all variants of a seed before the next, so that an early look compares them.

    Raises:
        ConfigError: a setting is wrong.
    """
    seeds = range(study.seeds.first, study.seeds.first + study.seeds.count)
    for seed in seeds:
        for name, dataset in study.datasets.items():
            for variant, of_variant in study.variants_of(name).items():
                own = [*of_variant.settings, *of_variant.by_dataset.get(name, ())]
                settings = [*study.settings, *dataset.settings, *own, *_seeded(seed)]
                settings.append(f"generation.per_class={study.images}")
                settings.append("generation.allow_uncertified=true")
                folder = root / name / f"{variant}-{configuration.fingerprint(settings)[:8]}" / str(seed)
                yield TokenRun(name, variant, seed, _config(f"{name}, {variant}", dataset.config, settings, folder))


def _config(title: str, name: str, settings: Sequence[str], folder: Path) -> Config:
    """Load the configuration of a run.

    Raises:
        ConfigError: a setting is wrong; the variant is named.
    """
    try:
        return configuration.load(name, settings, output=folder)
    except ConfigError as error:
        raise ConfigError(f"the study's run {title}", error.problems) from error


def _seeded(seed: int) -> list[str]:
    return [f"tokens.seed={seed}", f"generation.seed={seed}"]


def run_token_study(
    study: TokenStudy,
    root: Path,
    on_progress: ProgressCallback = ignore_progress,
    *,
    part: TokenStudy | None = None,
    only_read: bool = False,
    name: str = "",
) -> TokenFindings:
    """Train what is missing of a study, draw the first images, and write the page after each run.

    A run that fails is named in the findings, with its reason; the others go on. Findings are always of the whole
    study: what a part of it adds is compared with all that was there.

    Args:
        study: the question and its protocol.
        root: the folder of the study.
        on_progress: receives the progress of every run.
        part: what of it is trained now; all if not given.
        only_read: whether to train nothing, and say what the finished tokens say.
        name: of the study, as the command takes it; that of the folder if not given.

    Raises:
        ConfigError: a setting is wrong.
        InputError: the folder holds another study.
    """
    _refuse_other_study(study, root)
    everything = list(runs(study, root))  # every setting is checked before any work
    planned = [] if only_read else list(runs(part or study, root))
    failed: list[str] = []
    command = f"dct-augment study {name or root.name}"
    previous: Run | None = None
    for number, each in enumerate(planned, 1):
        title = f"{each.dataset}, {each.variant}, seed {each.seed}"
        on_progress(Progress("study", 0, 0, f"run {number} of {len(planned)}: {title}"))
        try:
            run = Run(each.config, on_progress)
            if previous is not None:
                run.reuse_models(previous)
            previous = run
            run.generate()
            run.generate_plain()
        except DctAugmentError as error:
            failed.append(f"{title}: {error}")
            continue
        _publish(study, everything, failed, root, command)
    return _publish(study, everything, failed, root, command)


def _refuse_other_study(study: TokenStudy, root: Path) -> None:
    """Check that the folder of a study holds no other.

    Raises:
        InputError: it does.
    """
    question = files.read_json(root / "findings.json").get("question", study.question)
    if question != study.question:
        raise InputError(
            f"{root} holds another study: {question!r}, where this one asks {study.question!r}. Give another --output"
        )


def remaining_as_markdown(study: TokenStudy, root: Path) -> list[str]:
    """Write which tokens are missing of each run, as a table; nothing is made.

    Raises:
        ConfigError: a setting is wrong.
        InputError: the folder holds another study.
    """
    _refuse_other_study(study, root)
    lines = ["| run | tokens left |", "| --- | --- |"]
    left = total = 0
    for each in runs(study, root):
        run = Run(each.config)
        missing = sum(not (run.config.root / "tokens" / f"{info.slug}.safetensors").is_file() for info in run.classes)
        lines.append(f"| {each.dataset}, {each.variant}, seed {each.seed} | {missing} of {len(run.classes)} |")
        left, total = left + missing, total + len(run.classes)
    return [*lines, f"| in all | {left:,} of {total:,} |", ""]


def _publish(
    study: TokenStudy, everything: Sequence[TokenRun], failed: Sequence[str], root: Path, command: str
) -> TokenFindings:
    """Write tokens.parquet, findings.json, findings.md and index.html of all runs that have tokens."""
    tables = {each: table for each in everything if not (table := _table(each)).empty}
    if not tables:
        return find(study, pd.DataFrame(), failed)
    tokens = pd.concat(tables.values(), ignore_index=True)
    write_table(root / "tokens.parquet", tokens)
    findings = find(study, tokens, failed)
    token_page.write(study, findings, _pictures(tables), root, command)
    return findings


def _pictures(finished: Iterable[TokenRun]) -> dict[tuple[str, str], Path]:
    """Return the folder of the first run of each data set and variant, whose images are shown."""
    folders: dict[tuple[str, str], Path] = {}
    for each in finished:
        folders.setdefault((each.dataset, each.variant), each.config.root)
    return folders


def _table(each: TokenRun) -> pd.DataFrame:
    """A row per class: what the certificate measured of its token and of its plain prompt; empty without tokens."""
    index = TokenFolder(each.config.root / "tokens", each.config.dataset.name).index()
    if index.empty:
        return pd.DataFrame()
    table = index[list(_OF_INDEX)].rename(columns=_OF_INDEX)
    return table.assign(dataset=each.dataset, variant=each.variant, seed=each.seed)
