"""What guide and judge recognise: gains, confusion, and classes of one name, against counts by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dct_augment.generation.shards import shard_folders
from dct_augment.metrics import accuracy
from dct_augment.records import ClassInfo, GeneratedImage, ImageKind, PlanRow
from dct_augment.report import confusion_matrices
from tests.report.pages import CLASSES, NO_TRIALS, ODD, Page, Shards, fill, make, make_shards, recognised_on


def summarize(root: Path, shards: Shards, **changes: Any) -> Any:
    return make(root, shards, pd.DataFrame(), NO_TRIALS, **changes)


def test_gains_are_paired_by_noise_and_sorted(tmp_path: Path) -> None:
    summary, text = summarize(tmp_path, make_shards(tmp_path))
    # Judge, crane: 1 right in both kinds, 3 more with the token. Odd: image 3 failed; of the others 2 right in both.
    assert summary["gains"]["of"]["crane"]["judge"]["mean"] == 0.75
    # Newcombe: 2 of 3 is 0.667 (0.208, 0.938) by Wilson, the correlation (2 - 1.5) / 2; sqrt(0.211 - 0.062 + 0.074).
    assert summary["gains"]["of"][ODD]["judge"] == {"mean": 0.0, "ci95": [-0.4714, 0.4714], "n": 3}
    assert summary["gains"]["judge"] == ["crane", ODD]
    assert summary["gains"]["of"]["crane"]["guide"]["mean"] == 1.0
    text = Page(text).text
    table = text[text.index("Share of images taken for their class") :]
    assert table.index("+75.0") < table.index("+0.0")


def test_gains_are_sorted_from_the_largest_whatever_the_order_of_classes(tmp_path: Path) -> None:
    shards = shard_folders(tmp_path, "try")
    fill(shards, ImageKind.PLAIN_PROMPT, recognised_on({"crane": 3, "odd": 0}, {"crane": 4, "odd": 0}))
    fill(shards, ImageKind.CLASS_TOKEN, recognised_on({"crane": 1, "odd": 4}, {"crane": 4, "odd": 0}))
    summary, _ = summarize(tmp_path, shards)
    assert summary["gains"]["judge"] == [ODD, "crane"]
    assert summary["gains"]["of"]["crane"]["judge"]["mean"] == -0.5
    assert summary["gains"]["guide"] == ["crane", ODD]  # equal: in the order of the classes


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
    assert confusion["class_token"]["counts"] == {"crane": {ODD: 2, "crane": 1}, ODD: {ODD: 4}}
    assert confusion["class_token"]["elsewhere"] == {"crane": 1, ODD: 0}
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
    assert summary["confusion"]["plain_prompt"]["elsewhere"] == {"crane": 4, ODD: 4}
    assert "the guide's label" in Page(text).text


def test_report_keeps_two_classes_of_one_name_apart(tmp_path: Path) -> None:
    classes = (ClassInfo(0, "crane", "crane", True, "n1"), ClassInfo(1, "crane", "crane-2", True, "n2"))
    shards = shard_folders(tmp_path, "try")
    right = {"crane": 4, "crane-2": 1}
    for kind in ImageKind:
        fill(shards, kind, recognised_on(right, right), classes)
    summary, text = summarize(tmp_path, shards, classes=classes)
    assert list(summary["classes"]) == ["crane (n1)", "crane (n2)"]
    assert summary["classes"]["crane (n1)"]["plain_prompt"]["judge_accuracy"] == 1.0
    assert summary["classes"]["crane (n2)"]["plain_prompt"]["judge_accuracy"] == 0.25
    assert summary["confusion"]["plain_prompt"]["counts"]["crane (n2)"] == {"crane (n2)": 1}
    alts = [attributes["alt"] for tag, attributes in Page(text).tags if tag == "img"]
    assert len(alts) == 4
    assert len(set(alts)) == 4


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
    assert matrix.grid is not None
    for truth, cells in matrix.grid.items():
        assert sum(cell.count for cell in cells) == confusion["images"][truth]
        assert sum(cell.share for cell in cells) == pytest.approx(1.0 if confusion["images"][truth] else 0.0)


def decoded(matrix: confusion_matrices.Matrix) -> np.ndarray[Any, Any]:
    import base64
    import io

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(matrix.uri.partition(",")[2]))).convert("RGBA"), int)


def test_confusion_matrix_of_many_classes_is_an_image_of_a_pixel_each() -> None:
    names = [f"class {index}" for index in range(50)]
    pairs = [(name, name) for name in names] + [("class 3", "class 40")]
    confusion = accuracy.confusion_counts(pairs, names)
    assert confusion is not None
    matrix = confusion_matrices.render(confusion)
    assert matrix.grid is None
    assert matrix.side == 50
    pixels = decoded(matrix)
    visible = pixels[..., 3] > 0
    expected = np.eye(50, dtype=bool)
    expected[3, 40] = True
    assert (visible == expected).all()
    assert pixels[7, 7, 3] == 255
    assert pixels[7, 7, 2] > pixels[7, 7, 0]  # right is blue
    assert pixels[3, 40, 0] > pixels[3, 40, 2]  # wrong is orange
    assert 150 < pixels[3, 40, 3] < 255  # half of the class: root 0.5


def test_confusion_matrix_of_more_classes_than_pixels_loses_no_mistake() -> None:
    names = [str(index) for index in range(700)]
    confusion = accuracy.confusion_counts([("699", "0"), *((name, name) for name in names)], names)
    assert confusion is not None
    matrix = confusion_matrices.render(confusion)
    assert matrix.side == 234
    assert len(matrix.uri) < 20_000
    pixels = decoded(matrix)
    assert pixels[233, 0, 3] > 0
    assert (pixels[range(233), range(233), 3] == 255).all()
