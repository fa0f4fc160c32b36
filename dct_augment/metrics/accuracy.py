"""What guide and judge recognise in the generated images: accuracy, gains by class, and what is taken for what."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dct_augment.intervals import Estimate, estimate, mean_t, paired_gain, proportion
from dct_augment.prompts import normalize_label
from dct_augment.records import ClassInfo

ACCURACY_METHOD = (
    "mean: over classes, of the share of images recognised as their class; ci95: Wilson's interval of the share of "
    "all n images; failed images are left out; difference: class_token minus plain_prompt class by class, "
    "over the classes that have both, with Student's t interval"
)
GAIN_METHOD = "accuracy of class_token minus plain_prompt on n pairs of the same noise, with Newcombe's paired interval"

ROLES = ("judge", "guide")

PAIRS_SHOWN = 15
"""How many of the most confused pairs are listed."""

_COLUMNS = ("class_index", "number", "ok", "fallback", "guide_label", "judge_label", "guide", "judge")


def titles(classes: Sequence[ClassInfo]) -> dict[int, str]:
    """How each class is called in a report, by index: its name, with more where two classes have the same."""
    names = Counter(info.name for info in classes)
    return {
        info.index: info.name if names[info.name] == 1 else f"{info.name} ({info.source or info.slug})"
        for info in classes
    }


def image_table(rows: pd.DataFrame, classes: Sequence[ClassInfo]) -> pd.DataFrame:
    """A row per image of these classes: `class_index`, `number`, `ok`, `fallback`, and what was seen in it.

    `guide` and `judge` are 1 right, 0 wrong, NaN not judged; `guide_label` and `judge_label` are spelled alike.
    `fallback` says that an image of the class-token split was drawn with the plain prompt.
    """
    if rows.empty:
        return pd.DataFrame({column: [] for column in _COLUMNS})
    rows = rows[rows["class_index"].isin([info.index for info in classes])]
    table = rows[["class_index", "number"]].assign(ok=rows["status"] == "ok", fallback=rows["source"] == "plain_prompt")
    for who in ROLES:
        labels = rows[f"{who}_label"].fillna("").map(normalize_label)
        table[f"{who}_label"] = labels
        right = pd.to_numeric(rows[f"{who}_right"].map({True: 1.0, False: 0.0}))
        table[who] = right.where(table["ok"])
    return table


def compare(seen: Mapping[str, pd.DataFrame], who: str, indices: Sequence[int]) -> dict[str, Any]:
    """Accuracy of both kinds over these classes, and their difference class by class."""
    chosen = {kind: table[table["class_index"].isin(indices)] for kind, table in seen.items()}
    means = {kind: table.groupby("class_index")[who].mean().dropna() for kind, table in chosen.items()}
    compared: dict[str, Any] = {}
    for kind, table in chosen.items():
        pooled = share(table[who])
        mean = round(float(means[kind].mean()), 4) if pooled.count else None
        compared[kind] = estimate(pooled) | {"mean": mean, "classes": len(means[kind])}
    gaps = (means["class_token"] - means["plain_prompt"]).dropna().tolist()
    return compared | {"difference": estimate(mean_t(gaps, (-1, 1)) if gaps else None), "method": ACCURACY_METHOD}


def share(right: pd.Series) -> Estimate:
    """The share that is right of what was judged."""
    counted = right.dropna()
    return proportion(int(counted.sum()), len(counted))


def gain(seen: Mapping[str, pd.DataFrame], who: str, index: int) -> Estimate:
    """What the token gains over the plain prompt in one class, on the images that share their noise."""
    plain, token = (
        table[table["class_index"] == index].set_index("number")[who].dropna()
        for table in (seen["plain_prompt"], seen["class_token"])
    )
    pairs = pd.DataFrame({"plain": plain, "token": token}).dropna().astype(bool)
    one, two = pairs["token"], pairs["plain"]
    return paired_gain(*(int(case.sum()) for case in (one & two, one & ~two, two & ~one, ~one & ~two)))


def by_gain(gains: Mapping[str, Estimate]) -> list[str]:
    """The names that have a gain, the largest first; ties in the order given."""
    known = {name: value.mean for name, value in gains.items() if not math.isnan(value.mean)}
    return sorted(known, key=lambda name: -known[name])


def image_confusion(table: pd.DataFrame, who: str, classes: Sequence[ClassInfo]) -> dict[str, Any] | None:
    """For which class the images of each class were taken (`confusion`); None if nobody has looked."""
    seen, names = table[table[who].notna()], titles(classes)
    known: dict[str, str] = {}
    for info in classes:
        known.setdefault(normalize_label(info.name), names[info.index])
    pairs = [
        (names[int(index)], names[int(index)] if right else known.get(label, label))
        for index, right, label in zip(seen["class_index"], seen[who], seen[f"{who}_label"], strict=True)
    ]
    return confusion(pairs, list(names.values()))


def confusion(pairs: Iterable[tuple[str, str]], names: Sequence[str]) -> dict[str, Any] | None:
    """Counts of (truth, answer); None if there are none.

    `counts[truth][answer]` leaves out zeros, `elsewhere[truth]` counts the answers that are none of `names`, and
    `pairs` lists the most frequent mistakes with their share of the truth's images.
    """
    seen = pd.DataFrame(pairs, columns=["truth", "answer"], dtype=object)
    if seen.empty:
        return None
    table = pd.crosstab(seen["truth"], seen["answer"])
    known = table.reindex(index=names, columns=[name for name in table.columns if name in set(names)], fill_value=0)
    images = table.sum(axis=1).reindex(names, fill_value=0)
    mistakes = table.stack().rename("n").reset_index().query("n > 0 and truth != answer")
    return {
        "n": len(seen),
        "right": int((seen["truth"] == seen["answer"]).sum()),
        "images": _plain(images),
        "counts": {truth: _plain(row[row > 0]) for truth, row in known.iterrows()},
        "elsewhere": _plain(images - known.sum(axis=1)),
        "pairs": _mistakes(mistakes.assign(of=mistakes["truth"].map(images).astype(int))),
    }


def _plain(counts: pd.Series) -> dict[str, int]:
    """Counts by name, as JSON has them."""
    return {str(name): int(count) for name, count in counts.items()}


def _mistakes(wrong: pd.DataFrame) -> list[dict[str, Any]]:
    """The most frequent of `truth`, `answer`, `n` and `of`."""
    ranked = wrong.assign(share=wrong["n"] / wrong["of"]).sort_values(
        ["share", "n", "truth", "answer"], ascending=[False, False, True, True]
    )
    return [row | {"share": round(row["share"], 4)} for row in ranked.head(PAIRS_SHOWN).to_dict("records")]
