import re
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dct_augment.prompts import (
    TOKEN_PATTERN,
    build,
    choose,
    normalize_label,
    normalize_labels,
    slugs,
    token_name,
    words,
)

TEMPLATE = "a photo of a {token} {class}{context}"
FIELDS = st.sampled_from(["{token}", "{class}", "{context}", "{class"])
NAMES = st.lists(st.text(alphabet=st.characters(codec="utf-8")) | FIELDS, max_size=3).map("".join)


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
def test_names_and_contexts_stay_as_they_are(name: str, context: str) -> None:
    prompt = build("{token} {class}.{context}", name, token="<dct-x>", context=context)
    assert prompt == " ".join(f"<dct-x> {name}. {context}".split())


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
        ("12_angry_men", "12 angry men"),
        ("7_up", "7 up"),
        ("1_euro", "1 euro"),
        ("00_agent", "agent"),
        ("  Çà  bird ", "çà bird"),
        ("_", "_"),
        ("1._", "1._"),
    ],
)
def test_a_class_name_becomes_words(original_name: str, expected: str) -> None:
    assert words([original_name]) == (expected,)


@pytest.mark.parametrize(
    ("original_names", "expected"),
    [
        (["001.Black_footed_Albatross", "150.Sage_Thrasher"], ["black footed albatross", "sage thrasher"]),
        (["120.Fox_Sparrow", "150.Sage_Thrasher"], ["fox sparrow", "sage thrasher"]),
        (["0_cat", "1_dog", "2_cow"], ["cat", "dog", "cow"]),
        (["1-cat", "3 cow", "2_dog"], ["cat", "cow", "dog"]),
        (["10_x_ray", "09_y_ray"], ["x ray", "y ray"]),
        (["00000_Animalia_Aves", "00001_Plantae"], ["animalia aves", "plantae"]),
        (["background", "001.Crane", "002.7_up"], ["background", "crane", "7 up"]),
    ],
)
def test_numbers_that_count_the_classes_are_no_words(original_names: list[str], expected: list[str]) -> None:
    assert list(words(original_names)) == expected


@pytest.mark.parametrize(
    ("original_names", "expected"),
    [
        (["1_euro", "2_euro"], ["1 euro", "2 euro"]),  # alike without it
        (["1.Euro", "2.euro"], ["1 euro", "2 euro"]),
        (["001.SeaGull", "002.sea-gull"], ["001 sea gull", "002 sea-gull"]),
        (["7_up", "cola", "18_wheeler"], ["7 up", "cola", "18 wheeler"]),  # not every class has one
        (["7_up", "18_wheeler"], ["7 up", "18 wheeler"]),  # they do not run
        (["1_cat", "1_dog"], ["1 cat", "1 dog"]),  # one number twice
        (["01.cat", "01.dog"], ["01 cat", "01 dog"]),
        (["1_cat", "2_dog", "4_cow"], ["1 cat", "2 dog", "4 cow"]),  # with a gap
        (["background", "1_cat", "2_dog"], ["background", "1 cat", "2 dog"]),
        (["crane", "01.crane", "02.gull"], ["crane", "01 crane", "02 gull"]),
        (["1", "2_dog"], ["1", "2 dog"]),
        (["1.5_liter", "2.5_liter"], ["1.5 liter", "2.5 liter"]),
        (["0", "1", "10"], ["0", "1", "10"]),
    ],
)
def test_numbers_that_belong_to_names_stay(original_names: list[str], expected: list[str]) -> None:
    assert list(words(original_names)) == expected


@given(st.lists(st.sampled_from(["1_euro", "2_euro", "3_cat", "01.cat", "02.Cat", "7_up", "up", "4 cat"]), max_size=6))
def test_numbers_never_go_where_names_become_alike(original_names: list[str]) -> None:
    distinct = list(dict.fromkeys(original_names))
    with_numbers = [normalize_label(name) for name in distinct]
    assert len(set(words(distinct))) == len(set(with_numbers))


@given(st.lists(st.from_regex(r"[0-9]{1,3}[._ -]?[a-zA-Z_ -]{0,4}", fullmatch=True), max_size=5))
def test_words_of_words_are_the_same(original_names: list[str]) -> None:
    """As in shards of ours, which carry the words as the names of the classes."""
    once = words(original_names)
    if not any(re.match(r"\d+[._ -]+", name) for name in once):
        assert words(once) == once


@given(st.lists(st.text(min_size=1)))
def test_any_name_becomes_some_words(original_names: list[str]) -> None:
    assert all(words(original_names))


def test_labels_are_compared_with_the_numbers_that_belong_to_them() -> None:
    assert normalize_labels(["7_up", "Up", "18-Wheeler"]) == ("7 up", "up", "18 wheeler")
    assert normalize_labels(["001.Crane", "002.7_up"]) == ("crane", "7 up")
