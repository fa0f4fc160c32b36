import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dct_augment import config
from dct_augment.config import Config, differences, fingerprint, seed_from, upgrade_token_identity
from dct_augment.config.identity import (
    CROSS_VALIDATION,
    DECIDES,
    PRESENTATION,
    RECORDED_WITH_EACH_RESULT,
    SPEED_ONLY,
    Part,
)
from dct_augment.config.renames import RENAMED
from dct_augment.errors import ConfigError
from dct_augment.records import ClassInfo
from tests.conftest import CONFIGS

MINIMAL: dict[str, Any] = {"name": "mini", "dataset": {"name": "pocket"}, "guide": {"name": "pocket/birds-guide"}}
STAGES: tuple[Part, ...] = get_args(Part)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[object], str]:
    """Writes text or data as a YAML file and returns its path."""

    def write(content: object) -> str:
        path = tmp_path / "some.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return write


def problems(source: str, overrides: Sequence[str] = (), **direct: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(source, overrides, **direct)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def changed(**sections: Any) -> Config:
    return config.validate(MINIMAL | sections)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads_by_name_and_by_path(path: Path) -> None:
    loaded = config.load(str(path))
    assert loaded == config.load(path.stem)
    assert loaded.root == Path("runs") / path.stem


def test_shipped_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"pocket", "digits"} <= set(config.available())
    assert config.load("digits").dataset.name == "digits"


def test_a_config_in_the_working_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pocket.yaml").write_text(yaml.safe_dump(MINIMAL))
    assert config.load("pocket").name == "mini"


def test_all_problems_are_reported_at_once(write_config: Callable[[object], str]) -> None:
    wrong = {
        "name": "no spaces!",
        "dataset": {"name": "pockt"},
        "guide": {"nam": "x"},
        "tokens": {"classes_per_batch": 0, "metod": "full", "method": {"positions": [[0.5, 0.2]]}},
        "promts": {},
        "prompts": {"templates": ["a photo of a {class}"]},
    }
    found = "\n".join(problems(write_config(wrong)))
    for place in (
        "name",
        "dataset.name",
        "guide.name",
        "guide.nam",
        "tokens.classes_per_batch",
        "tokens.metod",
        "promts",
    ):
        assert f"{place}: " in found
    assert "9 problems" in str(ConfigError("x", found.split("\n")))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"tokens": {"metod": "x"}}, ["tokens.metod", "did you mean 'method'", "allowed here: objective, method"]),
        ({"generaton": {}}, ["generaton", "did you mean 'generation'", "allowed here: name, output"]),
        ({"tokens": {"method": "ful"}}, ["tokens.method.name", "look_ahead, direct_align", "did you mean 'full'"]),
        ({"tokens": {"classes_per_batch": 0}}, ["tokens.classes_per_batch", "greater than or equal to 1", "got 0"]),
        (
            {"tokens": {"method": {"positions": [[0.9, 0.1]]}}},
            ["tokens.method.positions", "[0.9, 0.1] must rise", "[0.15, 0.75]"],
        ),
        ({"prompts": {"templates": ["a {class}"]}}, ["'a {class}' must hold {token} exactly once"]),
        ({"prompts": {"templates": []}}, ["prompts.templates", "at least 1 item"]),
        (
            {"prompts": {"templates": ["a {token} {class}{contexts}"]}},
            ["prompts.templates", "holds {contexts}; there are {token}, {class} and {context}"],
        ),
        (
            {"prompts": {"templates": ["a {token} {class}"], "contexts": ["", "at sea"]}},
            ["prompts.contexts: contexts have no effect: no template holds {context}", "or set prompts.contexts=['']"],
        ),
        (
            {"prompts": {"templates": ["a {token} {class}"], "contexts": {"crane": ["at sea"]}}},
            ["prompts.contexts: contexts have no effect"],
        ),
        ({"benchmark": {"arms": ["rael"]}}, ["benchmark.arms.0", "'real+strong_aug'", "'rael'"]),
        ({"benchmark": {"seeds": 1}}, ["benchmark.seeds", "greater than or equal to 2", "got 1"]),
        ({"name": "../up"}, ["name", "'../up'"]),
        ({"guide": {}}, ["guide.name: missing"]),
        ({"sampling": None}, ["sampling", "got None"]),
        ({1: 2}, ["the file: the key 1 is no text"]),
    ],
)
def test_a_problem_names_place_value_and_what_is_allowed(
    section: dict[Any, Any], said: list[str], write_config: Callable[[object], str]
) -> None:
    (problem,) = problems(write_config(MINIMAL | section))
    assert [part for part in said if part not in problem] == []


@pytest.mark.parametrize(
    "prompts",
    [
        {"templates": ["a {token} {class}"]},
        {"templates": ["a {token} {class}"], "contexts": [""]},
        {"templates": ["a {token} {class}"], "contexts": {"crane": [""]}},
        {"templates": ["a {token} {class}", "a {token} {class}{context}"], "contexts": ["at sea"]},
        {"contexts": ["at sea"]},
    ],
)
def test_templates_may_be_without_contexts_if_none_is_lost(
    prompts: dict[str, Any], write_config: Callable[[object], str]
) -> None:
    assert config.load(write_config(MINIMAL | {"prompts": prompts})).prompts.templates


def test_overrides_set_single_values(write_config: Callable[[object], str]) -> None:
    loaded = config.load(
        write_config(MINIMAL), ["tokens.max_updates=80", "dataset.classes=[crane, bat]", "sampling.guidance_scale=2.5"]
    )
    assert (loaded.tokens.max_updates, loaded.dataset.classes) == (80, ("crane", "bat"))
    assert loaded.sampling.guidance_scale == 2.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tokens.max_updates", "section.key=value"),
        ("=3", "section.key=value"),
        ("tokens.seed=[", "not a valid YAML value"),
        ("name.x=1", "no section"),
    ],
)
def test_a_malformed_override_says_how_it_should_look(override: str, said: str) -> None:
    (problem,) = problems("pocket", (override,))
    assert repr(override) in problem
    assert said in problem


