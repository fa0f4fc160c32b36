"""A classifier of a few photos: it learns, says how well on photos left out, and refuses what is chance."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dct_augment
from dct_augment import classifiers
from dct_augment.classifiers import EnsembleClassifier, features, few_shot
from dct_augment.classifiers.few_shot import FewShotClassifier, fit
from dct_augment.classifiers.few_shot_heads import Heads, train
from dct_augment.classifiers.few_shot_views import Views
from dct_augment.classifiers.out_of_fold import OutOfFold, measure, stratified_folds
from dct_augment.classifiers.preprocessing import Preprocess
from dct_augment.config import ClassifierConfig, FewShotClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.images import to_tensor
from dct_augment.records import ClassInfo
from tests import tiny
from tests.random_generators import other_thread_draws, random_states

CLASSES = (ClassInfo(3, "red", "red"), ClassInfo(5, "green", "green"), ClassInfo(8, "blue", "blue"))
"""Their indices are not their places."""


def photo(seed: int, colour: int | None = None) -> Image.Image:
    """Noise, more of it in one colour."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 200, (40, 30, 3))
    if colour is not None:
        pixels[..., colour] += 55
    return Image.fromarray(pixels.astype(np.uint8))


def patchwork(seed: int) -> Image.Image:
    """Six patches of random colours: easy to know again, and like no other one."""
    patches = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((36, 36), Image.Resampling.NEAREST)


def coloured(count: int = 5, classes: int = 3) -> tuple[list[Image.Image], list[int]]:
    photos = [photo(10 * colour + number, colour) for colour in range(classes) for number in range(count)]
    return photos, [info.index for info in CLASSES[:classes] for _ in range(count)]


def backbone() -> str:
    return f"local-dir:{tiny.classifier_folder('test_resnet', None, 32)}"


def config(**changes: Any) -> FewShotClassifierConfig:
    return FewShotClassifierConfig(**{"backbone": backbone(), "augmentations": 3, "heads": 2, **changes})


@pytest.fixture(scope="module")
def guide() -> FewShotClassifier:
    """Made of five photos of each colour. Shared: leave it as it is."""
    return fit(config(), *coloured(), CLASSES)


IMAGES = torch.cat([to_tensor(photo(100 + colour, colour)) for colour in range(3)])
"""New photos."""


@pytest.mark.parametrize("head", ["linear", "cosine", "mlp"])
def test_it_learns_from_five_photos_and_says_so(head: str) -> None:
    guide = fit(config(head=head), *coloured(), CLASSES)
    assert guide.labels == ("red", "green", "blue")
    assert guide.targets(CLASSES[::-1]) == (2, 1, 0)
    assert [prediction.label for prediction in guide.predictions(IMAGES, [0, 1, 2])] == ["red", "green", "blue"]
    measured = guide.out_of_fold
    assert (measured.counts, measured.folds, measured.refused, measured.refusal) == ((5, 5, 5), 5, (), "")
    assert sum(measured.right) >= 13
    assert measured.accuracy.low < measured.accuracy.mean == sum(measured.right) / 15
    assert "of 15 photos, chance 33%, 5 folds, temperature" in measured.summary


def test_fine_tuning_changes_the_backbone_and_still_learns(tmp_path: Path, guide: FewShotClassifier) -> None:
    tuned = fit(config(fine_tune=True, fine_tune_steps=10, folds=2), *coloured(3), CLASSES)
    assert not torch.equal(tuned.features(IMAGES), guide.features(IMAGES))
    assert sum(tuned.out_of_fold.right) >= 7
    assert not any(
        weight.requires_grad for part in (tuned._backbone.model, tuned._heads) for weight in part.parameters()
    )
    tuned.save(tmp_path / "guide")
    assert torch.equal(FewShotClassifier.load(tmp_path / "guide").logits(IMAGES), tuned.logits(IMAGES))


@pytest.mark.parametrize("changes", [{"fine_tune_steps": 3}, {"fine_tune_learning_rate": 1e-3}])
def test_steps_and_rate_of_fine_tuning_are_settings(changes: dict[str, Any]) -> None:
    quick = {"fine_tune": True, "fine_tune_steps": 2, "augmentations": 2, "flips": False, "folds": 2}
    one, other = (fit(config(**quick | more), *coloured(2), CLASSES) for more in ({}, changes))
    assert not torch.equal(one.features(IMAGES), other.features(IMAGES))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_labels_are_refused_by_name_although_every_photo_was_learned(seed: int) -> None:
    """If a view of a photo were on both sides of a fold, every answer would be right."""
    photos = [patchwork(1000 * seed + number) for number in range(24)]
    labels = [CLASSES[number % 3].index for number in range(24)]
    guide = fit(config(), photos, labels, CLASSES, seed=seed)
    predictions = guide.predictions(torch.cat([to_tensor(image) for image in photos]), [n % 3 for n in range(24)])
    assert sum(prediction.is_target for prediction in predictions) >= 19
    assert guide.out_of_fold.p_value > 0.05
    assert guide.out_of_fold.refused == ("red", "green", "blue")
    assert "no more than chance" in guide.out_of_fold.refusal
    assert "'red', 'green', 'blue'" in guide.out_of_fold.refusal


