"""A folder of a few photos per class, through the whole pipeline: folds, guides of photos, the kept classifier."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import dct_augment
from dct_augment import config
from dct_augment.benchmark.arms import arm_draws
from dct_augment.classifiers import few_shot
from dct_augment.errors import DatasetError
from dct_augment.images import content
from dct_augment.intervals import proportion
from dct_augment.pipeline import few_shot_guide
from dct_augment.pipeline.cost import folds_hint
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import ArmStage, ClassifierStage
from dct_augment.reading import ImageReader
from dct_augment.records import StageName
from dct_augment.report.answer import AnswerSection
from tests.report.pages import class_table, confusion_counts

pytestmark = pytest.mark.slow

BIRDS = {"crane": 3, "kiwi": 4, "bat": 4}
"""How many photos of each class."""

SMALL: dict[str, Any] = {
    "model": {"path": "pocket"},
    "guide": {"name": "few_shot", "backbone": "pocket/backbone", "heads": 2, "augmentations": 2},
    "sampling": {"num_inference_steps": 2},
    "tokens": {
        "max_updates": 2,
        "validate_every": 2,
        "validation_images": 2,
        "restarts": 0,
        "certificate_images": 3,
        "init_from": None,
    },
    "textual_inversion": {"steps": 2, "batch_size": 2},
    "generation": {"per_class": 3, "shard_size": 9, "allow_uncertified": True},
    "downstream": {"model": "pocket/backbone", "pretrained": True, "steps": 8, "batch_size": 8},
    "benchmark": {"processes": 1, "per_class": 3},
    "metrics": {"features": None},
}


def write_photos(folder: Path) -> None:
    birds = dct_augment.load_dataset("pocket")
    counts = dict.fromkeys(BIRDS, 0)
    names = {info.index: info.name for info in birds.classes}
    for example in birds.examples("train"):
        name = names[example.label]
        if counts.get(name, BIRDS.get(name, 0)) < BIRDS.get(name, 0):
            path = folder / name / f"{counts[name]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            example.open().save(path)
            counts[name] += 1


def settings_of(folder: Path, **benchmark: Any) -> config.Config:
    values = {"name": "photos", "dataset": {"name": "folder", "path": str(folder / "photos")}, **SMALL}
    values = {**values, "benchmark": {**SMALL["benchmark"], **benchmark}}
    path = folder / "photos.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return config.load(str(path), output=folder / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("few")
    write_photos(folder / "photos")
    run = Run(settings_of(folder))
    run.run_all()
    return folder


def test_few_photos_are_tested_by_cross_validation_with_no_more_folds_than_photos(folder: Path) -> None:
    resolved = yaml.safe_load((folder / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert resolved["benchmark"]["protocol"] == "cross_validation"
    assert resolved["benchmark"]["folds"] == 3
    assert (resolved["dataset"]["val"], resolved["dataset"]["test"]) == (0.0, 0.0)


def test_every_photo_is_tested_once_in_every_arm(folder: Path) -> None:
    summary = json.loads((folder / "run" / "report" / "summary.json").read_text(encoding="utf-8"))["benchmark"]
    assert (summary["protocol"], summary["folds"]) == ("cross_validation", 3)
    assert set(summary["arms"]) == {"real", "real+strong_aug", "plain_prompt", "class_token_few_shot_guide"}
    assert all(estimate["n"] == 3 for estimate in summary["arms"].values())
    counts = confusion_counts(folder / "run", "test", "real+strong_aug")
    assert {name: sum(answers.values()) for name, answers in counts.items()} == {"bat": 4, "crane": 3, "kiwi": 4}


def test_the_report_begins_with_the_answer(folder: Path) -> None:
    page = (folder / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert 0 < page.index("The answer") < page.index(">Results<")
    answer = json.loads((folder / "run" / "report" / "summary.json").read_text(encoding="utf-8"))["answer"]
    assert answer["effect"]["verdict"] in page
    assert answer["kept"]["chosen_by"] == "other_folds"
    assert class_table(folder / "run")["kept.mean"].notna().to_dict() == dict.fromkeys(BIRDS, True)
    assert answer["effect"]["unclear"] == "few_folds"
    assert answer["kept"]["chance"] == round(4 / 11, 4)
    assert page.count("Three folds are too few to tell how much this would vary with other photos.") == 1
    assert "Metrics are switched off" in page


def test_no_table_of_the_run_claims_more_than_eleven_photos_tell(folder: Path) -> None:
    """The report, its numbers, and the model card give every arm Wilson's interval over the photos."""
    arms = json.loads((folder / "run" / "report" / "summary.json").read_text(encoding="utf-8"))["benchmark"]["arms"]
    kept = json.loads((folder / "run" / "classifier" / "classifier.json").read_text(encoding="utf-8"))
    for arm, estimate in arms.items():
        wilson = proportion(round(estimate["mean"] * 11), 11)
        assert estimate["ci95"] == pytest.approx([wilson.low, wilson.high], abs=1e-4)
        assert [kept["arms"][arm][end] for end in ("low", "high")] == pytest.approx(estimate["ci95"], abs=1e-4)
        assert "as so few folds cannot tell" in kept["arms"][arm]["method"]


