"""Finds out whether the answers of a classifier fit its classes in another order: its labels are then permuted."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dct_augment.records import ClassInfo
from dct_augment.wording import listed

LEVEL = 0.01
"""How often answers that say nothing may pass as better than chance."""

_SURE = 0.001
"""How often another order may look better by chance alone: several are tried."""

_NOWHERE = -1
_PAIRS_SHOWN = 4


@dataclass(frozen=True)
class Answers:
    """What a classifier answers on real pictures.

    Attributes:
        classes: the class of each picture, as its place in the list of classes, (N,).
        outputs: the output with the highest logit, (N,).
    """

    classes: np.ndarray
    outputs: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def right(self, targets: Sequence[int]) -> np.ndarray:
        """Tell which pictures (N,) are recognised if `targets` are the outputs of the classes."""
        recognised: np.ndarray = np.asarray(targets)[self.classes] == self.outputs
        return recognised


def needed_right(count: int, classes: int) -> int:
    """Return how many of `count` pictures must be right, so that guesses among classes reach it in at most 1 %.

    The exact binomial bound, P(X >= needed) <= 0.01 at 1 / classes. Where there are too few pictures for it, half way
    from chance to all of them.
    """
    from scipy.stats import binom

    chance = 1 / classes
    bound = int(binom.isf(LEVEL, count, chance)) + 1
    return min(bound, int(np.ceil(count * (1 + chance) / 2)))


def explain(
    answers: Answers, classes: Sequence[ClassInfo], targets: Sequence[int], labels: Sequence[str]
) -> str | None:
    """Say which other order of the labels fits the answers much better than `targets`, and what to set; None if none.

    Args:
        answers: of real pictures, best two or more of each class.
        classes: the classes of the data set.
        targets: the output that each class has now.
        labels: the names of the outputs.
    """
    now = answers.right(targets)
    best, advice = now, ""
    for order, text in _orders(classes, targets, labels):
        right = answers.right(order)
        if right.sum() > best.sum():
            best, advice = right, text
    if advice and _much_better(best, now, len(classes)):
        return f"{_share(best)} of the answers fit another order of its labels: {advice}"
    return _permutation(answers, classes, targets, labels)


def _orders(
    classes: Sequence[ClassInfo], targets: Sequence[int], labels: Sequence[str]
) -> Iterator[tuple[list[int], str]]:
    """Yield orders that labels often have by mistake: the output of each class, and what to do if it is right."""
    count = len(labels)
    indices = [info.index if info.index < count else _NOWHERE for info in classes]
    yield indices, "output 0 is the data set's first class, and so on. Set match: index"
    for title, key in _SORTS.items():
        ranks = _ranks(labels, key)
        order = [ranks[target] for target in targets]
        yield order, f"its outputs are in {title} order of the labels. Sort the file of labels so (setting: labels)"
        for noun, names in (
            ("classes' names", [info.name for info in classes]),
            ("data set's own names of the classes", [info.original_name for info in classes]),
        ):
            order = [rank if rank < count else _NOWHERE for rank in _ranks(names, key)]
            yield (
                order,
                f"its outputs are in {title} order of the {noun}. Write the labels so into a file (setting: labels)",
            )
    for step, advice in _SHIFTS.items():
        shifted = [target + step if 0 <= target + step < count else _NOWHERE for target in targets]
        yield shifted, f"{advice} (setting: labels)"


def _ranks(names: Sequence[str], key: Callable[[str], "_SortKey"]) -> list[int]:
    """Give each name its place in sorted order."""
    ranks = [0] * len(names)
    for place, index in enumerate(sorted(range(len(names)), key=lambda index: key(names[index]))):
        ranks[index] = place
    return ranks


_SortKey = list[tuple[int, str]]


def _natural(text: str) -> _SortKey:
    """Make a sort key by which 2 comes before 10."""
    parts = re.split(r"([0-9]+)", text.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


_SORTS: Mapping[str, Callable[[str], _SortKey]] = {
    "alphabetical": lambda text: [(0, text)],
    "alphabetical (without case)": lambda text: [(0, text.lower())],
    "numerical": _natural,
}

_SHIFTS: Mapping[int, str] = {
    1: "every label is one output later. Begin the file of labels with a line for output 0, as a background",
    -1: "every label is one output earlier. The file of labels begins with a line too many: remove it",
}


def _permutation(
    answers: Answers, classes: Sequence[ClassInfo], targets: Sequence[int], labels: Sequence[str]
) -> str | None:
    """Find any permutation of the labels, by half of the answers, and prove it by the other half."""
    halves = _halves(answers)
    if halves is None:
        return None
    first, second = halves
    found = [_assigned(half, len(classes)) for half in halves]
    fits = np.concatenate([first.right(found[1]), second.right(found[0])])
    now = [half.right(targets) for half in halves]
    if not _much_better(fits, np.concatenate(now), len(np.unique(first.classes))):
        return None
    order = _assigned(answers, len(classes))
    wrong = [place for place, output in enumerate(order) if output not in (_NOWHERE, targets[place])]
    pairs = [f"{classes[place].name!r} is output {order[place]} ({labels[order[place]]!r})" for place in wrong]
    return (
        f"{_share(fits)} of the answers fit another order of its labels: {listed(pairs, _PAIRS_SHOWN)}. Correct the "
        "file of labels (setting: labels), or write `class: output` for each class into a file and set match: FILE.yaml"
    )


def _halves(answers: Answers) -> tuple[Answers, Answers] | None:
    """Divide the pictures of each class that has two or more; None if there is no such class."""
    seen: dict[int, int] = {}
    rank = np.empty(len(answers), dtype=int)
    for place, label in enumerate(answers.classes.tolist()):
        rank[place] = seen[label] = seen.get(label, -1) + 1
    several = np.array([seen[label] > 0 for label in answers.classes.tolist()], dtype=bool)
    if not several.any():
        return None
    chosen = [several & (rank % 2 == half) for half in (0, 1)]
    first, second = (Answers(answers.classes[half], answers.outputs[half]) for half in chosen)
    return first, second


def _assigned(answers: Answers, classes: int) -> list[int]:
    """Give each class an output of its own so that most answers are right (linear sum assignment)."""
    from scipy.optimize import linear_sum_assignment

    outputs, columns = np.unique(answers.outputs, return_inverse=True)
    counts = np.zeros((classes, len(outputs)))
    np.add.at(counts, (answers.classes, columns), 1)
    order = [_NOWHERE] * classes
    for place, column in zip(*linear_sum_assignment(counts, maximize=True), strict=True):
        if counts[place, column]:
            order[place] = int(outputs[column])
    return order


def _much_better(right: np.ndarray, now: np.ndarray, classes: int) -> bool:
    """Tell whether another order is right half as often again, more than by chance, and by no accident."""
    from scipy.stats import binom

    gained, lost = int((right & ~now).sum()), int((now & ~right).sum())
    accident = float(binom.sf(gained - 1, gained + lost, 0.5))
    return bool(right.sum() >= max(1.5 * now.sum(), needed_right(len(right), classes)) and accident <= _SURE)


def _share(right: np.ndarray) -> str:
    return f"{right.mean():.0%}"
