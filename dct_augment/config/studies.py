"""A study: one question, and the runs that answer it. It is read from `configs/studies/NAME.yaml`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from dct_augment.config.base import PositiveInt, Section
from dct_augment.config.benchmark import Arm
from dct_augment.config.by_class import parse_yaml, yaml_reason
from dct_augment.config.loading import folders
from dct_augment.config.problems import explained
from dct_augment.errors import ConfigError, InputError
from dct_augment.wording import reason_of

if TYPE_CHECKING:
    from dct_augment.config.token_studies import TokenStudy

BEST_REAL = "best_real"
"""The row that a claim may be against: for each draw the real-only row that is best on the other draws."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Settings = tuple[str, ...]
"""Settings as `section.key=value`; a later one wins."""


class Draws(Section):
    """Few-shot draws: the first seed, and how many follow it."""

    first: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=2)]


class StudyDataset(Section):
    """A data set of a study: the configuration that it is taken from, and further settings."""

    config: str
    settings: Settings = ()


class StudyRow(Section):
    """One row of the study's table: an arm of the benchmark with settings of its own.

    It is measured with these `recipes` and at these `shots` alone, if it names any. With `tuning_only` it is compared
    where settings are chosen, and is no row of the report.
    """

    arm: Arm
    settings: Settings = ()
    recipes: tuple[Name, ...] = ()
    shots: tuple[PositiveInt, ...] = ()
    tuning_only: bool = False
    why: str = ""

    @property
    def is_real_only(self) -> bool:
        """Whether its classifier learns from real images alone."""
        return self.arm.startswith("real")


class Claim(Section):
    """A comparison that was fixed before the first trial; all of a study are one family of tests.

    It is made at these `shots` and with these `recipes` alone, if it names any. It says that a row is better than the
    other, or, with a `margin` of accuracy from 0 to 1, that it is not worse by as much as this. With a `group`, on the
    test photos of its classes alone.
    """

    row: str
    against: str = BEST_REAL
    group: str | None = None
    shots: tuple[PositiveInt, ...] = ()
    recipes: tuple[Name, ...] = ()
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def is_made(self, recipe: str, shots: int) -> bool:
        """Whether it is made in this place of the table."""
        return _is_of(self, recipe, shots)

    @property
    def title(self) -> str:
        """What it says, in Markdown."""
        limit = f" > -{100 * self.margin:g} points" if self.margin else ""
        return f"`{self.row}` - `{self.against}`{f', {self.group}' if self.group else ''}{limit}"


def _is_of(part: StudyRow | Claim, recipe: str, shots: int) -> bool:
    """Whether a row or claim is of a place of the table: in all of them, if it names none."""
    return (not part.shots or shots in part.shots) and (not part.recipes or recipe in part.recipes)


class Less(Section):
    """The part of a study that shows the direction in minutes."""

    draws: Annotated[int, Field(ge=2)]
    shots: tuple[PositiveInt, ...]
    datasets: tuple[Name, ...]
    recipes: tuple[Name, ...]
    rows: tuple[Name, ...]


