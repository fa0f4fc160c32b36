"""The report: its numbers against hand-computed ones, and its page against what a browser may meet."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import (
    CLASSES,
    COLORS,
    NO_TRIALS,
    ODD,
    Page,
    drawing,
    empty,
    fill,
    make,
    make_shards,
    make_tokens,
    settings,
    strip_images,
    trial_table,
)
from PIL import Image

from dct_augment import strips
from dct_augment.pipeline import Run
from dct_augment.records import ClassInfo, PlanRow, Sample
from dct_augment.shards import PLAIN, TRAIN, ShardFolder


@pytest.fixture
def shards(tmp_path: Path) -> ShardFolder:
    return make_shards(tmp_path)


@pytest.fixture
def tokens(tmp_path: Path) -> pd.DataFrame:
    return make_tokens(tmp_path)


def test_accuracy_is_the_mean_over_classes_of_what_the_judge_got_right(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    summary, _ = make(tmp_path, shards, tokens, NO_TRIALS)
    judge = summary["judge_accuracy"]
    # Plain: 1/4 and 2/4. Token: 4/4 and 2/3, as one image failed. Wilson's interval of 3/8 by hand.
    assert judge["plain_prompt"] == {"mean": 0.375, "ci95": [0.1368, 0.6943], "n": 8, "classes": 2}
    assert judge["class_token"]["mean"] == 0.8333
    assert judge["class_token"]["n"] == 7
    # Gaps 3/4 and 1/6; standard error half their distance; t(1) = 12.7062.
    assert judge["difference"] == {"mean": 0.4583, "ci95": [-3.2476, 4.1643], "n": 2}
    assert "Wilson" in judge["method"]
    assert summary["guide_accuracy"]["plain_prompt"]["mean"] == 0.5
    assert summary["guide_accuracy"]["class_token"]["mean"] == 1.0


def test_homonyms_are_counted_apart_only_if_there_are_any(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS)
    assert summary["judge_accuracy_homonyms"]["plain_prompt"]["mean"] == 0.25
    assert summary["judge_accuracy_homonyms"]["class_token"]["mean"] == 1.0
    assert summary["judge_accuracy_homonyms"]["difference"]["ci95"] == [None, None]
    assert "Homonyms alone" in page
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS, classes=CLASSES[1:])
    assert "judge_accuracy_homonyms" not in summary
    assert "Homonyms alone" not in page
    assert summary["judge_accuracy"]["plain_prompt"]["n"] == 4  # other classes' images do not count


def test_each_class_has_its_numbers_and_failed_images_are_counted_apart(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    summary, page = make(tmp_path, shards, tokens, NO_TRIALS)
    crane, odd = summary["classes"]["crane"], summary["classes"][ODD]
    assert crane["homonym"] is True
    assert odd["homonym"] is False
    assert (crane["plain_prompt"]["judge_accuracy"], crane["plain_prompt"]["guide_accuracy"]) == (0.25, 0.0)
    assert (odd["class_token"]["n"], odd["class_token"]["failed"]) == (3, 1)
    assert odd["class_token"]["judge_accuracy"] == 0.6667
    low, high = odd["class_token"]["ci95"]
    assert 0 < low < 0.6667 < high < 1
    assert crane["token"]["updates"] == 3
    assert crane["token"]["stop_reason"] == "target reached"
    assert crane["token"]["norm"] is None  # NaN is not JSON
    assert summary["images"]["class_token"] == {"n": 7, "failed": 1, "fallback": 0}
    assert "3 + 1 failed" in page


def test_benchmark_pairs_arms_on_the_seeds_they_share(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    summary, page = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    bench = summary["benchmark"]
    assert (bench["shots"], bench["steps"], bench["seeds"], bench["seconds"]) == (5, 200, [0, 1, 2], 12.0)
    assert list(bench["arms"]) == ["real+strong_aug", "class_token", "plain_prompt"]
    assert bench["arms"]["class_token"]["mean"] == 0.7333
    # Gaps 0.1, 0.1, 0.2: standard error 1/30, t(2) = 4.3027. Gaps 0.1, 0.2: standard error 0.05, t(1) = 12.7062.
    # All signs agree: 2 of the 2^n equally likely outcomes are as extreme, so both exact tests give the least they can.
    assert bench["paired"]["class_token-real+strong_aug"] == {
        "arm": "class_token", "baseline": "real+strong_aug", "mean": 0.1333, "ci95": [-0.0101, 0.2768], "n": 3,
        "sign_p": 0.25, "permutation_p": 0.25, "smallest_p": 0.25,
    }  # fmt: skip
    assert bench["paired"]["class_token-plain_prompt"] == {
        "arm": "class_token", "baseline": "plain_prompt", "mean": 0.15, "ci95": [-0.4853, 0.7853], "n": 2,
        "sign_p": 0.5, "permutation_p": 0.5, "smallest_p": 0.5,
    }  # fmt: skip
    assert bench["paired"]["real+strong_aug-real"] == {
        "arm": "real+strong_aug", "baseline": "real", "mean": None, "ci95": [None, None], "n": 0,
        "sign_p": None, "permutation_p": None, "smallest_p": None,
    }  # fmt: skip
    text = Page(page).text
    assert "+13.3 points" in text
    assert "no clear difference" in text
    assert "There are no benchmark trials" not in text


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "better."), (-0.1, "worse.")])
def test_a_clear_difference_is_said_in_words(
    gain: float, verdict: str, tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    table = pd.DataFrame([
        {"arm": arm, "shots": 5, "seed": seed, "steps": 9, "accuracy": 0.5 + more + seed / 1000, "seconds": 1.0}
        for seed in range(5)
        for arm, more in (("real+strong_aug", 0.0), ("class_token", gain + seed / 100))
    ])  # fmt: skip
    _, page = make(tmp_path, shards, tokens, table)
    assert verdict in Page(page).text


def test_one_seed_gives_no_interval_and_no_invalid_json(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    table = trial_table(tmp_path / "trials.parquet")
    summary, page = make(tmp_path, shards, tokens, table[table["seed"] == 0])
    assert summary["benchmark"]["arms"]["class_token"] == {"mean": 0.6, "ci95": [None, None], "n": 1}
    assert "too few for an interval" in page
    assert not re.search(r"\b(inf|nan)\b", Page(page).text, flags=re.IGNORECASE)


def test_strips_show_pairs_in_order_and_leave_a_place_for_what_failed(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    page = Page(make(tmp_path, shards, tokens, NO_TRIALS)[1])
    images = strip_images(page)
    assert len(images) == 4
    centers = [[image.getpixel((place * 20 + 4, 8)) for place in range(4)] for image in images]
    whole = [(*color, 255) for color in COLORS]
    assert centers[:3] == [whole, whole, whole]
    assert centers[3][:3] == whole[:3]
    assert centers[3][3] == (0, 0, 0, 0)
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts[0] == "4 images of crane, plain prompt"
    assert alts[3] == f"3 images of {ODD}, class token; 1 absent"


def test_strip_length_is_the_configured_one(tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame) -> None:
    page = Page(make(tmp_path, shards, tokens, NO_TRIALS, config=settings(report={"strip": 2}))[1])
    assert [image.size for image in strip_images(page)] == [(36, 16)] * 4


def test_large_pictures_shrink_until_the_page_is_below_five_megabytes(tmp_path: Path) -> None:
    classes = tuple(ClassInfo(index, f"class {index}", f"class-{index}") for index in range(6))
    generator = np.random.default_rng(0)

    def noise(row: PlanRow) -> Sample:
        return Sample(row, Image.fromarray(generator.integers(0, 256, (128, 128, 3), dtype=np.uint8)))

    folder = ShardFolder(tmp_path / "shards", "try")
    for split in (PLAIN, TRAIN):
        fill(folder, split, noise, classes, per_class=8)
    _, page = make(
        tmp_path, folder, pd.DataFrame(), NO_TRIALS, classes=classes, config=settings(report={"strip": 8})
    )  # fmt: skip
    assert len(page.encode()) < 5_000_000
    assert len(strip_images(Page(page))) == 12


def test_classes_without_room_are_left_out_whole() -> None:
    tiles = [Image.effect_noise((64, 64), 90).convert("RGB")]
    sets = {name: {"plain_prompt": tiles, "class_token": tiles} for name in "abc"}
    everything = strips.fit(sets)
    assert list(everything) == ["a", "b", "c"]
    assert everything["a"]["class_token"].height == 64
    total = sum(len(strip.uri) for kinds in everything.values() for strip in kinds.values())
    smaller = strips.fit(sets, total - 10)
    assert list(smaller) == ["a", "b", "c"]
    assert smaller["a"]["class_token"].height == 48
    smallest = strips.fit(sets, 1)
    assert smallest == {}
    one = sum(len(strip.uri) for strip in strips.fit({"a": sets["a"]}, total // 8)["a"].values())
    assert one <= total // 8
    kept = strips.fit(sets, one + 10)
    assert list(kept) == ["a"]
    assert set(kept["a"]) == {"plain_prompt", "class_token"}


def test_page_loads_nothing_from_outside(tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name in ("src", "srcset", "href", "xlink:href", "data", "poster"):
            if name in attributes:
                value = attributes[name] or ""
                assert value.startswith(("#", "data:image/png;base64,")) or value == "summary.json", (tag, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "http:" not in text
    assert "https:" not in text


def test_names_and_facts_are_escaped(tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    page = Page(text)
    assert "<b onclick" not in text
    assert "&lt;b onclick" in text
    assert ODD in page.text
    assert "1.2 <3>" in page.text
    assert any((attributes.get("aria-label") or "").startswith(f"{ODD}: loss") for _, attributes in page.tags)


def test_ids_are_unique_and_every_reference_has_a_target(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    wanted |= {a["aria-labelledby"] or "" for _, a in page.tags if "aria-labelledby" in a}
    assert wanted
    assert wanted <= set(ids)


def test_charts_are_drawn_in_the_colour_of_the_text(tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame) -> None:
    _, text = make(tmp_path, shards, tokens, trial_table(tmp_path / "trials.parquet"))
    found = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(found) == 5  # arms, paired differences, two classes' training, gains
    for one in found:
        assert 'role="img"' in one
        assert "currentColor" in one
        assert not re.search(r"#(000000|ffffff|010203)\b", one)
        assert "<text" in one
        assert "dc:date" not in one
    assert "<style" not in "".join(found)
    assert "class tokens" in found[0]


def test_same_inputs_give_the_same_bytes(tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame) -> None:
    trials = trial_table(tmp_path / "trials.parquet")
    assert make(tmp_path / "a", shards, tokens, trials) == make(tmp_path / "b", shards, tokens, trials)


def test_an_empty_run_says_which_commands_make_the_missing_parts(tmp_path: Path) -> None:
    summary, page = empty(tmp_path)
    text = Page(page).text
    for command in ("train", "generate", "generate --plain", "benchmark"):
        assert f"dct-augment {command} " in text, command
    assert summary["judge_accuracy"]["class_token"] == {"mean": None, "ci95": [None, None], "n": 0, "classes": 0}
    assert summary["classes"]["crane"]["token"] is None
    assert summary["benchmark"]["arms"] == {}
    assert summary["facts"] == {"torch": "1.2 <3>"}


def test_without_plain_images_the_page_asks_for_them_and_shows_the_others(tmp_path: Path, tokens: pd.DataFrame) -> None:
    folder = ShardFolder(tmp_path / "shards", "try")
    fill(folder, TRAIN, drawing({"crane": 4, "odd": 2}, {"crane": 4, "odd": 4}))
    summary, page = make(tmp_path, folder, tokens, NO_TRIALS)
    text = Page(page).text
    assert "dct-augment generate --plain" in text
    assert "There are no class-token images yet" not in text
    assert summary["judge_accuracy"]["plain_prompt"]["mean"] is None
    assert summary["judge_accuracy"]["class_token"]["mean"] == 0.75
    assert summary["judge_accuracy"]["difference"]["n"] == 0
    assert len(strip_images(Page(page))) == 2


def test_without_a_judge_the_guide_is_shown_and_named_as_such(tmp_path: Path, tokens: pd.DataFrame) -> None:
    folder = ShardFolder(tmp_path / "shards", "try")

    def draw(row: PlanRow) -> Sample:
        picture = Image.new("RGB", (16, 16))
        return Sample(row, picture, guide_label=row.class_name, guide_confidence=0.9)

    fill(folder, TRAIN, draw)
    summary, page = make(tmp_path, folder, tokens, NO_TRIALS, config=settings(judge=None))
    text = Page(page).text
    assert summary["judge"] is None
    assert summary["judge_accuracy"]["class_token"]["n"] == 0
    assert summary["guide_accuracy"]["class_token"]["mean"] == 1.0
    assert "Recognised by the guide" in text
    assert "Recognised by the judge" not in text
    assert "No judge is configured" in text


def test_configuration_and_seeds_are_on_the_page(tmp_path: Path) -> None:
    summary, page = empty(tmp_path, config=settings(generation={"seed": 4711}))
    assert summary["seeds"] == {"tokens": 0, "generation": 4711, "benchmark": 0}
    text = Page(page).text
    assert "seed, generation 4711" in text
    assert "guidance_scale: 7.0" in text


def certified(tokens: pd.DataFrame) -> pd.DataFrame:
    """The tokens with certificates: the first is certified, the second has no gain and no judge."""
    return tokens.assign(
        verdict=["certified", "no_gain"], gain=[0.5, 0.0], gain_low=[0.25, -0.1], gain_high=[0.75, 0.1],
        judge_gain=[0.4, np.nan], judge_gain_low=[0.2, np.nan], judge_gain_high=[0.6, np.nan],
        diversity=[30.0, 45.0], plain_diversity=[40.0, 45.0],
    )  # fmt: skip


def test_certificates_and_classes_drawn_with_the_plain_prompt(tmp_path: Path, tokens: pd.DataFrame) -> None:
    folder = ShardFolder(tmp_path / "shards", "try")
    fill(folder, TRAIN, drawing({"crane": 4, "odd": 2}, {"crane": 4, "odd": 4}), without=("odd",))
    summary, text = make(tmp_path, folder, certified(tokens), NO_TRIALS)
    assert summary["certificates"] == {
        "counts": {"certified": 1, "no_gain": 1, "collapsed": 0, "diverged": 0}, "without": 0, "tokens": 2,
        "fallback": [ODD], "fallback_images": 4,
    }  # fmt: skip
    token = summary["classes"]["crane"]["token"]
    assert (token["verdict"], token["gain"], token["diversity_kept"]) == (
        "certified", {"mean": 0.5, "ci95": [0.25, 0.75]}, 0.75,
    )  # fmt: skip
    assert summary["classes"][ODD]["token"]["judge_gain"] == {"mean": None, "ci95": [None, None]}
    assert (token["losses"], token["validations"]) == ([2.0, 1.0, 0.5], [[3, 0.9]])
    words = Page(text).text
    assert "1 certified , 1 no gain" in words
    assert "1 of 2" in words
    assert f"1 class is drawn with the plain prompt instead of a token, 4 images: {ODD}." in words
    assert "+50.0 +25.0 to +75.0" in words
    assert words.count("token not used") == 2  # at its pictures and in the table of gains


def test_tokens_without_certificates_are_said_to_have_none(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS)
    assert summary["certificates"]["without"] == 2
    assert "These tokens have no certificate" in Page(text).text
    assert "Certified class tokens" not in text


def measured() -> pd.DataFrame:
    rows = [
        ("class_token", "fid", 81.26, 70.0, 90.5, "few images"),
        ("plain_prompt", "fid", 120.0, 110.0, 130.0, "few images"),
        ("class_token", "judge_top1", 0.9, 0.85, 0.95, ""), ("class_token", "diversity", 0.5, np.nan, np.nan, ""),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["kind", "metric", "value", "low", "high", "warning"])
    return table.assign(n_real=40, n_synthetic=60, features="pocket/birds-judge")


def test_metrics_are_compared_with_intervals_and_warnings(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS, metrics=measured())
    metrics = summary["metrics"]
    assert list(metrics["values"]) == ["judge_top1", "fid", "diversity"]
    assert metrics["values"]["fid"]["class_token"] == {
        "value": 81.26, "ci95": [70.0, 90.5], "n_real": 40, "n_synthetic": 60, "warning": "few images",
    }  # fmt: skip
    assert metrics["values"]["diversity"]["class_token"]["ci95"] == [None, None]
    assert metrics["warnings"] == [{"text": "few images", "about": [["fid", "class_token"], ["fid", "plain_prompt"]]}]
    words = Page(text).text
    for shown in (
        "81.3 70.0 to 90.5",
        "90.0\u202f% 85.0\u201395.0\u202f%",
        "0.500",
        "Features: pocket/birds-judge.",
        "few images",
    ):
        assert " ".join(shown.split()) in words, shown
    assert "have not been measured" not in words


def test_what_the_filter_rejects_is_counted_by_class_and_reason(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    drawn = shards.rows(TRAIN).sort_values("key")
    filtered = drawn[["key", "class_name"]].assign(accepted=drawn["number"] > 1, reason="")
    filtered.loc[drawn["number"] == 0, "reason"] = "another class"
    other = pd.DataFrame([{"key": "pocket-bat-000000", "class_name": "bat", "accepted": True, "reason": ""}])
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS, filtered=pd.concat([filtered, other]))
    found = summary["filter"]
    assert (found["accepted"], found["rejected"]) == (4, 4)
    assert found["reasons"] == {"another class": 2, "no reason given": 2}
    assert found["classes"]["crane"] == {
        "accepted": 2, "rejected": 2, "reasons": {"another class": 1, "no reason given": 1},
    }  # fmt: skip
    assert "4 images accepted, 4 rejected" in Page(text).text


def test_parts_that_were_not_measured_name_the_command(
    tmp_path: Path, shards: ShardFolder, tokens: pd.DataFrame
) -> None:
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS)
    words = Page(text).text
    assert "The metrics of these images have not been measured yet. dct-augment benchmark --full measures them" in words
    assert "No image has been filtered yet. dct-augment benchmark --full filters them" in words
    assert summary["metrics"]["values"] == {}
    assert summary["filter"]["classes"] == {}


def test_a_run_reads_what_the_benchmark_left(tmp_path: Path) -> None:
    config = settings(output=tmp_path / "run", dataset={"name": "pocket", "classes": ["crane"]})
    folder = tmp_path / "run" / "benchmark"
    folder.mkdir(parents=True)
    measured().to_parquet(folder / "metrics.parquet")
    row = {"key": "pocket-crane-000000", "class_name": "crane", "accepted": False, "reason": "guide unsure"}
    pd.DataFrame([row]).to_parquet(folder / "filter.parquet")
    page = Run(config).report()
    summary = json.loads((page.parent / "summary.json").read_text())
    assert summary["metrics"]["values"]["fid"]["class_token"]["value"] == 81.26
    assert summary["filter"]["reasons"] == {"guide unsure": 1}


def test_two_hundred_classes_stay_below_five_megabytes(tmp_path: Path) -> None:
    classes = tuple(ClassInfo(index, f"a bird called {index}", f"bird-{index}") for index in range(200))
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(8)]

    def draw(row: PlanRow) -> Sample:
        seen = classes[int(generator.integers(200))].name
        return Sample(
            row, pictures[row.number], guide_label=row.class_name, guide_confidence=0.5,
            judge_label=seen, judge_confidence=0.5,
        )  # fmt: skip

    folder = ShardFolder(tmp_path / "shards", "try")
    for split in (PLAIN, TRAIN):
        fill(folder, split, draw, classes, per_class=3, shard_size=300, without=tuple(f"bird-{n}" for n in range(100)))
    truth = np.arange(200).repeat(5)
    trials = pd.DataFrame([
        {"arm": arm, "shots": 5, "seed": seed, "per_class": 50, "steps": 9, "accuracy": 0.5, "seconds": 1.0,
         "truth": truth, "predicted": np.where(generator.random(1000) < 0.5, truth, generator.integers(0, 200, 1000))}
        for arm in ("real+strong_aug", "plain_prompt", "class_token", "textual_inversion", "class_token_few_shot_guide")
        for seed in range(2)
    ])  # fmt: skip
    rows = folder.rows(TRAIN)
    filtered = rows[["key", "class_name"]].assign(accepted=rows["number"] > 0, reason="guide unsure")
    summary, text = make(
        tmp_path, folder, many_tokens(classes, generator), trials, classes=classes, filtered=filtered,
        config=settings(report={"strip": 3}),
    )  # fmt: skip
    assert len(text.encode()) < 5_000_000
    page = Page(text)
    maps = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("class") == "map"]
    assert len(maps) == 7  # two ways to draw, five arms
    assert {attributes["width"] for attributes in maps} == {"200"}
    assert len(summary["classes"]) == 200
    assert sum(tag == "svg" for tag, _ in page.tags) > 20
    assert "a bird called 199" in page.text


def many_tokens(classes: tuple[ClassInfo, ...], generator: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "token": f"<dct-try-{info.slug}>", "class": info.name, "slug": info.slug, "class_index": info.index,
            "usable": True, "stop_reason": "no more progress", "updates": 400, "attempts": 1, "unet_evaluations": 90,
            "effect": 9.5, "plain_guide_accuracy": 0.25, "guide_accuracy": 0.9, "losses": generator.random(400) * 3,
            "validations": json.dumps([{"update": k, "accuracy": k / 400} for k in range(10, 401, 10)]),
            "verdict": "certified", "gain": 0.5, "gain_low": 0.25, "gain_high": 0.75, "judge_gain": 0.5,
            "judge_gain_low": 0.25, "judge_gain_high": 0.75, "diversity": 30.0, "plain_diversity": 40.0,
        }
        for info in classes
    ])  # fmt: skip