def test_the_kept_classifier_predicts_and_says_what_it_was_made_of(folder: Path) -> None:
    kept = json.loads((folder / "run" / "classifier" / "classifier.json").read_text(encoding="utf-8"))
    assert {entry["name"]: entry["photos"] for entry in kept["classes"]} == BIRDS
    classifier = dct_augment.load_classifier(str(folder / "run"))
    (prediction,) = classifier.predict([Image.open(folder / "photos" / "crane" / "0.png")])
    assert prediction.label in BIRDS
    assert 1 / 3 < prediction.probability <= 1


def test_a_second_run_does_nothing(folder: Path) -> None:
    run = Run(settings_of(folder))
    before = {path: path.stat().st_mtime_ns for path in (folder / "run" / "classifier").iterdir()}
    for stage in run.stages(StageName.REPORT):
        assert stage.pending() == ()
    assert {path: path.stat().st_mtime_ns for path in (folder / "run" / "classifier").iterdir()} == before


def test_a_kept_classifier_without_its_weights_or_of_other_settings_is_not_made(folder: Path, tmp_path: Path) -> None:
    def section(**benchmark: Any) -> AnswerSection:
        stage = ClassifierStage(Run(settings_of(folder, **benchmark).model_copy(update={"output": copy})))
        found = stage.answer_section()
        assert found is not None
        assert bool(stage.pending()) is not found.numbers["kept"]["made"]
        return found

    copy = tmp_path / "copy"
    shutil.copytree(folder / "run", copy)
    whole = section()
    recorded = json.loads((copy / "classifier" / "classifier.json").read_text(encoding="utf-8"))
    assert (whole.numbers["kept"]["made"], whole.calibration_error) == (True, recorded["calibration_error"])
    assert recorded["calibration_error"] is not None
    other = section(arms=["real", "real+strong_aug"])
    assert (other.numbers["kept"]["made"], other.calibration_error) == (False, None)
    weights = copy / "classifier" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not section().numbers["kept"]["made"]
    weights.unlink()
    assert not section().numbers["kept"]["made"]


def test_a_report_opens_the_photos_that_it_shows_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = ClassifierStage(Run(settings_of(folder)))
    opened: list[Path] = []
    original = ImageReader.read

    def recorded(self: ImageReader, source: Any) -> Image.Image:
        opened.append(source)
        return original(self, source)

    _ = stage._context.data
    monkeypatch.setattr(ImageReader, "read", recorded)
    section = stage.answer_section()
    assert section is not None
    assert len(opened) == 2 * len(section.mistakes) > 0


def test_another_arm_among_those_compared_makes_the_classifier_anew(folder: Path) -> None:
    stage = ClassifierStage(Run(settings_of(folder, arms=["real", "real+strong_aug"])))
    assert stage.choice is not None
    assert stage.choice.arm in ("real", "real+strong_aug")
    assert stage.effect is None
    assert [unit.stage for unit in stage.pending()] == [StageName.CLASSIFIER]


