"""Runs a study: its runs in order, each resumable; gathers their trials, and writes what they say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dct_augment import files
from dct_augment.benchmark.arms import ARMS, arm_folder
from dct_augment.benchmark.trials import TrialPlan
from dct_augment.config.studies import Draws, Study
from dct_augment.errors import InputError
from dct_augment.generation.shards import FOLDERS
from dct_augment.intervals import Estimate, estimate_json
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import TrialStage
from dct_augment.records import Progress, ProgressCallback, ignore_progress
from dct_augment.studies import plan
from dct_augment.studies.findings import OF_GROUP, Findings, Photos, find, points, three_decimals
from dct_augment.studies.plan import PlannedRun
from dct_augment.tables import write as write_table

_COLUMNS = ("dataset", "recipe", "shots", "row", "seed", "accuracy", "val_accuracy", "steps", "per_class")


def run_study(
    study: Study, draws: Draws, root: Path, on_progress: ProgressCallback = ignore_progress, *, only_read: bool = False
) -> Findings:
    """Do what is missing of a study, and write `findings.json`, `findings.md` and `trials.parquet` after each run.

    The draws for tuning are compared by their validation photos: what is chosen there has not seen the test.

    Args:
        study: the question and its protocol.
        draws: those of the report, or those for tuning.
        root: the folder of the study on these draws.
        on_progress: receives the progress of every run.
        only_read: whether to make nothing, and say what the finished trials say.

    Raises:
        ConfigError: a setting is wrong.
        InputError: a group names a class that its data set does not have.
    """
    planned = list(plan.runs(study, draws, root))  # every setting is checked before any work
    groups = _labels_of_groups(study, planned)
    tables: list[pd.DataFrame] = []
    photos: Photos = "validation" if draws.first == study.tuning.first else "test"
    findings = _findings(study, tables, photos)
    previous: Run | None = None
    for number, planned_run in enumerate(planned, 1):
        if only_read and not planned_run.config.root.is_dir():
            continue
        if not only_read:
            title = f"{planned_run.cell.title}: {', '.join(planned_run.arm_of)}"
            on_progress(Progress("study", 0, 0, f"run {number} of {len(planned)}: {title}"))
        run = Run(planned_run.config, on_progress)
        if previous is not None:
            run.reuse_models(previous)
        previous = run
        if not only_read:
            run.benchmark()
        tables.append(_trials(run, planned_run, groups))
        findings = _findings(study, tables, photos)
        _write(study, findings, tables, root)
    return findings


@dataclass(frozen=True)
class Remaining:
    """What a run of a study still has to do: trainings of so many, and tokens and images of so many draws."""

    run: PlannedRun
    trainings: int
    all_trainings: int
    draws: int


def remaining(
    study: Study, draws: Draws, root: Path, on_progress: ProgressCallback = ignore_progress
) -> list[Remaining]:
    """Say what is missing of a study, and make nothing. Tokens and images that two runs share count in the first."""
    found = []
    folders: set[Path] = set()
    for planned in plan.runs(study, draws, root):
        run = Run(planned.config, on_progress)
        missing = TrialStage(run).missing
        new = {folder for folder in _own_images(run, missing) if not (folder / "_info.json").is_file()} - folders
        folders |= new
        all_trainings = len(planned.arm_of) * draws.count
        found.append(Remaining(planned, len(missing), all_trainings, len(new)))
    return found


def _own_images(run: Run, trials: Sequence[TrialPlan]) -> set[Path]:
    """Return the shard folders of the images that are generated for the draws of trials."""
    folders = set()
    for trial in trials:
        arm = ARMS[trial.arm]
        if arm.own_images and arm.images is not None:
            folders.add(arm_folder(run.arm_paths.images, trial.arm, trial.shots, trial.seed) / FOLDERS[arm.images])
    return folders


def remaining_as_markdown(found: Sequence[Remaining]) -> list[str]:
    """Write what is left of each run of a study, and in all, as a table."""
    rows = [
        (f"{each.run.cell.title}: {', '.join(each.run.arm_of)}", each.trainings, each.all_trainings, each.draws)
        for each in found
    ]
    rows.append(("in all", *(sum(numbers) for numbers in list(zip(*rows, strict=True))[1:])))
    lines = [(title, f"{left:,} of {of_all:,}", f"{draws:,}") for title, left, of_all, draws in rows]
    return _rows(("run", "trainings left", "draws without tokens and images"), lines)


def _labels_of_groups(study: Study, planned: Sequence[PlannedRun]) -> dict[str, dict[str, frozenset[int]]]:
    """Find the labels of the classes of each group, by data set.

    Raises:
        InputError: a data set has no such class.
    """
    labels: dict[str, dict[str, frozenset[int]]] = {group: {} for group in study.groups}
    for dataset, run in {each.cell.dataset: each for each in planned}.items() if study.groups else ():
        known = {info.name: info.index for info in Run(run.config).classes}
        for group, by_dataset in study.groups.items():
            names = by_dataset.get(dataset, ())
            if unknown := [name for name in names if name not in known]:
                raise InputError(
                    f"groups.{group} names {', '.join(unknown)}, no class of {dataset}: {', '.join(known)}"
                )
            labels[group][dataset] = frozenset(known[name] for name in names)
    return labels


def _trials(run: Run, planned: PlannedRun, groups: Mapping[str, Mapping[str, frozenset[int]]]) -> pd.DataFrame:
    """The trials of a run by the rows of the study, with their accuracy on each group of classes."""
    trials = TrialStage(run).trials()
    row_of = {arm: row for row, arm in planned.arm_of.items()}
    cell = planned.cell
    table = trials.assign(dataset=cell.dataset, recipe=cell.recipe, row=trials["arm"].map(row_of))
    for name, labels in groups.items():
        pairs = zip(trials["truth"], trials["predicted"], strict=True)
        table[f"{OF_GROUP}{name}"] = [_accuracy(truth, told, labels[cell.dataset]) for truth, told in pairs]
    return table[[*_COLUMNS, *(f"{OF_GROUP}{name}" for name in groups)]]


def _accuracy(truth: Sequence[int], predicted: Sequence[int], labels: frozenset[int]) -> float:
    """The share of the test images of some classes that are recognised; not a number without any."""
    right = [label == answer for label, answer in zip(truth, predicted, strict=True) if label in labels]
    return sum(right) / len(right) if right else math.nan


def _findings(study: Study, tables: Sequence[pd.DataFrame], photos: Photos) -> Findings:
    trials = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(_COLUMNS))
    real_only = [name for name, row in study.rows.items() if row.is_real_only]
    return find(trials, plan.rows(study), real_only, study.claims, photos)


def _write(study: Study, findings: Findings, tables: Sequence[pd.DataFrame], root: Path) -> None:
    write_table(root / "trials.parquet", pd.concat(tables, ignore_index=True))
    files.write_json(root / "findings.json", _as_json(study, findings), indent=1)
    files.write_text(root / "findings.md", "\n".join(markdown(study, findings)) + "\n")


def _as_json(study: Study, findings: Findings) -> dict[str, Any]:
    return {
        "question": study.question,
        "protocol": study.model_dump(mode="json"),
        "photos": findings.photos,
        "rows": [
            {
                **asdict(row.cell),
                "row": row.row,
                "accuracy": estimate_json(row.accuracy),
                **({"groups": {name: estimate_json(each) for name, each in row.groups.items()}} if row.groups else {}),
                "gain_over_best_real": estimate_json(row.gain),
                "accuracy_by_draw": row.by_draw,
                "validation_by_draw": row.validation_by_draw,
            }
            for row in findings.rows
        ],
        "claims": [
            {
                **asdict(found.cell),
                **found.claim.model_dump(),
                "difference": estimate_json(found.difference),
                "permutation_p": round(found.p_value, 6),
                "holm_p": round(found.holm_p, 6),
                "detectable": round(found.detectable, 4),
            }
            for found in findings.claims
        ],
        "missing": list(findings.missing),
    }


def markdown(study: Study, findings: Findings) -> list[str]:
    """Write the findings as Markdown: the question, the claims, a table of all rows."""
    lines = [study.question, ""]
    if findings.claims:
        lines += _rows(
            ("claim", "where", "points", "p", "Holm's p", "smallest effect seen 4 times in 5"),
            [
                (
                    found.claim.title,
                    found.cell.title,
                    points(found.difference),
                    three_decimals(found.p_value),
                    three_decimals(found.holm_p),
                    f"{100 * found.detectable:.1f}",
                )
                for found in findings.claims
            ],
        )
    cells = list(dict.fromkeys(row.cell for row in findings.rows))
    by_place = {(row.row, row.cell): row for row in findings.rows}
    for cell in cells:
        rows = [found for row in study.rows if (found := by_place.get((row, cell)))]
        groups = list(rows[0].groups)
        head = (cell.title, f"{findings.photos} accuracy, %", "points over the best real-only row", *groups)
        cells_of_rows = [
            (
                f"`{each.row}`",
                _percent(each.accuracy),
                points(each.gain),
                *(_percent(each.groups[name]) for name in groups),
            )
            for each in rows
        ]
        lines += _rows(head, cells_of_rows)
    if findings.missing:
        lines += [f"Not measured yet: {len(findings.missing)} of {sum(map(len, plan.rows(study).values()))} rows."]
    return lines


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)), ""]


def _percent(accuracy: Estimate) -> str:
    if not math.isfinite(accuracy.low):  # of one draw
        return f"{100 * accuracy.mean:.1f}"
    return f"{100 * accuracy.mean:.1f} ({100 * accuracy.low:.1f} .. {100 * accuracy.high:.1f})"
