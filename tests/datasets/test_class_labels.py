"""Labels of any layout become class names and class numbers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dct_augment.datasets import class_labels
from dct_augment.datasets.class_labels import LabelColumn
from dct_augment.errors import DatasetError


def column(*values: object, text: bool = False) -> LabelColumn:
    return class_labels.read_column(pa.chunked_array([pa.array(values)]), text=text)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_names_that_end_in_numbers_sort_as_the_numbers_do(numbers: list[int]) -> None:
    names = [f"class {number}" for number in numbers]
    assert class_labels.sort_names(names) == [f"class {number}" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=6)))
def test_any_names_can_be_sorted_in_one_order(names: list[str]) -> None:
    assert class_labels.sort_names(names) == class_labels.sort_names(names[::-1])


@given(st.lists(st.one_of(st.none(), st.integers(-2, 9)), min_size=1))
def test_every_row_keeps_its_label(values: list[int | None]) -> None:
    visible = sorted({value for value in values if value not in (None, -1)})
    if not visible:
        with pytest.raises(DatasetError, match="no training picture has a label"):
            class_labels.number({"train": column(*values)})
        return
    numbered = class_labels.number({"train": column(*values)})
    assert numbered.names == visible
    expected = [visible.index(value) if value in visible else -1 for value in values]
    assert numbered.labels["train"].tolist() == expected


@pytest.mark.parametrize(
    ("stored", "label"),
    [
        (3, 3),
        (np.int64(3), 3),
        (3.0, 3),
        (" crane ", "crane"),
        (b"crane", "crane"),
        ([3], 3),
        (np.array(["crane"]), "crane"),
        (True, "true"),
        (None, None),
        (float("nan"), None),
        ("", None),
        (" None ", None),
        ("nan", None),
        (["<NA>"], None),
        ([], None),
    ],
)
def test_a_stored_label_is_a_number_a_word_or_none(stored: object, label: object) -> None:
    assert class_labels.label_of(stored) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [("3", 3), ("-1", -1), (" 12\n", 12), ("007", "007"), ("1.5", "1.5"), ("crane", "crane"), ("a|b", "a|b")],
)
def test_a_label_in_text_is_a_number_where_it_is_one(text: str, label: object) -> None:
    assert class_labels.label_of_text(text) == label


@pytest.mark.parametrize("text", ["", "  ", "nan", "NaN", "None", "NULL", "N/A", "<NA>"])
def test_a_gap_in_text_is_no_class(text: str) -> None:
    assert class_labels.label_of_text(text) is None


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([1, 2], r"2 labels \(1, 2\); give each picture one: multi-label data cannot be used"),
        (0.5, "0.5 is no class"),
        ({"a": 1}, "is no class"),
    ],
)
def test_what_is_no_single_label_is_refused(stored: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        class_labels.label_of(stored)


def test_a_split_of_hidden_labels_is_left_out_and_single_rows_too() -> None:
    numbered = class_labels.number({"train": column(5, -1, None, 7), "test": column(-1, -1), "val": column(None, None)})
    assert numbered.names == [5, 7]
    assert numbered.labels["train"].tolist() == [0, -1, -1, 1]
    assert numbered.labelled("train").tolist() == [0, 3]
    assert numbered.labels.keys() == {"train"}
    assert numbered.notes == [
        "split train: 2 of 4 pictures are left out because of a label that is hidden (-1) or missing",
        "split test: 2 of 2 labels are hidden (-1); the split is left out",
        "split val: 2 of 2 labels are missing; the split is left out",
    ]


def test_classes_without_a_picture_are_left_out_of_a_given_order() -> None:
    numbered = class_labels.number({"train": column("c", "a")}, ["c", "b", "a"])
    assert numbered.names == ["c", "a"]
    assert numbered.labels["train"].tolist() == [0, 1]
    assert numbered.notes[0].startswith("1 of 3 classes has no picture and is left out ('b')")


def test_numbers_come_before_words() -> None:
    numbered = class_labels.number({"train": column("10", "b", "9", text=True)})
    assert numbered.names == [9, 10, "b"]
    assert numbered.labels["train"].tolist() == [1, 2, 0]
