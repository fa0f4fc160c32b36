"""The low-resource classifier's recipe: every model, optimiser and augmentation that the settings offer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import save_for_hf
from torch import nn

from dct_augment import classifiers
from dct_augment.config import ClassifierConfig, DownstreamConfig
from dct_augment.downstream import prediction, training
from dct_augment.downstream.mixing import Mixture, RealImages
from dct_augment.downstream.prepared import PixelFiles
from dct_augment.downstream.saving import save
from dct_augment.downstream.training import TrainedClassifier
from dct_augment.downstream.transforms import Transforms
from dct_augment.errors import DctAugmentError, ModelError
from dct_augment.images import content, square
from dct_augment.records import Example
from tests.conftest import CLASSES, speckled
from tests.random_generators import other_thread_draws, random_states

SETTINGS = DownstreamConfig(image_size=32, steps=4, batch_size=8, validation_rounds=2)


def examples(seed: int, count: int = 4) -> list[Example]:
    return [
        Example(f"{info.slug}-{n}", info.index, lambda label=info.index, one=seed + n: speckled(label, one))  # type: ignore[misc]
        for info in CLASSES
        for n in range(count)
    ]


def settings(**changes: Any) -> DownstreamConfig:
    return DownstreamConfig.model_validate(SETTINGS.model_dump() | changes)


def fit(chosen: DownstreamConfig, *, validation: bool = False, **options: Any) -> TrainedClassifier:
    tensors = Transforms(chosen)
    data = Mixture(RealImages(examples(0), tensors.strong), length=chosen.steps * chosen.batch_size)
    if not validation:
        return training.fit(data, chosen, classes=3, seed=1, **options)
    files = PixelFiles(None, lambda example: content(example.open()))
    held_out = files.images(examples(100), tensors)
    return training.fit(data, chosen, classes=3, seed=1, validation=held_out, **options)


def moved(fitted: TrainedClassifier, chosen: DownstreamConfig) -> set[str]:
    """Names of the weights and buffers that training has changed."""
    torch.manual_seed(1)
    fresh = training.create(chosen, 3).state_dict()
    return {name for name, value in fitted.model.state_dict().items() if not torch.equal(value, fresh[name])}


@pytest.mark.parametrize("name", ["test_efficientnet_gn", "test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("train", ["fine_tune", "linear_probe"])
def test_any_backbone_is_fine_tuned_or_probed(name: str, train: str) -> None:
    chosen = settings(model=name, train=train)
    fitted = fit(chosen)
    changed, head = moved(fitted, chosen), {name for name, _ in fitted.model.get_classifier().named_parameters()}
    assert not fitted.model.training
    if train == "linear_probe":
        assert {name.rpartition(".")[2] for name in changed} == head
        assert len(changed) == len(head)  # running statistics of the backbone too are as they were
    else:
        assert {name for name, _ in fitted.model.named_parameters()} <= changed


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_both_optimisers_learn_colours(optimizer: str) -> None:
    steps, rate = (40, 0.005) if optimizer == "adamw" else (80, 0.02)
    chosen = settings(optimizer=optimizer, steps=steps, learning_rate=rate, preprocessing="imagenet")
    assert fit(chosen, validation=True).val_accuracy > 0.8


def test_mixup_and_cutmix_change_the_batches_of_mixed_arms_alone() -> None:
    plain, blended = settings(), settings(mixup=0.4, cutmix=1.0)

    def same(one: TrainedClassifier, other: TrainedClassifier) -> bool:
        pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
        return all(torch.equal(left, right) for left, right in pairs)

    assert same(fit(plain), fit(blended, mixed=False))
    assert not same(fit(plain), fit(blended, mixed=True))
    assert same(fit(blended, mixed=True), fit(blended, mixed=True))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_needs_two_images_or_any_number_above(kind: str) -> None:
    with pytest.raises(ValueError, match="a batch_size of 2 or more, not 1"):
        settings(**{kind: 0.1, "batch_size": 1})
    fit(settings(**{kind: 1.0, "batch_size": 3, "steps": 1, "validation_rounds": 1}), mixed=True)


def test_labels_are_mixed_as_their_images_are() -> None:
    images = torch.tensor([0.0, 1.0, 2.0])[:, None, None, None].expand(3, 3, 40, 40)
    for chosen in (settings(mixup=1.0), settings(cutmix=1.0), settings(mixup=1.0, cutmix=1.0)):
        mix = training._mix(chosen, 3)
        assert mix is not None
        for _ in range(5):
            mixed, labels = mix(images, torch.tensor([0, 1, 2]))
            same = torch.eye(3)
            soft_labels = mix(images, same)[1]
            assert soft_labels.shape == (3, 3)
            torch.testing.assert_close(soft_labels.sum(1), torch.ones(3))
            assert labels.shape == (3, 3)
            torch.testing.assert_close(labels.sum(1), torch.ones(3))
            torch.testing.assert_close(mixed.mean((1, 2, 3)), labels @ torch.tensor([0.0, 1.0, 2.0]))
    assert training._mix(SETTINGS, 3) is None


MIXED = settings(steps=2, mixup=0.4, cutmix=1.0, randaugment_operations=3, randaugment_magnitude=30)


def test_a_fit_is_the_same_while_another_thread_draws_random_numbers() -> None:
    alone = fit(MIXED, validation=True, mixed=True)
    with other_thread_draws():
        beside = fit(MIXED, validation=True, mixed=True)
    assert alone.val_accuracy == beside.val_accuracy
    state = beside.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in alone.model.state_dict().items())


def test_a_fit_leaves_random_generators_as_they_were_also_when_it_fails() -> None:
    before = random_states()
    fit(MIXED, mixed=True)
    assert random_states() == before
    with pytest.raises(DctAugmentError, match="not finite"):
        fit(settings(steps=9, optimizer="sgd", learning_rate=1e30))
    assert random_states() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_a_gpu_leaves_its_generator_as_it_was_and_repeats() -> None:
    before, drawn = torch.cuda.get_rng_state(), []
    for _ in range(2):
        with training._seeded(3, torch.device("cuda")):
            drawn.append(torch.rand(4, device="cuda").tolist())
        assert torch.equal(torch.cuda.get_rng_state(), before)
    assert drawn[0] == drawn[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_a_gpu_learns_and_leaves_weights_as_files_have_them() -> None:
    chosen = settings(steps=40, preprocessing="imagenet", workers=0)
    fitted = fit(chosen, validation=True, device="cuda")
    assert fitted.val_accuracy > 0.8
    assert all(value.is_contiguous() for value in fitted.model.state_dict().values())
    assert all(value.dtype == torch.float32 for value in fitted.model.parameters())


def test_validation_chooses_the_best_look_and_changes_no_step() -> None:
    chosen = settings(steps=12, validation_rounds=6, learning_rate=0.02)
    looks: list[tuple[float, dict[str, torch.Tensor]]] = []
    measure = training.accuracy

    def watched(model: nn.Module, *rest: Any) -> float:
        seen = measure(model, *rest)
        looks.append((seen, {name: value.clone() for name, value in model.state_dict().items()}))
        return seen

    training.accuracy = watched  # type: ignore[assignment]
    try:
        fitted = fit(chosen, validation=True)
    finally:
        training.accuracy = measure
    best = max(seen for seen, _ in looks)
    kept = next(state for seen, state in reversed(looks) if seen == best)
    assert len(looks) == 6
    assert fitted.val_accuracy == best
    assert all(torch.equal(value, kept[name]) for name, value in fitted.model.state_dict().items())
    unwatched = fit(chosen).model.state_dict()  # the last look is after the last step
    assert all(torch.equal(value, looks[-1][1][name]) for name, value in unwatched.items())


@pytest.mark.parametrize("validation", [True, False])
def test_every_fit_takes_exactly_the_steps_of_the_settings(validation: bool) -> None:
    taken = []
    step = torch.optim.AdamW.step

    def counted(*args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        return step(*args, **kwargs)

    torch.optim.AdamW.step = counted  # type: ignore[method-assign]
    try:
        fit(settings(steps=7, validation_rounds=3), validation=validation)
    finally:
        torch.optim.AdamW.step = step  # type: ignore[method-assign]
    assert len(taken) == 7


def test_a_loss_that_is_not_finite_names_the_step_and_the_fix() -> None:
    with pytest.raises(
        DctAugmentError, match=r"not finite in step \d+ of 9; lower downstream.learning_rate, now 1e\+30"
    ):
        fit(settings(steps=9, optimizer="sgd", learning_rate=1e30))


@pytest.mark.parametrize("name", ["resnet5O", "local-dir:/nowhere"])
def test_an_unknown_model_is_one_message(name: str) -> None:
    with pytest.raises(ModelError, match=f"downstream.model '{name}' cannot be made"):
        training.create(settings(model=name), 3)


def test_both_heads_of_a_distilled_model_are_probed() -> None:
    chosen = settings(model="deit_tiny_distilled_patch16_224", train="linear_probe", steps=1, batch_size=2)
    head = {f"{name}.{kind}" for name in ("head", "head_dist") for kind in ("weight", "bias")}
    assert moved(fit(chosen), chosen) == head


def out_of_memory(*_: Any) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_training_that_runs_out_of_memory_names_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.functional, "cross_entropy", out_of_memory)
    with pytest.raises(DctAugmentError) as caught:
        fit(SETTINGS)
    assert str(caught.value) == (
        "out of memory on cpu while 'test_efficientnet_gn' is trained: lower downstream.batch_size, now 8, or "
        "downstream.image_size, now 32"
    )


class Narrow(nn.Module):
    """Holds no more than so many images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.batches = most, list[int]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return images.mean((2, 3)) if len(images) <= self.most else out_of_memory()


