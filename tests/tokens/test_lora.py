"""Training of a LoRA: against diffusers' own way, its loss, resume, and what it refuses."""

from functools import cache
from typing import Any

import pytest
import torch
from torch.nn import functional

from dct_augment.config import LoraConfig, seed_from
from dct_augment.diffusion import Backend, Sampler
from dct_augment.diffusion.lora import inserted
from dct_augment.errors import InputError, ModelError
from dct_augment.records import Progress
from dct_augment.tokens.denoising import PhotoLatents, denoising_losses
from dct_augment.tokens.lora import LoraTrainer, TrainedLora
from tests import tiny
from tests.random_generators import random_states
from tests.tokens.denoisers import little_memory
from tests.tokens.trainers import PROMPTS, SAMPLING, pictures

SETTINGS = LoraConfig(rank=2, steps=4, batch_size=3, learning_rate=0.01)
PHOTOS = {info.slug: pictures(info) for info in tiny.CLASSES}


def one_level() -> Backend:
    """A model in double precision, where another batch shape changes no bit that counts."""
    return tiny.backend(tiny.ONE_LEVEL, "float64")


def trainer(backend: Backend, **changes: Any) -> LoraTrainer:
    sampler = Sampler.from_config(backend, SAMPLING, negative_prompt="")
    return LoraTrainer(sampler, images=PHOTOS, lora_config=tiny.changed(SETTINGS, **changes), prompts_config=PROMPTS)


@cache
def undisturbed() -> TrainedLora:
    return trainer(one_level()).train(tiny.CLASSES)


def assert_same(one: TrainedLora, other: TrainedLora) -> None:
    assert list(one.state) == list(other.state)
    for key, value in one.state.items():
        torch.testing.assert_close(value, other.state[key], atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("family", ["epsilon", "v_prediction", "xl", "pixart"])
def test_the_denoising_loss_of_the_photos_falls_below_that_of_the_model(family: str) -> None:
    backend = tiny.backend(family)
    trained = trainer(backend, steps=15, batch_size=6, learning_rate=0.03).train(tiny.CLASSES)
    sampler = Sampler.from_config(backend, SAMPLING, negative_prompt="")
    images = [image for info in tiny.CLASSES for image in PHOTOS[info.slug]]
    names = [info.name for info in tiny.CLASSES for _ in PHOTOS[info.slug]]
    generator = torch.Generator().manual_seed(9)
    batch = PhotoLatents.encode(backend, images).noised(generator, 64, 1000, PROMPTS.templates, names, token=None)

    def loss() -> float:
        with torch.no_grad():
            return denoising_losses(sampler, [batch], [None]).item()

    before = loss()
    with inserted(backend, SETTINGS.rank) as lora:
        lora.load(trained.state)
        after = loss()
    assert after < 0.985 * before
    assert len(trained.losses) == 15


def test_it_is_what_a_pipeline_of_diffusers_learns_with_an_adapter() -> None:
    """Written out plainly: `add_adapter`, the mean squared error of the velocity, AdamW, gradients cut to length 1."""
    from peft import LoraConfig as PeftConfig
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

    pipe = tiny.pipeline(tiny.ONE_LEVEL, torch.float64)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.unet.requires_grad_(False).add_adapter(PeftConfig(r=2, lora_alpha=2, target_modules=targets))
    generator = torch.Generator().manual_seed(seed_from("lora", 0))
    with inserted(one_level(), 2) as lora:
        lora.begin(generator)
        start = {key.removeprefix("unet."): value for key, value in lora.state().items()}
    set_peft_model_state_dict(pipe.unet, start, "default")
    matrices = [value.data.double() for value in pipe.unet.parameters() if value.requires_grad]
    for weight, value in zip((one for one in pipe.unet.parameters() if one.requires_grad), matrices, strict=True):
        weight.data = value
    learned = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=SETTINGS.learning_rate, weight_decay=0.01)
    backend = one_level()
    names = [info.name for info in tiny.CLASSES for _ in PHOTOS[info.slug]]
    photos = PhotoLatents.encode(backend, [image for info in tiny.CLASSES for image in PHOTOS[info.slug]])
    losses = []
    for _ in range(SETTINGS.steps):
        batch = photos.noised(generator, SETTINGS.batch_size, 1000, PROMPTS.templates, names, token=None)
        assert all("<" not in line for line in batch.prompts)
        hidden = pipe.encode_prompt(list(batch.prompts), "cpu", 1, False)[0]
        inputs, timesteps, velocity = backend.noised(batch.latents, batch.noise, batch.steps)
        loss = functional.mse_loss(pipe.unet(inputs, timesteps, hidden).sample, velocity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    trained = undisturbed()
    assert losses == pytest.approx(list(trained.losses), rel=1e-9)
    for key, value in get_peft_model_state_dict(pipe.unet).items():
        torch.testing.assert_close(trained.state[f"unet.{key}"], value.detach(), atol=1e-9, rtol=1e-6)


def test_a_training_that_was_stopped_goes_on_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dct_augment.tokens.lora._STEPS_A_CHECKPOINT", 1)
    states: list[dict[str, Any]] = []
    trainer(one_level()).train(tiny.CLASSES, checkpoint=states.append)
    for state in (states[0], states[2]):
        resumed = trainer(one_level()).train(tiny.CLASSES, resume=state)
        assert resumed.losses == undisturbed().losses
        assert all(torch.equal(value, undisturbed().state[key]) for key, value in resumed.state.items())


def test_memory_that_holds_fewer_photos_changes_nothing() -> None:
    with little_memory(one_level(), largest_batch=1):
        assert_same(trainer(one_level()).train(tiny.CLASSES), undisturbed())


def test_another_seed_trains_another_lora_and_the_generator_of_the_process_is_left_alone() -> None:
    random = random_states()
    other = trainer(one_level(), seed=1).train(tiny.CLASSES)
    assert random_states() == random
    assert other.losses != undisturbed().losses


def test_each_step_is_told() -> None:
    told: list[Progress] = []
    trainer(one_level()).train(tiny.CLASSES, told.append)
    assert [(progress.done, progress.total) for progress in told] == [(step, 4) for step in range(1, 5)]


def test_a_loss_that_is_not_finite_names_what_to_lower_and_leaves_the_model_alone() -> None:
    backend = one_level()
    names = list(dict(backend.denoiser.named_modules()))
    with pytest.raises(ModelError, match=r"not finite after 1 of 4 steps\. Lower lora\.learning_rate \(it is 1e\+30"):
        trainer(backend, learning_rate=1e30).train(tiny.CLASSES)
    assert list(dict(backend.denoiser.named_modules())) == names


def test_a_class_without_a_photo_is_named() -> None:
    sampler = Sampler.from_config(one_level(), SAMPLING, negative_prompt="")
    few = LoraTrainer(sampler, images={"crane": PHOTOS["crane"]}, lora_config=SETTINGS, prompts_config=PROMPTS)
    with pytest.raises(InputError, match="there is none of: kiwi, red bird"):
        few.train(tiny.CLASSES)
