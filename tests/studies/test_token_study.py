"""A study of class tokens, from its YAML file to its page."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from dct_augment.cli.commands import app
from dct_augment.config.studies import available_studies, load_any_study, load_study
from dct_augment.config.token_studies import TokenStudy
from dct_augment.errors import ConfigError, InputError
from dct_augment.studies import token_page
from dct_augment.studies.token_findings import find
from dct_augment.studies.token_page import answers
from dct_augment.studies.token_running import runs
from tests.small import SMALL

STUDY: dict[str, Any] = {
    "question": "Do two steps do more than one?",
    "paper": "The paper takes one.",
    "datasets": {"birds": {"config": "pocket", "settings": ["dataset.classes=[crane, kiwi]"]}},
    "seeds": {"first": 300, "count": 1},
    "settings": [setting for setting in SMALL if not setting.startswith(("generation.", "benchmark.", "downstream."))],
    "groups": {"ambiguous": {"birds": ["crane", "kiwi"]}},
    "variants": {
        "last_step": {"settings": ["tokens.method={name: last_step}"]},
        "last_2": {"settings": ["tokens.method={name: last_k, steps: 2}"]},
    },
    "claims": [{"variant": "last_2", "against": "last_step"}, {"variant": "last_step", "group": "ambiguous"}],
    "images": 2,
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "steps.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return path


def study(**changes: Any) -> TokenStudy:
    return TokenStudy.model_validate(STUDY | changes)


def tokens(**accuracies: tuple[float, ...]) -> pd.DataFrame:
    """Two classes with two seeds: judge accuracies of variants, or of `plain`: crane, crane, kiwi, kiwi."""
    rows = []
    for variant in set(accuracies) - {"plain"}:
        for number, accuracy in enumerate(accuracies[variant]):
            name = ("crane", "kiwi")[number // 2]
            rows.append(
                {"dataset": "birds", "variant": variant, "seed": 300 + number % 2, "slug": name, "class": name}
                | {"judge": accuracy, "guide": accuracy, "plain_judge": accuracies["plain"][number]}
                | {"plain_guide": 0.0, "diversity": 3.0, "plain_diversity": 4.0, "evaluations": 100 * (number + 1)}
                | {"usable": True, "verdict": "certified" if accuracy > 0.5 else "no_gain"}
            )
    return pd.DataFrame(rows)


def test_tokens_of_one_class_and_seed_are_compared() -> None:
    table = tokens(plain=(0.1, 0.1, 0.2, 0.2), last_step=(0.4, 0.5, 0.8, 0.9), last_2=(0.5, 0.6, 0.9, 1.0))
    found = find(study(), table.sample(frac=1, random_state=3), [])
    by_place = {(row.variant, row.group): row for row in found.variants}
    one = by_place["last_step", ""]
    assert one.judge is not None
    assert one.gain is not None
    assert one.judge.mean == pytest.approx(0.65)
    assert one.gain.mean == pytest.approx(0.5)
    assert (one.worst_class, one.worst_judge) == ("crane", pytest.approx(0.45))
    assert (one.tokens, one.certified, one.failed, one.evaluations) == (4, 2, 0, 250)
    assert one.diversity == pytest.approx(0.75)
    of_steps, over_plain = found.claims
    assert of_steps.difference.mean == pytest.approx(0.1)
    assert (of_steps.tokens, of_steps.p_value, of_steps.holm_p) == (4, 2 / 16, 4 / 16)  # all flips, two claims
    assert over_plain.difference.mean == pytest.approx(0.5)
    first, second = answers(found)
    assert first.startswith(
        "birds: not shown that images with tokens of `last_2` are recognised by the judge more often"
    )
    assert "than those of `last_step` (+10.0 (all 4 alike) points over 4 tokens, p = 0.125" in first
    assert second.startswith("birds, ambiguous: not shown")


def test_what_is_worse_beyond_chance_is_called_less() -> None:
    many = {"plain": (0.5,) * 4, "last_step": (0.9, 0.8, 0.9, 0.7), "last_2": (0.1, 0.2, 0.1, 0.0)}
    table = pd.concat(
        [tokens(**many).assign(seed=lambda rows, start=start: rows["seed"] + start) for start in (0, 2, 4)]
    )
    (answer,) = answers(find(study(claims=STUDY["claims"][:1]), table, []))
    assert "are recognised by the judge LESS often than those of `last_step` (-72.5" in answer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": [{"variant": "last_3"}]}, "claims name last_3, which is no variant; variants: last_step, last_2"),
        ({"claims": [{"variant": "plain"}]}, "claims name plain, which is no variant"),
        ({"claims": [{"variant": "last_2", "group": "rare"}]}, "claims name the group 'rare'; groups: ambiguous"),
        ({"claims": [{"variant": "last_2", "against": "last_2"}]}, "a claim compares last_2 with itself"),
        ({"show": {"fish": ["cod"]}}, "show name fish, no data set; data sets: birds"),
        ({"groups": {"rare": {"fish": ["cod"]}}, "claims": []}, "groups name fish, no data set"),
        ({"variants": {"a": {"datasets": ["fish"]}}}, "variants name fish, no data set"),
        ({"variants": {}}, "variants: must have at least 1 item, got {}"),
        ({"seeds": {"first": 1, "count": 0}}, "seeds.count: input should be greater than or equal to 1, got 0"),
        ({"rows": {}}, r"rows: unknown key .*; allowed here: question, paper, datasets, variants"),
        ({"variants": {"a": {"seting": []}}}, r"variants.a.seting: unknown key \(did you mean 'settings'\?\); allowed"),
        ({"variants": {"a": {"settings": "x=1"}}}, "variants.a.settings: must be a list, got 'x=1'"),
        ({"claims": {"variant": "a"}}, "claims: must be a list, e.g. `\\[{variant: ...}\\]`, got"),
        ({"datasets": ["birds"]}, "datasets: must be a mapping, `name: ...`, got \\['birds'\\]"),
        ({"datasets": {"birds": "pocket"}}, "datasets.birds: must be a section of settings: config, settings, got"),
        ({"datasets": {"birds": {}}}, "datasets.birds.config: missing; add it"),
        ({"variants": {"last_2": {"settings": ["tokens.vectors=0"]}}}, "the study's run birds, last_2: 1 problem"),
    ],
)
def test_a_wrong_study_is_one_message_that_names_the_fault(tmp_path: Path, changes: Any, message: str) -> None:
    ours: dict[str, Any] = {"claims": []} if "variants" in changes else {}
    path = written(tmp_path, **(ours | changes))
    result = CliRunner().invoke(app, ["study", str(path)])
    with pytest.raises(ConfigError, match=message):
        list(runs(TokenStudy.model_validate(load_any_study(str(path)).model_dump()), tmp_path))
    assert result.exit_code != 0
    assert not (tmp_path / "runs").exists()


def test_options_of_the_other_kind_of_study_are_refused(tmp_path: Path) -> None:
    for words, message in (
        ([str(written(tmp_path)), "--shots", "5"], "--shots: .* is a study of tokens"),
        (["gain", "--variants", "last_2"], "--variants: gain is a study of classifiers; it has --rows"),
        (
            [str(written(tmp_path)), "--variants", "last_9"],
            "--variants: the study has no last_9; it has last_step, last_2",
        ),
        ([str(written(tmp_path)), "--quick"], "no quick part"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, ["study", *words, "-o", str(tmp_path / "out")], catch_exceptions=False)
    with pytest.raises(ConfigError, match="a study of tokens, not of classifiers"):
        load_study(str(written(tmp_path)))


def test_every_shipped_study_of_tokens_can_be_planned(tmp_path: Path) -> None:
    of_tokens = {name: each for name in available_studies() if isinstance(each := load_any_study(name), TokenStudy)}
    assert set(of_tokens) >= {"ambiguity", "depth", "guides"}
    for each in of_tokens.values():
        planned = list(runs(each, tmp_path))
        count = sum(len(each.variants_of(dataset)) for dataset in each.datasets) * each.seeds.count
        assert len({one.config.root for one in planned}) == len(planned) == count
        for dataset, of_dataset in ((name, each.groups_of(name)) for name in each.datasets):
            known = {info for one in planned if one.dataset == dataset for info in _names(one.config)}
            assert {name for group in of_dataset.values() for name in group} | set(each.show.get(dataset, ())) <= known


def _names(config: Any) -> set[str]:
    from dct_augment import datasets

    return {info.name for info in datasets.load(config.dataset).classes}


def test_a_study_runs_to_its_page_names_a_run_that_fails_and_a_second_call_makes_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    broken = {"settings": ["model.path=./no-such-model"], "datasets": ["birds"], "why": "fails"}
    path = written(tmp_path, variants=STUDY["variants"] | {"broken": broken})
    out = tmp_path / "out"
    dry = CliRunner().invoke(app, ["study", str(path), "-o", str(out), "--dry-run"])
    assert "| birds, last_2, seed 300 | 2 of 2 |" in dry.stdout
    result = CliRunner().invoke(app, ["study", str(path), "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 1
    assert "Failed: birds, broken, seed 300: model.path './no-such-model': no model_index.json there" in result.stdout
    written_files = {name: (out / name).read_bytes() for name in ("findings.json", "findings.md", "index.html")}
    found = json.loads(written_files["findings.json"])
    assert [row["variant"] for row in found["variants"] if not row["group"]] == ["last_step", "last_2"]
    assert len(found["claims"]) == 2
    page = written_files["index.html"].decode()
    assert "Runs that failed" in page
    assert all(f"<dt>{column}</dt>" in page for column in token_page._HEAD[1:])
    assert page.count("data:image/webp") == 2  # the first images of both classes
    assert "<svg" in page
    made = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    assert len(made) == 4
    CliRunner().invoke(app, ["study", str(path), "-o", str(out)])
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")} == made
    assert {name: (out / name).read_bytes() for name in written_files} == written_files
    # A part of the study does not take its place.
    CliRunner().invoke(app, ["study", str(path), "-o", str(out), "--variants", "last_2"], catch_exceptions=False)
    assert json.loads((out / "findings.json").read_text())["claims"] == found["claims"]
    assert f"dct-augment study {path}" in (out / "index.html").read_text()
    other = written(tmp_path, question="Another?")
    for more in ([], ["--dry-run"]):
        with pytest.raises(InputError, match=r"holds another study: 'Do two steps do.* Give another --out"):
            CliRunner().invoke(app, ["study", str(other), "-o", str(out), *more], catch_exceptions=False)


def test_what_has_no_tokens_yet_is_said(tmp_path: Path) -> None:
    path = written(tmp_path)
    nothing = CliRunner().invoke(app, ["study", str(path), "-o", str(tmp_path / "out"), "--only-read"])
    assert "nothing is finished in" in nothing.stdout
    assert not (tmp_path / "out").exists()
    found = find(study(), tokens(plain=(0.1,) * 4, last_step=(0.4,) * 4), [])
    assert found.unanswered == ("birds: `last_2` - `last_step`",)
    assert answers(found)[-1] == "birds: `last_2` - `last_step`: not answered yet, for tokens are missing."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question: What?\n", "has `variants`, one of classifiers `rows`; this has neither"),
        ("[1]", "must be a mapping with `question` and `datasets`, got list; a study of tokens has `variants`"),
        ("", "must be a mapping with `question` and `datasets`, got nothing; a study of tokens has `variants`"),
    ],
)
def test_a_file_of_neither_kind_is_told_what_both_have(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_any_study(str(path))


def test_a_group_has_its_classes_whatever_a_variant_calls_them() -> None:
    table = tokens(plain=(0.1, 0.1, 0.1, 0.1), last_step=(0.5, 0.5, 0.9, 0.9), last_2=(0.5, 0.5, 0.9, 0.9))
    table["class"] = "bird"
    groups = {"ambiguous": {"birds": ["crane"]}}
    (claim,) = find(study(groups=groups, claims=[{"variant": "last_step", "group": "ambiguous"}]), table, []).claims
    assert (claim.difference.mean, claim.tokens) == (pytest.approx(0.4), 2)


def test_a_variant_may_have_settings_on_one_data_set_alone(tmp_path: Path) -> None:
    words = "dataset.words={crane: tall bird}"
    both = {**STUDY["datasets"], "digits": {"config": "digits"}}
    planned = list(
        runs(study(datasets=both, variants={"one": {"by_dataset": {"birds": [words]}}}, claims=[]), tmp_path)
    )
    assert [run.config.dataset.words for run in planned] == [{"crane": "tall bird"}, None]
    with pytest.raises(ValueError, match="variants name cats, no data set"):
        study(variants={"one": {"by_dataset": {"cats": []}}}, claims=[])