class Study(Section):
    """A question and its protocol: everything random is drawn anew for each draw, and rows are paired by it.

    `draws` are reported; `tuning` are other ones, on which settings are chosen. `quick` is a part of it. `groups` are
    kinds of classes by name, each a list for a data set; rows are measured on each of them, too.
    """

    question: str
    datasets: Annotated[dict[Name, StudyDataset], Field(min_length=1)]
    recipes: Annotated[dict[Name, Settings], Field(min_length=1, default_factory=lambda: {"default": ()})]
    shots: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    draws: Draws
    tuning: Draws
    settings: Settings = ()
    rows: Annotated[dict[Name, StudyRow], Field(min_length=2)]
    groups: dict[Name, dict[Name, tuple[str, ...]]] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    quick: Less | None = None

    @model_validator(mode="after")
    def _check_groups(self) -> "Study":
        for claim in self.claims:
            if claim.group is not None and claim.group not in self.groups:
                known = ", ".join(self.groups) or "none"
                raise ValueError(f"claims name {claim.group}, which is no group; groups: {known}")
        unknown = sorted({name for group in self.groups.values() for name in group} - set(self.datasets))
        if unknown:
            raise ValueError(f"groups name {', '.join(unknown)}, no data set; data sets: {', '.join(self.datasets)}")
        return self

    @model_validator(mode="after")
    def _check(self) -> "Study":
        known = {*self.rows, BEST_REAL}
        unknown = [name for claim in self.claims for name in (claim.row, claim.against) if name not in known]
        if unknown:
            raise ValueError(f"claims name {', '.join(unknown)}, which is no row; rows: {', '.join(self.rows)}")
        for kind, parts in (("rows", self.rows.values()), ("claims", self.claims)):
            recipes = {name for part in parts for name in part.recipes} - set(self.recipes)
            if recipes:
                raise ValueError(
                    f"{kind} name {', '.join(sorted(recipes))}, which is no recipe; recipes: {', '.join(self.recipes)}"
                )
            shots = {number for part in parts for number in part.shots} - set(self.shots)
            if shots:
                raise ValueError(f"{kind} are of {sorted(shots)} shots; the study has {list(self.shots)}")
        for claim in self.claims:
            tuned = [name for name in (claim.row, claim.against) if name in self.rows and self.rows[name].tuning_only]
            if tuned:
                raise ValueError(f"claims are about {', '.join(tuned)}, which is for tuning only")
        real_only = [name for name, row in self.rows.items() if row.is_real_only and not row.tuning_only]
        if not real_only and any(claim.against == BEST_REAL for claim in self.claims):
            raise ValueError(f"claims are against {BEST_REAL}, but no row has an arm of real images alone")
        reported = range(self.draws.first, self.draws.first + self.draws.count)
        shared = set(reported) & set(range(self.tuning.first, self.tuning.first + self.tuning.count))
        if shared:
            raise ValueError(f"draws and tuning share the seeds {sorted(shared)}; settings are chosen on other draws")
        return self

    def rows_of(self, recipe: str, shots: int) -> dict[str, StudyRow]:
        """Return the rows that are measured with a recipe at a number of shots."""
        return {name: row for name, row in self.rows.items() if _is_of(row, recipe, shots)}

    def reported(self) -> "Study":
        """Return the study without the rows that are for tuning only."""
        return self.model_copy(update={"rows": {name: row for name, row in self.rows.items() if not row.tuning_only}})

    def narrowed(
        self,
        *,
        shots: Sequence[int] | None = None,
        datasets: Sequence[str] | None = None,
        recipes: Sequence[str] | None = None,
        rows: Sequence[str] | None = None,
    ) -> "Study":
        """Return the study of these shots, data sets, recipes and rows alone, without claims about other rows.

        Raises:
            InputError: the study does not have one of them.
        """
        kept_shots = chosen("--shots", self.shots, shots)
        kept_datasets = chosen("--datasets", tuple(self.datasets), datasets)
        kept_recipes = chosen("--recipes", tuple(self.recipes), recipes)
        kept_rows = chosen("--rows", tuple(self.rows), rows)
        claims = [
            claim
            for claim in self.claims
            if claim.row in kept_rows and (claim.against in kept_rows or claim.against == BEST_REAL)
        ]
        return self.model_copy(
            update={
                "shots": kept_shots,
                "datasets": {name: self.datasets[name] for name in kept_datasets},
                "recipes": {name: self.recipes[name] for name in kept_recipes},
                "rows": {name: self.rows[name] for name in kept_rows},
                "claims": tuple(claims),
                "groups": {
                    name: {dataset: group[dataset] for dataset in group if dataset in kept_datasets}
                    for name, group in self.groups.items()
                },
            }
        )


def chosen(option: str, all_of_them: Sequence[Any], chosen: Sequence[Any] | None) -> tuple[Any, ...]:
    """Keep what was chosen, in the order of the study; all, if nothing was.

    Raises:
        InputError: something is not in the study, or nothing is left.
    """
    if chosen is None:
        return tuple(all_of_them)
    unknown = [str(value) for value in chosen if value not in all_of_them]
    if unknown or not chosen:
        known = ", ".join(map(str, all_of_them))
        raise InputError(f"{option}: the study has no {', '.join(unknown) or 'empty choice'}; it has {known}")
    return tuple(value for value in all_of_them if value in chosen)


_KINDS = "a study of tokens has `variants`, one of classifiers `rows`"


def available_studies() -> dict[str, Path]:
    """Where the studies are that `load_study` finds, by name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted((folder / "studies").glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load_study(name_or_path: str) -> Study:
    """Read a study of classifiers by name (`gain`) or path; see `load_any_study`.

    Raises:
        ConfigError: there is no such study, or it is wrong; every problem is named.
    """
    study = load_any_study(name_or_path)
    if not isinstance(study, Study):
        raise ConfigError(name_or_path, ["it is a study of tokens, not of classifiers"])
    return study


def load_any_study(name_or_path: str) -> "Study | TokenStudy":
    """Read a study by name (`gain`) or path: of classifiers, or of tokens, which has `variants`.

    Raises:
        ConfigError: there is no such study, or it is wrong; every problem is named.
    """
    from dct_augment.config.token_studies import TokenStudy

    known = available_studies()
    path = known.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise ConfigError(name_or_path, [f"no such study; give a path to a YAML file or one of: {', '.join(known)}"])
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"it cannot be read: {reason_of(error)}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"it is no text in UTF-8, at byte {error.start}; save it as UTF-8"]) from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not valid YAML: {yaml_reason(error)}"]) from error
    if not isinstance(data, dict):
        got = "nothing" if data is None else type(data).__name__
        raise ConfigError(str(path), [f"must be a mapping with `question` and `datasets`, got {got}; {_KINDS}"])
    if not {"rows", "variants"} & set(data):
        raise ConfigError(str(path), [f"{_KINDS}; this has neither"])
    kind = TokenStudy if "variants" in data else Study
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(str(path), explained(error, data, kind)) from error
