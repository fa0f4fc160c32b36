import re
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dct_augment.prompts import TOKEN_PATTERN, build, choose, slugs, token_name, words

TEMPLATE = "a photo of a {token} {class}{context}"
NAMES = st.text(alphabet=st.characters(blacklist_characters="{}", codec="utf-8"))


@given(st.lists(st.text() | st.sampled_from(["a/b", "a b", "A\\B", "..", "a-2", "ä", "日本"])))
@example(["", "", "/", "日本", "class", "class-2"])
@example(["a", "a", "a-2", "a"])
@example(["x" * 200, "x" * 201])
def test_slugs_are_unique_and_safe_for_any_file_system(names: list[str]) -> None:
    unique = slugs(names)
    assert len(set(unique)) == len(unique) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) and len(slug) <= 64 for slug in unique)


@given(st.lists(st.text(), max_size=8))
def test_slugs_do_not_depend_on_later_names(names: list[str]) -> None:
    assert slugs(names[:4]) == slugs(names)[:4]


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Song Sparrow", "song-sparrow"), ("São Tomé", "sao-tome"), ("a/../b", "a-b"), ("  x  ", "x"), ("日本", "class")],
)
def test_slugs_read_like_their_names(name: str, slug: str) -> None:
    assert slugs([name]) == (slug,)


@given(st.text(), st.text())
def test_a_token_name_is_one_word_of_the_known_form(dataset: str, name: str) -> None:
    assert TOKEN_PATTERN.fullmatch(token_name(dataset, slugs([name])[0]))


def test_a_prompt_with_a_token() -> None:
    assert build(TEMPLATE, "crane", token="<dct-x>", context="at sea") == "a photo of a <dct-x> crane at sea"


def test_a_plain_prompt_has_no_gap_where_the_token_was() -> None:
    assert build(TEMPLATE, "crane", token=None) == "a photo of a crane"


@given(NAMES, NAMES, st.sampled_from([TEMPLATE, "{class} {token}", "{token}{class} {context} .", " {token}  {class}"]))
def test_prompts_have_no_double_or_outer_spaces(name: str, context: str, template: str) -> None:
    for token in (None, "<dct-x>"):
        prompt = build(template, name, token=token, context=context)
        assert prompt == " ".join(prompt.split())


@given(NAMES, NAMES)
def test_token_and_plain_prompt_differ_by_the_token_alone(name: str, context: str) -> None:
    named, plain = (build(TEMPLATE, name, token=token, context=context) for token in ("<dct-x>", None))
    assert named.split() == [*plain.split()[:4], "<dct-x>", *plain.split()[4:]]


@given(
    st.lists(st.text(), min_size=1, max_size=4, unique=True),
    st.lists(st.text(), min_size=1, max_size=4, unique=True),
    st.integers(0, 60),
)
def test_every_pair_of_template_and_context_is_drawn_equally_often(
    templates: list[str], contexts: list[str], count: int
) -> None:
    counts = Counter(choose(templates, contexts, number) for number in range(count))
    pairs = [counts[template, context] for template in templates for context in contexts]
    assert max(pairs) - min(pairs) <= 1
    assert sum(pairs) == count


@pytest.mark.parametrize(
    ("original_name", "expected"),
    [
        ("001.Black_footed_Albatross", "black footed albatross"),
        ("sea_gull", "sea gull"),
        ("SeaGull", "sea gull"),
        ("IBM", "ibm"),
        ("747", "747"),
        ("12_angry_men", "angry men"),
        ("  Çà  bird ", "çà bird"),
        ("_", "_"),
    ],
)
def test_class_names_become_words(original_name: str, expected: str) -> None:
    assert words(original_name) == expected


@given(st.text(min_size=1))
def test_any_name_becomes_some_words(original_name: str) -> None:
    assert words(original_name)
