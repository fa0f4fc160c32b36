"""What guide and judge recognise in the generated images: accuracy, gains by class, and what is taken for what."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dct_augment.intervals import Estimate, estimate_json, mean_t, paired_gain, proportion
from dct_augment.prompts import normalize_label, normalize_labels
from dct_augment.records import ClassInfo, ImageKind

ACCURACY_METHOD = (
    "mean: over classes, of the share of images recognised as their class; ci95: Wilson's interval of the share of "
    "all n images; failed images are left out; difference: class_token minus plain_prompt class by class, "
    "over the classes that have both, with Student's t interval"
)
GAIN_METHOD = "accuracy of class_token minus plain_prompt on n pairs of the same noise, with Newcombe's paired interval"

ROLES = ("judge", "guide")
"""The classifiers that recognise images; the judge, which no token was trained to please, comes first."""

PAIRS_SHOWN = 25
"""How many of the most confused pairs are listed."""

_COLUMNS = ("class_index", "number", "ok", "fallback", "guide_label", "judge_label", "guide", "judge")


def class_titles(classes: Sequence[ClassInfo]) -> dict[int, str]:
    """Return how each class is called in a report, by index: its name, with more where two have the same."""
    counts = Counter(info.name for info in classes)
    titles = {}
    for info in classes:
        unique = counts[info.name] == 1
        titles[info.index] = info.name if unique else f"{info.name} ({info.original_name or info.slug})"
    return titles


def recognised_images(rows: pd.DataFrame, classes: Sequence[ClassInfo]) -> pd.DataFrame:
    """Return a row per image of these classes: what it should show, and what guide and judge recognise in it.

    Columns are `class_index`, `number`, `ok`, `fallback`, and for each role its label and whether that is right:
    `guide` and `judge` are 1 right, 0 wrong, NaN not measured; `guide_label` and `judge_label` are normalised.
    `fallback` says that an image among the class-token images was generated with the plain prompt.
    """
    if rows.empty:
        return pd.DataFrame({column: [] for column in _COLUMNS})
    rows = rows[rows["class_index"].isin([info.index for info in classes])]
    is_plain = rows["kind"] == ImageKind.PLAIN_PROMPT
    table = rows[["class_index", "number"]].assign(ok=rows["status"] == "ok", fallback=is_plain)
    for role in ROLES:
        table[f"{role}_label"] = rows[f"{role}_label"].fillna("").map(normalize_label)
        right = pd.to_numeric(rows[f"{role}_right"].map({True: 1.0, False: 0.0}))
        table[role] = right.where(table["ok"])
    return table


def accuracy_by_kind(recognised: Mapping[str, pd.DataFrame], role: str, indices: Sequence[int]) -> dict[str, Any]:
    """Return the accuracy of both kinds over these classes, and their `difference` class by class.

    Args:
        recognised: `recognised_images` of the kinds `plain_prompt` and `class_token`.
        role: `judge` or `guide`.
        indices: Of the classes.
    """
    accuracies: dict[str, Any] = {}
    class_means: dict[str, pd.Series] = {}
    for kind, table in recognised.items():
        images = table[table["class_index"].isin(indices)]
        means = images.groupby("class_index")[role].mean().dropna()
        pooled = recognised_share(images[role])
        mean = round(float(means.mean()), 4) if pooled.count else None
        accuracies[kind] = estimate_json(pooled) | {"mean": mean, "classes": len(means)}
        class_means[kind] = means
    differences = (class_means["class_token"] - class_means["plain_prompt"]).dropna().tolist()
    accuracies["difference"] = estimate_json(mean_t(differences, (-1, 1)) if differences else None)
    accuracies["method"] = ACCURACY_METHOD
    return accuracies


def recognised_share(right: pd.Series) -> Estimate:
    """Return the share of 1 among the images that were measured (1 right, 0 wrong, NaN not measured)."""
    measured = right.dropna()
    return proportion(int(measured.sum()), len(measured))


def paired_class_gains(
    recognised: Mapping[str, pd.DataFrame], role: str, indices: Sequence[int]
) -> dict[int, Estimate]:
    """Return what the token gains over the plain prompt in each class, on the images that share their noise."""
    place = ["class_index", "number"]
    plain, token = (
        # A table without rows has columns without a type.
        recognised[kind][[*place, role]].dropna().astype(dict.fromkeys(place, int))
        for kind in ("plain_prompt", "class_token")
    )
    pairs = token.merge(plain, on=place, suffixes=("_token", "_plain"))
    with_token, with_plain = pairs[f"{role}_token"].astype(bool), pairs[f"{role}_plain"].astype(bool)
    outcomes = pd.DataFrame(
        {
            "both": with_token & with_plain,
            "first": with_token & ~with_plain,
            "second": with_plain & ~with_token,
            "neither": ~with_token & ~with_plain,
        }
    )
    counts = outcomes.groupby(pairs["class_index"]).sum().reindex(list(indices), fill_value=0).astype(int)
    return {int(row.Index): paired_gain(row.both, row.first, row.second, row.neither) for row in counts.itertuples()}


def names_by_gain(gains: Mapping[str, Estimate]) -> list[str]:
    """Return the names that have a gain, the largest first; ties in the order given."""
    means = {name: gain.mean for name, gain in gains.items() if not math.isnan(gain.mean)}
    return sorted(means, key=lambda name: -means[name])


def image_confusion_counts(table: pd.DataFrame, role: str, classes: Sequence[ClassInfo]) -> dict[str, Any] | None:
    """Count for which class the images of each class were taken (`confusion_counts`); None if none was measured.

    Args:
        table: `recognised_images` of one kind.
        role: `judge` or `guide`.
        classes: The classes of the table.
    """
    titles = class_titles(classes)
    measured = table[table[role].notna()]
    title_of_label = _titles_of_labels(measured[f"{role}_label"].unique().tolist(), classes, titles)
    pairs = []
    for class_index, right, label in zip(
        measured["class_index"], measured[role], measured[f"{role}_label"], strict=True
    ):
        truth = titles[int(class_index)]
        pairs.append((truth, truth if right else title_of_label[label]))
    return confusion_counts(pairs, list(titles.values()))


def _titles_of_labels(
    labels: Sequence[str], classes: Sequence[ClassInfo], titles: Mapping[int, str]
) -> Mapping[str, str]:
    """Return what a table calls each normalised label: the title of the class that it means, if there is one."""
    title_of_name: dict[str, str] = {}
    for spelling in ("name", "original_name", "default_name"):
        for info in classes:
            if name := normalize_label(getattr(info, spelling)):
                title_of_name.setdefault(name, titles[info.index])
    return {
        label: title_of_name.get(label) or title_of_name.get(name, name)
        for label, name in zip(labels, normalize_labels(labels), strict=True)
    }


def confusion_counts(pairs: Iterable[tuple[str, str]], names: Sequence[str]) -> dict[str, Any] | None:
    """Count pairs of (truth, answer); return None if there are none.

    `counts[truth][answer]` leaves out zeros, `elsewhere[truth]` counts the answers that are none of `names`, and
    `pairs` lists the most frequent mistakes with their share of the truth's images.
    """
    answers = pd.DataFrame(pairs, columns=["truth", "answer"], dtype=object)
    if answers.empty:
        return None
    table = pd.crosstab(answers["truth"], answers["answer"])
    inside_columns = [name for name in table.columns if name in set(names)]
    inside = table.reindex(index=names, columns=inside_columns, fill_value=0)
    images = table.sum(axis=1).reindex(names, fill_value=0)
    return {
        "n": len(answers),
        "right": int((answers["truth"] == answers["answer"]).sum()),
        "images": _counts_by_name(images),
        "counts": {truth: _counts_by_name(row[row > 0]) for truth, row in inside.iterrows()},
        "elsewhere": _counts_by_name(images - inside.sum(axis=1)),
        "pairs": _most_confused_pairs(table, images),
    }


def _counts_by_name(counts: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in counts.items()}


def _most_confused_pairs(table: pd.DataFrame, images: pd.Series) -> list[dict[str, Any]]:
    """The most frequent mistakes: `truth`, `answer`, their number `n`, the truth's images `of`, and the `share`."""
    mistakes = table.stack().rename("n").reset_index().query("n > 0 and truth != answer")
    mistakes = mistakes.assign(of=mistakes["truth"].map(images).astype(int))
    mistakes = mistakes.assign(share=mistakes["n"] / mistakes["of"])
    ranked = mistakes.sort_values(["share", "n", "truth", "answer"], ascending=[False, False, True, True])
    return [row | {"share": round(row["share"], 4)} for row in ranked.head(PAIRS_SHOWN).to_dict("records")]
