"""What guide and judge recognise in the generated images: accuracy, gains by class, and what is taken for what."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dct_augment.records import ClassInfo
from dct_augment.statistics import Estimate, mean_t, paired_gain, proportion
from dct_augment.strict import estimate

ACCURACY_METHOD = (
    "mean: over classes, of the share of images recognised as their class; ci95: Wilson's interval of the share of "
    "all n images; failed images are left out; difference: class_token minus plain_prompt class by class, "
    "over the classes that have both, with Student's t interval"
)
GAIN_METHOD = "accuracy of class_token minus plain_prompt on n pairs of the same noise, with Newcombe's paired interval"

LOOKERS = ("judge", "guide")

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


def looks(rows: pd.DataFrame, classes: Sequence[ClassInfo]) -> pd.DataFrame:
    """A row per image of these classes: `class_index`, `number`, `ok`, `fallback`, and what was seen in it.

    `guide` and `judge` are 1 right, 0 wrong, NaN not judged; `guide_label` and `judge_label` are spelled alike.
    `fallback` says that an image of the class-token split was drawn with the plain prompt.
    """
    if rows.empty:
        return pd.DataFrame({column: [] for column in _COLUMNS})
    rows = rows[rows["class_index"].isin([info.index for info in classes])]
    table = rows[["class_index", "number"]].assign(ok=rows["status"] == "ok", fallback=False)
    if "source" in rows:
        table["fallback"] = rows["source"] == "plain_prompt"
    for who in LOOKERS:
        labels = rows[f"{who}_label"].fillna("").map(alike)
        table[f"{who}_label"] = labels
        right = pd.to_numeric(rows[f"{who}_right"].map({True: 1.0, False: 0.0}))
        table[who] = right.where(table["ok"])
    return table


def alike(label: str) -> str:
    """A label as it is compared: case and underscores do not count."""
    return label.strip().lower().replace("_", " ")


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
        known.setdefault(alike(info.name), names[info.index])
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
    found = Counter(pairs)
    if not found:
        return None
    whole = Counter[str]()
    for (truth, _), count in found.items():
        whole[truth] += count
    known = set(names)
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    elsewhere: dict[str, int] = dict.fromkeys(names, 0)
    for (truth, answer), count in sorted(found.items()):
        if answer in known:
            counts[truth][answer] = count
        else:
            elsewhere[truth] += count
    return {
        "n": whole.total(),
        "right": sum(count for (truth, answer), count in found.items() if truth == answer),
        "images": {name: whole[name] for name in names},
        "counts": counts,
        "elsewhere": elsewhere,
        "pairs": _mistakes(found, whole),
    }


def _mistakes(found: Mapping[tuple[str, str], int], whole: Mapping[str, int]) -> list[dict[str, Any]]:
    wrong = [(truth, answer) for truth, answer in found if truth != answer]
    shares = {pair: found[pair] / whole[pair[0]] for pair in wrong}
    first = sorted(wrong, key=lambda pair: (-shares[pair], -found[pair], pair))[:PAIRS_SHOWN]
    return [
        {
            "truth": pair[0], "answer": pair[1], "n": found[pair], "of": whole[pair[0]],
            "share": round(shares[pair], 4),
        }
        for pair in first
    ]  # fmt: skip
