"""Images of a run that start from its training photos: rows, identity, draws, and what a benchmark refuses."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dct_augment import config, datasets
from dct_augment.benchmark.arms import ArmDraw, arm_draws, arm_folder
from dct_augment.classifiers.few_shot import FewShotClassifier
from dct_augment.datasets.photos import write_photos
from dct_augment.errors import InputError, StaleRunError
from dct_augment.generation.shards import shard_folder
from dct_augment.images import square, to_pixels, to_tensor
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.effort import image_evaluations
from dct_augment.pipeline.run import Run
from dct_augment.pipeline.stages import ArmStage, ImageStage, TrialStage
from dct_augment.records import ImageKind

PLAIN = ImageKind.PLAIN_PROMPT


def pocket(output: Path, *settings: str) -> Run:
    """A run of two Pocket birds."""
    small = ["generation.per_class=2", "generation.strengths=[0.2, 0.8]", "judge=null"]
    return Run(config.load("pocket", [*small, *settings], classes=["crane", "kiwi"], output=output))


@pytest.mark.slow
def test_images_of_a_run_start_from_its_photos_and_are_the_same_in_a_second_run(tmp_path: Path) -> None:
    tars = []
    for name in ("one", "two"):
        run = pocket(tmp_path / name, "generation.start=same_class")
        run.generate_plain()
        shards = run.shards[PLAIN]
        tars.append(shards.tar(shards.layout()[0]))
    assert tars[0].read_bytes() == tars[1].read_bytes()
    rows = shards.rows().set_index("key")
    photos = {example.key: example for example in run.dataset.examples("train")}
    assert [photos[key].label for key in rows["start_key"]] == rows["class_index"].tolist()
    assert rows["strength"].tolist() == [0.2] * 2 + [0.8] * 2
    distances: dict[float, float] = {0.2: 0.0, 0.8: 0.0}
    for key, _, picture in shards.images():
        photo = to_pixels(square(photos[rows.loc[key, "start_key"]].open(), 64))[0].permute(1, 2, 0).numpy()
        distances[rows.loc[key, "strength"]] += float(np.square(np.asarray(picture).astype(int) - photo).mean())
    assert 0 < distances[0.2] < 0.5 * distances[0.8]
    with tarfile.open(tars[0]) as tar:
        member = tar.extractfile(f"{rows.index[0]}.json")
        assert member is not None
        metadata = json.load(member)
    assert (metadata["start_key"], metadata["strength"]) == (rows["start_key"].iloc[0], 0.2)


def test_another_guidance_is_that_of_generated_images_alone(tmp_path: Path) -> None:
    run = pocket(tmp_path, "generation.start=any_class", "generation.guidance_scale=1.0")
    assert run.sampler.guidance_scale == run.config.sampling.guidance_scale == 3.0
    assert run.generation_sampler.guidance_scale == 1.0
    assert image_evaluations(run.config, guidance_embedded=False) == 2  # of 1 and 4 steps
    assert image_evaluations(config.load("pocket"), guidance_embedded=False) == 10


def draw_photo(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 255 - shade, 10)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four training photos and two test photos of two classes."""
    shade = 0
    for split, count in (("train", 4), ("test", 2)):
        for label in ("gate", "petal"):
            for number in range(count):
                draw_photo(tmp_path / "photos" / split / label / f"{number}.png", shade)
                shade += 20
    return tmp_path / "photos"


def few(photos: Path, *settings: str, start: str = "same_class", **options: Any) -> Run:
    """A run on these photos."""
    own = [f"dataset={{name: folder, path: {photos}, val: 0}}", f"generation.start={start}", "benchmark.shots=4"]
    guide = "guide={name: pocket/birds-guide, match: index}"
    loaded = config.load("pocket", [*own, guide, "judge=null", *settings], output=photos.parent / "run", **options)
    return Run(loaded)


def identity(run: Run) -> dict[str, Any]:
    stage = ImageStage(run, PLAIN)
    return stage.identity(stage.layout(run.classes)[0], {})