def test_malformed_overrides_are_reported_together() -> None:
    assert len(problems("pocket", ("one", "two", "name.x=1"))) == 3


def test_malformed_overrides_and_wrong_values_are_reported_together() -> None:
    found = problems("pocket", ("one", "tokens.max_update=3", "sampling.guidance_scale=0"))
    assert len(found) == 3
    assert found[0].startswith("--set 'one'")


def test_an_override_of_an_unknown_key_gets_a_hint() -> None:
    (problem,) = problems("pocket", ("tokens.max_update=3",))
    assert "did you mean 'max_updates'" in problem


def test_keyword_arguments_win_over_the_file(write_config: Callable[[object], str], tmp_path: Path) -> None:
    source = write_config(MINIMAL | {"device": "cuda", "generation": {"per_class": 3}})
    loaded = config.load(
        source,
        ["generation.per_class=7"],
        per_class=7,
        classes=["bat"],
        output=tmp_path,
        device="cpu",
    )
    assert (loaded.generation.per_class, loaded.dataset.classes) == (7, ("bat",))
    assert (loaded.output, loaded.root, loaded.device) == (tmp_path, tmp_path, "cpu")


def test_keyword_arguments_are_checked_too() -> None:
    (problem,) = problems("pocket", per_class=0)
    assert problem.startswith("generation.per_class: ")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "dataset={name: folder, path: x, value_range: 8bit}",
            "--set dataset.value_range: must be full, 12bit, min_max, or a pair",
        ),
        (
            "dataset={name: folder, path: x, value_range: [0]}",
            "--set dataset.value_range: must be full, 12bit, min_max, or a pair",
        ),
        ("dataset={name: folder, path: x, value_range: [5, 1]}", "--set dataset.value_range: [5.0, 1.0] has no extent"),
        (
            "dataset={name: folder, path: ~nobody-here/x}",
            "--set dataset.path: there is no user '~nobody-here'",
        ),
        (
            "dataset={name: manifest, path: x, root: 5}",
            "--set dataset.root: must be a folder, or a list",
        ),
        (
            "dataset={name: manifest, path: x, root: [a, 5]}",
            "--set dataset.root: must be a folder, or a list",
        ),
        ("output=~nobody-here/x", "--set output: there is no user '~nobody-here'"),
        ("guide.match=4", "--set guide.match: must be 'name', 'index', or a YAML file `class: label`, got 4"),
        ("guide={name: few_shot, haed: mlp}", "--set guide.haed: unknown key (did you mean 'head'?); allowed here: "),
        ("guide=[zero_shot, {name: few_shot, heads: 0}]", "--set guide.1.heads: input should be greater than or equal"),
        ("guide=[pocket/birds-guide, {name: x, wieght: 2}]", "--set guide.1.wieght: unknown key (did you mean 'weight"),
        (
            "guide={name: zero_shot, templates: [a]}",
            "--set guide.templates: template 'a' must hold {class} exactly once",
        ),
        ("judge=3", "--set judge: must be a section, e.g. `{name: ...}`; with --set, write judge.name=..., got 3"),
        (
            "dataset=foo",
            "--set dataset: must be a section, e.g. `{name: foo}`; with --set, write dataset.name=foo, got",
        ),
        ("tokens.method=3", "--set tokens.method: must be a section, e.g. `{name: ...}`"),
        ("runner=3", "--set runner: must be a section of settings: kind, workers, processes, address, "),
        ("tokens=null", "--set tokens: is empty; give it settings, or delete the line, got None"),
        ("guide=[]", "--set guide: must have at least 1 item, got []"),
        ("model.adapters=x", "--set model.adapters: must be a list, e.g. `[{path: ...}]`, got 'x'"),
        ("benchmark.arms=real", "--set benchmark.arms: must be a list, got 'real'"),
        ("prompts.contexts=at sea", "--set prompts.contexts: contexts 'at sea' is no file; "),
        ("tokens.max_updates=x", "--set tokens.max_updates: input should be a valid integer"),
        ("dataset.name=folder", "--set dataset.path: missing; add it"),
    ],
)
def test_a_wrong_override_is_not_blamed_on_the_file(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load("pocket", [override])
    (problem,) = caught.value.problems
    assert problem.startswith(said)
    assert re.match(r"settings given over .*pocket\.yaml: 1 problem\n", str(caught.value))


def test_what_is_wrong_in_the_file_is_told_from_what_is_wrong_in_an_override(
    write_config: Callable[[object], str],
) -> None:
    source = write_config(MINIMAL | {"sampling": {"guidance_scale": 0}})
    with pytest.raises(ConfigError) as caught:
        config.load(source, ["tokens.seed=x"], per_class=0)
    assert caught.value.where == source
    starts = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert starts == ["sampling.guidance_scale", "--set tokens.seed", "generation.per_class"]


def test_an_override_fills_an_empty_section(write_config: Callable[[object], str]) -> None:
    source = write_config(MINIMAL | {"tokens": None, "judge": None})
    loaded = config.load(source, ["tokens.seed=3", "judge.name=pocket/birds-judge"])
    assert loaded.tokens.seed == 3
    assert [member.name for member in loaded.judge or ()] == ["pocket/birds-judge"]


def test_a_key_that_is_written_twice_is_refused(write_config: Callable[[object], str]) -> None:
    (problem,) = problems(write_config("name: a\ntokens: {seed: 1, seed: 2}\nname: b"))
    assert "the key 'seed' is written twice" in problem or "the key 'name' is written twice" in problem


def test_an_unknown_name_lists_the_known_ones() -> None:
    (problem,) = problems("pockt")
    assert "did you mean 'pocket'?" in problem
    assert "aircraft, cub, digits, flowers, folder" in problem


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml.*\n.*no such file"):
        config.load(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- x", "!!python/object:os.system {}"])
def test_bad_yaml_is_one_problem_on_one_line(text: str, write_config: Callable[[object], str]) -> None:
    (problem,) = problems(write_config(text))
    assert problem.startswith("not valid YAML: ")
    assert "\n" not in problem


def test_bytes_that_are_no_text_are_bad_yaml(tmp_path: Path) -> None:
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff\xfe")
    (problem,) = problems(str(tmp_path / "image.yaml"))
    assert problem == "it is no text in UTF-8, at byte 0; save it as UTF-8"


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b", "list"), ("hello", "str")])
def test_a_file_that_is_no_mapping_is_refused(text: str, kind: str, write_config: Callable[[object], str]) -> None:
    (problem,) = problems(write_config(text))
    assert problem == f"must be a mapping of sections, got {kind}"


@pytest.mark.parametrize("text", ["", "# nothing but this\n", "null"])
def test_an_empty_file_is_told_what_to_begin_with(text: str, write_config: Callable[[object], str]) -> None:
    (problem,) = problems(write_config(text))
    assert problem == "it is empty; begin with `name:` and `dataset:`, as configs/folder.yaml does"


def test_a_bad_item_is_not_also_reported_as_a_missing_one(write_config: Callable[[object], str]) -> None:
    assert len(problems(write_config(MINIMAL | {"benchmark": {"arms": ["rael"]}}))) == 1


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(inner) for key, inner in reversed(value.items())}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


@given(JSON)
def test_a_fingerprint_ignores_the_order_of_keys(value: Any) -> None:
    assert fingerprint(value) == fingerprint(reordered(value))


@given(JSON, JSON)
def test_fingerprints_of_different_values_differ(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == same(one, other)


def same(one: Any, other: Any) -> bool:
    """Equality that tells False from 0 and 1 from 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    assert fingerprint({"a": [1, 2.5, None, "é"]}, "x").startswith("9d423f17a11d4e80")
    assert seed_from("image", 0, "crane", 7) == 2496807556540804845


@given(st.text(), st.integers())
def test_seeds_fit_numpy_torch_and_parquet(word: str, number: int) -> None:
    assert 0 <= seed_from(word, number) < 2**62


@pytest.mark.parametrize(
    "section",
    [
        {"generation": {"per_class": 999, "batch_size": 1, "shard_size": 3}},
        {"tokens": {"classes_per_batch": 16}},
        {"device": "cuda"},
        {"output": "elsewhere"},
        {"name": "other"},
        {"benchmark": {"seeds": 50, "arms": ["real"]}},
        {"report": {"images_per_class": 2}},
    ],
    ids=str,
)
def test_identity_leaves_out_what_only_changes_speed_and_amount(section: dict[str, Any]) -> None:
    for stage in STAGES:
        assert changed(**section).identity(stage) == changed().identity(stage)


@pytest.mark.parametrize(
    ("section", "stages", "said"),
    [
        ({"tokens": {"seed": 1}}, ["tokens"], "tokens.seed: 0 -> 1"),
        ({"generation": {"seed": 1}}, ["generation"], "generation.seed: 0 -> 1"),
        ({"generation": {"image_format": "jpg"}}, ["generation"], "generation.image_format: 'png' -> 'jpg'"),
        ({"generation": {"guidance_scale": 2.0}}, ["generation"], "generation.guidance_scale: None -> 2.0"),
        ({"generation": {"guidance_scale": 7.0}}, [], ""),  # that of training
        ({"generation": {"token_noise": 0.1}}, ["generation"], "generation.token_noise: None -> 0.1"),
        (
            {"benchmark": {"selection": "coverage"}},
            ["benchmark"],
            "benchmark.candidates: None -> 4; benchmark.selection: None -> 'coverage'",
        ),
        (
            {"downstream": {"synthetic_labels": "soft"}},
            ["benchmark"],
            "downstream.synthetic_labels: None -> 'soft'",
        ),
        (
            {"sampling": {"guidance_scale": 2.0}},
            ["tokens", "lora", "generation"],
            "sampling.guidance_scale: 7.0 -> 2.0",
        ),
        ({"lora": {"rank": 2}}, ["lora"], "lora.rank: 8 -> 2"),
        (
            {"model": {"adapters": [{"path": "owner/style", "name": "style", "revision": "v2"}]}},
            ["tokens", "lora", "generation"],
            "model.adapters: none -> owner/style@v2 x 1",
        ),
        ({"prompts": {"contexts": ["x"]}}, ["tokens", "generation"], "prompts.contexts: [''] -> ['x']"),
        ({"guide": {"name": "x"}}, ["tokens", "generation", "metrics"], "guide.name: 'pocket/birds-guide' -> 'x'"),
        ({"downstream": {"steps": 1}}, ["benchmark", "arms"], "downstream.steps: 100 -> 1"),
        ({"downstream": {"validation_rounds": 1}}, ["benchmark"], "downstream.validation_rounds: 4 -> 1"),
        ({"benchmark": {"shots": 1}}, [], ""),  # each trial is recorded with its own
        ({"metrics": {"nearest_neighbours": 3}}, ["metrics"], "metrics.nearest_neighbours: 5 -> 3"),
    ],
)
def test_identity_holds_what_decides_the_result(section: dict[str, Any], stages: list[str], said: str) -> None:
    for stage in STAGES:
        found = differences(changed().identity(stage), changed(**section).identity(stage))
        assert "; ".join(found) == (said if stage in stages else "")


IDENTITIES = {
    "tokens": "a91e096551075516",
    "lora": "aa1b2dc9afd9c4a8",
    "generation": "325a9b317fbd32b3",
    "arms": "0b9fe943e8d37198",
    "benchmark": "67dd585b574f4231",
    "metrics": "1cdc9c86d1323a6b",
}
"""Of the settings of `MINIMAL`. If one changes, finished runs are stale."""


@pytest.mark.parametrize("stage", STAGES)
def test_the_identity_of_old_settings_stays_what_it_was(stage: Part) -> None:
    assert fingerprint(changed().identity(stage))[:16] == IDENTITIES[stage]
    same: dict[str, Any] = {
        "downstream": {"synthetic_labels": "hard", "synthetic_probability": 0.7},
        "generation": {"token_noise": 0},
        "model": {"adapters": []},
        "benchmark": {"selection": "first", "candidates": 4},
    }
    assert fingerprint(changed(**same).identity(stage))[:16] == IDENTITIES[stage]


def test_two_adapters_of_one_name_or_a_weight_that_is_no_number_are_refused() -> None:
    (problem,) = problems("pocket", ["model.adapters=[{path: a/style}, {path: b/style}]"])
    assert "two adapters are called 'style'; give each a name of its own" in problem
    named = changed(model={"adapters": [{"path": "a/style"}, {"path": "b/style", "name": "other"}]})
    assert [adapter.title for adapter in named.model.adapters] == ["style", "other"]
    for weight in (".inf", ".nan", "100"):
        (problem,) = problems("pocket", [f"model.adapters=[{{path: a/style, weight: {weight}}}]"])
        assert "weight" in problem


def test_candidates_need_a_selection() -> None:
    (problem,) = problems("pocket", ["benchmark.candidates=3"])
    assert problem.startswith(
        "--set benchmark: candidates have no effect with selection: first; set selection: accepted or coverage"
    )
    chosen = changed(benchmark={"selection": "coverage", "candidates": 3, "per_class": 7}).benchmark
    assert (chosen.candidate_count, changed(benchmark={"per_class": 7}).benchmark.candidate_count) == (21, 7)


SHARES = {1: 0.7, 5: 0.3, 20: 0.1}


@pytest.mark.parametrize(
    ("shots", "share"),
    [(1, 0.7), (5, 0.3), (20, 0.1), (100, 0.1), (5**0.5, 0.5), (10, 0.2), (2.5, 0.7 - 0.4 * math.log(2.5, 5))],
)
def test_a_share_by_shots_is_interpolated_over_the_logarithm_of_the_shots(shots: float, share: float) -> None:
    given_shares = changed(downstream={"synthetic_probability": dict(reversed(SHARES.items()))}).downstream
    assert given_shares._share_at(shots) == pytest.approx(share)
    assert changed(downstream={"synthetic_probability": 0.4}).downstream._share_at(shots) == 0.4


def test_the_nearest_share_holds_for_fewer_shots_than_the_first() -> None:
    assert changed(downstream={"synthetic_probability": {5: 0.5, 10: 0.3}}).downstream._share_at(1) == 0.5


def test_the_shots_of_a_draw_are_the_mean_of_its_classes() -> None:
    shares = changed(downstream={"synthetic_probability": {1: 0.7, 4: 0.1}}).downstream.synthetic_shares({0: 1, 3: 3})
    assert shares == {0: pytest.approx(0.4), 3: pytest.approx(0.4)}


def test_by_need_a_class_gets_what_it_lacks_to_the_largest() -> None:
    needed = changed(downstream={"synthetic_probability": "need"}).downstream
    assert needed.synthetic_shares({0: 20, 1: 5, 2: 1}) == {0: 0, 1: 0.75, 2: 0.95}


def test_how_often_classes_are_seen_is_part_of_the_identity_where_it_changes_something() -> None:
    even = changed(downstream={"class_balance": "even"}).identity("benchmark")["downstream"]
    assert even["class_balance"] == "even"
    assert "class_balance" not in changed().identity("benchmark")["downstream"]


def test_shares_by_shots_are_dumped_and_are_part_of_the_identity(tmp_path: Path) -> None:
    loaded = config.load("pocket", ["downstream.synthetic_probability={1: 0.7, 5: 0.3}"])
    (tmp_path / "dumped.yaml").write_text(config.dump(loaded))
    assert config.load(str(tmp_path / "dumped.yaml")) == loaded
    assert fingerprint(loaded.identity("benchmark")) != fingerprint(config.load("pocket").identity("benchmark"))
    assert loaded.identity("arms") == config.load("pocket").identity("arms")  # no guide of a draw is made again


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1.2", r"must be a share from 0 to 1, shares by shots, e\.g\. \{1: 0\.7, 5: 0\.3\}, or need, got 1\.2"),
        ("many", r"must be a share .*, got 'many'"),
        ("{}", r"the mapping is empty"),
        ("{0: 0.5}", r"; 0 is no number of shots, a whole number from 1"),
        ("{all: 0.5}", r"; 'all' is no number of shots, a whole number from 1"),
        ("{1: 0.5, 5: 3}", r"; that of 5 is 3"),
    ],
)
def test_a_share_that_cannot_be_is_one_message(value: str, said: str) -> None:
    (problem,) = problems("pocket", [f"downstream.synthetic_probability={value}"])
    assert re.search(r"^--set downstream\.synthetic_probability: .*" + said, problem)


def test_a_start_image_is_part_of_the_identity_and_noise_is_not() -> None:
    before, after = (changed(generation={"start": start}).identity("generation") for start in ("noise", "any_class"))
    assert differences(before, after) == [
        "generation.start: None -> 'any_class'",
        "generation.strengths: None -> [0.8]",
    ]


def test_adapters_that_differ_are_named_in_words() -> None:
    one = {"adapters": [{"path": "a.safetensors", "weight": 0.5, "weights": "0123456789"}]}
    other = {
        "adapters": [{"path": "a.safetensors", "weight": 0.5, "weights": "abcdefabcd"}, {"path": "u/b", "weight": 1}]
    }
    assert differences({}, one) == ["adapters: none -> a.safetensors x 0.5 (01234567)"]
    assert differences(one, other) == [
        "adapters: a.safetensors x 0.5 (01234567) -> a.safetensors x 0.5 (abcdefab), u/b x 1"
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["generation.strengths=[0.5]"],
            "generation: strengths have no effect with start: noise; set start",
        ),
        (
            ["generation.start=any_class", "generation.strengths=[0.3, 1]"],
            "strengths.1: .* less than 1, got 1",
        ),
        (["generation.start=any_class", "generation.strengths=[]"], "generation.strengths: must have at least 1 item"),
        (["generation.start=photo"], "generation.start: .*'noise', 'same_class' or 'any_class'"),
        (
            ["generation.start=same_class", "generation.strengths=[0.2, 0.95]"],
            r"strengths: 0\.95 of 5 sampling\.num_inference_steps is all of them.*0\.8 or less, or more steps",
        ),
        (["generation.start=same_class", "sampling.num_inference_steps=1"], "Set start: noise, or more steps"),
        (["generation.guidance_scale=0.5"], r"generation\.guidance_scale: .*greater than or equal to 1, got 0\.5"),
    ],
)
def test_a_setting_of_start_images_that_cannot_be_is_named(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.load("pocket", settings)


@pytest.mark.parametrize(("strength", "steps"), [(0.8, 24), (0.5, 15), (0.001, 1), (0.05, 2)])
def test_a_strength_is_a_number_of_steps_one_at_least(strength: float, steps: int) -> None:
    assert config.steps_of_strength(strength, 30) == steps


CLASSES = [ClassInfo(0, "crane", "crane"), ClassInfo(1, "kiwi", "kiwi"), ClassInfo(2, "bat", "bat")]


def test_what_is_set_for_one_class_makes_nothing_stale_that_is_of_another() -> None:
    before = changed(prompts={"contexts": ["", "x"]})
    after = changed(
        prompts={"contexts": {"default": ["", "x"], "crane": ["at sea"]}}, tokens={"init_word": {"crane": "bird"}}
    )

    def stale(stage: Part, infos: list[ClassInfo]) -> list[str]:
        old, new = (one.narrow(one.identity(stage), infos) for one in (before, after))
        return differences(old, new)

    assert stale("tokens", CLASSES[1:2]) == stale("generation", CLASSES[1:]) == []
    assert stale("tokens", CLASSES[:1]) == [
        "prompts.contexts: ['', 'x'] -> ['at sea']",
        "tokens.init_word: 'a' -> 'bird'",
    ]
    (line,) = stale("generation", CLASSES[:2])
    assert line == "prompts.contexts: ['', 'x'] -> {'crane': ['at sea'], 'kiwi': ['', 'x']}"


def test_a_negative_prompt_of_one_class_makes_nothing_stale_that_is_of_another() -> None:
    before = changed(prompts={"negative": "dull"})
    after = changed(prompts={"negative": {"default": "dull", "crane": "a machine"}})
    stages: tuple[Part, ...] = ("tokens", "generation")
    for stage in stages:
        for infos, stale in ((CLASSES[:1], ["prompts.negative: 'dull' -> 'a machine'"]), (CLASSES[1:], [])):
            old, new = (one.narrow(one.identity(stage), infos) for one in (before, after))
            assert differences(old, new) == stale


def test_an_identity_without_settings_for_single_classes_is_what_it_was() -> None:
    for stage in STAGES:
        assert changed().narrow(changed().identity(stage), CLASSES[:1]) == changed().identity(stage)


def test_an_identity_holds_what_a_file_of_contexts_says_and_not_where_it_is(tmp_path: Path) -> None:
    first, second = tmp_path / "one.txt", tmp_path / "two.txt"
    for path in (first, second):
        path.write_text("at sea\non land\n")
    of_first, of_second = (changed(prompts={"contexts": str(path)}) for path in (first, second))
    assert of_first.identity("generation") == of_second.identity("generation")
    assert of_first == changed(prompts={"contexts": ["at sea", "on land"]})
    second.write_text("at sea\n")
    assert changed(prompts={"contexts": str(second)}).identity("tokens") != of_first.identity("tokens")
    second.unlink()
    assert config.validate(of_second.model_dump(mode="json")) == of_second


WORDS = st.text(alphabet=st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="{}"), max_size=12)
CONFIGURATIONS = st.builds(
    lambda classes, templates, contexts, low, updates, fmt, seed, output: changed(
        dataset={"name": "digits", "classes": classes},
        prompts={"templates": templates, "contexts": contexts, "negative": contexts[0]},
        tokens={
            "method": {"name": "look_ahead", "positions": [[low, 1.0]]},
            "max_updates": updates,
            "learning_rate": low + 0.01,
        },
        generation={"image_format": fmt, "seed": seed},
        output=output,
    ),
    st.none() | st.lists(WORDS),
    st.lists(WORDS.map(lambda text: text + "{token} {class}{context}"), min_size=1),
    st.lists(WORDS, min_size=1),
    st.floats(0, 0.9),
    st.integers(1, 10**6),
    st.sampled_from(["png", "webp", "jpg"]),
    st.integers(0, 2**63 - 1),
    st.none() | st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}){0,2}", fullmatch=True),
)


@settings(max_examples=25)
@given(given_config=CONFIGURATIONS)
def test_a_dumped_config_loads_as_itself(given_config: Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(config.dump(given_config), encoding="utf-8")
    assert config.load(str(path)) == given_config


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every setting as `section.key`; of a union, those of every member."""
    for key, field in model.model_fields.items():
        inner = [section for section in config.problems.models((field.annotation, *field.metadata)) if path == ""]
        for section in inner:
            yield from leaves(section, f"{key}.")
        if not inner:
            yield f"{path}{key}"


def covered(path: str, rows: Collection[str]) -> bool:
    return path in rows or path.partition(".")[0] in rows


def test_every_setting_decides_a_result_or_is_said_to_decide_none() -> None:
    deciding = {row for rows in DECIDES.values() for row in rows}
    for path in leaves(Config):
        places = (deciding - SPEED_ONLY, CROSS_VALIDATION, SPEED_ONLY, RECORDED_WITH_EACH_RESULT, PRESENTATION)
        assert any(covered(path, rows) for rows in places), f"{path} is in no row of config/identity.py"


def test_every_row_of_the_table_is_a_setting() -> None:
    known = {*leaves(Config), *Config.model_fields}
    for rows in (*DECIDES.values(), CROSS_VALIDATION, SPEED_ONLY, RECORDED_WITH_EACH_RESULT, PRESENTATION):
        assert set(rows) <= known


def test_a_list_of_models_is_the_first_and_the_others() -> None:
    found = config.load("pocket", ["downstream.model=[a, b, c]"]).downstream
    assert (found.model, found.other_models) == ("a", ("b", "c"))
    assert config.load("pocket", ["downstream.model=[a]"]).downstream.models == ("a",)


@pytest.mark.parametrize("others", ["[x]", "null", "xyz"])
def test_a_list_of_models_takes_the_place_of_the_other_models(others: str) -> None:
    found = config.load("pocket", [f"downstream.other_models={others}", "downstream.model=[a, b]"]).downstream
    assert found.models == ("a", "b")


def test_a_recorded_list_of_models_is_given_again(write_config: Callable[[object], str]) -> None:
    recorded = config.load("pocket", ["downstream.model=[a, b]"]).model_dump(mode="json")
    found = config.load(write_config(recorded), ["downstream.model=[a, b]"]).downstream
    assert found.models == ("a", "b")


@pytest.mark.parametrize("others", ["null", "xyz"])
def test_other_models_that_are_no_list_are_one_message(others: str) -> None:
    (problem,) = problems("pocket", [f"downstream.other_models={others}"])
    assert problem.startswith("--set downstream.other_models: must be a list, got ")


def test_a_number_of_generated_images_limits_the_benchmark_of_a_file(write_config: Callable[[object], str]) -> None:
    given = write_config(MINIMAL | {"benchmark": {"per_class_curve": [5, 20], "ratios": [1, 2, 10], "shots": 5}})
    few = config.load(given, per_class=10)
    assert few.generation.per_class == 10
    limited = (few.benchmark.per_class, few.benchmark.per_class_curve, few.benchmark.ratios)
    assert limited == (10, (5,), (1, 2))
    many = config.load(given, per_class=200).benchmark
    assert (many.per_class, many.per_class_curve, many.ratios) == (50, (5, 20), (1, 2, 10))
    asked = config.load(given, ["benchmark.per_class=1000", "benchmark.ratios=[10]"], per_class=10).benchmark
    assert (asked.per_class, asked.per_class_curve, asked.ratios) == (
        1000,
        (5,),
        (10,),
    )  # the run refuses what it is asked


def test_other_models_make_no_trial_of_the_first_stale() -> None:
    one, more = (config.load("pocket", [f"downstream.model={value}"]) for value in ("a", "[a, b]"))
    assert one.identity("benchmark") == more.identity("benchmark")
    assert one.identity("arms") == more.identity("arms")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("downstream.model=[]", "model must name a model, not be empty"),
        ("downstream.model=[a, b, a]", "model and other_models name a twice"),
        (
            "benchmark.arms=[real, real+linear_probe]",
            "benchmark.arms: real+linear_probe trains one layer on a pretrained model; set "
            "downstream.pretrained: true, or leave it out",
        ),
    ],
)
def test_models_that_cannot_be_trained_are_named(change: str, problem: str) -> None:
    (found,) = problems("pocket", ["downstream.pretrained=false", change])
    assert problem in found


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_key_of_version_1_is_an_error_that_names_the_new_one(old: str, new: str) -> None:
    (problem,) = problems("pocket", [f"{old}=1"])
    what_to_do = "write " if old.endswith(".randaugment") else "rename it"
    assert problem.startswith(f"--set {old}: is called {new} now; {what_to_do}")


