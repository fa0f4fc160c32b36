"""The runs of a study: one for each data set, recipe, number of shots, and set of settings that rows share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dct_augment import config as configuration
from dct_augment.config import Config
from dct_augment.config.studies import Draws, Study


@dataclass(frozen=True)
class Cell:
    """One place of a study's table: where rows are compared."""

    dataset: str
    recipe: str
    shots: int

    @property
    def title(self) -> str:
        """Name it for a person."""
        return f"{self.dataset}, {self.recipe}, {self.shots} {'shot' if self.shots == 1 else 'shots'}"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.dataset}-{self.recipe}-{self.shots}"


@dataclass(frozen=True)
class PlannedRun:
    """An ordinary run of a cell. `arm_of` gives the arm of each row that it measures."""

    cell: Cell
    config: Config
    arm_of: Mapping[str, str]


def cells(study: Study) -> tuple[Cell, ...]:
    """List the places of the table, in the order of the study."""
    return tuple(
        Cell(dataset, recipe, shots) for shots in study.shots for dataset in study.datasets for recipe in study.recipes
    )


def rows(study: Study) -> dict[Cell, tuple[str, ...]]:
    """List the rows that are compared in each place."""
    return {cell: tuple(study.rows_of(cell.recipe, cell.shots)) for cell in cells(study)}


def runs(study: Study, draws: Draws, root: Path) -> Iterator[PlannedRun]:
    """Plan the runs of a study on some draws; those of one data set share tokens and images by one folder of arms.

    Raises:
        ConfigError: a setting is wrong.
    """
    for cell in cells(study):
        for settings, arm_of in _rows_by_settings(study, cell).items():
            yield PlannedRun(cell, _config(study, cell, draws, root, settings, tuple(arm_of.values())), arm_of)


def _rows_by_settings(study: Study, cell: Cell) -> dict[tuple[str, ...], dict[str, str]]:
    """Group rows that one run can measure: those with the same settings and different arms."""
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name, row in study.rows_of(cell.recipe, cell.shots).items():
        groups.setdefault(row.settings, {})[name] = row.arm
    return groups


def _config(
    study: Study, cell: Cell, draws: Draws, root: Path, settings: tuple[str, ...], arms: tuple[str, ...]
) -> Config:
    dataset = study.datasets[cell.dataset]
    of_run = configuration.fingerprint(list(settings))[:8]
    return configuration.load(
        dataset.config,
        [
            *study.settings,
            *dataset.settings,
            *study.recipes[cell.recipe],
            *settings,
            f"benchmark.arms=[{', '.join(arms)}]",
            f"benchmark.shots={cell.shots}",
            f"benchmark.seed={draws.first}",
            f"benchmark.seeds={draws.count}",
            "benchmark.protocol=holdout",
            f"benchmark.arms_folder={root / 'arms' / cell.dataset}",
        ],
        output=root / cell.folder / of_run,
    )
