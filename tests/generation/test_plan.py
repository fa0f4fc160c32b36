from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dct_augment.config import PromptsConfig
from dct_augment.generation.plan import Layout, ShardSpec, covered, extend, rows
from dct_augment.prompts import slugs
from dct_augment.records import ClassInfo, ClassToken, ImageKind, PlanRow
from dct_augment.tokens.groups import Groups, extend_groups

CONTEXTS = ("", "at sea", "on land")
PROMPTS = PromptsConfig(contexts=CONTEXTS)
CLASSES = tuple(ClassInfo(index, f"bird {index}", f"bird-{index}") for index in range(5))
TOKENS = {info.slug: ClassToken(f"<dct-x-{info.slug}>", info.slug, f"sha of {info.slug}") for info in CLASSES}

KIND = ImageKind.CLASS_TOKEN

counts = st.integers(1, 5)
sizes = st.integers(1, 9)
steps = st.lists(st.tuples(counts, st.integers(0, 12), sizes), min_size=1, max_size=4)
"""Successive commands: how many of the classes, images per class, shard size."""


def grow(commands: list[tuple[int, int, int]]) -> list[Layout]:
    """The layout after each command."""
    layouts: list[Layout] = [()]
    for classes, per_class, shard_size in commands:
        layouts.append(extend(layouts[-1], CLASSES[:classes], per_class, shard_size))
    return layouts


def members(layout: Layout) -> list[tuple[str, int]]:
    return [(slug, n) for spec in layout for slug, (start, stop) in spec.ranges.items() for n in range(start, stop)]


def planned(
    layout: Layout,
    tokens: dict[str, ClassToken] = TOKENS,
    seed: int = 0,
    kind: ImageKind = ImageKind.CLASS_TOKEN,
) -> dict[str, PlanRow]:
    return {row.key: row for spec in layout for row in rows(spec, kind, CLASSES, PROMPTS, tokens, seed)}


@given(steps)
def test_extending_changes_no_shard_that_is_there(commands: list[tuple[int, int, int]]) -> None:
    layouts = grow(commands)
    for before, after in pairwise(layouts):
        assert after[: len(before)] == before


@given(steps)
def test_every_class_gets_exactly_what_was_asked_for_at_most(commands: list[tuple[int, int, int]]) -> None:
    layout = grow(commands)[-1]
    found = members(layout)
    for index, info in enumerate(CLASSES):
        wanted = max((per_class for classes, per_class, _ in commands if index < classes), default=0)
        assert sorted(n for slug, n in found if slug == info.slug) == list(range(wanted))
        assert covered(layout, info.slug) == wanted


@given(steps)
def test_shards_are_numbered_without_gaps_and_never_empty(commands: list[tuple[int, int, int]]) -> None:
    layout = grow(commands)[-1]
    assert [spec.number for spec in layout] == list(range(len(layout)))
    assert all(len(spec) > 0 for spec in layout)


@given(counts, st.integers(0, 30), sizes)
def test_shards_are_full_but_the_last(classes: int, per_class: int, shard_size: int) -> None:
    lengths = [len(spec) for spec in grow([(classes, per_class, shard_size)])[-1]]
    assert lengths[:-1] == [shard_size] * (len(lengths) - 1)
    assert all(0 < length <= shard_size for length in lengths)


@given(counts, st.integers(0, 30), sizes)
def test_every_shard_holds_a_fair_mix_of_classes(classes: int, per_class: int, shard_size: int) -> None:
    for spec in grow([(classes, per_class, shard_size)])[-1]:
        lengths = [spec.ranges.get(info.slug, (0, 0)) for info in CLASSES[:classes]]
        shares = [stop - start for start, stop in lengths]
        assert max(shares) - min(shares) <= 1


@given(steps)
def test_asking_again_or_for_less_adds_nothing(commands: list[tuple[int, int, int]]) -> None:
    layout = grow(commands)[-1]
    classes, per_class, shard_size = commands[-1]
    assert extend(layout, CLASSES[:classes], per_class, shard_size) == layout
    assert extend(layout, CLASSES[:classes], per_class // 2, shard_size) == layout


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), sizes, sizes)
def test_growing_in_steps_draws_the_same_images_as_at_once(amounts: list[int], size: int, other: int) -> None:
    stepwise = grow([(3, amount, size) for amount in amounts])[-1]
    at_once = grow([(3, max(amounts), other)])[-1]
    assert planned(stepwise) == planned(at_once)


@given(counts, st.integers(1, 8), sizes)
def test_a_subset_first_then_all_draws_the_same_images(classes: int, per_class: int, size: int) -> None:
    subset_first = grow([(classes, per_class, size), (5, per_class, size)])[-1]
    assert planned(subset_first) == planned(grow([(5, per_class, size)])[-1])