def test_answers_that_run_out_of_memory_are_given_in_smaller_batches() -> None:
    files = PixelFiles(None, lambda example: content(example.open()))
    images = files.images(examples(0), Transforms(SETTINGS))
    narrow, wide = Narrow(3), Narrow(99)
    logits, expected = prediction.answer(narrow, images), prediction.answer(wide, images)
    assert (narrow.batches, wide.batches) == ([12, 6, 3, 3, 3, 3], [12])
    torch.testing.assert_close(logits, expected)
    predicted = prediction.predict(wide, images)
    assert predicted == expected.argmax(1).tolist()
    right = [one == example.label for one, example in zip(predicted, examples(0), strict=True)]
    assert prediction.accuracy(wide, images) == sum(right) / len(right)
    with pytest.raises(DctAugmentError, match=r"a single image: lower downstream.image_size, now 32 x 32 pixels"):
        prediction.answer(Narrow(0), images)


def test_pretrained_weights_come_from_a_folder(tmp_path: Path) -> None:
    source: Any = training.create(settings(), 5)
    save_for_hf(source, str(tmp_path / "mine"), safe_serialization=True)
    known: Any = training.create(settings(model=f"local-dir:{tmp_path / 'mine'}", pretrained=True), 3)
    assert torch.equal(known.conv_stem.weight, source.conv_stem.weight)
    assert known.get_classifier().out_features == 3