@pytest.mark.parametrize("start", ["same_class", "any_class"])
def test_the_identity_of_a_shard_holds_the_photos_that_its_images_may_start_from(photos: Path, start: str) -> None:
    before = identity(few(photos, start=start))
    assert identity(few(photos, start=start)) == before
    draw_photo(photos / "test" / "gate" / "0.png", 250)
    assert identity(few(photos, start=start)) == before
    draw_photo(photos / "train" / "gate" / "0.png", 251)
    after = identity(few(photos, start=start))
    assert {slug for slug, sha in after["start_images"].items() if sha != before["start_images"][slug]} == {"gate"}
    assert "start_images" not in identity(few(photos, start="noise"))


def test_noise_on_tokens_makes_no_shard_of_plain_prompts_stale(photos: Path) -> None:
    assert identity(few(photos, "generation.token_noise=0.2", start="noise")) == identity(few(photos, start="noise"))


def test_a_class_that_is_left_out_today_makes_no_shard_stale(photos: Path) -> None:
    whole = few(photos)
    spec = ImageStage(whole, PLAIN).layout(whole.classes)[0]
    assert ImageStage(few(photos, classes=["gate"]), PLAIN).identity(spec, {}) == identity(whole)


@pytest.mark.slow
def test_other_photos_make_finished_images_stale(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_photos(datasets.load(config.load("pocket").dataset), photos, tmp_path / "new", shots=2, test_photos=1)
    birds: dict[str, Any] = {"classes": ["crane", "kiwi"], "per_class": 1}
    settings = ("generation.strengths=[0.2]", "guide=pocket/birds-guide")
    few(photos, *settings, **birds).generate_plain()
    assert not ImageStage(few(photos, *settings, **birds), PLAIN).pending()
    first = photos / "train" / "crane" / "00.png"
    Image.open(first).rotate(180).save(first)
    with pytest.raises(StaleRunError, match=r"start_images\.crane"):
        ImageStage(few(photos, *settings, **birds), PLAIN).pending()


def test_a_class_without_a_photo_is_named_before_any_work(photos: Path) -> None:
    for path in (photos / "train" / "petal").iterdir():
        path.write_bytes(b"no picture")
    run = few(photos)
    with pytest.raises(InputError, match=r"generation\.start: same_class .* none that can be read of: 'petal'\. Add"):
        run.generate()
    assert not (run.config.root / "tokens").exists()
    only_gate = few(photos, start="any_class").start_photos
    assert only_gate is not None
    assert {photo.key.split("/")[1] for photo in only_gate.photos} == {"gate"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("benchmark.shots=3",), r"images of plain_prompt, class_token start .* photos that it does not have"),
        (
            ("benchmark.protocol=cross_validation",),
            r"photos that it is tested on\. Take .* each draw \(image_variation",
        ),
        (("benchmark.imbalance=2",), r"benchmark\.arms=\[real, real\+strong_aug, class_token_few_shot_guide\]"),
        (("benchmark.shots_curve=[2]",), r"benchmark\.shots_curve has 2"),
    ],
)
def test_a_benchmark_refuses_images_that_start_from_photos_which_a_draw_does_not_have(
    photos: Path, settings: tuple[str, ...], said: str
) -> None:
    enough = ("generation.per_class=50", "benchmark.per_class_curve=[]")
    with pytest.raises(InputError, match=said):
        TrialStage(few(photos, *enough, *settings)).check()
    TrialStage(few(photos, *enough, *settings, start="noise")).check()
    arms = "benchmark.arms=[real, textual_inversion]"
    TrialStage(few(photos, *enough, *settings, arms)).check()


def test_a_benchmark_takes_images_of_the_run_where_each_draw_has_all_photos(photos: Path) -> None:
    TrialStage(few(photos, "generation.per_class=50")).check()