@given(steps)
def test_rows_are_those_of_the_layout_once_each(commands: list[tuple[int, int, int]]) -> None:
    layout = grow(commands)[-1]
    keys = Counter(row.key for spec in layout for row in rows(spec, ImageKind.CLASS_TOKEN, CLASSES, PROMPTS, TOKENS, 0))
    assert keys == Counter(f"{slug}-{number:06d}" for slug, number in members(layout))


@given(st.integers(0, 10**5), st.integers(0, 10), st.sampled_from(CLASSES))
def test_an_image_is_a_function_of_class_number_and_seed_alone(number: int, seed: int, info: ClassInfo) -> None:
    alone = ShardSpec(0, {info.slug: (number, number + 1)})
    crowded = ShardSpec(7, {other.slug: (number, number + 3) for other in reversed(CLASSES)})
    (row,) = rows(alone, ImageKind.CLASS_TOKEN, [info], PROMPTS, {info.slug: TOKENS[info.slug]}, seed)
    assert row in rows(crowded, ImageKind.CLASS_TOKEN, CLASSES, PROMPTS, TOKENS, seed)


def test_seeds_differ_between_images_classes_and_seeds() -> None:
    layout = grow([(5, 20, 7)])[-1]
    seeds = [row.seed for seed in (0, 1) for row in planned(layout, seed=seed).values()]
    assert len(set(seeds)) == len(seeds) == 200


def test_class_token_and_plain_prompt_images_of_a_number_share_their_seed_but_no_key() -> None:
    named = planned(grow([(5, 6, 4)])[-1])
    plain = planned(grow([(5, 6, 9)])[-1], {}, kind=ImageKind.PLAIN_PROMPT)
    assert {f"plain_{key}": row.seed for key, row in named.items()} == {key: row.seed for key, row in plain.items()}
    assert not named.keys() & plain.keys()
    assert all("<dct-" in row.prompt and row.token_sha256 for row in named.values())
    assert not any("<dct-" in row.prompt or row.token_sha256 for row in plain.values())


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_contexts_take_turns(number: int) -> None:
    row = planned(grow([(1, 4, 9)])[-1])[f"bird-0-{number:06d}"]
    assert row.prompt == f"a photo of a <dct-x-bird-0> bird 0 {CONTEXTS[number % 3]}".strip()


@given(st.lists(st.sampled_from(["at sea", "on land", "", "in a tree"]), min_size=1, max_size=3), st.booleans())
def test_contexts_of_one_class_change_no_image_of_another(contexts: list[str], by_name: bool) -> None:
    layout = grow([(5, 8, 9)])[-1]
    one, others = CLASSES[2], [info.slug for info in CLASSES if info.index != 2]
    settings = PromptsConfig(contexts={one.name.upper() if by_name else one.slug: tuple(contexts), "default": CONTEXTS})
    changed = {row.key: row for spec in layout for row in rows(spec, KIND, CLASSES, settings, TOKENS, 0)}
    before = planned(layout)
    assert changed.keys() == before.keys()
    assert all(changed[key] == row for key, row in before.items() if row.slug in others)
    of_class = [row for row in changed.values() if row.slug == one.slug]
    for row in of_class:
        words = f"a photo of a <dct-x-bird-2> bird 2 {contexts[row.number % len(contexts)]}"
        assert row.prompt == words.strip()


@given(st.lists(st.tuples(st.lists(st.sampled_from("abcdefghij"), unique=True), sizes), max_size=5))
def test_groups_only_grow_and_hold_every_class_once(commands: list[tuple[list[str], int]]) -> None:
    groups: Groups = ()
    for class_slugs, size in commands:
        before, groups = groups, extend_groups(groups, class_slugs, size)
        assert groups[: len(before)] == before
        added = groups[len(before) :]
        assert all(0 < len(group) <= size for group in added)
        assert len(added) == -(-sum(map(len, added)) // size)  # no more than it takes, and of about one size
        assert max(map(len, added), default=0) - min(map(len, added), default=0) <= 1
    members = [slug for group in groups for slug in group]
    assert sorted(members) == sorted({slug for class_slugs, _ in commands for slug in class_slugs})


@given(
    st.lists(st.sampled_from(["tiger", "plain tiger", "plain_tiger", "plain", "Plain-Tiger"]), min_size=1, max_size=5)
)
def test_no_two_images_of_a_run_share_a_key_whatever_the_classes_are_called(names: list[str]) -> None:
    classes = [ClassInfo(index, name, slug) for index, (name, slug) in enumerate(zip(names, slugs(names), strict=True))]
    spec = ShardSpec(0, {info.slug: (0, 2) for info in classes})
    keys = [row.key for kind in ImageKind for row in rows(spec, kind, classes, PROMPTS, {}, 0)]
    assert len(set(keys)) == len(keys) == 4 * len(classes)
