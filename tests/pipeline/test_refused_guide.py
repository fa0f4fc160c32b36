"""Photos from which no guide can be made: a run goes on without tokens, and says so."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import dct_augment
from dct_augment import config
from dct_augment.benchmark.arms import ARMS, ArmDraw
from dct_augment.benchmark.choice import SyntheticEffect
from dct_augment.benchmark.estimates import Difference
from dct_augment.cli.commands import app
from dct_augment.errors import ModelError
from dct_augment.intervals import Estimate
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import ClassifierStage
from dct_augment.records import Progress, StopReason
from dct_augment.report.page import answer_in_words

SENTENCE = (
    "No class token could be trained, so this run's images are of plain prompts: gate, petal "
    "(the few-shot guide is no better than chance for this class)."
)

SMALL: dict[str, Any] = {
    "model": {"path": "pocket"},
    "guide": {"name": "few_shot", "backbone": "pocket/backbone", "heads": 1, "augmentations": 1},
    "sampling": {"num_inference_steps": 2},
    "tokens": {"max_updates": 2, "validation_images": 2, "certificate_images": 2, "restarts": 0},
    "generation": {"per_class": 4},
    "downstream": {"model": "pocket/backbone", "pretrained": True, "steps": 5, "batch_size": 8},
    "benchmark": {"processes": 1, "per_class": 4, "folds": 2, "arms": ["real", "plain_prompt", "class_token"]},
    "metrics": {"features": None},
}


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration for three photos each of two classes, whose labels say nothing."""
    folder = tmp_path_factory.mktemp("shuffled")
    dct_augment.write_photos(dct_augment.load_dataset("pocket"), folder / "all", folder / "new", shots=3, new_photos=1)
    photos = [*sorted((folder / "all" / "crane").iterdir()), *sorted((folder / "all" / "kiwi").iterdir())]
    random.Random(0).shuffle(photos)
    for number, photo in enumerate(photos):
        path = folder / "photos" / ("gate", "petal")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, path)
    values = {"name": "shuffled", "dataset": {"name": "folder", "path": str(folder / "photos")}, **SMALL}
    path = folder / "shuffled.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_the_answer_says_in_how_many_folds_the_guide_was_refused(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = ARMS["class_token_few_shot_guide"].name
    run = Run(config.load(str(configuration), [f"benchmark.arms=[real, {arm}]"], output=tmp_path))
    reasons = {0: [StopReason.TARGET, StopReason.REFUSED], 1: [StopReason.TARGET] * 2}
    for fold, stopped in reasons.items():
        folder = run.arm_paths.tokens(ArmDraw(arm, run.config.benchmark.shot_count, fold))
        folder.mkdir(parents=True)
        pd.DataFrame({"stop_reason": list(map(str, stopped)), "verdict": ""}).to_parquet(folder / "index.parquet")
    stage = ClassifierStage(run)
    for judged, said in (
        (
            arm,
            "In 1 of 2 folds the guide was refused for classes: they have plain prompts there, and no class token.",
        ),
        ("plain_prompt", ""),
    ):
        difference = Difference(Estimate(0.1, 0.0, 0.2, 2), "few_folds", (0.1, 0.1))
        monkeypatch.setitem(vars(stage), "effect", SyntheticEffect(judged, "real", difference))
        assert stage._refused_draws() == said


def test_a_run_whose_guide_is_refused_for_all_classes_makes_a_report_and_a_classifier(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remarks: list[Progress] = []
    run = Run(config.load(str(configuration), output=configuration.parent / "run"), remarks.append)
    page = run.run_all()
    run.check()  # on_class_failure is `fail`, and nothing failed
    assert run.failed == {}
    assert run.without_token == dict.fromkeys(("gate", "petal"), StopReason.REFUSED)
    assert sum("so it cannot guide" in progress.note for progress in remarks) == 1

    assert answer_in_words(run.config.root)[0] == SENTENCE
    assert page.read_text(encoding="utf-8").count(SENTENCE.replace("'", "&#39;")) == 2
    summary = json.loads((page.parent / "summary.json").read_text(encoding="utf-8"))
    assert summary["certificates"]["untrained"] == {str(StopReason.REFUSED): {"count": 2, "names": ["gate", "petal"]}}
    assert set(summary["benchmark"]["arms"]) == {"real", "plain_prompt", "class_token"}
    for shards in run.shards.values():
        assert (len(shards.rows()), set(shards.rows()["kind"])) == (8, {"plain_prompt"})
    assert dct_augment.load_classifier(str(run.config.root)).labels

    monkeypatch.setattr(Run, "guide", None)  # what is done needs none
    done = CliRunner().invoke(app, ["train", "--config", str(configuration), "--output", str(run.config.root)])
    assert isinstance(done.exception, ModelError)
    assert done.exception.exit_code == 2
    assert (
        "no class token could be trained: the few-shot guide is no better than chance for 'gate', 'petal'. Give"
        in str(done.exception)
    )
    assert "gate" in done.stdout
