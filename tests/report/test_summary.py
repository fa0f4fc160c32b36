"""Certificates, metrics and filter in the report, what a run finds on disk, and the size of a large page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dct_augment.generation.shards import shard_folders
from dct_augment.pipeline.run import Run
from dct_augment.records import ImageKind, StopReason
from dct_augment.report.answer import in_words
from tests.report.pages import (
    NO_TRIALS,
    ODD,
    Page,
    Shards,
    class_table,
    fill,
    make,
    make_shards,
    make_tokens,
    recognised_on,
    settings,
)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return make_shards(tmp_path)


@pytest.fixture
def tokens(tmp_path: Path) -> pd.DataFrame:
    return make_tokens(tmp_path)


def certified(tokens: pd.DataFrame) -> pd.DataFrame:
    """The tokens with certificates: the first is certified, the second has no gain and no judge."""
    return tokens.assign(
        verdict=["certified", "no_gain"],
        gain=[0.5, 0.0],
        gain_low=[0.25, -0.1],
        gain_high=[0.75, 0.1],
        gain_level=0.9833,
        judge_gain=[0.4, np.nan],
        judge_gain_low=[0.2, np.nan],
        judge_gain_high=[0.6, np.nan],
        diversity=[30.0, 45.0],
        plain_diversity=[40.0, 45.0],
    )


def test_report_counts_certificates_and_classes_that_use_the_plain_prompt(tmp_path: Path, tokens: pd.DataFrame) -> None:
    shards = shard_folders(tmp_path, "try")
    fill(shards, ImageKind.CLASS_TOKEN, recognised_on({"crane": 4, "odd": 2}, {"crane": 4, "odd": 4}), without=("odd",))
    summary, text = make(tmp_path, shards, certified(tokens), NO_TRIALS)
    assert summary["certificates"] == {
        "counts": {"certified": 1, "no_gain": 1, "collapsed": 0, "worse": 0},
        "without": 0,
        "tokens": 2,
        "untrained": {},
        "fallback": {"count": 1, "names": [ODD]},
        "fallback_images": 4,
    }
    table = class_table(tmp_path)
    columns = ("verdict", "gain.mean", "gain.low", "gain.high", "gain.level", "diversity_kept")
    crane = [table.loc["crane", f"token.{column}"] for column in columns]
    assert crane == ["certified", 0.5, 0.25, 0.75, 0.9833, 0.75]
    assert table.loc[ODD, [f"token.judge_gain.{end}" for end in ("mean", "low", "high")]].isna().all()
    assert table.loc[ODD, "token.judge_gain.level"] == 0.9833
    words = Page(text).text
    assert "1 certified , 1 no gain" in words
    assert "1 of 2" in words
    assert f"1 class uses the plain prompt instead of a token, for 4 images: {ODD}." in words
    assert "+50.0 +25.0 to +75.0" in words
    assert words.count("token not used") == 2  # at its images and in the table of gains


def without(tokens: pd.DataFrame, *reasons: str | None) -> pd.DataFrame:
    """The tokens, but those of the classes with a reason were not trained."""
    usable = [reason is None for reason in reasons]
    stopped = [reason or "target reached" for reason in reasons]
    return tokens.assign(usable=usable, stop_reason=stopped)


def test_classes_without_a_token_are_counted_by_reason_and_not_called_imported(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    some = without(certified(tokens), None, StopReason.PLAIN_IS_ENOUGH)
    summary, text = make(tmp_path, shards, some, NO_TRIALS)
    assert summary["certificates"]["untrained"] == {"plain prompt is enough": {"count": 1, "names": [ODD]}}
    assert (summary["certificates"]["tokens"], summary["certificates"]["counts"]["no_gain"]) == (1, 0)
    assert summary["no_token"] is None
    assert f"No token for {ODD} (plain prompt is enough)." in Page(text).text
    assert "imported" not in Page(text).text
    assert in_words(summary) == []


@pytest.mark.parametrize(
    ("reasons", "sentence"),
    [
        (
            (StopReason.REFUSED, StopReason.REFUSED),
            "No class token could be trained, so this run's images are of plain prompts: crane, "
            f"{ODD} (the few-shot guide is no better than chance for this class).",
        ),
        (
            (StopReason.PLAIN_IS_ENOUGH, StopReason.PLAIN_IS_ENOUGH),
            "No class token was trained, as the plain prompt is enough for every class.",
        ),
    ],
)
def test_a_run_without_any_token_says_why_in_a_sentence(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame, reasons: tuple[str, str], sentence: str
) -> None:
    summary, text = make(tmp_path, shards, without(tokens, *reasons), NO_TRIALS)
    assert summary["no_token"] == sentence
    assert in_words(summary) == [sentence]
    assert Page(text).text.count(sentence) == 1
    assert "imported" not in Page(text).text


def test_page_says_that_imported_tokens_have_no_certificate(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS)
    assert summary["certificates"]["without"] == 2
    assert "These tokens have no certificate" in Page(text).text
    assert "Certified class tokens" not in text


def measured() -> pd.DataFrame:
    rows = [
        ("class_token", "fid", 81.26, 70.0, 90.5, "few images"),
        ("plain_prompt", "fid", 120.0, 110.0, 130.0, "few images"),
        ("class_token", "judge_top1", 0.9, 0.85, 0.95, ""),
        ("class_token", "diversity", 0.5, np.nan, np.nan, ""),
    ]
    table = pd.DataFrame(rows, columns=["kind", "metric", "value", "low", "high", "warning"])
    return table.assign(n_real=40, n_synthetic=60, features="pocket/birds-judge")


def test_report_compares_metrics_with_intervals_and_warnings(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS, metrics=measured())
    metrics = summary["metrics"]
    assert list(metrics["values"]) == ["judge_top1", "fid", "diversity"]
    assert metrics["values"]["fid"]["class_token"] == {
        "value": 81.26,
        "ci95": [70.0, 90.5],
        "n_real": 40,
        "n_synthetic": 60,
        "warning": "few images",
    }
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


def test_report_counts_rejected_images_by_class_and_reason(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    rows = shards[ImageKind.CLASS_TOKEN].rows().sort_values("key")
    filtered = rows[["key", "class_name"]].assign(accepted=rows["number"] > 1, reason="")
    filtered.loc[rows["number"] == 0, "reason"] = "another class"
    other = pd.DataFrame([{"key": "pocket-bat-000000", "class_name": "bat", "accepted": True, "reason": ""}])
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS, filtered=pd.concat([filtered, other]))
    counts = summary["filter"]
    assert (counts["accepted"], counts["rejected"]) == (4, 4)
    assert counts["reasons"] == {"another class": 2, "no reason given": 2}
    assert class_table(tmp_path).loc["crane", ["filter.accepted", "filter.rejected"]].tolist() == [2, 2]
    assert "4 images accepted, 4 rejected" in Page(text).text
    assert "crane 2 2 1 \u00d7 another class, 1 \u00d7 no reason given" in Page(text).text


def test_page_names_the_command_for_parts_that_were_not_measured(
    tmp_path: Path, shards: Shards, tokens: pd.DataFrame
) -> None:
    summary, text = make(tmp_path, shards, tokens, NO_TRIALS)
    words = Page(text).text
    assert "The metrics of these images have not been measured yet. dct-augment benchmark --full measures them" in words
    assert "No image has been filtered yet. dct-augment benchmark --full filters them" in words
    assert summary["metrics"]["values"] == {}
    assert (summary["filter"]["accepted"], summary["filter"]["rejected"]) == (0, 0)


def test_report_of_a_run_reads_the_table_of_metrics(tmp_path: Path) -> None:
    config = settings(output=tmp_path / "run", dataset={"name": "pocket", "classes": ["crane"]})
    folder = tmp_path / "run" / "benchmark"
    folder.mkdir(parents=True)
    measured().to_parquet(folder / "metrics.parquet")
    page = Run(config).report()
    summary = json.loads((page.parent / "summary.json").read_text())
    assert summary["metrics"]["values"]["fid"]["class_token"]["value"] == 81.26
