import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dct_augment import config, files
from dct_augment.benchmark.trials import TrialPlan
from dct_augment.errors import DctAugmentError
from dct_augment.pipeline.stages.trial_records import OtherTrials, TrialRecords
from dct_augment.records import Trial


def record(root: Path) -> TrialRecords:
    """The records of a run with one trial whose identity this version does not know."""
    path = root / "benchmark" / "trials" / "real-5-0-0.json"
    path.parent.mkdir(parents=True)
    stored = {"arm": "real", "shots": 5, "seed": 0, "per_class": 0, "accuracy": 0.5, "identity": "of another version"}
    path.write_text(json.dumps(stored))
    settings = config.load("pocket", output=root)
    return TrialRecords(settings, {"": settings.identity("benchmark")}, {})


def test_a_trial_with_other_settings_is_not_read(tmp_path: Path) -> None:
    assert record(tmp_path).read(TrialPlan("real", 0, 5)) is None


def test_a_run_of_version_0_1_keeps_its_trials(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "plan.json").write_text('{"train": [], "plain": []}')
    read = record(tmp_path).read(TrialPlan("real", 0, 5))
    assert read is not None
    assert read["accuracy"] == 0.5


TRIAL = Trial("real", 5, 0, 0, 20, 0.5, 0.5, (0, 1), (0, 0))
PLANS = (TrialPlan("real", 0, 5), TrialPlan("real", 1, 5))


def records(root: Path, *changes: str) -> TrialRecords:
    settings = config.load("pocket", changes, output=root)
    return TrialRecords(settings, {"": settings.identity("benchmark")}, {})


def test_trials_of_today_are_no_others(tmp_path: Path) -> None:
    today = records(tmp_path)
    assert today.others(PLANS).count == 0
    today.write(PLANS[0], TRIAL)
    assert today.others(PLANS) == OtherTrials(0, (), 0)
    assert today.others(PLANS).remark(tmp_path) == ""


def test_the_settings_that_differ_are_named(tmp_path: Path) -> None:
    for plan in PLANS:
        records(tmp_path, "downstream.steps=7", "benchmark.filter_confidence=0.1").write(plan, TRIAL)
    others = records(tmp_path).others(PLANS)
    assert others == OtherTrials(2, ("benchmark.filter_confidence", "downstream.steps"), 0)
    assert others.remark(Path("runs/pocket")) == (
        "2 recorded trials were made with other settings or images (benchmark.filter_confidence, downstream.steps). To "
        "see them, give the same --set. runs/pocket/config.yaml has the settings of the last work."
    )


def test_the_settings_that_plan_a_trial_are_named(tmp_path: Path) -> None:
    today = records(tmp_path)
    today.write(TrialPlan("real", 0, 5), TRIAL)
    today.write(TrialPlan("real", 0, 2), dataclasses.replace(TRIAL, shots=2))
    today.write(TrialPlan("real", 8, 5), dataclasses.replace(TRIAL, seed=8))
    assert today.others(PLANS) == OtherTrials(2, ("benchmark.seed or seeds", "benchmark.shots or shots_curve"), 0)


def test_trials_on_other_real_images_are_made_again_by_a_benchmark(tmp_path: Path) -> None:
    settings = config.load("pocket", output=tmp_path)
    before, after = ({**settings.identity("benchmark"), "dataset": {"images": name}} for name in ("before", "after"))
    TrialRecords(settings, {"": before}, {}).write(PLANS[0], TRIAL)
    others = TrialRecords(settings, {"": after}, {}).others(PLANS)
    assert others == OtherTrials(1, ("the real images",), 0)
    assert others.remark(tmp_path) == (
        "1 recorded trial was made with other settings or images (the real images). `dct-augment benchmark` makes "
        "them again with the images of today."
    )


def test_trials_on_other_synthetic_images_are_told_apart(tmp_path: Path) -> None:
    today = records(tmp_path)
    today.write(PLANS[0], TRIAL)
    path = tmp_path / "benchmark" / "trials" / "real-5-0-0.json"
    files.write_json(path, files.load_json(path) | {"identity": "of other shards"})
    assert today.others(PLANS) == OtherTrials(1, ("the synthetic images",), 0)


WITH_LOGITS = dataclasses.replace(TRIAL, logits=((0.125, -3.0), (2.5, 1.0)))
NPY = Path("benchmark", "trials", "real-5-0-0.npy")


def test_logits_lie_beside_the_record_and_are_read_back(tmp_path: Path) -> None:
    today = records(tmp_path)
    today.write(PLANS[0], WITH_LOGITS)
    assert np.load(tmp_path / NPY).dtype == np.float32
    assert today.logits(PLANS[0]).tolist() == [[0.125, -3.0], [2.5, 1.0]]
    record = json.loads((tmp_path / NPY).with_suffix(".json").read_text())
    assert record["logits"] == files.sha256(tmp_path / NPY)
    today.write(PLANS[1], TRIAL)
    assert [path.name for path in (tmp_path / "benchmark" / "trials").glob("*.npy")] == [NPY.name]


def test_a_trial_without_its_logits_is_made_again(tmp_path: Path) -> None:
    today = records(tmp_path)
    today.write(PLANS[0], WITH_LOGITS)
    np.save(tmp_path / NPY, np.zeros((2, 2), np.float32))
    with pytest.raises(DctAugmentError, match=r"real-5-0-0.npy' does not hold the logits .* delete the file"):
        today.logits(PLANS[0])
    (tmp_path / NPY).unlink()
    assert today.read(PLANS[0]) is None


def test_logits_of_an_older_version_are_read_from_the_record(tmp_path: Path) -> None:
    today = records(tmp_path)
    today.write(PLANS[0], TRIAL)
    path = (tmp_path / NPY).with_suffix(".json")
    path.write_text(json.dumps(files.load_json(path) | {"logits": WITH_LOGITS.logits}))
    assert today.read(PLANS[0]) is not None
    assert today.logits(PLANS[0]).tolist() == [[0.125, -3.0], [2.5, 1.0]]


@pytest.mark.parametrize("damaged", ["", "{", "[]", '"text"', "{}", "[" * 99_999, "another digit", "another answer"])
def test_a_damaged_trial_is_made_again(tmp_path: Path, damaged: str) -> None:
    today = records(tmp_path)
    today.write(PLANS[0], TRIAL)
    path = tmp_path / "benchmark" / "trials" / "real-5-0-0.json"
    changed = {"another digit": ('"accuracy": 0.5', '"accuracy": 0.6'), "another answer": ("[0, 1]", "[0, 2]")}
    if damaged in changed:
        damaged = path.read_text().replace(*changed[damaged])
        assert damaged != path.read_text()
    path.write_text(damaged)
    assert today.read(PLANS[0]) is None
    others = today.others(PLANS)
    assert others.count == 0
    assert others.remark(tmp_path) == (
        f"1 recorded trial cannot be read: {tmp_path / 'benchmark' / 'trials' / 'real-5-0-0.json'}. "
        "`dct-augment benchmark` makes what is damaged again."
    )
    (tmp_path / "config.yaml").write_text("name: x")
    assert f"`dct-augment benchmark --config {tmp_path / 'config.yaml'} --output {tmp_path}` makes" in others.remark(
        tmp_path
    )


def test_a_trial_without_settings_is_said_to_be_unknown(tmp_path: Path) -> None:
    others = record(tmp_path).others((TrialPlan("real", 0, 5),))
    assert others == OtherTrials(1, (), 1)
    assert "(of 1 trial it is not recorded with which)" in others.remark(tmp_path)