@pytest.mark.parametrize("section", ["benchmark", "downstream"])
@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("rand-m7-n2-mstd0.5", "2 and 21"),
        ("rand-n3-m12-inc1", "3 and 30"),
        ("rand-mstd0.5", "2 and 30"),
        ("rand-m0-n1", "1 and 0"),
        ("augmix-m5", "how many operations an image gets, and how strong they are, 0 to 30"),
        ("rand-m7-n0", "how many operations an image gets, and how strong they are, 0 to 30"),
    ],
)
def test_the_old_randaugment_says_its_two_numbers(section: str, value: str, numbers: str) -> None:
    (problem,) = problems("pocket", [f"{section}.randaugment={value}"])
    assert problem == (
        f"--set {section}.randaugment: is called downstream.randaugment_operations and "
        f"downstream.randaugment_magnitude now; write {numbers}"
    )


@pytest.mark.parametrize("change", ["randaugment_operations=0", "randaugment_magnitude=31", "randaugment_magnitude=-1"])
def test_randaugment_has_31_magnitudes_and_at_least_one_operation(change: str) -> None:
    (problem,) = problems("pocket", [f"downstream.{change}"])
    assert change.partition("=")[0] in problem


@pytest.mark.parametrize("change", ["randaugment_operations=3", "randaugment_magnitude=9"])
@pytest.mark.parametrize("part", ["arms", "benchmark"])
def test_other_augmentation_makes_other_trials_and_guides_of_draws(change: str, part: Part) -> None:
    changed = config.load("pocket", [f"downstream.{change}"])
    assert fingerprint(changed.identity(part)) != fingerprint(config.load("pocket").identity(part))


