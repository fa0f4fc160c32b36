"""Runs a study of class tokens: an ordinary run for each variant, data set and seed, each resumable."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dct_augment import config as configuration
from dct_augment.config import Config
from dct_augment.config.token_studies import TokenStudy
from dct_augment.errors import DctAugmentError
from dct_augment.pipeline.run import Run
from dct_augment.records import Progress, ProgressCallback, ignore_progress
from dct_augment.studies import token_page
from dct_augment.studies.token_findings import TokenFindings, find
from dct_augment.tables import write as write_table

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
    config: Config


def runs(study: TokenStudy, root: Path) -> Iterator[TokenRun]:
    """Plan the runs of a study; all variants of a seed before the next, so that an early look compares them.

    Raises:
        ConfigError: a setting is wrong.
    """
    seeds = range(study.seeds.first, study.seeds.first + study.seeds.count)
    for seed in seeds:
        for name, dataset in study.datasets.items():
            for variant, of_variant in study.variants_of(name).items():
                settings = [*study.settings, *dataset.settings, *of_variant.settings, *_seeded(seed)]
                settings.append(f"generation.per_class={study.images}")
                settings.append("generation.allow_uncertified=true")
                folder = root / name / f"{variant}-{configuration.fingerprint(settings)[:8]}" / str(seed)
                yield TokenRun(name, variant, seed, configuration.load(dataset.config, settings, output=folder))


def _seeded(seed: int) -> list[str]:
    return [f"tokens.seed={seed}", f"generation.seed={seed}"]


def run_token_study(
    study: TokenStudy, root: Path, on_progress: ProgressCallback = ignore_progress, *, only_read: bool = False
) -> TokenFindings:
    """Train what is missing of a study, draw the first images, and write the page after each run.

    A run that fails is named in the findings, with its reason; the others go on.

    Args:
        study: the question and its protocol.
        root: the folder of the study.
        on_progress: receives the progress of every run.
        only_read: whether to make nothing, and say what the finished tokens say.
    """
    planned = list(runs(study, root))  # every setting is checked before any work
    finished: list[TokenRun] = []
    tables: list[pd.DataFrame] = []
    failed: list[str] = []
    previous: Run | None = None
    for number, each in enumerate(planned, 1):
        title = f"{each.dataset}, {each.variant}, seed {each.seed}"
        if only_read and not each.config.root.is_dir():
            continue
        on_progress(Progress("study", 0, 0, f"run {number} of {len(planned)}: {title}"))
        try:
            run = Run(each.config, on_progress)
            if previous is not None:
                run.reuse_models(previous)
            previous = run
            if not only_read:
                run.generate()
                run.generate_plain()
            tables.append(_table(run, each))
        except DctAugmentError as error:
            failed.append(f"{title}: {error}")
            continue
        finished.append(each)
        _publish(study, tables, failed, finished, root)
    return _publish(study, tables, failed, finished, root) if tables else find(study, pd.DataFrame(), failed)


def remaining_as_markdown(study: TokenStudy, root: Path) -> list[str]:
    """Write which tokens are missing of each run, as a table; nothing is made."""
    lines = ["| run | tokens left |", "| --- | --- |"]
    left = total = 0
    for each in runs(study, root):
        run = Run(each.config)
        missing = sum(not (run.config.root / "tokens" / f"{info.slug}.safetensors").is_file() for info in run.classes)
        lines.append(f"| {each.dataset}, {each.variant}, seed {each.seed} | {missing} of {len(run.classes)} |")
        left, total = left + missing, total + len(run.classes)
    return [*lines, f"| in all | {left:,} of {total:,} |", ""]


def _publish(
    study: TokenStudy, tables: Sequence[pd.DataFrame], failed: Sequence[str], finished: Sequence[TokenRun], root: Path
) -> TokenFindings:
    """Write tokens.parquet, findings.json, findings.md and index.html."""
    tokens = pd.concat(tables, ignore_index=True)
    write_table(root / "tokens.parquet", tokens)
    findings = find(study, tokens, failed)
    token_page.write(study, findings, _pictures(finished), root)
    return findings


def _pictures(finished: Sequence[TokenRun]) -> dict[tuple[str, str], Path]:
    """Return the folder of the first run of each data set and variant, whose images are shown."""
    folders: dict[tuple[str, str], Path] = {}
    for each in finished:
        folders.setdefault((each.dataset, each.variant), each.config.root)
    return folders


def _table(run: Run, each: TokenRun) -> pd.DataFrame:
    """A row per class: what the certificate measured of its token and of its plain prompt."""
    index = run.tokens.index()
    if index.empty:
        return pd.DataFrame(columns=["dataset", "variant", "seed", *_OF_INDEX.values()])
    table = index[list(_OF_INDEX)].rename(columns=_OF_INDEX)
    return table.assign(dataset=each.dataset, variant=each.variant, seed=each.seed)
