"""Prompts are checked before work begins: what a text encoder would cut, and settings for classes that do not exist."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dct_augment import config, prompts
from dct_augment.config import Config
from dct_augment.diffusion import PromptTokenizer
from dct_augment.errors import InputError
from dct_augment.pipeline import Run
from dct_augment.pipeline.prompt_check import check_class_names, check_lengths, check_words
from dct_augment.records import ClassInfo
from tests import tiny

TOKENIZER = PromptTokenizer(tiny.tokenizer())
CLASSES = (*tiny.CLASSES, ClassInfo(3, "zebrafish", "zebrafish"))


def settings(vectors: int = 1, **of_prompts: Any) -> Config:
    loaded = config.load("pocket", [f"tokens.vectors={vectors}"])
    return config.validate(loaded.model_dump(mode="json") | {"prompts": of_prompts})


def test_prompts_that_fit_pass() -> None:
    check_lengths([TOKENIZER], settings(negative="a " * 22, contexts=["", "on the sand"]), CLASSES)


@pytest.mark.parametrize(
    ("vectors", "of_prompts", "said"),
    [
        (1, {"contexts": ["", "a " * 20 + "red bird"]}, r"22 pieces.*a <dct-crane> crane a a.*would lose '.*red bird'"),
        (1, {"templates": ["a " * 20 + "{token} {class}"]}, r"<dct-red-bird> red bird' would lose 'bird'; 'a a"),
        (20, {}, r"'a photo of a <dct-crane> crane' would lose '<dct-crane> crane'.*tokens.vectors, 20"),
        (1, {"negative": {"kiwi": "a " * 22 + "sand"}}, r"prompts.negative 'a a .* it would lose 'sand'\. Shorten it"),
        (1, {"negative": "a " * 22 + "blurry"}, r"prompts.negative 'a a .* it would lose 'blurry'\. Shorten it"),
        (1, {"contexts": {"kiwi": ["a " * 20 + "water"]}}, r"reads: 'a photo of a <dct-kiwi> kiwi a.*lose 'a a a"),
    ],
)
def test_a_prompt_that_would_be_cut_is_shown_with_what_is_lost(vectors: int, of_prompts: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_lengths([TOKENIZER], settings(vectors, **of_prompts), CLASSES)


def test_the_first_three_are_shown() -> None:
    with pytest.raises(InputError, match=r"; and more\. Shorten") as caught:
        check_lengths([TOKENIZER], settings(contexts=["a " * 30, "a " * 31, "a " * 32, "a " * 33]), CLASSES)
    assert str(caught.value).count("would lose") == 3


@given(
    st.lists(st.sampled_from(["a ", "bird", "xyz ", "water, ", "zebra-"]), max_size=14).map("".join),
    st.lists(st.sampled_from(["sand ", "qq", " the "]), max_size=8).map("".join),
    st.integers(1, 4),
)
def test_whatever_is_lost_is_found_though_only_the_parts_are_measured(before: str, context: str, vectors: int) -> None:
    template = before + "{token} {class}{context}"
    prompt = prompts.build(template, "zebrafish", token="<dct-zebrafish>", context=context)
    lost = TOKENIZER.lost(prompt, vectors)
    given_settings = settings(vectors, templates=[template], contexts=[context])
    if lost:
        with pytest.raises(InputError) as caught:
            check_lengths([TOKENIZER], given_settings, CLASSES[3:])
        assert repr(lost) in str(caught.value)
    else:
        check_lengths([TOKENIZER], given_settings, CLASSES[3:])


def test_settings_for_a_class_that_does_not_exist_are_refused_with_a_hint() -> None:
    for section, setting in (
        (r"prompts={contexts: {cran: [x]}}", "prompts.contexts"),
        ("tokens.init_word={cran: x}", "tokens.init_word"),
        ("prompts.negative={cran: x}", "prompts.negative"),
    ):
        loaded = config.load("pocket", [section])
        with pytest.raises(InputError, match=rf"{setting}: there is no class 'cran' \(did you mean 'crane'\?\)"):
            check_class_names(loaded, CLASSES)
    check_class_names(config.load("pocket", ["tokens.init_word={default: bird, Kiwi: x}"]), CLASSES)


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("prompts.templates=['a <dct-x> {token} {class}{context}']", "prompts.templates"),
        ("prompts.contexts=['', 'beside a <dct-x>']", "prompts.contexts"),
        ("prompts.negative={kiwi: <dct-x>}", "prompts.negative"),
    ],
)
def test_words_that_look_like_a_class_token_are_refused(line: str, setting: str) -> None:
    with pytest.raises(InputError, match=rf"holds <dct-x>, which stands for a class token\. .* in {setting}"):
        check_words(config.load("pocket", [line]), CLASSES)
    check_words(config.load("pocket"), CLASSES)
    classes = [dataclasses.replace(CLASSES[0], name="my <dct-photos-red>")]
    with pytest.raises(InputError, match=r"'my <dct-photos-red>' holds .* in dataset\.words"):
        check_words(config.load("pocket"), classes)


@pytest.mark.parametrize(
    "line", ['contexts=["at \\ud800"]', 'negative="\\udcff"', 'templates=["{token} {class}{context} \\ud800"]']
)
def test_half_a_letter_is_refused(line: str) -> None:
    with pytest.raises(InputError, match=rf"holds half a letter.* Correct prompts\.{line.partition('=')[0]}"):
        check_words(config.load("pocket", [f"prompts.{line}"]), CLASSES)


def test_a_run_with_a_prompt_that_would_be_cut_is_refused_before_it_writes_anything(tmp_path: Path) -> None:
    long = "on a blue background " * 30
    run = Run(config.load("pocket", [f"prompts.contexts=[{long}]"], classes=["crane"], output=tmp_path / "run"))
    for work in (run.train, run.generate, run.generate_plain, run.run_all):
        with pytest.raises(InputError, match="prompts are longer than"):
            work()
    with pytest.raises(InputError, match="prompts are longer than"):
        _ = run.sampler
    assert not (tmp_path / "run").exists()
