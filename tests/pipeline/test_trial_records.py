import json
from pathlib import Path

from dct_augment import config
from dct_augment.benchmark.trials import TrialPlan
from dct_augment.pipeline.stages.trial_records import TrialRecords


def record(root: Path) -> TrialRecords:
    """The records of a run with one trial whose identity this version does not know."""
    path = root / "benchmark" / "trials" / "real-5-0-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"arm": "real", "accuracy": 0.5, "identity": "of another version"}))
    settings = config.load("pocket", output=root)
    return TrialRecords(settings, settings.identity("benchmark"), {})


def test_a_trial_with_other_settings_is_not_read(tmp_path: Path) -> None:
    assert record(tmp_path).read(TrialPlan("real", 0, 5)) is None


def test_a_run_of_version_0_1_keeps_its_trials(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "plan.json").write_text('{"train": [], "plain": []}')
    read = record(tmp_path).read(TrialPlan("real", 0, 5))
    assert read is not None
    assert read["accuracy"] == 0.5