def test_an_old_setting_of_one_gradient_method_says_of_which() -> None:
    (problem,) = problems("pocket", ["tokens.serves=3"])
    assert problem.endswith("rename it if tokens.method is direct_align, else delete it")
    (problem,) = problems("pocket", ["tokens.look_ahead=[[0.1, 0.5]]"])
    assert problem.endswith("rename it if tokens.method is look_ahead or direct_align, else delete it")


def test_a_missing_guide_is_one_problem_and_hides_no_other(write_config: Callable[[object], str]) -> None:
    without = {"name": "mini", "dataset": {"name": "pocket"}, "tokens": {"serves": 3}}
    assert [problem.partition(":")[0] for problem in problems(write_config(without))] == ["tokens.serves", "guide"]


@pytest.mark.parametrize("name", ["last_step", "last_k", "full", "lv", "look_ahead", "direct_align"])
def test_the_name_of_a_gradient_method_is_enough(name: str) -> None:
    assert config.load("pocket", [f"tokens.method={name}"]).tokens.method.name == name


def test_a_setting_of_another_gradient_method_is_an_error() -> None:
    (problem,) = problems("pocket", ["tokens.method=last_step", "tokens.method.updates_per_image=9"])
    assert problem == "--set tokens.method.updates_per_image: unknown key; allowed here: name"
    (problem,) = problems("pocket", ["tokens.method.steps=2"])
    assert problem.startswith("--set tokens.method.steps: unknown key")
    assert "updates_per_image" in problem


