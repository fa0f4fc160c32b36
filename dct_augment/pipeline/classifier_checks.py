"""Checks guide and judge on real images, once per run folder and setting, and compares the two."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dct_augment import classifiers, files
from dct_augment import config as configuration
from dct_augment.classifiers import Classifier, RealImageCheck
from dct_augment.config import AnyClassifierConfig, classifier_title
from dct_augment.records import Progress
from dct_augment.wording import counted

if TYPE_CHECKING:
    from dct_augment.pipeline.context import RunContext

_MUCH_WORSE = 0.8
"""A share of the accuracy of the other classifier, or of its own card; one that reaches less is warned of."""

_CHANCE = 0.01
"""How often a warning may come from the few images alone."""

_RULES = 2
"""Changes with what passes a check: a classifier that passed by other rules is checked again."""


def check_on_real_images(
    context: "RunContext", classifier: Classifier, members: Sequence[AnyClassifierConfig], role: str
) -> None:
    """Say how many of some real images a guide or judge recognises.

    Warn of one whose labels look permuted, and of one that is much worse than the other one, or than its own card.

    Raises:
        ModelError: its answers may be guesses though it knows other images.
    """
    path, fingerprint, name = _file(context, role), _fingerprint(context, role), _named(role, members)
    record = files.read_json(path)
    if path.is_file() and not record:
        context.progress(Progress(role, 0, 0, f"{path} is damaged; {name} is checked again"))
    if record.get("fingerprint") != fingerprint or not isinstance(record.get("warnings"), list):
        dataset = context.dataset
        examples = itertools.chain(dataset.examples("val"), dataset.examples("train"))
        by_words = all(member.name == "zero_shot" for member in members)
        hint = classifiers.FROM_WORDS if by_words else classifiers.FROM_LABELS
        check = classifiers.check_on_real_images(classifier, dataset.classes, examples, name, hint)
        record = {"fingerprint": fingerprint, "accuracy": check and check.accuracy, "warnings": []}
        if check is not None:
            context.progress(Progress(role, 0, 0, f"{name} recognises {check.accuracy:.0%} of some real images"))
            record["warnings"] = _warnings(check, members, name)
        files.write_json(path, record, indent=1)
    for warning in record["warnings"]:
        context.progress(Progress(role, 0, 0, f"warning: {warning}"))
    _compare(context)


def _warnings(check: RealImageCheck, members: Sequence[AnyClassifierConfig], name: str) -> list[str]:
    """Say what makes one classifier doubtful, whatever the other one does."""
    from scipy.stats import binom

    warnings = []
    if check.warning:
        warnings.append(f"{name} recognises {check.accuracy:.0%} of some real images, but {check.warning}")
    card = classifiers.card_accuracy(members[0]) if len(members) == 1 else None
    # The bound at 1 % of chance: with few images, a good classifier may look much worse.
    if card is not None and binom.cdf(check.right, check.count, _MUCH_WORSE * card) <= _CHANCE:
        warnings.append(
            f"{name} recognises {check.accuracy:.0%} of {counted(check.count, 'real image')}, its own card says "
            f"{card:.0%}. The likely cause is its preprocessing, or pictures unlike those of its training"
        )
    return warnings


def _file(context: "RunContext", role: str) -> Path:
    return context.config.root / "checks" / f"{role}.json"


def _fingerprint(context: "RunContext", role: str) -> str:
    names = [info.name for info in context.dataset.classes]
    return configuration.fingerprint(context.identity("metrics")[role], names, _RULES)


def _compare(context: "RunContext") -> None:
    """Warn of a guide or judge that is much worse on real images than the other one, once both are measured."""
    accuracies = {}
    for role, members in (("guide", context.config.guide), ("judge", context.config.judge)):
        check = files.read_json(_file(context, role)) if members else {}
        accuracy = check.get("accuracy")
        if not isinstance(accuracy, int | float) or check.get("fingerprint") != _fingerprint(context, role):
            return
        accuracies[role] = accuracy
    worse, better = sorted(accuracies, key=accuracies.__getitem__)
    if accuracies[worse] >= _MUCH_WORSE * accuracies[better]:
        return
    context.progress(
        Progress(
            worse,
            0,
            0,
            f"warning: the {worse} recognises {accuracies[worse]:.0%} of some real images, the {better} "
            f"{accuracies[better]:.0%}. The likely cause is its preprocessing: is it that of its training? (of a "
            "checkpoint: input_size, mean, std, interpolation)",
        )
    )


def _named(role: str, members: Sequence[AnyClassifierConfig]) -> str:
    return f"{role} {' + '.join(map(classifier_title, members))!r}"
