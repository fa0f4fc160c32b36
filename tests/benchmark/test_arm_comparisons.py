"""The benchmark's numbers in the report: the base setting, curves, ratios, the few-shot guide, and mistakes."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dct_augment.benchmark import arm_comparisons
from dct_augment.generation.shards import shard_folders
from dct_augment.intervals import estimate_json, mean_of_folds, paired_gain, proportion
from dct_augment.report.arm_styles import ARM_STYLES
from tests.report.pages import NO_TRIALS, ODD, Page, answers, empty, make, make_tokens, settings

NAMES = {0: "crane", 1: ODD}


def trial(arm: str, seed: int, accuracy: float, *, shots: int = 5, per_class: int = 50, **more: Any) -> dict[str, Any]:
    per_class = 0 if arm.startswith("real") else per_class
    row = {"arm": arm, "shots": shots, "seed": seed, "per_class": per_class, "steps": 100, "accuracy": accuracy}
    return row | {"val_accuracy": accuracy, "other_model": ""} | answers(accuracy) | more


def full() -> pd.DataFrame:
    """Three seeds of every arm at shots 1, 5 and at 5, 50 synthetic images."""
    levels = {
        "real": 0.5,
        "real+strong_aug": 0.6,
        "plain_prompt": 0.55,
        "textual_inversion": 0.65,
        "class_token": 0.8,
        "class_token_few_shot_guide": 0.7,
        "class_token_filtered": 0.82,
    }
    rows = []
    for seed in range(3):
        for arm, level in levels.items():
            rows.append(trial(arm, seed, level + seed / 100))
            rows.append(trial(arm, seed, level / 2 + seed / 100, shots=1))
            if not arm.startswith("real"):
                rows.append(trial(arm, seed, level - 0.1 + seed / 100, per_class=5))
    return pd.DataFrame(rows)


def summarize(table: pd.DataFrame, shots: int = 5, per_class: int = 50) -> dict[str, Any]:
    return arm_comparisons.summarize_trials(table, NAMES, shots, per_class)


def test_arms_are_compared_by_the_first_model_and_every_model_has_its_accuracies(tmp_path: Path) -> None:
    others = [trial(arm, seed, 0.9, other_model="large") for arm in ("real", "class_token") for seed in range(3)]
    table = pd.concat([full(), pd.DataFrame(others)], ignore_index=True)
    summary, text = page(tmp_path, table)
    assert summary["benchmark"]["arms"] == summarize(full())["arms"]
    assert summary["benchmark"]["paired"] == summarize(full())["paired"]
    (first, of_first), (large, of_large) = summary["benchmark"]["models"].items()
    assert (first, large) == (settings().downstream.model, "large")
    assert of_first == summary["benchmark"]["arms"]
    assert {arm: estimate["mean"] for arm, estimate in of_large.items()} == {"real": 0.9, "class_token": 0.9}
    assert "Accuracy by model" in text
    assert "Accuracy by model" not in page(tmp_path / "one", full())[1]


def page(root: Path, table: pd.DataFrame) -> Any:
    return make(root, shard_folders(root / "none", "try"), pd.DataFrame(), table)


def test_arms_are_compared_at_the_base_setting_alone() -> None:
    numbers = summarize(full())
    assert (numbers["shots"], numbers["per_class"], numbers["steps"], numbers["seeds"]) == (5, 50, 100, [0, 1, 2])
    assert numbers["arms"]["class_token"] == {"mean": 0.81, "ci95": [0.7852, 0.8348], "n": 3}
    assert numbers["trials"]["class_token"] == {"0": 0.8, "1": 0.81, "2": 0.82}
    assert numbers["paired"]["class_token-class_token_few_shot_guide"]["mean"] == 0.1
    assert numbers["paired"]["class_token-class_token_few_shot_guide"]["n"] == 3


@pytest.mark.parametrize(("shots", "per_class"), [(1, 50), (5, 5)])
def test_base_setting_follows_the_configuration(shots: int, per_class: int) -> None:
    numbers = summarize(full(), shots, per_class)
    assert (numbers["shots"], numbers["per_class"]) == (shots, per_class)
    assert numbers["arms"]["real"]["n"] == 3
    assert numbers["arms"]["class_token"]["mean"] == (0.41 if shots == 1 else 0.71)


def test_base_setting_without_trials_is_replaced_by_the_most_frequent() -> None:
    numbers = summarize(full(), 7, 9)
    assert (numbers["shots"], numbers["per_class"]) == (5, 5)
    assert set(numbers["arms"]) == set(full()["arm"])


def test_curves_and_ratios_have_a_point_per_setting() -> None:
    curves = summarize(full())["curves"]
    shots = curves["shots"]["arms"]["class_token"]
    assert [(point["shots"], point["mean"], point["n"]) for point in shots] == [(1, 0.41, 3), (5, 0.81, 3)]
    by_number = curves["per_class"]["arms"]["class_token"]
    assert [(point["per_class"], point["ratio"], point["mean"]) for point in by_number] == [
        (5, 1.0, 0.71),
        (50, 10.0, 0.81),
    ]
    assert set(curves["per_class"]["arms"]) == {arm for arm in full()["arm"] if not arm.startswith("real")}
    assert curves["per_class"]["reference"]["mean"] == 0.61


def test_benchmark_without_trials_has_no_arms() -> None:
    numbers = summarize(NO_TRIALS)
    assert (numbers["arms"], numbers["confusion"], numbers["steps"]) == ({}, {}, None)


def test_trials_of_other_models_alone_are_shown_by_model(tmp_path: Path) -> None:
    others = [trial(arm, seed, 0.9, other_model="large") for arm in ("real", "class_token") for seed in range(3)]
    summary, _ = page(tmp_path, pd.DataFrame(others))
    assert (summary["benchmark"]["arms"], summary["benchmark"]["shots"]) == ({}, None)
    of_large = summary["benchmark"]["models"]["large"]
    assert {arm: estimate["mean"] for arm, estimate in of_large.items()} == {"real": 0.9, "class_token": 0.9}


def test_confusions_are_summed_over_the_seeds_of_the_base_setting() -> None:
    table = full()
    table = table.assign(truth=[[0, 0, 1]] * len(table), predicted=[[0, 1, 1]] * len(table))
    confusion = summarize(table)["confusion"]
    assert list(confusion) == [arm for arm in arm_comparisons.CONFUSED if arm in set(full()["arm"])]
    assert confusion["class_token"]["counts"] == {"crane": {"crane": 3, ODD: 3}, ODD: {ODD: 3}}
    assert confusion["class_token"]["pairs"] == [{"truth": "crane", "answer": ODD, "n": 3, "of": 6, "share": 0.5}]


def test_accuracy_of_each_class_is_over_all_draws_and_the_best_arms_are_named() -> None:
    rows = [
        trial("real", 0, 0.5, truth=[0, 0, 1], predicted=[0, 1, 1]),
        trial("real", 1, 0.5, truth=[0, 0, 1], predicted=[0, 0, 0]),
        trial("real+strong_aug", 0, 0.4, truth=[0, 0, 0], predicted=[1, 1, 0]),
        trial("plain_prompt", 0, 0.7, truth=[0, 1, 7], predicted=[0, 1, 7]),
        trial("class_token", 0, 0.6, truth=[0, 0, 1], predicted=[0, 1, 1]),
        trial("real", 0, 0.9, shots=1),
    ]
    by_class = summarize(pd.DataFrame(rows))["by_class"]
    assert (by_class["arm"], by_class["baseline"]) == ("plain_prompt", "real")
    assert by_class["arms"]["real"] == {"crane": 0.75, ODD: 0.5}
    assert by_class["arms"]["real+strong_aug"] == {"crane": 0.3333}
    assert by_class["arms"]["plain_prompt"] == {"crane": 1.0, ODD: 1.0}  # a class that is not of the run has no place
    none = summarize(pd.DataFrame([trial("real", 0, 0.5)]))["by_class"]
    assert (none["arm"], none["baseline"]) == (None, "real")


def test_equal_accuracies_are_ties_for_the_tests() -> None:
    rows = [
        trial(arm, seed, 0.1 + 0.2 if arm == "real" else 0.3) for arm in ("real", "real+strong_aug") for seed in (0, 1)
    ]
    pair = summarize(pd.DataFrame(rows))["paired"]["real+strong_aug-real"]
    assert (pair["mean"], pair["sign_p"], pair["permutation_p"]) == (0.0, 1.0, 1.0)


def test_page_says_what_the_few_shot_guide_means(tmp_path: Path) -> None:
    summary, text = page(tmp_path, full())
    words = Page(text).text
    # The same difference on every draw makes nothing sure: of 1,000 images, 12 % differ in some draw; t(999) = 1.9623.
    pair = summary["benchmark"]["paired"]["class_token-class_token_few_shot_guide"]
    assert (pair["ci95"], pair["unclear"]) == ([0.0823, 0.1177], "no_spread")
    assert "distillation from a guide trained on all images" in words
    assert "is +10.0 points (95" in words
    assert "It is the same in every seed, so nothing says how sure that is" in words
    headlines = [
        "Against strong augmentation, with a guide of the few images alone",
        "Upper line, as the guide has seen more than the few images: against strong augmentation",
    ]
    assert 0 < words.index(headlines[0]) < words.index(headlines[1])  # the honest one comes first
    for shown in ("5 shots", "textual inversion", "10\u00d7", "50 images", "p, sign"):
        assert shown in words
    assert "has no trials on the seeds" not in words


def test_page_calls_nothing_distillation_where_the_guide_knows_the_draws_alone(tmp_path: Path) -> None:
    shards = shard_folders(tmp_path / "none", "try")
    _, text = make(tmp_path, shards, pd.DataFrame(), full(), guide_saw="draw")
    words = Page(text).text
    assert "is made of the few photos that every seed has, and of no other" in words
    assert "distillation" not in words
    assert "Upper line" not in words
    assert "Against strong augmentation" in words


@pytest.mark.parametrize(
    ("saw", "said", "title"),
    [
        (
            "unknown",
            "It is not known what the guide of the",
            "With a guide that may have seen more than the few images:",
        ),
        ("web", "has learned from pictures of the web", "With a guide that has seen pictures of the web:"),
        ("all_photos", "was trained on all training photos of the run", "Upper line, as the guide"),
        ("all_photos_by_tokens", "were pulled towards all training photos of the run", "Upper line, as the tokens"),
    ],
)
def test_page_says_of_the_guide_what_it_has_seen(tmp_path: Path, saw: str, said: str, title: str) -> None:
    shards = shard_folders(tmp_path / "none", "try")
    _, text = make(tmp_path, shards, pd.DataFrame(), full(), guide_saw=saw)
    words = Page(text).text
    assert said in words
    assert title in words
    assert "whole training set" not in words
    assert ("pper line" in words) == saw.startswith("all_photos")
    assert ("distillation" in words) == (saw == "all_photos")


@pytest.mark.parametrize(
    ("few_shot", "words"),
    [
        ((0.9, 0.91, 0.93), "The guide trained on all images does not help here"),
        ((0.7, 0.82, 0.95), "these seeds cannot tell"),
        ((0.7, 0.71, 0.69), "This part of the gain is distillation"),
        ((0.7,), "One pair is too few"),
    ],
)
def test_page_reads_distillation_from_the_interval(few_shot: tuple[float, ...], words: str, tmp_path: Path) -> None:
    rows = [trial("class_token", seed, 0.8 + seed / 100) for seed in range(3)]
    rows += [trial("class_token_few_shot_guide", seed, accuracy) for seed, accuracy in enumerate(few_shot)]
    _, text = page(tmp_path, pd.DataFrame(rows))
    assert words in Page(text).text


def test_page_names_the_command_for_missing_trials(tmp_path: Path) -> None:
    _, text = page(tmp_path, pd.DataFrame([trial("real", seed, 0.5) for seed in range(2)]))
    words = Page(text).text
    for missing in (
        "The arm with the few-shot guide has no trials",
        "no trials with other numbers of real images yet. dct-augment benchmark --full",
        "no trials with other numbers of synthetic images yet. dct-augment benchmark --full",
        "There are no trials yet of an arm whose mistakes are shown",
    ):
        assert missing in words
    assert text.count('colspan="4">no trials<') == 3  # each arm whose tokens know something


def folds_table(folds: int) -> pd.DataFrame:
    """Folds of eight photos: with tokens all are right, without them the first two."""
    rows = [
        trial(arm, seed, accuracy, **answers(accuracy, 8))
        for arm, accuracy in (("real+strong_aug", 0.25), ("class_token", 1.0))
        for seed in range(folds)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("folds", "words"), [(2, "Two folds are"), (3, "Three folds are")])
def test_of_few_folds_all_intervals_are_over_photos_and_no_difference_is_clear(
    folds: int, words: str, tmp_path: Path
) -> None:
    shards = shard_folders(tmp_path / "none", "try")
    summary, text = make(tmp_path, shards, pd.DataFrame(), folds_table(folds), folds=folds)
    benchmark, photos = summary["benchmark"], 8 * folds
    assert benchmark["few_folds"] == folds
    assert "Wilson's interval over the photos" in benchmark["method"]
    assert benchmark["arms"]["class_token"] == {**estimate_json(proportion(photos, photos)), "n": folds}
    assert benchmark["models"][settings().downstream.model] == benchmark["arms"]
    assert benchmark["curves"]["per_class"]["reference"] == benchmark["arms"]["real+strong_aug"]
    pair = benchmark["paired"]["class_token-real+strong_aug"]
    assert pair["ci95"] == estimate_json(paired_gain(photos // 4, photos * 3 // 4, 0, 0))["ci95"]
    assert pair["ci95"][0] > 0
    assert (pair["unclear"], pair["fold_p"]) == ("few_folds", None)
    page_words = Page(text).text
    assert page_words.count(f"{words} too few to tell how much this would vary with other photos.") == 1
    assert "no clear difference from so few folds" in page_words
    assert "significantly better" not in page_words
    assert "There is no curve over real images" in page_words


def test_four_folds_have_the_corrected_interval_and_its_test() -> None:
    table = folds_table(4)
    of_tokens = table["arm"] == "class_token"
    accuracies = [1.0, 0.625, 1.0, 0.625]
    answered = [answers(accuracy, 8) for accuracy in accuracies]
    table.loc[of_tokens, "accuracy"] = accuracies
    table.loc[of_tokens, "predicted"] = pd.Series([a["predicted"] for a in answered], table.index[of_tokens])
    numbers = arm_comparisons.summarize_trials(table, NAMES, 5, 50, 4)
    assert numbers["few_folds"] is None
    assert numbers["arms"]["class_token"] == estimate_json(mean_of_folds(accuracies, 4, (0, 1)))
    pair = numbers["paired"]["class_token-real+strong_aug"]
    assert pair["ci95"] == estimate_json(mean_of_folds([0.75, 0.375, 0.75, 0.375], 4, (-1, 1)))["ci95"]
    assert (pair["unclear"], pair["fold_p"]) == ("", 0.042409)  # t(3) = 0.5625 / (0.1083 sqrt(1 + 4 / 3)) = 3.4017
    assert "corrected resampled t" in numbers["method"]


def test_a_run_without_any_token_has_no_upper_line(tmp_path: Path) -> None:
    shards = shard_folders(tmp_path / "none", "try")
    tokens = make_tokens(tmp_path).assign(usable=False, stop_reason="plain prompt is enough")
    _, text = make(tmp_path, shards, tokens, full(), guide_saw="all_photos")
    words = Page(text).text
    assert "No class token was trained" in words
    assert "The run has no class token, so nothing in" in words
    assert "pper line" not in words
    assert "distillation" not in words


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))


def contrast(color: str, background: str) -> float:
    high, low = sorted((luminance(color), luminance(background)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", ["#fbfaf7", "#141619"])
def test_every_arm_has_contrast_on_light_and_dark_pages(background: str, tmp_path: Path) -> None:
    _, text = empty(tmp_path)
    assert f"--page: {background}" in text
    for arm, arm_style in ARM_STYLES.items():
        assert contrast(arm_style.color, background) >= 3, arm
    assert len({arm_style.color for arm_style in ARM_STYLES.values()}) == len(ARM_STYLES)
    assert len({arm_style.marker for arm_style in ARM_STYLES.values()}) == len(ARM_STYLES)