def test_guide_and_textual_inversion_of_a_fold_see_none_of_its_test_photos(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[set[str]] = []
    original = few_shot.fit

    def recorded(settings: Any, images: Sequence[Image.Image], *rest: Any, **options: Any) -> Any:
        shown.append({content(image) for image in images})
        return original(settings, images, *rest, **options)

    monkeypatch.setattr(few_shot, "fit", recorded)
    arms = ["textual_inversion", "class_token_few_shot_guide"]
    run = Run(settings_of(folder, arms=arms, seed=7))  # another repeat: nothing is there
    stage = ArmStage(run)
    draws = run.draws()
    for unit in stage.pending():
        draw = arm_draws(run.config.benchmark)[unit.number]
        tests = {content(example.open()) for example in draws.split(draw.shots, draw.seed).test}
        photos = {content(photo.open()) for photo in stage._inner(draw).photos()}
        assert tests
        assert not photos & tests
        before = len(shown)
        stage.do(unit)
        assert all(not images & tests for images in shown[before:])
    assert len(shown) == 6  # one for each arm and fold
    assert not stage.pending()


def test_a_class_of_one_photo_is_refused_before_any_work(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    for number in (1, 2, 3):
        (tmp_path / "photos" / "kiwi" / f"{number}.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 classes has one image: .kiwi.\. One image cannot both train"):
        Run(settings_of(tmp_path)).benchmark()
    assert not (tmp_path / "run" / "tokens").exists()


def test_photos_of_a_class_that_are_all_copies_are_refused_by_name(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    for number in (1, 2, 3):
        (tmp_path / "photos" / "kiwi" / f"{number}.png").write_bytes((tmp_path / "photos/kiwi/0.png").read_bytes())
    with pytest.raises(DatasetError, match="class 'kiwi' has 1 different photo; cross-validation needs two"):
        Run(settings_of(tmp_path)).benchmark()
    assert not (tmp_path / "run" / "tokens").exists()


def test_the_cost_of_folds_is_said_with_what_is_cheaper_and_what_is_lost(folder: Path) -> None:
    run = Run(settings_of(folder, folds=2))
    assert run.config.benchmark.folds == 2
    assert folds_hint(run.config, 3) == "cross-validation: 2 folds x 3 class tokens, and 3 of all photos: 9."
    more = run.config.model_copy(update={"benchmark": run.config.benchmark.model_copy(update={"folds": 5})})
    assert "5 folds x 3 class tokens, and 3 of all photos: 18. Cheaper: --set benchmark.folds=2; " in folds_hint(
        more, 3
    )
    holdout = run.config.benchmark.model_copy(update={"protocol": "holdout"})
    assert folds_hint(run.config.model_copy(update={"benchmark": holdout}), 3) == ""
    real = run.config.benchmark.model_copy(update={"arms": ("real", "class_token")})
    assert folds_hint(run.config.model_copy(update={"benchmark": real}), 3) == (
        "cross-validation: 2 folds; class tokens are trained once, of all photos: 3."
    )


MAKER = """
import shutil, sys, time
from pathlib import Path
from dct_augment import files
made, folder = map(Path, sys.argv[1:])
with files.lock(folder.parent):
    print("held", flush=True)
    time.sleep(0.5)
    shutil.copytree(made, folder)
"""


def test_a_guide_that_another_process_is_making_is_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers begin with one guide at once; each would make it, and they would be in each other's way."""
    made = next((folder / "run").glob("**/guide/**/few_shot.json")).parent
    written = few_shot.FewShotClassifier.load(made)
    monkeypatch.setattr("dct_augment.classifiers.few_shot.fit", lambda *_, **__: pytest.fail("it is made twice"))
    place = tmp_path / made.parent.name / made.name  # a guide is bound to both names
    command = [sys.executable, "-c", MAKER, str(made), str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "held\n"
        _, member = few_shot_guide.make([written.settings], [], written.classes, place, "cpu")
    assert member.out_of_fold == written.out_of_fold
