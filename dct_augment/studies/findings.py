"""What the trials of a study say: rows of each cell, claims with their tests, and what could have been seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from dct_augment.config.studies import BEST_REAL, Claim
from dct_augment.intervals import Estimate, mean_t, permutation_test
from dct_augment.studies.plan import Cell

_POWER = 0.8

Photos = Literal["test", "validation"]
"""The photos that tell how good a classifier is: `test` in a report; `validation` where settings are chosen."""

OF_GROUP = "accuracy_"
"""What the columns of trials begin with that hold the accuracy on a group of classes."""

_NONE = pd.Series(dtype=float)
_COLUMN: Mapping[Photos, str] = {"test": "accuracy", "validation": "val_accuracy"}


@dataclass(frozen=True)
class RowFinding:
    """One row of one cell: its accuracy over draws, and that minus the best real-only row's, paired by draw.

    `groups` has its accuracy on the classes of each group that the data set has. `by_draw` and `validation_by_draw`
    have those of each draw, so that others can pair and test them in their own way.
    """

    cell: Cell
    row: str
    accuracy: Estimate
    gain: Estimate | None
    groups: Mapping[str, Estimate] = field(default_factory=dict)
    by_draw: Mapping[int, float] = field(default_factory=dict)
    validation_by_draw: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ClaimFinding:
    """A claim in one cell: the paired difference, exact p-value, Holm's over the family, smallest visible effect.

    The p-value is two-sided: a claim holds if it is small and the difference is on the side of the claim.
    """

    cell: Cell
    claim: Claim
    difference: Estimate
    p_value: float
    holm_p: float
    detectable: float


@dataclass(frozen=True)
class Findings:
    """All that a study found, and the cells and rows that have no trials yet; accuracies are on `photos`."""

    photos: Photos
    rows: tuple[RowFinding, ...]
    claims: tuple[ClaimFinding, ...]
    missing: tuple[str, ...]


def find(
    trials: pd.DataFrame,
    rows: Mapping[Cell, Sequence[str]],
    real_only: Sequence[str],
    claims: Sequence[Claim],
    photos: Photos = "test",
) -> Findings:
    """Compare the rows of each cell.

    Args:
        trials: a row per trial: `dataset`, `recipe`, `shots`, `row`, `seed`, `accuracy`, `val_accuracy`, and for each
            group `accuracy_GROUP`, NaN where the data set does not have it.
        rows: of the study, by cell.
        real_only: the rows without synthetic images.
        claims: that are tested; all cells together are one family (Holm 1979).
        photos: on which rows are compared.
    """
    groups = [name.removeprefix(OF_GROUP) for name in trials.columns if name.startswith(OF_GROUP)]
    groups = groups if photos == "test" else []  # the validation photos are too few to divide
    found: list[RowFinding] = []
    tested: list[tuple[Cell, Claim, list[float]]] = []
    missing = []
    for cell, rows_of_cell in rows.items():
        of_cell = trials[
            (trials["dataset"] == cell.dataset) & (trials["recipe"] == cell.recipe) & (trials["shots"] == cell.shots)
        ]
        accuracies, validation = _table(of_cell, _COLUMN[photos]), _table(of_cell, "val_accuracy")
        best = best_on_other_draws(accuracies, validation, real_only)
        of_groups = {group: _table(of_cell, f"{OF_GROUP}{group}") for group in groups}
        columns: dict[str | None, dict[str, pd.Series]] = {None: {**_columns(accuracies), BEST_REAL: best}}
        for group, table in of_groups.items():
            columns[group] = {**_columns(table), BEST_REAL: best_on_other_draws(table, validation, real_only)}
        for row in rows_of_cell:
            if row not in accuracies:
                missing.append(f"{cell.title}: {row}")
                continue
            gains = _differences(accuracies[row], best)
            by_group = {group: values for group in groups if (values := _values(columns[group].get(row, _NONE)))}
            means = {group: mean_t(values, (0, 1)) for group, values in by_group.items()}
            mean, draws = mean_t(_values(accuracies[row]), (0, 1)), _by_draw(accuracies[row])
            found.append(RowFinding(cell, row, mean, _mean(gains), means, draws, _by_draw(validation.get(row, _NONE))))
        for claim in claims:
            of_claim = columns.get(claim.group, {})
            if claim.is_made(cell.recipe, cell.shots) and {claim.row, claim.against} <= of_claim.keys():
                differences = _differences(of_claim[claim.row], of_claim[claim.against])
                if len(differences) > 1:
                    tested.append((cell, claim, differences))
    p_values = [_p_value(claim, differences) for _, claim, differences in tested]
    pairs = zip(tested, p_values, holm(p_values), strict=True)
    return Findings(
        photos,
        tuple(found),
        tuple(
            ClaimFinding(cell, claim, mean_t(differences, (-1, 1)), p_value, adjusted, detectable_effect(differences))
            for (cell, claim, differences), p_value, adjusted in pairs
        ),
        tuple(missing),
    )


def _p_value(claim: Claim, differences: Sequence[float]) -> float:
    """Test that the true difference is at the limit that the claim is above."""
    return permutation_test([round(difference + claim.margin, 10) for difference in differences])


def best_on_other_draws(accuracies: pd.DataFrame, validation: pd.DataFrame, rows: Sequence[str]) -> pd.Series:
    """For each draw, the accuracy of the row whose validation accuracy is best on all other draws.

    So neither the draw nor its test images have a part in the choice.

    Args:
        accuracies: on the test split, draws by rows.
        validation: on the validation split, likewise; where it has no value, the test of the other draws chooses.
        rows: that may be chosen.
    """
    present = [row for row in rows if row in accuracies]
    table = accuracies[present].dropna() if present else accuracies.iloc[:0]
    if len(table) < 2:
        return pd.Series(dtype=float)
    chosen_by = validation.reindex(index=table.index, columns=present)
    if chosen_by.isna().to_numpy().any():
        chosen_by = table
    return pd.Series(
        {draw: table.loc[draw, chosen_by.drop(index=draw).mean().round(10).idxmax()] for draw in table.index}
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family of tests by Holm's step-down procedure (1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def detectable_effect(differences: Sequence[float]) -> float:
    """The smallest true difference that as many draws with this spread show four times in five (two-sided, 5 %)."""
    from scipy.stats import sem, t

    freedom = len(differences) - 1
    return float((t.ppf(0.975, freedom) + t.ppf(_POWER, freedom)) * sem(differences))


def _table(trials: pd.DataFrame, column: str) -> pd.DataFrame:
    """Draws by rows."""
    if trials.empty:
        return pd.DataFrame()
    return trials.pivot_table(index="seed", columns="row", values=column, dropna=False)


def _differences(row: pd.Series, other: pd.Series) -> list[float]:
    """Row minus other for every draw that both have; rounded, so that equal accuracies are equal."""
    return [round(float(value), 10) for value in (row - other).dropna()]


def _columns(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The accuracies of each row, by draw."""
    return {row: table[row] for row in table}