def test_copies_of_a_photo_tell_nothing_of_it() -> None:
    photos = [patchwork(number) for number in range(8)] * 3
    guide = fit(config(), photos, [CLASSES[number % 2].index for number in range(8)] * 3, CLASSES[:2])
    assert guide.out_of_fold.folds == 4
    assert guide.out_of_fold.accuracy.mean < 0.8


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities).log()[None]


def test_a_class_that_ranks_others_photos_higher_is_refused_alone() -> None:
    good = [[0.9, 0.05, 0.05], [0.8, 0.15, 0.05]] * 3 + [[0.05, 0.9, 0.05]] * 4
    poor = [[0.6, 0.38, 0.02], [0.37, 0.6, 0.03]]
    measured = measure(logits_of(good + poor), [0] * 6 + [1] * 4 + [2] * 2, ("a", "b", "c"), 2, 1.0)
    assert (measured.right, measured.counts) == ((6, 4, 0), (6, 4, 2))
    assert measured.ranks[0] == 1.0
    assert measured.ranks[2] == 0.0
    assert measured.refused == ("c",)
    assert "no better than chance for 'c': " in measured.refusal


def test_a_guide_is_tested_against_what_its_own_answers_would_get_by_chance() -> None:
    """Nine in ten photos are of one class: always answering it is right in nine of ten, and worth nothing."""
    measured = measure(logits_of([[0.9, 0.1]] * 40), [0] * 36 + [1] * 4, ("a", "b"), 4, 1.0)
    assert (measured.accuracy.mean, measured.chance) == (0.9, 0.9)
    assert measured.refused == ("a", "b")
    right = measure(logits_of([[0.9, 0.1]] * 36 + [[0.1, 0.9]] * 4), [0] * 36 + [1] * 4, ("a", "b"), 4, 1.0)
    assert right.refused == ()
    assert right.p_value == pytest.approx(0.82**40)
    chosen = measure(logits_of([[0.9, 0.1]] * 36 + [[0.1, 0.9]] * 4), [0] * 36 + [1] * 4, ("a", "b"), 4, 1.0, options=2)
    assert chosen.p_value == pytest.approx(2 * 0.82**40)


def test_four_photos_are_too_few_to_refuse_a_guide() -> None:
    measured = measure(logits_of([[0.4, 0.6]] * 2 + [[0.3, 0.7]] * 2), [0, 0, 1, 1], ("a", "b"), 2, 1.0)
    assert measured.p_value is None
    assert measured.refused == ()
    assert "too few photos to tell" in measured.notes[0]


def test_a_class_with_one_photo_is_learned_and_not_measured() -> None:
    photos, labels = coloured(4)
    guide = fit(config(), photos[:9], labels[:9], CLASSES)
    assert guide.out_of_fold.counts == (4, 4, 0)
    assert guide.out_of_fold.folds == 4
    assert any("one photo alone (or copies of one) of 'blue'" in note for note in guide.out_of_fold.notes)
    assert guide.predictions(IMAGES[2:], [2])[0].is_target


def test_one_photo_of_each_class_makes_a_guide_of_unknown_accuracy() -> None:
    guide = fit(config(), *coloured(1), CLASSES)
    assert (guide.out_of_fold.folds, guide.out_of_fold.temperature, guide.out_of_fold.refused) == (0, 1.0, ())
    assert "could not be measured" in guide.out_of_fold.notes[0]
    assert guide.out_of_fold.summary == "out-of-fold accuracy unknown"


def test_logits_are_the_logarithm_of_the_averaged_probabilities_at_the_temperature(guide: FewShotClassifier) -> None:
    with torch.no_grad():
        each = guide._heads(guide._backbone(IMAGES)) / guide.out_of_fold.temperature
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(guide.logits(IMAGES).exp(), each.softmax(2).mean(0))
    assert guide.logits(IMAGES).dtype == torch.float32
    assert guide.out_of_fold.temperature != 1


