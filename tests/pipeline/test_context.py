"""What a run knows of its own models and draws, before any work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dct_augment import config, pocket
from dct_augment.errors import ModelError
from dct_augment.pipeline.context import RunContext
from dct_augment.records import Progress


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four training photos and two test photos of two classes."""
    shade = 0
    for split, count in (("train", 4), ("test", 2)):
        for label in ("gate", "petal"):
            for number in range(count):
                path = tmp_path / "photos" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (shade, 255 - shade, 10)).save(path)
                shade += 20
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("changes", "draws_alone"),
    [
        ((), True),
        (("benchmark.shots=3",), False),
        (("benchmark.imbalance=2",), False),
        (("benchmark.protocol=cross_validation",), False),
        (("guide=[{name: few_shot, backbone: pocket/backbone}, {name: pocket/birds-guide}]",), False),
        (("guide=pocket/birds-guide",), False),
    ],
)
def test_tokens_know_the_photos_of_a_draw_alone_where_each_draw_has_all(
    photos: Path, tmp_path: Path, changes: tuple[str, ...], draws_alone: bool
) -> None:
    few = (
        f"dataset={{name: folder, path: {photos}, val: 0}}",
        "guide={name: few_shot, backbone: pocket/backbone}",
        "benchmark.shots=4",
    )
    context = RunContext(config.load("pocket", [*few, *changes], output=tmp_path / "run"))
    assert context.tokens_know_draws_alone == draws_alone


@pytest.mark.parametrize(
    ("guide", "saw"),
    [
        ("pocket/birds-guide", "this_training_set"),
        ("resnet50", "unknown"),
        ("{name: resnet50, saw: this_training_set}", "this_training_set"),
        ("{name: resnet50, saw: these_photos}", "draw"),
        ("{name: few_shot, backbone: pocket/backbone}", "draw"),
        ("{name: zero_shot}", "web"),
        ("[{name: zero_shot}, {name: resnet50}]", "unknown"),
        ("[{name: few_shot, backbone: pocket/backbone}, {name: zero_shot}]", "web"),
        ("[{name: resnet50}, {name: pocket/birds-guide}]", "this_training_set"),
    ],
)
def test_a_run_knows_what_its_guide_has_seen(photos: Path, tmp_path: Path, guide: str, saw: str) -> None:
    given = [f"dataset={{name: folder, path: {photos}, val: 0}}", f"guide={guide}", "benchmark.shots=4"]
    assert RunContext(config.load("pocket", given, output=tmp_path / "run")).guide_saw == saw
    if saw == "draw":
        fewer = config.load("pocket", [*given, "benchmark.shots=3"], output=tmp_path / "run")
        assert RunContext(fewer).guide_saw == "all_photos"
    pulled = config.load("pocket", [*given, "tokens.photo_weight=1", "benchmark.shots=3"], output=tmp_path / "run")
    more = {"draw": "all_photos", "unknown": "all_photos_by_tokens", "web": "all_photos_by_tokens"}
    assert RunContext(pulled).guide_saw == more.get(saw, saw)


def test_a_guide_much_worse_than_the_judge_is_warned_of(tmp_path: Path) -> None:
    """A checkpoint of the Pocket guide, told to have another mean, recognises fewer birds."""
    folder = pocket.path("birds-guide")
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "labels.json").write_text(json.dumps(settings["label_names"]))
    guide = {
        "name": settings["architecture"],
        "checkpoint": str(folder / "model.safetensors"),
        "labels": str(tmp_path / "labels.json"),
        "input_size": settings["pretrained_cfg"]["input_size"][-1],
    }
    heard: list[Progress] = []
    for mean, warned in (([0.7, 0.7, 0.7], True), (settings["pretrained_cfg"]["mean"], False)):
        member = guide | {"mean": mean, "std": settings["pretrained_cfg"]["std"]}
        given = config.load("pocket", [f"guide={json.dumps(member)}"], output=tmp_path / str(warned))
        context = RunContext(given, heard.append)
        heard.clear()
        assert context.judge is not None
        assert [progress.note for progress in heard if "warning" in progress.note] == []  # nothing to compare with yet
        _ = context.guide
        notes = [progress.note for progress in heard if progress.stage == "guide"]
        assert f"mean {mean[0]:.3g}" in notes[0]
        assert [note for note in notes if note.startswith("warning: the guide recognises ")] == notes[2:]
        assert (len(notes) == 3) == warned


def changed_pocket_guide(folder: Path, **changes: Any) -> Path:
    """A copy of the Pocket guide with other values in its config.json."""
    shutil.copytree(pocket.path("birds-guide"), folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_guide_much_worse_than_its_own_card_is_warned_of_in_every_run(tmp_path: Path) -> None:
    settings = json.loads((pocket.path("birds-guide") / "config.json").read_text())["pretrained_cfg"]
    folder = changed_pocket_guide(tmp_path / "guide", pretrained_cfg=settings | {"mean": [0.7, 0.7, 0.7]})
    metrics = [{"type": "accuracy", "value": 99.5}]
    header = yaml.safe_dump({"model-index": [{"name": "birds", "results": [{"metrics": metrics}]}]})
    (folder / "README.md").write_text(f"---\n{header}---\n# Birds\n")
    given = config.load("pocket", [f"guide.name=local-dir:{folder}", "judge=null"], output=tmp_path / "run")
    for _ in range(2):
        heard: list[Progress] = []
        _ = RunContext(given, heard.append).guide
        warnings = [progress.note for progress in heard if progress.note.startswith("warning")]
        assert len(warnings) == 1
        assert "of 64 real images, its own card says 100%. The likely cause is its preprocessing" in warnings[0]


def test_a_guide_with_permuted_labels_ends_the_run_with_the_order_that_fits(tmp_path: Path) -> None:
    names = json.loads((pocket.path("birds-guide") / "config.json").read_text())["label_names"]
    folder = changed_pocket_guide(tmp_path / "guide", label_names=[names[-1], *names[:-1]])
    given = config.load("pocket", [f"guide.name=local-dir:{folder}"], output=tmp_path / "run")
    said = (
        r"0 of 64 real images of 16 classes; with fewer than 10 it may be guessing, and cannot guide. "
        r"\d+% of the answers fit another order of its labels: output 0 is the data set's first class, and so on. "
        r"Set match: index"
    )
    with pytest.raises(ModelError, match=said):
        _ = RunContext(given).guide
    assert not (tmp_path / "run" / "checks" / "guide.json").exists()