def test_an_unknown_gradient_method_names_those_that_there_are() -> None:
    (problem,) = problems("pocket", ["tokens.method=look_ahed"])
    assert "tokens.method.name: 'look_ahed' is unknown (did you mean 'look_ahead'?)" in problem
    assert "last_step, last_k, full, lv, look_ahead, direct_align" in problem


def test_a_range_of_positions_must_rise() -> None:
    (problem,) = problems("pocket", ["tokens.method={name: look_ahead, positions: [[0.5, 0.5]]}"])
    assert problem.startswith("--set tokens.method.positions: range [0.5, 0.5] must rise")


def test_a_token_of_version_1_is_known_by_its_renamed_settings() -> None:
    today = changed(tokens={"method": {"updates_per_image": 4}, "init_from": "x"}).identity("tokens")
    old = json.loads(json.dumps(today)) | {"schema": 1, "dataset": today["dataset"]["name"]}
    old["tokens"] |= {
        "method": "direct_align",
        "serves": 4,
        "recovered": 1.0,
        "look_ahead": today["tokens"]["method"]["positions"],
        "last_k": 2,
        "renoised": 2,
        "hopeless": old["tokens"].pop("give_up_below"),
        "restart_below": old["tokens"].pop("restart_below_accuracy"),
        "start": old["tokens"].pop("init_from"),
        "least_diversity": old["tokens"].pop("min_diversity_ratio"),
    }
    assert upgrade_token_identity(old) == today
    old["tokens"]["serves"] = 5
    assert differences(upgrade_token_identity(old), today) == ["tokens.method.updates_per_image: 5 -> 4"]