@pytest.mark.parametrize("head", ["linear", "cosine", "mlp"])
def test_gradients_flow_to_the_pixels_as_finite_differences_say(head: str) -> None:
    guide = fit(config(head=head), *coloured(2), CLASSES)
    guide._backbone.model.double()
    guide._heads.double()
    images = IMAGES[:1].double() * 0.9
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images.requires_grad_()
    prepare = guide._backbone.preprocess
    guide._log_probabilities(prepare(images))[0, 1].backward()
    with torch.no_grad():
        ahead, behind = (guide._log_probabilities(prepare(images + step * direction))[0, 1] for step in (1e-6, -1e-6))
    slope = (images.grad * direction).sum().item()
    assert abs(slope) > 1e-4
    assert (ahead - behind).item() / 2e-6 == pytest.approx(slope, rel=1e-4)


def test_it_predicts_pictures_as_its_logits_say(guide: FewShotClassifier) -> None:
    pictures = [photo(100 + colour, colour) for colour in range(3)]
    predictions = guide.predict(pictures, top=3)
    assert [prediction.label for prediction in predictions] == ["red", "green", "blue"]
    assert predictions[1].probability == pytest.approx(guide.logits(IMAGES)[1, 1].exp().item(), abs=1e-5)


def test_the_same_photos_and_seed_give_the_same_bits(guide: FewShotClassifier) -> None:
    again = fit(config(), *coloured(), CLASSES)
    assert torch.equal(again.logits(IMAGES), guide.logits(IMAGES))
    assert again.out_of_fold == guide.out_of_fold
    for changed in (fit(config(), *coloured(), CLASSES, seed=1), fit(config(seed=1), *coloured(), CLASSES)):
        assert not torch.equal(changed.logits(IMAGES), guide.logits(IMAGES))


@pytest.mark.parametrize("changes", [{"head": "mlp"}, {"fine_tune": True, "fine_tune_steps": 2}])
def test_a_fit_shares_no_random_generator_with_other_threads_or_its_caller(changes: dict[str, Any]) -> None:
    settings = config(**changes, folds=2, augmentations=2, flips=True)
    before = random_states()
    alone = fit(settings, *coloured(2), CLASSES)
    assert random_states() == before
    torch.manual_seed(99)
    with other_thread_draws():
        beside = fit(settings, *coloured(2), CLASSES)
    assert alone.out_of_fold == beside.out_of_fold
    assert torch.equal(alone.logits(IMAGES), beside.logits(IMAGES))


def test_features_are_those_of_the_backbone(guide: FewShotClassifier) -> None:
    computed = guide.features(IMAGES.clone().requires_grad_())
    assert torch.equal(computed, features.load(backbone())(IMAGES))
    assert (computed.requires_grad, computed.dtype) == (False, torch.float32)


def test_a_saved_guide_is_the_same_when_it_is_loaded(guide: FewShotClassifier, tmp_path: Path) -> None:
    guide.save(tmp_path / "guide")
    loaded = FewShotClassifier.load(tmp_path / "guide")
    assert torch.equal(loaded.logits(IMAGES), guide.logits(IMAGES))
    assert (loaded.out_of_fold, loaded.settings, loaded.classes) == (guide.out_of_fold, guide.settings, guide.classes)
    assert sorted(path.name for path in (tmp_path / "guide").iterdir()) == ["few_shot.json", "heads.safetensors"]
    guide.save(tmp_path / "guide")
    stored = json.loads((tmp_path / "guide" / "few_shot.json").read_text())
    assert stored["out_of_fold"]["accuracy"]["count"] == 15


