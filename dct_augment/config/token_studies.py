"""A study of class tokens: one question, answered by tokens that are trained in several ways.

It is read from `configs/studies/NAME.yaml`, as `Study` is; `variants` tell them apart.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dct_augment.config.base import PositiveInt, Section
from dct_augment.config.studies import Name, Settings, StudyDataset, chosen

PLAIN = "plain"
"""What a claim may be against: the plain prompt, on the same noise."""

Role = Literal["judge", "guide"]


class Seeds(Section):
    """Seeds of the training: the first, and how many follow it. Tokens and their images are new for each."""

    first: Annotated[int, Field(ge=0)]
    count: PositiveInt


class Variant(Section):
    """One way to train tokens, on these `datasets` alone, if it names any; `by_dataset` are more settings on some."""

    settings: Settings = ()
    by_dataset: dict[Name, Settings] = Field(default_factory=dict)
    datasets: tuple[Name, ...] = ()
    why: str = ""


class TokenClaim(Section):
    """A comparison that was fixed before the first token; all of a study are one family of tests.

    The tokens of a variant are recognised more often than those of another, or than plain prompts: by the judge, which
    no token was trained to please, or by the guide. With a `group`, in its classes alone.
    """

    variant: str
    against: str = PLAIN
    group: str | None = None
    by: Role = "judge"

    @property
    def title(self) -> str:
        """What it says, in Markdown."""
        where = f", {self.group}" if self.group else ""
        by = "" if self.by == "judge" else f", by the {self.by}"
        return f"`{self.variant}` - `{self.against}`{where}{by}"


class LessOfTokens(Section):
    """The part of a study that shows the direction in minutes; what is not named is left whole."""

    seeds: PositiveInt | None = None
    datasets: tuple[Name, ...] | None = None
    variants: tuple[Name, ...] | None = None


class TokenStudy(Section):
    """A question and its protocol: tokens of all classes are trained in each variant, with each seed.

    The certificate of a token measures it: `settings` fix how many pairs of images it draws, in one look. `paper` is
    what the paper says of the question. `groups` are kinds of classes by name, each a list for a data set.
    """

    question: str
    paper: str = ""
    datasets: Annotated[dict[Name, StudyDataset], Field(min_length=1)]
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    seeds: Seeds
    settings: Settings = ()
    groups: dict[str, dict[Name, tuple[str, ...]]] = Field(default_factory=dict)
    claims: tuple[TokenClaim, ...] = ()
    images: PositiveInt = 6
    show: dict[Name, tuple[str, ...]] = Field(default_factory=dict)
    quick: LessOfTokens | None = None

    @model_validator(mode="after")
    def _check(self) -> "TokenStudy":
        known = {*self.variants, PLAIN}
        for claim in self.claims:
            unknown = [name for name in (claim.variant, claim.against) if name not in known]
            if unknown or claim.variant == PLAIN:
                wrong, right = ", ".join(unknown) or PLAIN, ", ".join(self.variants)
                raise ValueError(f"claims name {wrong}, which is no variant; variants: {right}")
            if claim.variant == claim.against:
                raise ValueError(f"a claim compares {claim.variant} with itself; name another variant, or {PLAIN}")
            if claim.group is not None and claim.group not in self.groups:
                raise ValueError(f"claims name the group {claim.group!r}; groups: {', '.join(self.groups)}")
        by_dataset = {
            "variants": [name for each in self.variants.values() for name in (*each.datasets, *each.by_dataset)]
        }
        by_dataset["show"] = list(self.show)
        by_dataset["groups"] = [name for group in self.groups.values() for name in group]
        for key, names in by_dataset.items():
            if unknown := sorted(set(names) - set(self.datasets)):
                raise ValueError(f"{key} name {', '.join(unknown)}, no data set; data sets: {', '.join(self.datasets)}")
        return self

    def variants_of(self, dataset: str) -> dict[str, Variant]:
        """Return the variants that are trained on a data set."""
        return {name: each for name, each in self.variants.items() if not each.datasets or dataset in each.datasets}

    def groups_of(self, dataset: str) -> Mapping[str, Sequence[str]]:
        """Return the names of the classes of each group that a data set has."""
        return {name: group[dataset] for name, group in self.groups.items() if dataset in group}

    def quick_part(self) -> "TokenStudy":
        """Return the part that shows the direction in minutes; the whole study, if it names none."""
        less = self.quick or LessOfTokens()
        return self.narrowed(datasets=less.datasets, variants=less.variants, seeds=less.seeds)

    def narrowed(
        self,
        *,
        datasets: Sequence[str] | None = None,
        variants: Sequence[str] | None = None,
        seeds: int | None = None,
    ) -> "TokenStudy":
        """Return the study of these data sets, variants and first seeds alone, without claims about other variants.

        Raises:
            InputError: the study does not have one of them.
        """
        kept_datasets = chosen("--datasets", tuple(self.datasets), datasets)
        kept = chosen("--variants", tuple(self.variants), variants)
        claims = [claim for claim in self.claims if {claim.variant, claim.against} <= {*kept, PLAIN}]
        count = self.seeds.count if seeds is None else min(seeds, self.seeds.count)
        return self.model_copy(
            update={
                "datasets": {name: self.datasets[name] for name in kept_datasets},
                "variants": {name: self.variants[name] for name in kept},
                "claims": tuple(claims),
                "seeds": Seeds(first=self.seeds.first, count=count),
            }
        )