def test_a_saved_classifier_guides_as_it_answered(tmp_path: Path) -> None:
    chosen = settings(steps=20)
    fitted = fit(chosen)
    save(fitted.model, chosen, [info.name for info in CLASSES], tmp_path / "guide")
    guide = classifiers.load(
        (ClassifierConfig(name=f"local-dir:{tmp_path / 'guide'}", match="index"),), CLASSES, device="cpu"
    )
    assert guide.labels == tuple(info.name for info in CLASSES)
    assert guide.targets(CLASSES) == (0, 1, 2)
    picture = speckled(1, 7).resize((32, 32))
    tensors = Transforms(chosen).plain(picture)[None]
    torch.testing.assert_close(
        guide.logits(square(picture, 32)), fitted.model(tensors), atol=0.05, rtol=0.02
    )  # 8-bit rounding


def test_a_guide_of_pocket_is_nothing_to_train_from() -> None:
    settings = DownstreamConfig(model="pocket/birds-guide", pretrained=True)
    with pytest.raises(ModelError, match=r"'pocket/birds-guide' is a guide or judge.*Take pocket/backbone"):
        training.create(settings, 3)
    with pytest.raises(ModelError, match=r"Use pocket/backbone, which is shipped, a name of timm.list_models\(\)"):
        training.create(DownstreamConfig(model="resnet_o"), 3)