@pytest.mark.parametrize("shots", [0, -1, 1.5, float("inf"), "ALL", "5", "true", None, [1, 2]])
@pytest.mark.parametrize("section", ["benchmark", "textual_inversion"])
def test_shots_that_are_no_number_make_one_problem(section: str, shots: Any) -> None:
    given = True if shots == "true" else shots
    with pytest.raises(ConfigError) as caught:
        config.validate({**MINIMAL, section: {"shots": given}})
    problem = f"{section}.shots: must be a whole number from 1, or 'all', got {shots!r}"
    assert str(caught.value).splitlines()[1:] == [f"  - {problem}"]


def test_the_name_of_a_classifier_stands_for_its_settings() -> None:
    guide = config.load("pocket", ["guide=few_shot", "guide.backbone=pocket/backbone"]).guide
    assert guide == (config.FewShotClassifierConfig(backbone="pocket/backbone"),)
    judge = config.load("pocket", ["judge=[zero_shot, resnet50]"]).judge
    assert judge == (config.ZeroShotClassifierConfig(), config.ClassifierConfig(name="resnet50"))


def test_folds_decide_the_results_of_cross_validation_alone() -> None:
    def identity_with(*overrides: str) -> str:
        return fingerprint(config.load("pocket", list(overrides)).identity("benchmark"))

    folds, protocol = "benchmark.folds=3", "benchmark.protocol=cross_validation"
    assert identity_with("benchmark.protocol=holdout", folds) == identity_with("benchmark.protocol=holdout")
    assert identity_with(protocol, folds) != identity_with(protocol)
    assert identity_with(protocol) != identity_with("benchmark.protocol=holdout")
    assert identity_with(protocol, "benchmark.repeats=3") == identity_with(protocol)