def test_images_of_a_fold_start_from_none_of_its_test_photos(photos: Path) -> None:
    arms = ["benchmark.protocol=cross_validation", "benchmark.folds=2", "benchmark.arms=[real, textual_inversion]"]
    run = few(photos, *arms, start="any_class")
    stage, starts = ArmStage(run), []
    for unit in stage.pending():
        draw = arm_draws(run.config.benchmark)[unit.number]
        split = run.draws().split(draw.shots, draw.seed)
        inner = RunContext(stage._inner_config(draw), outer=run)
        stage._use_photos(inner, draw)
        chosen = inner.start_photos
        assert chosen is not None
        starts.append({photo.key for photo in chosen.photos})
        assert starts[-1] == {photo.key for photo in split.train}
        assert not starts[-1] & {photo.key for photo in split.test}
    assert len(starts) == 2
    assert starts[0] != starts[1]


def hold_what_the_guide_of_their_draw_says(run: Run, draw: ArmDraw) -> bool:
    """Whether the guide that knows the photos of this draw alone gives the images the confidences of their rows."""
    guide = FewShotClassifier.load(run.arm_paths.tokens(draw) / "guide")
    folder = arm_folder(run.arm_paths.images, draw.arm, draw.shots, draw.seed)
    shards = shard_folder(folder, run.config.name, PLAIN)
    recorded = shards.rows().set_index("key")["guide_confidence"]
    saved = {}
    for key, label, picture in shards.images():
        saved[key] = guide.logits(to_tensor(picture)).softmax(1)[0, label].item()
    return bool(recorded.to_dict() == pytest.approx(saved, abs=0.02))  # the scored image was not rounded yet


@pytest.mark.slow
def test_image_variations_are_plain_prompts_that_start_from_photos_of_their_draw(photos: Path) -> None:
    small = (
        "benchmark.arms=[real, image_variation]",
        "benchmark.shots=2",
        "benchmark.seeds=2",
        "benchmark.per_class=2",
    )
    more = ("downstream.steps=1", "downstream.batch_size=2", "metrics.features=null", "benchmark.processes=1")
    soft = ("downstream.synthetic_labels=soft", "guide={name: few_shot, backbone: pocket/backbone, folds: 2}")
    run = few(photos, *small, *more, *soft, start="noise")
    run.benchmark()
    for seed in (0, 1):
        assert hold_what_the_guide_of_their_draw_says(run, ArmDraw("image_variation", 2, seed))
        folder = arm_folder(run.arm_paths.images, "image_variation", 2, seed)
        rows = shard_folder(folder, run.config.name, PLAIN).rows()
        own = {photo.key for photo in run.draws().split(2, seed).train}
        assert set(rows["start_key"]) <= own
        assert set(rows["strength"]) == {0.8}
        assert len(rows) == 4
    assert not list(run.config.root.rglob("*.safetensors"))[2:]  # the guides of two draws, and no token
    arms = set(pd.read_parquet(run.config.root / "benchmark" / "trials.parquet")["arm"])
    assert arms == {"real", "image_variation"}
    assert ArmStage(run).pending() == ()
    first = sorted((run.config.root / "benchmark" / "trials").glob("image_variation*.json"))
    selected = few(
        photos, *small, *more, *soft, "benchmark.selection=coverage", "benchmark.candidates=3", start="noise"
    )
    assert len(ArmStage(selected).pending()) == 2
    selected.benchmark()
    assert ArmStage(selected).pending() == ()
    used = []
    for seed in (0, 1):  # the images are those of before, and more
        folder = arm_folder(run.arm_paths.images, "image_variation", 2, seed)
        rows = shard_folder(folder, run.config.name, PLAIN).rows()
        (path,) = (folder / "selection").glob("*.parquet")
        order = pd.read_parquet(path)
        assert sorted(order["key"]) == sorted(rows["key"])
        assert sorted(rows["number"]) == sorted([*range(6)] * 2)
        used.append(int((order["accepted"] & (order["rank"] < 2)).sum()))
    assert [json.loads(path.read_text())["synthetic_images"] for path in first] == used
    (folder / "selection" / path.name).unlink()
    assert [unit.title for unit in ArmStage(selected).pending()] == ["image_variation, 2 shots, seed 1"]
