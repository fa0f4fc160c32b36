"""The report: its numbers against hand-computed ones, and its page against what a browser may meet."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dct_augment.benchmark.answer import answer
from dct_augment.benchmark.choice import choose, synthetic_effect
from dct_augment.errors import ShardError
from dct_augment.generation import image_index
from dct_augment.generation.shards import shard_folders
from dct_augment.metrics.accuracy import class_titles
from dct_augment.records import GeneratedImage, ImageKind, PlanRow
from dct_augment.report import class_images, thumbnails
from dct_augment.report.answer import AnswerSection
from dct_augment.report.summary import KINDS
from tests.report.pages import (
    CLASSES,
    COLORS,
    NO_TRIALS,
    ODD,
    Page,
    Shards,
    answers,
    class_table,
    empty,
    fill,
    make,
    make_shards,
    make_tokens,
    recognised_on,
    settings,
    thumbnail_images,
    trial_table,
)

FILES = {"summary.json", "classes.csv", "confusions.csv"}


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return make_shards(tmp_path)


@pytest.fixture
def tokens(tmp_path: Path) -> pd.DataFrame:
    return make_tokens(tmp_path)


def test_accuracy_is_the_mean_over_classes_of_what_the_judge_got_right(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    summary, _ = make(tmp_path, shards, tokens, NO_TRIALS)
    judge = summary["judge_accuracy"]
    # Plain: 1/4 and 2/4. Token: 4/4 and 2/3, as one image failed. Wilson's interval of 3/8 by hand.
    assert judge["plain_prompt"] == {"mean": 0.375, "ci95": [0.1368, 0.6943], "n": 8, "classes": 2}
    assert judge["class_token"]["mean"] == 0.8333
    assert judge["class_token"]["n"] == 7
    # Gaps 3/4 and 1/6; of two, Student's interval is all that a difference can be.
    assert judge["difference"] == {"mean": 0.4583, "ci95": [-1, 1], "n": 2}
    assert "Wilson" in judge["method"]
    assert summary["guide_accuracy"]["plain_prompt"]["mean"] == 0.5
    assert summary["guide_accuracy"]["class_token"]["mean"] == 1.0


def test_homonyms_are_counted_apart_only_if_there_are_any(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS)
    assert summary["judge_accuracy_homonyms"]["plain_prompt"]["mean"] == 0.25
    assert summary["judge_accuracy_homonyms"]["class_token"]["mean"] == 1.0
    assert summary["judge_accuracy_homonyms"]["difference"]["ci95"] == [None, None]
    assert "Homonyms alone" in page
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS, classes=CLASSES[1:])
    assert "judge_accuracy_homonyms" not in summary
    assert "Homonyms alone" not in page
    assert summary["judge_accuracy"]["plain_prompt"]["n"] == 4  # other classes' images do not count


def test_summary_has_the_numbers_of_each_class_and_counts_failed_images_apart(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS)
    assert summary["files"]["classes"] == "classes.csv"
    assert summary["classes"] == 2
    table = class_table(tmp_path)
    crane, odd = table.loc["crane"], table.loc[ODD]
    assert (crane["slug"], crane["homonym"], odd["homonym"]) == ("crane", True, False)
    assert (crane["plain_prompt.judge_accuracy"], crane["plain_prompt.guide_accuracy"]) == (0.25, 0.0)
    assert (odd["class_token.n"], odd["class_token.failed"]) == (3, 1)
    assert odd["class_token.judge_accuracy"] == 0.6667
    assert 0 < odd["class_token.low"] < 0.6667 < odd["class_token.high"] < 1
    assert (crane["gain.judge.mean"], crane["token.updates"]) == (0.75, 3)
    assert crane["token.stop_reason"] == "target reached"
    assert np.isnan(crane["token.norm"])
    assert summary["images"]["class_token"] == {"n": 7, "failed": 1, "fallback": 0}
    assert "3 + 1 failed" in page


def test_benchmark_pairs_arms_on_the_seeds_they_share(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    summary, page = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    bench = summary["benchmark"]
    assert (bench["shots"], bench["steps"], bench["seeds"]) == (5, 200, [0, 1, 2])
    assert list(bench["arms"]) == ["real+strong_aug", "class_token", "plain_prompt"]
    assert bench["arms"]["class_token"]["mean"] == 0.7333
    # Gaps 0.1, 0.1, 0.2: standard error 1/30, t(2) = 4.3027. Gaps 0.1, 0.2: standard error 0.05, t(1) = 12.7062.
    # All signs agree: 2 of the 2^n equally likely outcomes are as extreme, so both exact tests give the least they can.
    assert bench["paired"]["class_token-real+strong_aug"] == {
        "arm": "class_token",
        "baseline": "real+strong_aug",
        "mean": 0.1333,
        "ci95": [-0.0101, 0.2768],
        "n": 3,
        "unclear": "holds_0",
        "sign_p": 0.25,
        "permutation_p": 0.25,
        "smallest_p": 0.25,
        "fold_p": None,
    }
    assert bench["paired"]["class_token-plain_prompt"] == {
        "arm": "class_token",
        "baseline": "plain_prompt",
        "mean": 0.15,
        "ci95": [-0.4853, 0.7853],
        "n": 2,
        "unclear": "holds_0",
        "sign_p": 0.5,
        "permutation_p": 0.5,
        "smallest_p": 0.5,
        "fold_p": None,
    }
    assert bench["paired"]["real+strong_aug-real"] == {
        "arm": "real+strong_aug",
        "baseline": "real",
        "mean": None,
        "ci95": [None, None],
        "n": 0,
        "unclear": None,
        "sign_p": None,
        "permutation_p": None,
        "smallest_p": None,
        "fold_p": None,
    }
    text = Page(page).text
    assert "+13.3 points" in text
    assert "not significant (the interval includes 0)" in text
    assert "There are no benchmark trials" not in text


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "significantly better."), (-0.1, "significantly worse.")])
def test_page_says_significant_differences_in_words(
    gain: float, verdict: str, tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    table = pd.DataFrame(
        [
            {
                "arm": arm,
                "shots": 5,
                "seed": seed,
                "per_class": 0 if arm.startswith("real") else 50,
                "steps": 9,
                "accuracy": 0.5 + more + seed / 1000,
                "other_model": "",
                **answers(0.5 + more + seed / 1000),
            }
            for seed in range(5)
            for arm, more in (("real+strong_aug", 0.0), ("class_token", gain + seed / 100))
        ]
    )
    _, page = make(tmp_path, shards, tokens, table)
    assert verdict in Page(page).text


def test_page_calls_no_gain_significant_that_is_the_same_in_every_seed(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    trial = {"shots": 5, "steps": 9, "other_model": ""}
    arms = {"real+strong_aug": (0, 0.5), "class_token": (50, 0.75)}
    table = pd.DataFrame(
        [
            trial | {"arm": arm, "seed": seed, "per_class": images, "accuracy": accuracy} | answers(accuracy)
            for seed in range(2)
            for arm, (images, accuracy) in arms.items()
        ]
    )
    _, page = make(tmp_path, shards, tokens, table)
    text = Page(page).text
    assert "the same in every seed, so nothing says how sure that is." in text
    assert "significantly better." not in text


def test_report_of_one_seed_has_no_interval_and_no_invalid_json(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    table = trial_table(tmp_path / "trials.parquet")
    summary, page = make(tmp_path, shards, tokens, table[table["seed"] == 0])
    assert summary["benchmark"]["arms"]["class_token"] == {"mean": 0.6, "ci95": [None, None], "n": 1}
    assert "too few for an interval" in page
    assert not re.search(r"\b(inf|nan)\b", Page(page).text, flags=re.IGNORECASE)


def test_the_sheet_of_a_class_shows_pairs_in_order_and_crosses_out_the_place_of_a_failed_image(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    page = Page(make(tmp_path, shards, tokens, NO_TRIALS)[1])
    crane, odd = thumbnail_images(page)
    assert odd.format == "WEBP"
    assert odd.size == (76, 36)  # images of 16 pixels stay as they are
    for top in (8, 28):
        for place, color in enumerate(COLORS):
            pixel = np.array(crane.convert("RGBA").getpixel((place * 20 + 8, top)))
            assert np.abs(pixel - np.array([*color, 255])).max() < 16  # WebP is not exact
    assert np.asarray(odd.convert("RGBA"))[28, 3 * 20 + 4, 3] == 0
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts[0] == "crane; plain prompt: 4 images; class token: 4 images"
    assert alts[1] == f"{ODD}; plain prompt: 4 images; class token: 3 images, 1 absent"


def test_thumbnails_are_as_many_as_configured(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    page = Page(make(tmp_path, shards, tokens, NO_TRIALS, config=settings(report={"images_per_class": 2}))[1])
    assert [image.size for image in thumbnail_images(page)] == [(36, 36)] * 2


def test_images_are_opened_class_by_class_and_only_those_that_are_shown(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    open_image = image_index.open_image
    monkeypatch.setattr(image_index, "open_image", lambda *place: opened.append(place) or open_image(*place))
    tables = {kind: shards[kind].rows(thumbnails.COLUMNS) for kind in KINDS}
    sheets = class_images.render_classes(CLASSES, tables, shards, 1)
    assert opened == []
    for number, info in enumerate(CLASSES, start=1):
        slug, class_sheet = next(sheets)
        assert (slug, class_sheet.sheet.columns) == (info.slug, 1)
        assert len(set(opened)) == len(opened) == number * len(KINDS)


def test_images_of_shards_that_do_not_say_where_these_lie_are_shown_too(shards: Shards) -> None:
    """As those of older versions."""
    tables = {kind: shards[kind].rows(thumbnails.COLUMNS) for kind in KINDS}
    older = {kind: table.assign(offset=-1, bytes=-1) for kind, table in tables.items()}
    assert list(class_images.render_classes(CLASSES, older, shards, 4)) == list(
        class_images.render_classes(CLASSES, tables, shards, 4)
    )


def test_a_tar_whose_images_cannot_be_read_is_named(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    tar = next(shards[ImageKind.PLAIN_PROMPT].path.glob("*.tar"))
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ShardError, match=re.escape(f"{tar.name} cannot be read")):
        make(tmp_path, shards, tokens, NO_TRIALS)


def test_page_loads_nothing_from_outside(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name in ("src", "srcset", "href", "xlink:href", "data", "poster"):
            if name in attributes:
                value = attributes[name] or ""
                assert value.startswith(("#", "data:image/webp;base64,")) or value in FILES, (tag, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "http:" not in text
    assert "https:" not in text


def test_page_escapes_names_and_environment(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    page = Page(text)
    assert "<b onclick" not in text
    assert "&lt;b onclick" in text
    assert ODD in page.text
    assert "1.2 <3>" in page.text
    assert any((attributes.get("aria-label") or "").startswith(f"{ODD}: loss") for _, attributes in page.tags)


def test_page_ids_are_unique_and_every_reference_has_a_target(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    references |= {a["aria-labelledby"] or "" for _, a in page.tags if "aria-labelledby" in a}
    assert references
    assert references <= set(ids)


def test_charts_are_rendered_in_the_colour_of_the_text(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    charts = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(charts) == 5  # arms, paired differences, two classes' training, gains
    for chart in charts:
        assert 'role="img"' in chart
        assert "currentColor" in chart
        assert not re.search(r"#(000000|ffffff|010203)\b", chart)
        assert "<text" in chart
        assert "dc:date" not in chart
    assert "<style" not in "".join(charts)
    assert "class tokens" in charts[0]


def test_report_of_the_same_inputs_has_the_same_bytes(tmp_path: Path, shards: Shards, tokens: pd.DataFrame) -> None:
    trials = trial_table(tmp_path / "trials.parquet")
    assert make(tmp_path / "a", shards, tokens, trials) == make(tmp_path / "b", shards, tokens, trials)


def test_report_of_an_empty_run_names_the_commands_for_missing_parts(tmp_path: Path) -> None:
    summary, page = empty(tmp_path)
    text = Page(page).text
    for command in ("train", "generate", "generate --plain", "benchmark"):
        assert f"dct-augment {command} " in text, command
    assert summary["judge_accuracy"]["class_token"] == {"mean": None, "ci95": [None, None], "n": 0, "classes": 0}
    assert list(class_table(tmp_path).index) == [info.name for info in CLASSES]
    assert summary["benchmark"]["arms"] == {}
    assert summary["facts"] == {"torch": "1.2 <3>"}


def test_page_without_plain_images_names_their_command_and_shows_the_rest(tmp_path: Path, tokens: pd.DataFrame) -> None:
    shards = shard_folders(tmp_path, "try")
    fill(shards, ImageKind.CLASS_TOKEN, recognised_on({"crane": 4, "odd": 2}, {"crane": 4, "odd": 4}))
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS)
    text = Page(page).text
    assert "dct-augment generate --plain" in text
    assert "There are no class-token images yet" not in text
    assert summary["judge_accuracy"]["plain_prompt"]["mean"] is None
    assert summary["judge_accuracy"]["class_token"]["mean"] == 0.75
    assert summary["judge_accuracy"]["difference"]["n"] == 0
    assert len(thumbnail_images(Page(page))) == 2


def test_page_without_a_judge_shows_the_guide_and_names_it(tmp_path: Path, tokens: pd.DataFrame) -> None:
    shards = shard_folders(tmp_path, "try")

    def generate(row: PlanRow) -> GeneratedImage:
        image = Image.new("RGB", (16, 16))
        return GeneratedImage(row, image, guide_label=row.class_name, guide_right=True, guide_confidence=0.9)

    fill(shards, ImageKind.CLASS_TOKEN, generate)
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS, config=settings(judge=None))
    text = Page(page).text
    assert summary["judge"] is None
    assert summary["judge_accuracy"]["class_token"]["n"] == 0
    assert summary["guide_accuracy"]["class_token"]["mean"] == 1.0
    assert "Recognised by the guide" in text
    assert "Recognised by the judge" not in text
    assert "Another classifier, named by judge.name , would measure it in a run of another folder ( --output )." in text


def test_configuration_and_seeds_are_on_the_page(tmp_path: Path) -> None:
    summary, page = empty(tmp_path, config=settings(generation={"seed": 4711}))
    assert summary["seeds"] == {"tokens": 0, "generation": 4711, "benchmark": 0}
    text = Page(page).text
    assert "seed, generation 4711" in text
    assert "guidance_scale: 7.0" in text


def test_tables_of_tokens_speak_of_a_judge_only_where_there_is_one(tmp_path: Path, tokens: pd.DataFrame) -> None:
    none = shard_folders(tmp_path / "none", "try")
    _, judged = make(tmp_path, none, tokens, NO_TRIALS)
    _, alone = make(tmp_path, none, tokens, NO_TRIALS, config=settings(judge=None))
    for title in ('<th scope="col">Judge gain</th>', '<th scope="col">Judge</th>', "and of the judge"):
        assert (title in judged, title in alone) == (True, False)
    cells = [page.count("<td") + page.count("<th") for page in (judged, alone)]
    assert cells[0] - cells[1] == 2 * (1 + len(CLASSES))  # a column less in each of two tables


@pytest.mark.parametrize(("features", "off"), [(None, True), ("auto", False)])
def test_metrics_that_are_switched_off_are_not_promised(features: str | None, off: bool, tmp_path: Path) -> None:
    text = Page(empty(tmp_path, config=settings(metrics={"features": features}))[1]).text
    assert ("Metrics are switched off: metrics.features is null. metrics.features: auto in" in text) == off
    assert ("metrics of these images have not been measured yet. dct-augment benchmark --full" in text) != off


def answered(tmp_path: Path, predicted: list[list[int]]) -> str:
    """The words of a page with the answer of two folds of four photos each, half of them of each class."""
    right = [sum(label == place % 2 for place, label in enumerate(labels)) / len(labels) for labels in predicted]
    rows = [
        {"arm": "real", "shots": 5, "seed": seed, "per_class": 0, "steps": 9, "accuracy": share}
        | {"val_accuracy": float("nan"), "truth": [0, 1, 0, 1], "predicted": labels, "other_model": ""}
        for seed, (share, labels) in enumerate(zip(right, predicted, strict=True))
    ]
    table = pd.DataFrame(rows)
    choice = choose(table, {"real"}, folds=2)
    assert choice is not None
    numbers = answer(table, class_titles(CLASSES), choice, None, folds=2)
    numbers["kept"] |= {"model": "small", "made": True}
    none = shard_folders(tmp_path / "none", "try")
    return Page(make(tmp_path, none, pd.DataFrame(), table, folds=2, answer=AnswerSection(numbers))[1]).text


def test_classes_are_ordered_by_the_arms_that_the_answer_compares(tmp_path: Path) -> None:
    """The class tokens of a guide that has seen more are better, but not what the answer is about."""
    predicted = {"real": [0, 0, 0, 0], "plain_prompt": [1, 1, 0, 1], "class_token": [0, 1, 0, 1]}
    table = pd.DataFrame(
        [
            {"arm": arm, "shots": 5, "seed": seed, "per_class": 0 if arm == "real" else 50, "steps": 9}
            | {"accuracy": float(np.mean(np.array(labels) == [0, 1, 0, 1])), "val_accuracy": float("nan")}
            | {"truth": [0, 1, 0, 1], "predicted": labels, "other_model": ""}
            for seed in range(2)
            for arm, labels in predicted.items()
        ]
    )
    choice = choose(table, {"real", "plain_prompt"}, folds=2)
    effect = synthetic_effect(table, ["plain_prompt"], ["real"], folds=2)
    assert choice is not None
    numbers = answer(table, class_titles(CLASSES), choice, effect, folds=2)
    numbers["kept"] |= {"model": "small", "made": True}
    numbers["refused"] = ""
    none = shard_folders(tmp_path / "none", "try")
    summary, _ = make(tmp_path, none, pd.DataFrame(), table, folds=2, answer=AnswerSection(numbers))
    assert summary["class_order"] == {"by": "test_gain", "arm": "plain_prompt", "baseline": "real"}
    gains = class_table(tmp_path)[["test_gain", "kept.gain"]]
    assert list(gains.itertuples(name=None)) == [(ODD, 1.0, 1.0), ("crane", -0.5, -0.5)]
    assert set(summary["answer"]["effect"]) >= {"verdict", "gaining", "losing"}
    assert "gain_by_class" not in summary["answer"]["effect"]


def test_an_answer_near_chance_is_called_that_on_the_page(tmp_path: Path) -> None:
    text = answered(tmp_path, [[0, 0, 0, 0], [0, 1, 0, 0]])
    assert "That is not clearly better than always answering the most frequent class (50.0 %)." in text
    assert text.count("Two folds are too few") == 1
    assert f"these are recognised least: {ODD}" in text


def test_where_every_photo_was_recognised_the_page_says_what_to_photograph_next(tmp_path: Path) -> None:
    text = answered(tmp_path, [[0, 1, 0, 1], [0, 1, 0, 1]])
    assert "Every test photo was recognised. Photograph next whatever will look different in use" in text
    assert "67.6\u2013100.0" in text  # Wilson's of 8 of 8
    assert "not clearly better" not in text
    assert "recognised least" not in text


def test_an_accuracy_that_is_not_that_of_its_arm_says_why(tmp_path: Path) -> None:
    kept = {"arm": "real", "model": "small", "made": True, "optimistic": False, "chosen_by": "other_folds"}
    kept |= {"accuracy": {"mean": 0.5, "ci95": [0.2, 0.8], "n": 5}, "chance": 0.2, "near_chance": False}
    numbers: dict[str, Any] = {"classes": {}, "photograph_next": [], "all_right": False, "effect": None}
    of_arm = {"kept": kept | {"arm_accuracy": 0.75}, **numbers}
    assert "It is not the 75.0 % of this arm, as the same photos chose the arm there. For each fold" in (
        Page(empty(tmp_path, answer=AnswerSection(of_arm))[1]).text
    )
    of_arm["kept"]["arm_accuracy"] = 0.5
    assert "It is not the" not in Page(empty(tmp_path, answer=AnswerSection(of_arm))[1]).text


@pytest.mark.parametrize("chosen_by", ["other_folds", "other_half", "validation"])
def test_sentences_about_the_kept_classifier_are_apart(tmp_path: Path, chosen_by: str) -> None:
    kept = {"arm": "real", "model": "small", "made": True, "optimistic": False, "chosen_by": chosen_by}
    kept |= {"accuracy": {"mean": 0.5, "ci95": [0.2, 0.8], "n": 5}, "chance": 0.2, "near_chance": False}
    numbers = {"kept": kept | {"arm_accuracy": 0.5}, "classes": {}, "photograph_next": [], "all_right": False}
    section = AnswerSection({**numbers, "effect": None}, calibration_error=0.15)
    text = Page(empty(tmp_path, answer=section)[1]).text
    assert ". Its probabilities are wrong by 15.0 %" in text.replace("\u202f", " ").replace("\xa0", " ")


def test_the_page_has_the_name_of_the_run_and_says_the_answer_before_its_words(tmp_path: Path) -> None:
    _, page = empty(tmp_path)
    assert "<title>try \u2013 dct-augment</title>" in page
    assert "<h1>try</h1>" in page
    text = answered(tmp_path, [[0, 1, 0, 1], [0, 1, 0, 1]])
    assert (
        text.index("right answers on new photos")
        < text.index("A class token is a word")
        < text.index("Each trial trains")
    )


def test_commands_on_the_page_have_the_configuration_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: try")
    _, page = empty(tmp_path)
    given = f"--config {tmp_path}/config.yaml --output {tmp_path}"
    assert f"<code>dct-augment train {given}</code>" in page
    assert f"<code>dct-augment benchmark --full {given}</code>" in page