def _values(row: pd.Series) -> list[float]:
    return [float(value) for value in row.dropna()]


def _by_draw(row: pd.Series) -> dict[int, float]:
    return {int(draw): round(float(value), 4) for draw, value in row.dropna().items()}


def _mean(differences: Sequence[float]) -> Estimate | None:
    return mean_t(differences, (-1, 1)) if differences else None


def points(estimate: Estimate | None) -> str:
    """Write a difference in points with its 95 % interval."""
    if estimate is None:
        return "-"
    if not math.isfinite(estimate.low):
        return f"{100 * estimate.mean:+.1f}"
    if estimate.low == estimate.high:  # it says nothing of what chance would do
        return f"{100 * estimate.mean:+.1f} (all {estimate.count} alike)"
    return f"{100 * estimate.mean:+.1f} ({100 * estimate.low:+.1f} .. {100 * estimate.high:+.1f})"


def three_decimals(p_value: float, equals: str = "") -> str:
    """Write a p-value, behind `equals` unless it is too small to be told: `0.031`, `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"{equals}{p_value:.3f}"


def by_cell(findings: Findings) -> Mapping[Cell, list[RowFinding]]:
    """Group rows by their cell."""
    grouped: dict[Cell, list[RowFinding]] = {}
    for row in findings.rows:
        grouped.setdefault(row.cell, []).append(row)
    return grouped
