from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dct_augment.downstream.mixing import Mixture, RealImages, SoftLabels, SyntheticImages
from dct_augment.errors import DatasetError, InputError, ShardError
from dct_augment.images import content
from dct_augment.records import Example, GeneratedImage
from tests.conftest import CLASSES, ShardRun, drawn


def black() -> Image.Image:
    return Image.new("RGB", (16, 16))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


REAL = RealImages([Example(f"{info.slug}-{n}", info.index, black) for info in CLASSES for n in range(3)], as_tensor)
"""Three black pictures per class: a coloured draw is a synthetic one."""


@pytest.fixture
def synthetic(made: ShardRun) -> SyntheticImages:
    """Five coloured pictures per class."""
    return SyntheticImages(made.root / "shards", transform=as_tensor)


def is_synthetic(draw: tuple[torch.Tensor, int]) -> bool:
    return bool(draw[0].max() > 0)


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_random_access_reads_what_the_tars_hold_in_order(shard_run: ShardRun, image_format: str) -> None:
    shard_run.draw(image_format=image_format)
    images = SyntheticImages(shard_run.root / "shards")
    stored = {key: (image.tobytes(), label) for key, label, image in shard_run.folder.images()}
    assert len(images) == len(stored) == 15
    for index in reversed(range(len(images))):
        picture, label = images[index]
        assert (picture.tobytes(), label) == stored[images.keys[index]]


def test_images_are_sorted_by_class_and_number(synthetic: SyntheticImages) -> None:
    assert synthetic.keys == tuple(f"{info.slug}-{number:06d}" for info in CLASSES for number in range(5))
    assert Counter(synthetic.labels) == {0: 5, 1: 5, 2: 5}


def test_per_class_keeps_the_first_images_of_each_class(made: ShardRun) -> None:
    images = SyntheticImages(made.root / "shards", per_class=2)
    assert images.keys == tuple(f"{info.slug}-{number:06d}" for info in CLASSES for number in range(2))


def test_per_class_skips_failed_images(shard_run: ShardRun) -> None:
    shard_run.draw(failed=("crane-000000",))
    images = SyntheticImages(shard_run.root / "shards", per_class=2)
    assert images.keys[:2] == ("crane-000001", "crane-000002")


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_tars_without_their_rows_are_read_alike(shard_run: ShardRun, image_format: str) -> None:
    shard_run.draw(image_format=image_format, failed=("crane-000000",))
    folder = shard_run.root / "shards"
    with_rows = SyntheticImages(folder, per_class=2)
    for parquet in folder.glob("*.parquet"):
        parquet.unlink()
    without = SyntheticImages(folder, per_class=2)
    assert (without.keys, without.labels) == (with_rows.keys, with_rows.labels)
    assert without.contents() == with_rows.contents() == tuple(content(image) for image, _ in without)
    assert without.guide_confidences() == with_rows.guide_confidences()
    for place in range(len(without)):
        assert with_rows[place][0].tobytes() == without[place][0].tobytes()


def test_rows_of_another_tar_do_not_say_where_images_lie(made: ShardRun) -> None:
    folder = made.root / "shards"
    whole = SyntheticImages(folder)
    one, other, *_ = sorted(folder.glob("*.parquet"))
    other.write_bytes(one.read_bytes())
    assert SyntheticImages(folder).keys == whole.keys


def test_images_to_compare_with_are_read_from_their_own_folder(made: ShardRun) -> None:
    images = SyntheticImages(made.root / "comparison")
    assert images.keys == tuple(f"plain_{info.slug}-{number:06d}" for info in CLASSES for number in range(2))


def test_images_can_be_iterated(synthetic: SyntheticImages) -> None:
    assert [label for _, label in synthetic] == list(synthetic.labels)


def test_a_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone holds no _info\.json; make shards with `dct-augment generate`"):
        SyntheticImages(tmp_path / "gone")


def test_a_folder_of_other_shards_names_its_splits(made: ShardRun) -> None:
    (made.root / "shards" / "_info.json").write_text('{"splits": {"test": {}, "val": {}}}')
    with pytest.raises(DatasetError, match=r"has no split 'train' or 'plain_prompt'; it has: test, val"):
        SyntheticImages(made.root / "shards")