@pytest.mark.parametrize("damage", ["few_shot.json", "heads.safetensors", "schema", "gone"])
def test_a_damaged_guide_is_refused_by_name(guide: FewShotClassifier, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "guide"
    guide.save(folder)
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "schema":
        stored = json.loads((folder / "few_shot.json").read_text())
        (folder / "few_shot.json").write_text(json.dumps({**stored, "schema": 99}))
    else:
        (folder / damage).write_bytes(b"{")
    with pytest.raises(
        ModelError, match=rf"few-shot guide '{folder}' cannot be read: .*delete the folder '{folder}', and the same"
    ):
        FewShotClassifier.load(folder)


def test_a_guide_on_a_backbone_that_was_changed_is_refused(tmp_path: Path) -> None:
    shutil.copytree(tiny.classifier_folder("test_resnet", None, 32), tmp_path / "net")
    guide = fit(config(backbone=f"local-dir:{tmp_path / 'net'}"), *coloured(2), CLASSES)
    guide.save(tmp_path / "guide")
    other = tiny.classifier_folder("test_resnet", ("a", "b"), 48)
    shutil.copy(other / "model.safetensors", tmp_path / "net" / "model.safetensors")
    with pytest.raises(ModelError, match=r"other weights of 'local-dir:.*net' than are there now"):
        FewShotClassifier.load(tmp_path / "guide")


def test_it_votes_with_a_pretrained_one(guide: FewShotClassifier, tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text("{red: red bird, green: stone, blue: kiwi}")
    folder = tiny.classifier_folder("test_resnet", ("Red_Bird", "stone", "kiwi", "Crane"), 32)
    other = ClassifierConfig(name=f"local-dir:{folder}", match=tmp_path / "colours.yaml", weight=3)
    both = classifiers.load([config(weight=2), other], CLASSES, few_shot=guide)
    assert isinstance(both, EnsembleClassifier)
    assert both.labels == ("red", "green", "blue", "Crane")
    theirs = classifiers.load([other]).logits(IMAGES).softmax(1)[:, [0, 1, 2]]
    expected = 0.4 * guide.logits(IMAGES).exp() + 0.6 * theirs
    torch.testing.assert_close(both.logits(IMAGES).exp()[:, :3], expected)


def test_a_guide_of_photos_must_be_given(guide: FewShotClassifier) -> None:
    assert classifiers.load([config()], CLASSES, few_shot=guide) is guide
    two = [guide, fit(config(head="cosine"), *coloured(2), CLASSES)]
    assert classifiers.load([config(head="cosine")], CLASSES, few_shot=two) is two[1]
    for given_guides in (None, guide):
        with pytest.raises(ModelError, match=r"'few_shot on local-dir:.* is made of photos.*few_shot\.fit"):
            classifiers.load([config(heads=3)], CLASSES, few_shot=given_guides)
    with pytest.raises(ModelError, match=r"'few_shot on vit_small_patch14_dinov2\.lvd142m' is made of photos"):
        classifiers.load("few_shot", CLASSES)


def test_other_classes_than_those_of_the_photos_are_refused(guide: FewShotClassifier) -> None:
    with pytest.raises(ModelError, match=r"of other classes, without \['gull'\]"):
        guide.targets([*CLASSES, ClassInfo(3, "gull", "gull")])


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([3, 5], CLASSES, r"1 have none: \['blue'\]; add photos"),
        ([3, 3], CLASSES[:1], "two or more, got 'red' alone"),
        ([3, 4], CLASSES[:2], r"photos of labels \[4\], which none of its classes has"),
        ([3], CLASSES[:2], "got 2 photos, 1 labels"),
    ],
)
def test_photos_that_make_no_classifier_are_refused(labels: list[int], classes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fit(config(), [photo(0), photo(1)], labels, classes)


def test_a_backbone_that_is_not_in_the_cache_is_refused_offline(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("vit_small_patch14_dinov2.lvd142m", "hf-hub:nobody/no-such-model", "no_such_net", "local-dir:/none"):
        with pytest.raises(ModelError, match=f"backbone of a few-shot guide '{name}' cannot be loaded: .*pocket/back"):
            fit(config(backbone=name), *coloured(1), CLASSES)


def test_a_backbone_takes_the_size_that_is_asked_for() -> None:
    name = f"local-dir:{tiny.classifier_folder('test_vit', None, 160)}"
    sides = {}
    for size in (None, 64):
        guide = fit(config(backbone=name, image_size=size, augmentations=1), *coloured(1), CLASSES)
        sides[size] = guide._backbone.preprocess(IMAGES).shape[-2:]
        assert guide.logits(IMAGES).isfinite().all()
    assert sides == {None: (160, 160), 64: (64, 64)}
    with pytest.raises(ModelError, match=r"of 160 x 160 pixels, not of 33 x 33 .*; set image_size: 160"):
        fit(config(backbone=name, image_size=33), *coloured(1), CLASSES)


def test_a_backbone_of_larger_images_is_given_224_pixels() -> None:
    folder = tiny.classifier_folder("test_resnet", None, 288)
    guide = fit(config(backbone=f"local-dir:{folder}", augmentations=1), *coloured(1), CLASSES)
    assert guide._backbone.preprocess(IMAGES).shape[-2:] == (224, 224)


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=2, max_size=5),
    st.integers(2, 6),
    st.integers(0, 3),
)
def test_folds_divide_every_class_evenly_and_no_photo_from_its_copies(
    contents: list[list[int]], most: int, seed: int
) -> None:
    places = [place for place, shown in enumerate(contents) for _ in shown]
    names = [f"{place}-{number}" for place, shown in enumerate(contents) for number in shown]
    folds = stratified_folds(places, names, most, seed)
    different = [len(set(shown)) for shown in contents]
    divisible = [place for place, count in enumerate(different) if count > 1]
    if len(divisible) < 2:
        assert folds == []
        return
    assert len(folds) == min(most, *(different[place] for place in divisible))
    answered = [number for fold in folds for number in fold]
    assert sorted(answered) == [number for number, place in enumerate(places) if place in divisible]
    for place in divisible:
        counts = [len({names[number] for number in fold if places[number] == place}) for fold in folds]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == different[place]


