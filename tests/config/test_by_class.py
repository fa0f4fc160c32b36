"""Settings class by class: files and mappings that can be read, and one message for those that cannot."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dct_augment.config import PromptsConfig, TokensConfig, by_class
from dct_augment.errors import InputError
from dct_augment.records import ClassInfo

CRANE = ClassInfo(0, "crane bird", "crane", original_name="n02012849")
MACHINE = ClassInfo(1, "Crane", "crane-2", original_name="n03126707")
KIWI = ClassInfo(2, "kiwi", "kiwi")
CLASSES = (CRANE, MACHINE, KIWI)

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file and returns its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.yaml", "n02012849: crane, bird\nNo: kiwi\n012: one euro\n"),
        ("w.json", '{"n02012849": "crane, bird", "no": "kiwi", "012": "one euro"}'),
        ("w.csv", 'class,words\nn02012849,"crane, bird"\n\nNo, kiwi \n012,one euro\n'),
        ("w.csv", "\ufeffClass;Words\r\nn02012849;crane, bird\r\nno;kiwi\r\n012;one euro\r\n"),
        ("w.tsv", "class\twords\nn02012849\tcrane, bird\nno\tkiwi\n012\tone euro\n"),
    ],
)
def test_words_come_from_yaml_or_a_table(name: str, text: str, write: Write) -> None:
    found = by_class.read_words(write(name, text), "dataset.words")
    assert found == {"n02012849": "crane, bird", "no": "kiwi", "012": "one euro"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("w.yaml", "", "is empty; fill it"),
        ("w.yaml", " \n", "is empty"),
        ("w.yaml", "crane: a\nkiwi: b\ncrane: c", "'crane' is written twice"),
        ("w.yaml", "crane: a\nCrane: c", "class 'Crane' is named twice"),
        ("w.yaml", "[1]", "must map classes to words"),
        ("w.yaml", "crane: 7", "words of class 'crane' must be text, e.g. `crane: crane bird`, got 7"),
        ("w.yaml", "crane:", "must be text"),
        ("w.yaml", "{", "cannot be read"),
        ("w.csv", "", "is empty"),
        ("w.csv", "crane,a bird\n", "must begin with the line `class,words`, got 'crane,a bird'"),
        ("w.csv", "class,words\ncrane,a, b\n", "'crane,a, b' has 3 columns, not 2; put words"),
        ("w.csv", "class,words\ncrane\n", "'crane' has 1 columns, not 2"),
        ("w.csv", "class,words\ncrane,\n", "words of class 'crane' must be text"),
        ("w.csv", 'class,words\ncrane,"a\n', "cannot be read: line 2"),
        ("w.tsv", "class\twords\nkiwi\ta\nKiwi\tb", "'Kiwi' is named twice"),
    ],
)
def test_a_file_of_words_that_cannot_be_used_is_one_message(name: str, text: str, said: str, write: Write) -> None:
    path = write(name, text)
    with pytest.raises(InputError) as caught:
        by_class.read_words(path, "dataset.words")
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_is_found_by_own_name_slug_or_words_in_this_order() -> None:
    assert by_class.value_of({"kiwi": 1}, KIWI) == 1
    assert by_class.value_of({"crane bird": 1}, CRANE) == 1
    values = {"crane": 1, "n02012849": 2, "crane-2": 3}
    assert [by_class.value_of(values, info) for info in CLASSES] == [2, 3, None]
    assert by_class.value_of({"crane": 1}, MACHINE) == 1


def test_a_class_that_does_not_exist_gets_a_hint() -> None:
    by_class.check_classes(["n02012849", "crane-2", "crane", "kiwi", "crane bird"], CLASSES, "x")
    with pytest.raises(InputError, match=r"tokens.x: there is no class 'kiwy' \(did you mean 'kiwi'\?\), 'zebra'$"):
        by_class.check_classes(["kiwy", "crane", "zebra"], CLASSES, "tokens.x")


@pytest.mark.parametrize(
    ("contexts", "of_classes"),
    [
        (["", "at sea"], [("", "at sea")] * 3),
        ({"crane": ["at sea"]}, [("at sea",), ("at sea",), ("",)]),
        ({"N02012849": ["at sea"], "default": ["x", "y"]}, [("at sea",), ("x", "y"), ("x", "y")]),
        ({"kiwi": ["at sea"], "crane-2": ["", "in a city"]}, [("",), ("", "in a city"), ("at sea",)]),
    ],
)
def test_each_class_has_its_own_contexts_or_those_of_all_others(contexts: Any, of_classes: list[Any]) -> None:
    settings = PromptsConfig(contexts=contexts)
    assert [settings.contexts_of(info) for info in CLASSES] == of_classes
    assert PromptsConfig.model_validate(settings.model_dump(mode="json")) == settings


def test_contexts_come_from_a_file_with_one_a_line(write: Write) -> None:
    path = write("contexts.txt", '""\n at sea \n\non land\n')
    assert PromptsConfig(contexts=str(path)).contexts == ("", "at sea", "on land")
    of_crane = PromptsConfig(contexts={"crane": str(path)})
    assert of_crane.contexts == {"crane": ("", "at sea", "on land")}


def test_contexts_come_from_a_yaml_file(write: Write) -> None:
    lines = write("lines.txt", "at sea\n")
    content = {"default": ["", "x"], "Kiwi": ["on land"], "crane": str(lines)}
    settings = PromptsConfig(contexts=str(write("contexts.yaml", yaml.safe_dump(content))))
    assert [settings.contexts_of(info) for info in CLASSES] == [("at sea",), ("at sea",), ("on land",)]
    assert PromptsConfig(contexts=str(write("list.yml", "['', x]"))).contexts == ("", "x")


@pytest.mark.parametrize(
    ("contexts", "said"),
    [
        ("at sea", "contexts 'at sea' is no file; give a file with one context a line, a list such as ['', at sea]"),
        ([], "is an empty list"),
        ([1], "must be a list of texts"),
        (5, "must be a list of texts"),
        ({}, "names no class"),
        ({"crane": []}, "contexts.crane is an empty list"),
        ({"crane": ["a"], "Crane": ["b"]}, "class 'Crane' is named twice"),
        ({True: ["a"]}, "True is no name of a class; put the name into quotes"),
        ({"crane": {"a": ["b"]}}, "contexts.crane must be a list of texts"),
    ],
)
def test_contexts_of_another_form_are_refused(contexts: Any, said: str) -> None:
    with pytest.raises(ValueError, match="1 validation error") as caught:
        PromptsConfig(contexts=contexts)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.txt", "", "is empty"),
        ("c.yaml", "", "is empty"),
        ("c.yaml", "at sea", "must hold a list of contexts"),
        ("c.yaml", "a: [x]\na: [y]", "'a' is written twice"),
        ("c.yaml", "[", "cannot be read"),
    ],
)
def test_a_file_of_contexts_that_cannot_be_used_is_refused(name: str, text: str, said: str, write: Write) -> None:
    with pytest.raises(ValueError, match="1 validation error") as caught:
        PromptsConfig(contexts=str(write(name, text)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("word", "of_classes"),
    [
        ("a", ["a"] * 3),
        ("{class}", ["crane bird", "Crane", "kiwi"]),
        (yaml.safe_load("{class}"), ["crane bird", "Crane", "kiwi"]),
        ({"n02012849": "bird"}, ["bird", "a", "a"]),
        ({"Crane": "big {class}", "default": "{class}"}, ["big crane bird", "big Crane", "kiwi"]),
    ],
)
def test_each_class_has_its_own_start_word_or_that_of_all_others(word: Any, of_classes: list[str]) -> None:
    settings = TokensConfig(init_word=word)
    assert [settings.start_word(info) for info in CLASSES] == of_classes
    assert TokensConfig.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize("word", ["", " ", 5, None, {}, {"crane": ""}, {"crane": 5}, ["bird"]])
def test_a_start_word_that_is_no_word_is_refused(word: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a word such as 'a' or '\{class\}', or `class: word`"):
        TokensConfig(init_word=word)


@pytest.mark.parametrize(
    ("negative", "of_classes", "all_of_them"),
    [
        ("blurry", ["blurry"] * 3, ("blurry",)),
        ({"Kiwi": "fruit"}, ["", "", "fruit"], ("", "fruit")),
        ({"n02012849": "machine", "default": "blurry"}, ["machine", "blurry", "blurry"], ("blurry", "machine")),
        ({"kiwi": "", "default": "blurry"}, ["blurry", "blurry", ""], ("blurry", "")),
    ],
)
def test_each_class_has_its_own_negative_prompt_or_that_of_all_others(
    negative: Any, of_classes: list[str], all_of_them: tuple[str, ...]
) -> None:
    settings = PromptsConfig(negative=negative)
    assert [settings.negative_of(info) for info in CLASSES] == of_classes
    assert settings.negatives == all_of_them
    assert PromptsConfig.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize("negative", [5, None, ["blurry"], {"kiwi": 5}, {"kiwi": None}])
def test_a_negative_prompt_that_is_no_text_is_refused(negative: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a text such as 'blurry', or `class: text`"):
        PromptsConfig(negative=negative)


def test_a_file_that_is_not_utf_8_says_how_to_save_it(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_bytes("class,words\nkiwi,Vögel\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not written in UTF-8; save it as UTF-8"):
        by_class.read_words(path, "dataset.words")


def test_accents_are_the_same_taken_apart_or_not() -> None:
    composed, apart = "b\u00e4r", "ba\u0308r"
    bear = ClassInfo(0, "bear", "bar", original_name=composed)
    assert by_class.value_of(by_class.folded([(apart, "x")], "words"), bear) == "x"
    assert by_class.value_of(by_class.folded([(composed, "x")], "words"), replace(bear, original_name=apart)) == "x"