def test_a_damaged_info_is_named(made: ShardRun) -> None:
    (made.root / "shards" / "_info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"_info\.json is damaged"):
        SyntheticImages(made.root / "shards")


@pytest.mark.parametrize("content", [None, b"", b"no tar at all" * 100])
def test_a_damaged_tar_is_named(made: ShardRun, content: bytes | None) -> None:
    tar = made.root / "shards" / "tiny-train-000001.tar"
    tar.unlink()
    if content is not None:
        tar.write_bytes(content)
    with pytest.raises(ShardError, match=r"tiny-train-000001\.tar cannot be read"):
        SyntheticImages(made.root / "shards")


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 150, 250), (1.0, 400, 400)])
def test_real_images_are_replaced_with_the_given_probability(
    synthetic: SyntheticImages, probability: float, low: int, high: int
) -> None:
    mixture = Mixture(REAL, synthetic, probability=probability, length=400, seed=3)
    assert low <= sum(is_synthetic(mixture[index]) for index in range(400)) <= high


def test_replacement_keeps_the_labels_of_real_training(synthetic: SyntheticImages) -> None:
    labels = [[label for _, label in Mixture(REAL, synthetic, probability=p, length=300)] for p in (0.0, 0.4, 1.0)]
    assert labels[0] == labels[1] == labels[2]
    assert min(Counter(labels[0]).values()) > 65


def test_a_share_for_each_label_replaces_its_real_images_alone(synthetic: SyntheticImages) -> None:
    mixture = Mixture(REAL, synthetic, probability={1: 1.0}, length=120)
    assert {label: {is_synthetic(item) for item in mixture if item[1] == label} for label in (0, 1)} == {
        0: {False},
        1: {True},
    }
    assert mixture.probability == pytest.approx(REAL.labels.count(1) / len(REAL.labels))


def test_balanced_every_class_is_drawn_as_often_as_any_other() -> None:
    long_tailed = RealImages([*(Example(f"head-{n}", 0, black) for n in range(9)), Example("tail", 1, black)])
    counts = [Counter(label for _, label in Mixture(long_tailed, length=400, balanced=even)) for even in (False, True)]
    assert 330 < counts[0][0] < 390
    assert 170 < counts[1][0] < 230


def test_a_synthetic_image_stands_for_its_own_class(synthetic: SyntheticImages) -> None:
    mixture = Mixture(REAL, synthetic, probability=1.0, length=60)
    assert all(int(image.float().mean((0, 1)).argmax()) == label for image, label in mixture)


def test_all_synthetic_images_of_a_class_are_used(synthetic: SyntheticImages) -> None:
    mixture = Mixture(REAL, synthetic, probability=1.0, length=300)
    assert len({mixture[index][0].numpy().tobytes() for index in range(300)}) == 15


def test_a_draw_depends_on_seed_and_index_alone(synthetic: SyntheticImages) -> None:
    short, long = (Mixture(REAL, synthetic, length=length, seed=5) for length in (20, 50))
    assert all(torch.equal(short[index][0], long[index][0]) for index in reversed(range(20)))


def test_another_seed_draws_other_images(synthetic: SyntheticImages) -> None:
    one, other = (Mixture(REAL, synthetic, length=20, seed=seed) for seed in (0, 1))
    assert [one[k][1] for k in range(20)] != [other[k][1] for k in range(20)]