def test_out_of_fold_answers_are_the_same_after_json(guide: FewShotClassifier) -> None:
    stored = json.loads(json.dumps(guide.out_of_fold.as_json()))
    assert OutOfFold.from_json(stored) == guide.out_of_fold


def test_heads_of_several_seeds_are_those_of_each_seed_alone() -> None:
    inputs = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    for kind in ("linear", "cosine", "mlp"):
        together = Heads(kind, 7, 3, [4, 9])(inputs)
        torch.testing.assert_close(together[1], Heads(kind, 7, 3, [9])(inputs)[0])


def test_a_class_with_few_photos_counts_as_much_as_one_with_many() -> None:
    """Where nothing tells the classes apart, both are as likely."""
    places = torch.tensor([0] * 10 + [1] * 2)
    heads = train(torch.zeros(12, 2, 3), places, 2, config(heads=1, label_smoothing=0.0), 0)
    assert heads(torch.zeros(1, 3)).softmax(2)[0, 0, 0].item() == pytest.approx(0.5, abs=0.01)


def test_views_are_the_photo_itself_and_others_that_a_seed_decides() -> None:
    half = Image.new("RGB", (80, 60), (250, 0, 0))
    half.paste((0, 0, 250), (40, 0, 80, 60))
    steps = Preprocess.square(16, (0.0,) * 3, (1.0,) * 3)

    def mirrored(flips: bool) -> list[bool]:
        views = Views([half], steps, count=12, flips=flips, seed=5)
        assert torch.equal(views.view(0, 0), steps(to_tensor(half))[0])
        assert torch.equal(views.view(0, 3), Views([half], steps, count=4, flips=flips, seed=5).view(0, 3))
        assert not torch.equal(views.view(0, 3), Views([half], steps, count=4, flips=flips, seed=6).view(0, 3))
        seen = [bool(views.view(0, number)[0, :, 0].mean() < 0.4) for number in range(12)]
        assert seen == [views.is_mirrored(0, number) for number in range(12)]
        return seen

    assert not any(mirrored(False))
    assert 0 < sum(mirrored(True)) < 12


def test_views_are_mirrored_only_where_that_helps() -> None:
    """Of an image and its mirror image as two classes, mirrored views would make one."""

    def half(colour: int, seed: int, *, left: bool) -> Image.Image:
        pixels = np.asarray(photo(seed)).copy()
        pixels[:, :15, colour] = 255 if left else 0
        pixels[:, 15:, colour] = 0 if left else 255
        return Image.fromarray(pixels)

    photos = [half(0, number, left=number < 5) for number in range(10)]
    guide = fit(config(), photos, [CLASSES[number // 5].index for number in range(10)], CLASSES[:2])
    asked = fit(config(flips=True), photos, [CLASSES[number // 5].index for number in range(10)], CLASSES[:2])
    assert (guide.out_of_fold.flips, asked.out_of_fold.flips) == (False, True)
    assert guide.out_of_fold.loss < asked.out_of_fold.loss
    assert any(fit(config(), *coloured(), CLASSES, seed=seed).out_of_fold.flips for seed in range(4))


def test_five_photos_of_each_pocket_bird_make_a_guide_on_pockets_backbone() -> None:
    birds = dct_augment.load_dataset("pocket")
    photos = dct_augment.few_shot(birds, shots=5, seed=0).train
    images, labels = [one.open() for one in photos], [one.label for one in photos]
    settings = FewShotClassifierConfig(backbone="pocket/backbone", augmentations=4)
    guide = few_shot.fit(settings, images, labels, birds.classes)
    assert guide.out_of_fold.accuracy.low > 0.4  # chance is 1 in 16
    assert guide.out_of_fold.refused == ()
    test = birds.examples("test")[::8]
    answers = guide.predictions(torch.cat([to_tensor(one.open()) for one in test]), [one.label for one in test])
    assert sum(answer.is_target for answer in answers) / len(test) > 0.4


def test_pockets_backbone_is_no_guide_by_itself() -> None:
    with pytest.raises(ModelError, match=r"is a backbone.*\{name: few_shot, backbone: pocket/backbone\}"):
        classifiers.load("pocket/backbone")
