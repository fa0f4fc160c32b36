"""The answer of a run in words, as the terminal says it."""

from typing import Any

from dct_augment.report.answer import in_words


def summary(*models: str, shots: int | None = 5, few_folds: int | None = None, **kept: Any) -> dict[str, Any]:
    """The part of `report/summary.json` that the answer is made of."""
    accuracy = {"mean": 0.8, "ci95": [0.7, 0.9]}
    effect = {
        "baseline_accuracy": {"mean": 0.7},
        "accuracy": accuracy,
        "arm": "plain_prompt",
        "baseline": "real",
        "difference": {"mean": 0.1, "ci95": [0.02, 0.18]},
        "verdict": "Synthetic images help.",
    }
    defaults = {"arm": "plain_prompt", "model": "a", "accuracy": accuracy, "optimistic": False, "made": True}
    defaults |= {"arm_accuracy": 0.8, "chance": 0.5, "near_chance": False}
    benchmark = {"shots": shots, "models": dict.fromkeys(models or ("a",)), "few_folds": few_folds}
    return {"benchmark": benchmark, "answer": {"effect": effect, "kept": defaults | kept}}


def test_an_answer_is_two_lines() -> None:
    assert in_words(summary()) == [
        "With up to 5 photos per class: 70% -> 80% (+10 points, +2 to +18). Synthetic images help.",
        "Kept: plain prompts; expect 80% (70% to 90%) right on new photos.",
    ]
    assert in_words({"answer": None}) == []


def test_of_several_models_the_one_is_named_whose_numbers_these_are() -> None:
    lines = in_words(summary("a", "b", model="b"))
    assert lines[0].startswith("With up to 5 photos per class with b: 70% -> 80%")
    assert lines[1].startswith("Kept: plain prompts with b; expect 80%")


def test_a_classifier_that_is_chosen_and_not_made_is_said_to_be_missing() -> None:
    _, kept, missing = in_words(summary(made=False))
    assert kept.startswith("To keep: plain prompts; expect 80%")
    assert missing == "The classifier is not made yet: dct-augment fit, with the same options"


def test_without_trials_of_the_first_model_nothing_is_said_of_shots() -> None:
    assert in_words(summary("a", "b", shots=None, model="b")) == [
        "Kept: plain prompts with b; expect 80% (70% to 90%) right on new photos."
    ]


def test_an_accuracy_near_chance_is_called_that() -> None:
    accuracy = {"mean": 0.5, "ci95": [0.19, 0.81]}
    lines = in_words(summary(accuracy=accuracy, arm_accuracy=0.75, near_chance=True))
    assert lines[1:] == [
        "Kept: plain prompts; expect 50% (19% to 81%) right on new photos, not its 75%, as the same photos chose it.",
        "That is not clearly better than always answering the most frequent class (50%).",
    ]


def test_few_folds_are_called_that_once() -> None:
    lines = in_words(summary(few_folds=2))
    assert lines[1] == "Two folds are too few to tell how much this would vary with other photos."
    assert len(lines) == 3