def test_a_guide_made_of_photos_makes_tokens_depend_on_the_photos_and_compares_tokens_of_each_draw() -> None:
    plain, few_shot = config.load("folder"), config.load("folder", ["guide=few_shot"])
    assert "path" not in plain.identity("tokens")["dataset"]
    assert few_shot.identity("tokens")["dataset"]["path"]
    assert few_shot.identity("generation")["dataset"]["path"]
    assert few_shot.identity("arms")["guide"][0]["name"] == "few_shot"
    assert "class_token_few_shot_guide" in few_shot.benchmark.arms
    assert "class_token" not in few_shot.benchmark.arms
    assert config.load("folder", ["guide=few_shot", "benchmark.arms=[real]"]).benchmark.arms == ("real",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[crane]", "dataset.words: must be a file, or `class: words`, got ['crane']"),
        ("{crane: 7}", "dataset.words: words: the words of class 'crane' must be text"),
        ("{crane: a, Crane: b}", "class 'Crane' is named twice"),
        ("{no: a}", "False is no name of a class; put the name into quotes"),
    ],
)
def test_wrong_words_of_classes_make_one_problem(words: str, said: str) -> None:
    data = config.by_class.parse_yaml(f"{{name: x, dataset: {{name: folder, path: x, words: {words}}}, guide: x}}")
    with pytest.raises(ConfigError) as refused:
        config.validate(data)
    assert len(refused.value.problems) == 1
    assert said in str(refused.value)


