"""Configurations that cannot be meant: each gets one message that names the setting, and none a traceback."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dct_augment import config
from dct_augment.errors import ConfigError

GOOD = {"name": "name: x", "dataset": "dataset: {name: pocket}", "guide": "guide: {name: pocket/birds-guide}"}
BOMB = "\n".join(
    [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
)

BAD = {
    "no guide": ({"guide": ""}, "guide: missing; add it"),
    "an empty guide": ({"guide": "guide:"}, "guide: is empty"),
    "a list of no guide": ({"guide": "guide: []"}, "guide: must have at least 1 item"),
    "a number as guide": ({"guide": "guide: 3"}, "guide: must be a section"),
    "a section that is written twice": ({"more": "dataset: {name: digits}"}, "'dataset' is written twice"),
    "a setting that is written twice": ({"more": "tokens: {seed: 1, seed: 2}"}, "'seed' is written twice"),
    "aliases that unfold to billions": ({"name": f"a: &a [x]\n{BOMB}\nname: *i"}, "name: input should be a valid str"),
    "an alias of itself": ({"name": "name: &a [*a]"}, "name: input should be a valid string"),
    "a list that is 5,000 deep": ({"name": f"name: {'[' * 5000}{']' * 5000}"}, "nested too deeply"),
    "a section that is 3,000 deep": ({"name": f"name: {'{a: ' * 3000}1{'}' * 3000}"}, "nested too deeply"),
    "an infinite rate": ({"more": "downstream: {learning_rate: .inf}"}, "learning_rate: input should be a finite"),
    "a rate that is no number": ({"more": "downstream: {learning_rate: .nan}"}, "learning_rate: input should be"),
    "an infinite scale": ({"more": "sampling: {guidance_scale: .inf}"}, "guidance_scale: input should be a finite"),
    "more steps than a schedule has": (
        {"more": "sampling: {num_inference_steps: 1001}"},
        "num_inference_steps: input should be less than or equal to 1000, got 1001",
    ),
    "a seed below 0": ({"more": "tokens: {seed: -1}"}, "tokens.seed: input should be greater than or equal to 0"),
    "a seed of 400 digits": ({"more": f"tokens: {{seed: {'9' * 400}}}"}, "tokens.seed: input should be less than"),
    "a seed that is no whole number": ({"more": "tokens: {seed: 0.5}"}, "tokens.seed: input should be a valid integer"),
    "an unknown field in a template": (
        {"more": "prompts: {templates: ['a {token} {class} {colour}']}"},
        "holds {colour}; there are {token}, {class} and {context}",
    ),
    "an attribute in a template": (
        {"more": "prompts: {templates: ['a {token.__class__} {class}']}"},
        "must hold {token} exactly once",
    ),
    "an open brace in a template": ({"more": "prompts: {templates: ['a {token {class}']}"}, "must hold {token}"),
    "a path with a null byte": ({"more": 'output: "a\\0b"'}, "output: no path holds a null byte"),
    "a name that leads elsewhere": ({"name": "name: ../../x"}, "name: string should match pattern"),
    "a date as key": ({"more": "2020-01-01: 3"}, "keys should be strings"),
    "a list as key": ({"more": "[1, 2]: 3"}, "unhashable key"),
    "a Python object": ({"name": "name: !!python/object/apply:os.system ['true']"}, "could not determine a construc"),
    "two documents": ({"more": "---\nname: y"}, "expected a single document"),
    "a tab": ({"more": "tokens:\n\tseed: 1"}, "cannot start any token"),
    "0 shots": ({"more": "benchmark: {shots: 0}"}, "benchmark.shots: must be a whole number from 1, or 'all'"),
    "half a shot": ({"more": "benchmark: {shots: 2.5}"}, "benchmark.shots: must be a whole number"),
    "true as shots": ({"more": "benchmark: {shots: true}"}, "benchmark.shots: must be a whole number"),
    "0 val images": (
        {"dataset": "dataset: {name: folder, path: x, val_images: 0}"},
        "dataset.val_images: input should be greater than or equal to 1",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_configuration_is_refused_by_name(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("\n".join((GOOD | changes).values()) + "\n")
    with pytest.raises(ConfigError) as refused:
        config.load(str(path))
    text = str(refused.value)
    assert message in text
    assert str(path) in text
    assert len(text) < 20_000


def test_the_good_parts_alone_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("\n".join(GOOD.values()))
    assert config.load(str(path)).name == "x"


@given(st.integers(1, 2000), st.sampled_from([("[", "]"), ("{a: ", "}")]))
def test_no_depth_is_a_traceback(depth: int, brackets: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        config.load("pocket", [f"tokens.seed={brackets[0] * depth}{brackets[1] * depth}"])
