"""How a benchmark tests: what a holdout of few photos lacks, and what it can say at all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dct_augment import config
from dct_augment.errors import DatasetError
from dct_augment.pipeline.doctor.examination import examine
from dct_augment.pipeline.protocol import check_test
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import TrialStage


def write_photos(root: Path, count: int, classes: tuple[str, ...] = ("gate", "petal", "wall")) -> None:
    """Write different photos, as many of each class."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([label, number]).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


def settings_of(photos: Path, *changes: str) -> config.Config:
    dataset = f"dataset={{name: folder, path: {photos}}}"
    guide = "guide={name: few_shot, backbone: pocket/backbone}"
    changes = (dataset, guide, "judge=null", "benchmark.arms=[real]", "benchmark.protocol=holdout", *changes)
    return config.load("pocket", list(changes), output=photos.parent / "run")


def test_a_holdout_that_leaves_a_class_untested_is_refused_before_any_work(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 5)
    run = Run(settings_of(tmp_path / "photos"))
    with pytest.raises(DatasetError) as refused:
        list(run.stages(TrialStage.name))
    message = str(refused.value)
    assert message.startswith("benchmark.protocol=holdout holds ")
    assert "of 15 photos out for the test, of a class: 'gate' " in message
    for fix in ("photos/test/<class>/", "add photos", "benchmark.protocol=cross_validation"):
        assert fix in message
    assert refused.value.exit_code == 2
    finding = next(finding for finding in examine(run.config) if finding.what == "data set")
    assert (finding.state, finding.detail) == ("missing", message)


def test_a_test_of_few_images_is_warned_of_with_what_its_accuracy_means(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos" / "train", 5)
    write_photos(tmp_path / "photos" / "test", 4)
    told: list[str] = []
    run = Run(settings_of(tmp_path / "photos", "dataset.duplicates=drop"), lambda progress: told.append(progress.note))
    remark = check_test(run.dataset, run.dataset, run.config)
    assert remark.startswith(
        "warning: the test has 4 images of class 'gate': an accuracy on it is known to within ±49 points only, that "
        "on all 12 to within ±28 (3 of 3 classes have fewer than 10: 'gate' 4, 'petal' 4, 'wall' 4)."
    )
    TrialStage(run).check()
    assert remark in told
    finding = next(finding for finding in examine(run.config) if finding.what == "data set")
    assert (finding.state, "±49 points" in finding.fix) == ("warning", True)


def test_a_test_of_enough_images_is_no_remark(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos" / "train", 2)
    write_photos(tmp_path / "photos" / "test", 10)
    run = Run(settings_of(tmp_path / "photos"))
    assert check_test(run.dataset, run.dataset, run.config) == ""
