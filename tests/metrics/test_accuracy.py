"""What guide and judge recognise: gains, confusion, and classes of one name, against counts by hand."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment.generation.shards import shard_folders
from dct_augment.metrics import accuracy
from dct_augment.records import ClassInfo, GeneratedImage, ImageKind, PlanRow
from dct_augment.report import confusion_matrices
from tests.report.pages import (
    CLASSES,
    NO_TRIALS,
    ODD,
    Page,
    Shards,
    class_table,
    confusion_counts,
    fill,
    make,
    make_shards,
    recognised_on,
)


def summarize(root: Path, shards: Shards, **changes: Any) -> Any:
    return make(root, shards, pd.DataFrame(), NO_TRIALS, **changes)


def test_gains_are_paired_by_noise_and_sorted(tmp_path: Path) -> None:
    summary, text = summarize(tmp_path, make_shards(tmp_path))
    # Judge, crane: 1 right in both kinds, 3 more with the token. Odd: image 3 failed; of the others 2 right in both.
    assert list(summary["gains"]["judge"].items()) == [("crane", 0.75), (ODD, 0.0)]
    # Newcombe: 2 of 3 is 0.667 (0.208, 0.938) by Wilson, the correlation (2 - 1.5) / 2; sqrt(0.211 - 0.062 + 0.074).
    odd = class_table(tmp_path).loc[ODD]
    assert [odd[f"gain.judge.{key}"] for key in ("mean", "low", "high", "n")] == [0.0, -0.4714, 0.4714, 3]
    assert summary["gains"]["guide"]["crane"] == 1.0
    text = Page(text).text
    table = text[text.index("Share of images taken for their class") :]
    assert table.index("+75.0") < table.index("+0.0")


def test_gains_are_sorted_from_the_largest_whatever_the_order_of_classes(tmp_path: Path) -> None:
    shards = shard_folders(tmp_path, "try")
    fill(shards, ImageKind.PLAIN_PROMPT, recognised_on({"crane": 3, "odd": 0}, {"crane": 4, "odd": 0}))
    fill(shards, ImageKind.CLASS_TOKEN, recognised_on({"crane": 1, "odd": 4}, {"crane": 4, "odd": 0}))
    summary, _ = summarize(tmp_path, shards)
    assert list(summary["gains"]["judge"].items()) == [(ODD, 1.0), ("crane", -0.5)]
    assert list(summary["gains"]["guide"]) == ["crane", ODD]  # equal: in the order of the classes


def test_confusion_counts_images_by_the_label_of_the_judge(tmp_path: Path) -> None:
    shards = shard_folders(tmp_path, "try")
    answers = {"crane": ["crane", ODD, ODD, "bat"], "odd": [ODD.upper()] * 4}

    def generate(row: PlanRow) -> GeneratedImage:
        label = answers[row.slug][row.number]
        right = label.lower() == row.class_name.lower()
        return GeneratedImage(row, Image.new("RGB", (8, 8)), judge_label=label, judge_right=right, judge_confidence=0.5)

    fill(shards, ImageKind.CLASS_TOKEN, generate)
    summary, text = summarize(tmp_path, shards)
    confusion = summary["confusion"]
    assert confusion["by"] == "judge"
    assert set(confusion) == {"by", "class_token"}
    counts = {"crane": {ODD: 2, "crane": 1, "": 1}, ODD: {ODD: 4}}
    assert confusion_counts(tmp_path, "generated", "class_token") == counts
    assert (confusion["class_token"]["right"], confusion["class_token"]["n"]) == (5, 8)
    assert confusion["class_token"]["pairs"] == [
        {"truth": "crane", "answer": ODD, "n": 2, "of": 4, "share": 0.5},
        {"truth": "crane", "answer": "bat", "n": 1, "of": 4, "share": 0.25},
    ]
    assert "5 of 8 right" in Page(text).text
    assert '<td class="right" style="--share: 0.25">1</td><td style="--share: 0.50">2</td>' in text


def test_confusion_without_a_judge_counts_the_labels_of_the_guide(tmp_path: Path) -> None:
    shards = shard_folders(tmp_path, "try")
    wrong: dict[str, Any] = {"guide_label": "bat", "guide_right": False, "guide_confidence": 0.5}
    fill(shards, ImageKind.PLAIN_PROMPT, lambda row: GeneratedImage(row, Image.new("RGB", (8, 8)), **wrong))
    summary, text = summarize(tmp_path, shards)
    assert summary["confusion"]["by"] == "guide"
    assert confusion_counts(tmp_path, "generated", "plain_prompt") == {"crane": {"": 4}, ODD: {"": 4}}
    assert "the guide's label" in Page(text).text


def test_report_keeps_two_classes_of_one_name_apart(tmp_path: Path) -> None:
    classes = (ClassInfo(0, "crane", "crane", True, "n1"), ClassInfo(1, "crane", "crane-2", True, "n2"))
    shards = shard_folders(tmp_path, "try")
    right = {"crane": 4, "crane-2": 1}
    for kind in ImageKind:
        fill(shards, kind, recognised_on(right, right), classes)
    _, text = summarize(tmp_path, shards, classes=classes)
    accuracies = class_table(tmp_path)["plain_prompt.judge_accuracy"].to_dict()
    assert accuracies == {"crane (n2)": 0.25, "crane (n1)": 1.0}
    assert confusion_counts(tmp_path, "generated", "plain_prompt")["crane (n2)"]["crane (n2)"] == 1
    alts = [attributes["alt"] for tag, attributes in Page(text).tags if tag == "img"]
    assert len(alts) == 2
    assert len(set(alts)) == 2


def test_class_titles_are_names_where_these_are_unique() -> None:
    assert accuracy.class_titles(CLASSES) == {0: "crane", 1: ODD}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=60))
def test_confusion_counts_every_answer_once(pairs: list[tuple[str, str]]) -> None:
    confusion = accuracy.confusion_counts(pairs, ["a", "b", "c"])
    assert confusion is not None
    inside = sum(count for answers in confusion["counts"].values() for count in answers.values())
    assert inside + sum(confusion["elsewhere"].values()) == confusion["n"] == len(pairs)
    assert confusion["right"] == sum(truth == answer for truth, answer in pairs)
    mistakes = sum(pair["n"] for pair in confusion["pairs"])
    assert mistakes == confusion["n"] - confusion["right"]
    shares = [pair["share"] for pair in confusion["pairs"]]
    assert shares == sorted(shares, reverse=True)
    matrix = confusion_matrices.render(confusion)
    assert matrix is not None
    for truth, cells in matrix.grid.items():
        assert sum(cell.count for cell in cells) == confusion["images"][truth]
        assert sum(cell.share for cell in cells) == pytest.approx(1.0 if confusion["images"][truth] else 0.0)


def test_many_classes_have_no_matrix_and_a_table_of_what_is_confused_most(tmp_path: Path) -> None:
    classes = tuple(
        ClassInfo(index, f"class {index}", f"class-{index}") for index in range(confusion_matrices.READABLE + 1)
    )

    def generate(row: PlanRow) -> GeneratedImage:
        right = row.slug != "class-3"
        label = row.class_name if right else "class 7"
        return GeneratedImage(row, Image.new("RGB", (8, 8)), judge_label=label, judge_right=right, judge_confidence=0.5)

    shards = shard_folders(tmp_path, "try")
    fill(shards, ImageKind.PLAIN_PROMPT, generate, classes, per_class=1, shard_size=30)
    summary, text = summarize(tmp_path, shards, classes=classes)
    assert summary["confusion"]["plain_prompt"]["pairs"] == [
        {"truth": "class 3", "answer": "class 7", "n": 1, "of": 1, "share": 1.0}
    ]
    page = Page(text)
    assert "matrix" not in [attributes.get("class") for tag, attributes in page.tags if tag == "table"]
    assert "class 3 class 7 1 of 1" in page.text
    assert "Of so many classes only the most confused pairs are shown; confusions.csv has all." in page.text
    assert confusion_counts(tmp_path, "generated", "plain_prompt")["class 3"] == {"class 7": 1}
    assert len(confusion_counts(tmp_path, "generated", "plain_prompt")) == len(classes)
