"""A study, from its YAML file to its findings."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

import dct_augment
from benchmarks import study_images, study_tokens
from dct_augment import classifiers
from dct_augment.cli.commands import app
from dct_augment.config import ClassifierConfig
from dct_augment.config.studies import Study, available_studies, load_any_study, load_study
from dct_augment.errors import ConfigError, InputError
from dct_augment.studies import plan
from dct_augment.studies.running import remaining, run_study

STUDY = {
    "question": "Does the study run?",
    "datasets": {"birds": {"config": "pocket", "settings": ["dataset.classes=[crane, kiwi, bat]"]}},
    "shots": [2],
    "draws": {"first": 100, "count": 2},
    "tuning": {"first": 1000, "count": 2},
    "settings": [
        "guide={name: few_shot, backbone: pocket/backbone, augmentations: 2, folds: 2}",
        "judge=null",
        "metrics.features=null",
        "tokens.max_updates=1",
        "tokens.restarts=0",
        "tokens.certificate_images=2",
        "tokens.validation_images=2",
        "sampling.num_inference_steps=2",
        "benchmark.per_class=2",
        "benchmark.processes=1",
        "downstream.steps=2",
        "downstream.batch_size=4",
        "downstream.validation_rounds=1",
    ],
    "rows": {
        "real": {"arm": "real"},
        "tokens": {"arm": "class_token_few_shot_guide"},
        "share": {"arm": "class_token_few_shot_guide", "settings": ["downstream.synthetic_probability=0.3"]},
        "noise": {"arm": "class_token_few_shot_guide", "settings": ["generation.seed=7"]},
    },
    "claims": [{"row": "tokens"}],
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return path


def test_rows_of_one_study_share_tokens_and_images_and_a_second_call_makes_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    study = load_study(str(written(tmp_path)))
    told: list[str] = []
    before = remaining(study, study.draws, tmp_path / "out")
    assert [(each.trainings, each.draws) for each in before] == [(4, 2), (2, 0), (2, 2)]  # shares see the same images
    assert not (tmp_path / "out").exists()
    findings = run_study(study, study.draws, tmp_path / "out", lambda news: told.append(f"{news.stage}: {news.note}"))
    assert [(each.trainings, each.draws) for each in remaining(study, study.draws, tmp_path / "out")] == [(0, 0)] * 3
    assert told[0] == "study: run 1 of 3: birds, default, 2 shots: real, tokens"
    arms = tmp_path / "out" / "arms" / "birds"
    folders = sorted(path.name.rpartition("-")[0] for path in arms.iterdir())
    # One folder of tokens for all three rows; images once for the two shares, once for the other noise.
    arm = "class_token_few_shot_guide"
    assert folders == [arm, arm, f"tokens-{arm}"]
    assert {row.row for row in findings.rows} == set(study.rows)
    assert not findings.missing
    written_files = {path: path.stat().st_mtime_ns for path in arms.rglob("*.*") if path.is_file()}
    trials = sorted((tmp_path / "out").glob("birds-*/*/benchmark/trials/*.json"))
    texts = [path.read_text() for path in trials]
    assert run_study(study, study.draws, tmp_path / "out") == findings
    assert {path: path.stat().st_mtime_ns for path in written_files} == written_files
    assert [path.read_text() for path in trials] == texts
    runs = list(plan.runs(study, study.draws, tmp_path / "out"))
    with pytest.raises(InputError, match="the runs of this study have no judge"):
        study_images.read(runs)
    judge = classifiers.load([ClassifierConfig(name="pocket/birds-judge")], dct_augment.load_dataset("pocket").classes)
    ((place, of_images),) = study_images.read(runs, judge).items()
    assert place == "birds, default, 2 shots"
    assert of_images["tokens"].equals(of_images["share"])
    assert not of_images["tokens"].equals(of_images["noise"])
    for row in ("tokens", "noise"):
        assert of_images[row][["judge", "precision", "recall"]].stack().between(0, 1).all()
        assert (of_images[row][["spread", "offset"]] > 0).all().all()
    ((place, means),) = study_tokens.read(runs).items()
    assert place == "birds, default, 2 shots"
    assert set(means) == {"tokens", "share", "noise"}  # one folder of tokens
    (tokens,) = arms.glob("tokens-*")
    for seed, each in means["tokens"].iterrows():
        index = pd.read_parquet(tokens / f"2-{seed}" / "index.parquet")
        assert each["unet_evaluations"] == pytest.approx(index["unet_evaluations"].mean())
    assert list(means["tokens"].index) == [100, 101]
    recorded = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert [claim["row"] for claim in recorded["claims"]] == ["tokens"]
    assert recorded["protocol"]["draws"] == {"first": 100, "count": 2}
    assert recorded["photos"] == "test"
    by_draw = pd.read_parquet(tmp_path / "out" / "trials.parquet").set_index(["row", "seed"])
    for row in recorded["rows"]:  # whoever has this file alone can pair and test anew
        for name, column in (("accuracy_by_draw", "accuracy"), ("validation_by_draw", "val_accuracy")):
            accuracies = {int(seed): value for seed, value in row[name].items()}
            assert accuracies == pytest.approx(by_draw.loc[row["row"], column].to_dict(), abs=1e-4)
    assert "`tokens` - `best_real`" in (tmp_path / "out" / "findings.md").read_text()


def test_tuning_does_not_show_the_test(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    study = load_study(str(written(tmp_path))).narrowed(rows=["real"])
    root = tmp_path / "out"
    findings = run_study(study, study.tuning, root)
    trials = pd.read_parquet(root / "trials.parquet")
    assert findings.photos == "validation"
    assert [row.accuracy.mean for row in findings.rows] == pytest.approx([trials["val_accuracy"].mean()])
    assert "validation accuracy" in (root / "findings.md").read_text()
    (row,) = json.loads((root / "findings.json").read_text())["rows"]
    assert row["accuracy_by_draw"] == row["validation_by_draw"]


def test_each_draw_has_noise_of_its_own(tmp_path: Path) -> None:
    study = load_study(str(written(tmp_path)))
    planned = list(plan.runs(study, study.draws, tmp_path))
    assert [dict(run.arm_of) for run in planned] == [
        {"real": "real", "tokens": "class_token_few_shot_guide"},
        {"share": "class_token_few_shot_guide"},
        {"noise": "class_token_few_shot_guide"},
    ]
    assert len({run.config.root for run in planned}) == 3
    assert {run.config.benchmark.arms_folder for run in planned} == {tmp_path / "arms" / "birds"}
    assert list(planned[0].config.benchmark.draws) == [100, 101]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"claims": [{"row": "tokenz"}]}, "tokenz"),
        ({"tuning": {"first": 101, "count": 2}}, "share the seeds [101]"),
        ({"rows": {"a": {"arm": "rael"}, "b": {"arm": "real"}}}, "rows.a.arm"),
        ({"claims": [], "rows": {"a": {"arm": "real", "recipes": ["slow"]}, "b": {"arm": "real"}}}, "name slow, which"),
        ({"claims": [{"row": "tokens", "recipes": ["slow"]}]}, "claims name slow, which is no recipe"),
        ({"claims": [{"row": "tokens", "shots": [3]}]}, "claims are of [3] shots; the study has [2]"),
        ({"claims": [], "rows": {"a": {"arm": "real", "shots": [7]}, "b": {"arm": "real"}}}, "rows are of [7] shots"),
        (
            {"rows": {"real": {"arm": "real"}, "tokens": {"arm": "class_token", "tuning_only": True}}},
            "claims are about tokens, which is for tuning only",
        ),
        ({"shots": []}, "shots"),
        ({"datasets": {}}, "datasets"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_study_is_one_message_that_names_the_fault(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(str(written(tmp_path, **changes)))
    assert words in str(caught.value)


def test_a_row_can_be_of_some_recipes_alone(tmp_path: Path) -> None:
    rows = {"real": {"arm": "real"}, "strong": {"arm": "real+strong_aug", "recipes": ["slow"]}}
    study = load_study(
        str(written(tmp_path, rows=rows, claims=[], recipes={"fast": [], "slow": ["downstream.steps=9"]}))
    )
    assert {cell.recipe: names for cell, names in plan.rows(study).items()} == {
        "fast": ("real",),
        "slow": ("real", "strong"),
    }
    assert [dict(run.arm_of) for run in plan.runs(study, study.draws, tmp_path)] == [
        {"real": "real"},
        {"real": "real", "strong": "real+strong_aug"},
    ]


def test_a_row_can_be_of_some_shots_and_of_tuning_alone(tmp_path: Path) -> None:
    rows = {
        "real": {"arm": "real"},
        "strong": {"arm": "real+strong_aug", "shots": [1]},
        "light": {"arm": "real", "settings": ["downstream.steps=9"], "tuning_only": True},
    }
    study = load_study(str(written(tmp_path, rows=rows, claims=[], shots=[1, 5])))
    assert {cell.shots: names for cell, names in plan.rows(study).items()} == {
        1: ("real", "strong", "light"),
        5: ("real", "light"),
    }
    assert {cell.shots: names for cell, names in plan.rows(study.reported()).items()} == {
        1: ("real", "strong"),
        5: ("real",),
    }


def test_an_unknown_study_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="gain"):
        load_study("no_such_study")


def test_a_study_can_be_narrowed_to_what_it_has(tmp_path: Path) -> None:
    study = load_study(str(written(tmp_path)))
    assert list(study.narrowed(rows=["share", "real"]).rows) == ["real", "share"]
    assert study.narrowed(rows=["real", "share"]).claims == ()
    with pytest.raises(InputError, match="--shots: the study has no 3; it has 2"):
        study.narrowed(shots=[3])
    with pytest.raises(InputError, match="fish"):
        study.narrowed(datasets=["fish"])


def test_every_shipped_study_can_be_planned(tmp_path: Path) -> None:
    of_classifiers = [each for name in available_studies() if isinstance(each := load_any_study(name), Study)]
    assert of_classifiers
    for study in of_classifiers:
        assert list(plan.runs(study, study.tuning, tmp_path))
        assert list(plan.runs(study.reported(), study.draws, tmp_path))


def test_the_command_lists_studies_with_their_questions() -> None:
    result = CliRunner().invoke(app, ["study", "--list"])
    assert result.exit_code == 0
    for name in available_studies():
        assert f"{name}: {load_any_study(name).question}" in result.stdout


def test_a_row_for_tuning_is_no_row_of_the_report() -> None:
    with pytest.raises(InputError, match="--rows tokens_guide: for tuning only; add --tuning"):
        CliRunner().invoke(app, ["study", "gain", "--rows", "real,tokens_guide"], catch_exceptions=False)
