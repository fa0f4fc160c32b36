"""What the tokens of a study say: each variant on each data set and group of classes, and the claims, tested."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from dct_augment.config.token_studies import PLAIN, TokenClaim, TokenStudy
from dct_augment.intervals import Estimate, mean_t, permutation_test
from dct_augment.prompts import slugs
from dct_augment.studies.findings import holm

ALL_CLASSES = ""
"""The group of all classes."""


@dataclass(frozen=True)
class VariantFinding:
    """One variant on one data set, in one group of its classes; estimates are over tokens, one for each class and seed.

    `gain` is judge accuracy over the plain prompt's. `evaluations` are of the denoiser, a class. `failed` are tokens
    that could not be used, of all `tokens`. `diversity` of a token's images is over that of the plain prompt's.
    """

    dataset: str
    variant: str
    group: str
    judge: Estimate | None
    plain_judge: Estimate | None
    guide: Estimate | None
    gain: Estimate | None
    worst_class: str
    worst_judge: float
    diversity: float
    evaluations: float
    tokens: int
    certified: int
    failed: int


@dataclass(frozen=True)
class TokenClaimFinding:
    """A claim on one data set: the paired difference of tokens of one class and seed, p-value, Holm's over the family.

    It holds for these classes: what is drawn at random is the training.
    """

    dataset: str
    claim: TokenClaim
    difference: Estimate
    tokens: int
    p_value: float
    holm_p: float


@dataclass(frozen=True)
class TokenFindings:
    """All that a study of tokens found so far, runs that failed with their reasons, and what is not answered yet."""

    variants: tuple[VariantFinding, ...]
    claims: tuple[TokenClaimFinding, ...]
    failed: tuple[str, ...]
    seeds: int
    unanswered: tuple[str, ...] = ()


def find(study: TokenStudy, tokens: pd.DataFrame, failed: Sequence[str]) -> TokenFindings:
    """Compare the variants.

    Args:
        study: the question.
        tokens: a row per class, seed, variant and data set; `judge`, `guide`, `plain_judge`, `plain_guide` in [0, 1].
        failed: runs that failed, with their reasons.
    """
    if tokens.empty:
        claims_left = tuple(f"{dataset}: {claim.title}" for claim in study.claims for dataset in study.datasets)
        return TokenFindings((), (), tuple(failed), 0, claims_left)
    tested = list(_tested(study, tokens))
    p_values = [permutation_test(differences) for _, _, differences in tested]
    claims = [
        TokenClaimFinding(dataset, claim, mean_t(differences, (-1, 1)), len(differences), p_value, adjusted)
        for (dataset, claim, differences), p_value, adjusted in zip(tested, p_values, holm(p_values), strict=True)
    ]
    answered = {(dataset, claim.title) for dataset, claim, _ in tested}
    unanswered = [
        f"{dataset}: {claim.title}"
        for claim in study.claims
        for dataset in study.datasets
        if (dataset, claim.title) not in answered and (claim.group is None or claim.group in study.groups_of(dataset))
    ]
    found = tuple(_variants(study, tokens))
    return TokenFindings(found, tuple(claims), tuple(failed), tokens["seed"].nunique(), tuple(unanswered))


def _variants(study: TokenStudy, tokens: pd.DataFrame) -> Iterator[VariantFinding]:
    for dataset in study.datasets:
        for group in (ALL_CLASSES, *study.groups_of(dataset)):
            for variant in study.variants_of(dataset):
                rows = _rows(study, tokens, dataset, variant, group)
                if not rows.empty:
                    yield _variant(dataset, variant, group, rows)


def _variant(dataset: str, variant: str, group: str, rows: pd.DataFrame) -> VariantFinding:
    judged = rows.groupby("slug")["judge"].mean().dropna()
    return VariantFinding(
        dataset,
        variant,
        group,
        judge=_estimate(rows["judge"]),
        plain_judge=_estimate(rows["plain_judge"]),
        guide=_estimate(rows["guide"]),
        gain=_estimate(rows["judge"] - rows["plain_judge"], -1),
        worst_class=str(judged.idxmin()) if len(judged) else "",
        worst_judge=float(judged.min()) if len(judged) else float("nan"),
        diversity=float((rows["diversity"] / rows["plain_diversity"]).mean()),
        evaluations=float(rows["evaluations"].mean()),
        tokens=len(rows),
        certified=int((rows["verdict"] == "certified").sum()),
        failed=int((~rows["usable"].astype(bool)).sum()),
    )


def _tested(study: TokenStudy, tokens: pd.DataFrame) -> Iterator[tuple[str, TokenClaim, list[float]]]:
    """Yield the differences of each claim on each data set, token by token."""
    for claim in study.claims:
        for dataset in study.datasets:
            if claim.group is not None and claim.group not in study.groups_of(dataset):
                continue
            group = claim.group or ALL_CLASSES
            ours = _by_token(_rows(study, tokens, dataset, claim.variant, group))
            if claim.against == PLAIN:
                theirs = ours[f"plain_{claim.by}"]
            else:
                theirs = _by_token(_rows(study, tokens, dataset, claim.against, group))[claim.by]
            differences = (ours[claim.by] - theirs).dropna()
            if len(differences) > 1:
                yield dataset, claim, [round(float(value), 10) for value in differences]


def _rows(study: TokenStudy, tokens: pd.DataFrame, dataset: str, variant: str, group: str) -> pd.DataFrame:
    rows = tokens[(tokens["dataset"] == dataset) & (tokens["variant"] == variant)]
    if group == ALL_CLASSES:
        return rows
    names = study.groups_of(dataset)[group]  # of the data set: a variant may call its classes otherwise
    return rows[rows["class"].isin(names) | rows["slug"].isin(slugs(names))]


def _by_token(rows: pd.DataFrame) -> pd.DataFrame:
    """The tokens by class and seed, so that those of two variants are paired."""
    return rows.set_index(["slug", "seed"]).sort_index()


def _estimate(values: pd.Series, low: float = 0) -> Estimate | None:
    measured = values.dropna()
    return mean_t([float(value) for value in measured], (low, 1)) if len(measured) else None
