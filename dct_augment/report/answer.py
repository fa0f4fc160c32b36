"""The first section of the report: the answer of the run, and the mistakes of the classifier that is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dct_augment.report.arm_styles import arm_style
from dct_augment.report.data_uris import webp, webp_data_uri
from dct_augment.wording import counted

_SIDE = 96


@dataclass(frozen=True)
class Mistake:
    """A photo that was taken for another class, in `times` of the `tests` that it had, and a photo of that class."""

    truth: str
    predicted: str
    times: int
    tests: int
    photo: Image.Image
    other: Image.Image


@dataclass(frozen=True)
class AnswerSection:
    """The numbers of `benchmark.answer`, the calibration error of the kept classifier, and its mistakes.

    In `numbers["kept"]`, `model` is the name of its model, and `made` is whether the classifier is there, as chosen.
    """

    numbers: Mapping[str, Any]
    calibration_error: float | None = None
    mistakes: Sequence[Mistake] = field(default_factory=tuple)


def summarize(section: AnswerSection) -> dict[str, Any]:
    """Give the numbers of the section."""
    return {
        **section.numbers,
        "calibration_error": section.calibration_error,
        "mistakes": [
            {
                "truth": mistake.truth,
                "predicted": mistake.predicted,
                "times": mistake.times,
                "tests": mistake.tests,
            }
            for mistake in section.mistakes
        ],
    }


def in_words(summary: Mapping[str, Any]) -> list[str]:
    """Say the answer of a run in a line or two, and why it has no token at all; nothing if there is none.

    Args:
        summary: the whole of `report/summary.json`.
    """
    found, no_token = summary.get("answer"), summary.get("no_token")
    lines = [no_token] if no_token else []
    if not found:
        return lines
    effect, kept = found["effect"], found["kept"]
    benchmark = summary["benchmark"]
    model = f" with {kept['model']}" if len(benchmark["models"]) > 1 else ""
    if effect and benchmark["shots"] is not None:
        lines.append(_effect_in_words(effect, f"With up to {counted(benchmark['shots'], 'photo')} per class{model}"))
    if few := few_folds_in_words(benchmark):
        lines.append(few)
    if found.get("refused"):
        lines.append(found["refused"])
    if kept["accuracy"]["mean"] is not None:
        title = f"{'Kept' if kept['made'] else 'To keep'}: {arm_style(kept['arm']).title}{model}"
        lines.append(f"{title}; expect {_expected_in_words(kept, effect)}.")
    if kept["near_chance"]:
        always = f"always answering the most frequent class ({kept['chance']:.0%})"
        lines.append(f"That is not clearly better than {always}.")
    if not kept["made"]:
        lines.append("The classifier is not made yet: dct-augment fit, with the same options")
    return lines


def few_folds_in_words(benchmark: Mapping[str, Any]) -> str:
    """Say that the folds are too few for intervals over them, if they are; else nothing."""
    words = {1: "One fold is", 2: "Two folds are", 3: "Three folds are"}
    if not benchmark["few_folds"]:
        return ""
    few = words[benchmark["few_folds"]]
    return f"{few} too few to tell how much this would vary with other photos."


def _expected_in_words(kept: Mapping[str, Any], effect: Mapping[str, Any] | None) -> str:
    """Say what accuracy to expect, and why it is not the one that was said before of the same arm."""
    low, high = kept["accuracy"]["ci95"]
    expected, of_arm = f"{kept['accuracy']['mean']:.0%}", f"{kept['arm_accuracy']:.0%}"
    interval = "" if low is None else f" ({low:.0%} to {high:.0%})"
    words = f"{expected}{interval} right on new photos"
    if kept["optimistic"]:
        return f"{words}; optimistic, as the same images chose it"
    if effect and kept["arm"] in (effect["arm"], effect["baseline"]) and of_arm != expected:
        return f"{words}, not its {of_arm}, as the same photos chose it"
    return words


def _effect_in_words(effect: Mapping[str, Any], beginning: str) -> str:
    """Say what synthetic images do in one line."""
    before, after = (effect[key]["mean"] for key in ("baseline_accuracy", "accuracy"))
    low, high = effect["difference"]["ci95"]
    interval = "" if low is None else f", {low * 100:+.0f} to {high * 100:+.0f}"
    points = effect["difference"]["mean"] * 100
    return f"{beginning}: {before:.0%} -> {after:.0%} ({points:+.0f} points{interval}). {effect['verdict']}"


def render_mistakes(section: AnswerSection) -> list[tuple[str, str]]:
    """Render the photo of each mistake and the other one as data URIs."""
    return [(_small(mistake.photo), _small(mistake.other)) for mistake in section.mistakes]


def _small(image: Image.Image) -> str:
    copy = image.copy()
    copy.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return webp_data_uri(webp(copy))