def test_workers_do_not_change_the_draws(synthetic: SyntheticImages) -> None:
    mixture: Any = Mixture(REAL, synthetic, length=24, seed=1)
    alone, shared = (list(DataLoader(mixture, batch_size=5, num_workers=workers)) for workers in (0, 2))
    for (images, labels), (others, other_labels) in zip(alone, shared, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_a_class_without_synthetic_images_stays_real(shard_run: ShardRun) -> None:
    shard_run.draw(classes=CLASSES[:2])
    synthetic = SyntheticImages(shard_run.root / "shards", transform=as_tensor)
    mixture = Mixture(REAL, synthetic, probability=1.0, length=60)
    assert all(is_synthetic(draw) == (draw[1] < 2) for draw in mixture)


def test_replacement_can_be_limited_to_some_classes(synthetic: SyntheticImages) -> None:
    mixture = Mixture(REAL, synthetic, probability=1.0, length=60, classes={1})
    assert all(is_synthetic(draw) == (draw[1] == 1) for draw in mixture)


def test_without_synthetic_images_all_is_real() -> None:
    mixture = Mixture(REAL, probability=1.0, length=30)
    assert len(mixture) == 30
    assert not any(is_synthetic(mixture[index]) for index in range(30))


def test_the_last_draws_can_be_real_alone(synthetic: SyntheticImages) -> None:
    mixture = Mixture(REAL, synthetic, probability=1.0, length=60, real_last=20)
    assert [is_synthetic(mixture[index]) for index in range(60)] == [True] * 40 + [False] * 20


def test_the_guide_confidence_of_each_image_is_read_from_the_tars(shard_run: ShardRun) -> None:
    layout = shard_run.draw(shard_size=2, per_class=2)
    values = iter((0.1, 0.2, 0.3, 0.4, 0.5, 1.0))
    confidences = {}
    for spec in layout:
        images = []
        for row in shard_run.rows(spec):
            confidences[row.key] = next(values)
            images.append(GeneratedImage(row, drawn(row), guide_confidence=confidences[row.key]))
        shard_run.folder.write(spec, images, shard_run.identity, "png")
    found = SyntheticImages(shard_run.root / "shards", labels={0: 2, 2: 0})
    assert found.guide_confidences() == tuple(confidences[key] for key in found.keys)
    assert len(found.keys) == 4


def test_an_image_that_no_guide_has_seen_has_no_soft_label(shard_run: ShardRun) -> None:
    (spec,) = shard_run.draw(per_class=1)
    images = [GeneratedImage(row, drawn(row)) for row in shard_run.rows(spec)]
    shard_run.folder.write(spec, images, shard_run.identity, "png")
    with pytest.raises(DatasetError, match=r"row of image 'crane-000000' has no guide_confidence .*None.* hard"):
        SyntheticImages(shard_run.root / "shards").guide_confidences()


def test_soft_labels_give_each_image_to_its_class_as_far_as_the_guide_does(synthetic: SyntheticImages) -> None:
    confidences = [place / 20 for place in range(15)]
    mixtures = [
        Mixture(REAL, synthetic, length=60, seed=4, soft_labels=soft) for soft in (None, SoftLabels(5, confidences))
    ]
    pictures = [synthetic[place][0] for place in range(15)]
    for (image, label), (same, probabilities) in zip(*mixtures, strict=True):
        assert torch.equal(image, same)
        places = [place for place, picture in enumerate(pictures) if torch.equal(picture, image)]
        confidence = confidences[places[0]] if places else 1.0
        expected = np.zeros(5, np.float32)  # outputs 3 and 4 are no class
        expected[:3] = (1 - confidence) / 2
        expected[label] = confidence
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert any(is_synthetic(draw) for draw in mixtures[1])


def test_of_one_class_a_soft_label_is_sure() -> None:
    assert SoftLabels(2, []).label(1, 0.3, [1]).tolist() == [0, 1]


@pytest.mark.parametrize("index", [-1, 30])
def test_there_is_no_draw_outside_the_length(index: int) -> None:
    with pytest.raises(IndexError):
        Mixture(REAL, length=30)[index]


@pytest.mark.parametrize("only", [["crane-000001", "crane-999999"], "crane-000001", ["gull"]])
def test_keys_that_no_image_has_are_refused(made: ShardRun, only: list[str]) -> None:
    with pytest.raises(InputError, match=r"only: .* has no image '.*; give keys of images that are there, such as 'c"):
        SyntheticImages(made.root / "shards", only=only)
    assert SyntheticImages(made.root / "shards", only=["crane-000001"]).keys == ("crane-000001",)


@pytest.mark.parametrize(
    "info", ["", "[]", "{}", '{"splits": 3}', '{"splits": {"train": {"filenames": ["../x.tar"]}}}']
)
def test_a_damaged_index_of_shards_is_named(made: ShardRun, info: str) -> None:
    (made.root / "shards" / "_info.json").write_text(info)
    with pytest.raises(DatasetError, match=r"_info\.json is damaged: "):
        SyntheticImages(made.root / "shards")