def test_words_of_classes_are_dumped_and_read_again() -> None:
    for words in ("words.yaml", {"crane": "crane bird"}):
        first = config.validate({"name": "x", "dataset": {"name": "folder", "path": "x", "words": words}, "guide": "x"})
        assert config.validate(yaml.safe_load(config.dump(first))) == first


def test_the_home_folder_stands_for_a_tilde_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    guide = "guide={name: resnet18, checkpoint: ~/a.pth, labels: ~/a.txt}"
    more = ["tokens.init_from=~/start", "metrics.inception_weights=~/inception.pth", "output=~/runs/birds"]
    loaded = config.load("pocket", [guide, *more])
    (member,) = loaded.guide
    assert isinstance(member, config.ClassifierConfig)
    paths = (loaded.root, member.checkpoint, member.labels, loaded.tokens.init_from, loaded.metrics.inception_weights)
    assert paths == tuple(tmp_path / name for name in ("runs/birds", "a.pth", "a.txt", "start", "inception.pth"))


def test_a_path_that_decides_results_by_its_text_stays_as_it_is_written() -> None:
    loaded = config.load("pocket", ["dataset={name: folder, path: ~/photos}"])
    assert loaded.identity("benchmark")["dataset"]["path"] == "~/photos"


@pytest.mark.parametrize("file", ["/proc/self/mem"])
def test_a_file_that_cannot_be_read_is_told_in_words(file: str) -> None:
    (problem,) = problems(file)
    assert problem == "it cannot be read: Input/output error; give a YAML file"


def test_what_a_guide_has_seen_changes_nothing_that_is_made() -> None:
    member = {"name": "resnet50", "checkpoint": "best.pth"}
    silent, said = (changed(guide=member | more) for more in ({}, {"saw": "these_photos"}))
    prepared = changed(guide=member | {"mean": [0.5, 0.5, 0.5]})
    for part in get_args(Part):
        assert silent.identity(part) == said.identity(part)
    assert "mean" not in silent.identity("tokens")["guide"][0]  # that of runs of earlier versions
    assert prepared.identity("tokens")["guide"][0]["mean"] == [0.5, 0.5, 0.5]
    assert prepared.identity("tokens") != silent.identity("tokens")


def test_photos_are_a_part_of_what_makes_a_token_if_it_is_pulled_towards_them() -> None:
    def identity(*settings: str) -> dict[str, Any]:
        return config.load("cub", settings).identity("tokens")

    assert identity("tokens.photos_per_update=7", "tokens.photos_per_class=5") == identity()
    assert "photo_weight" not in identity()["tokens"]
    pulled = identity("tokens.photo_weight=0.5")
    assert pulled["tokens"]["photo_weight"] == 0.5
    assert pulled["dataset"] != identity()["dataset"]
    assert "photos_per_class" not in pulled["tokens"]  # the default is that of runs of earlier versions
    assert identity("tokens.photo_weight=0.5", "tokens.photos_per_class=5")["tokens"]["photos_per_class"] == 5


@pytest.mark.parametrize(
    ("written", "updates"), [("010", 10), ("1_000", 1000), ("0x10", 16), ("+7", 7), ("'30'", 30), ("30.0", 30)]
)
def test_a_number_is_what_it_looks_like(written: str, updates: int) -> None:
    """YAML 1.1 takes 010 for 8."""
    assert config.load("pocket", [f"tokens.max_updates={written}"]).tokens.max_updates == updates


@pytest.mark.parametrize("written", ["1:30", "08:15", "2026-11-27", "1:30.5"])
def test_a_time_or_a_date_is_no_number(written: str) -> None:
    """YAML 1.1 takes 1:30 for 90."""
    with pytest.raises(ConfigError, match=rf"max_updates: .* got '{written}'"):
        config.load("pocket", [f"tokens.max_updates={written}"])
    assert config.load("pocket", [f"dataset.classes=[{written}]"]).dataset.classes == (written,)


@pytest.mark.parametrize(
    ("line", "direct", "said"),
    [
        ("output=runs/a", {"output": Path("runs/b")}, "--set output='runs/a' and --output 'runs/b' set the same"),
        ("generation={per_class: 5}", {"per_class": 6}, "--set generation.per_class=5 and --per-class 6 set the same"),
        (
            "dataset.classes=[crane]",
            {"classes": ["kiwi"]},
            "and --classes ['kiwi'] set the same; leave one of them out",
        ),
        ("device=cpu", {"device": "cuda"}, "--set device='cpu' and --device 'cuda' set the same"),
    ],
)
def test_a_setting_and_an_option_of_the_same_that_differ_are_refused(line: str, direct: Any, said: str) -> None:
    (problem,) = problems("pocket", [line], **direct)
    assert said in problem


def test_a_setting_and_an_option_that_say_the_same_are_taken() -> None:
    assert config.load("pocket", ["output=runs/a", "device=cpu"], output=Path("runs/a")).output == Path("runs/a")


@pytest.mark.parametrize("inside", ["tokens", "shards/arms", "mine", "."])
def test_arms_are_not_kept_among_the_files_of_the_run(inside: str) -> None:
    (problem,) = problems("pocket", ["output=runs/a", f"benchmark.arms_folder=runs/a/{inside}"])
    assert "lies in the run folder" in problem
    for place in ("runs/a/arms", "runs/arms"):
        assert config.load("pocket", ["output=runs/a", f"benchmark.arms_folder={place}"]).benchmark.arms_folder
