"""A LoRA in a model: its images against those of diffusers, and the model as it was when it is out again."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from dct_augment import diffusion
from dct_augment.diffusion import Conditioning
from dct_augment.diffusion.lora import FILE, inserted, inserted_from, read_metadata, write
from dct_augment.errors import InputError
from tests import tiny
from tests.diffusion.test_families import from_backend, from_pipeline
from tests.random_generators import random_states

PROMPT = "a photo of a red bird"
FAMILIES = ("epsilon", "v_prediction", "lcm", "xl", "pixart", "sd35", "flux", "sana", "z_image")


def random_state(family: str, rank: int = 3) -> dict[str, torch.Tensor]:
    """Matrices that change what a model makes."""
    generator = torch.Generator().manual_seed(5)
    with inserted(tiny.backend(family), rank) as lora:
        return {key: torch.randn(value.shape, generator=generator) * 0.15 for key, value in lora.state().items()}


def written(family: str, folder: Path) -> Path:
    write(folder / FILE, random_state(family), {"identity": {"seed": 1}})
    return folder / FILE


def bits(backend: diffusion.Backend) -> tuple[dict[str, Any], str]:
    """All modules of a denoiser with what they hold, and the hash of its weights."""
    modules = {name: (type(module), sorted(vars(module))) for name, module in backend.denoiser.named_modules()}
    weights = hashlib.sha256()
    for name, value in backend.denoiser.state_dict().items():
        weights.update(name.encode() + value.numpy().tobytes())
    return modules, weights.hexdigest()


@pytest.mark.parametrize("family", ["epsilon", "v_prediction", "xl", "sd35", "flux", "sana", "z_image"])
def test_images_with_a_lora_equal_those_of_a_pipeline_that_has_loaded_its_file(tmp_path: Path, family: str) -> None:
    path, backend, pipe = written(family, tmp_path), tiny.backend(family), tiny.pipeline(family)
    plain = from_backend(backend, PROMPT, [3, 4])
    with inserted_from(backend, path):
        images = from_backend(backend, PROMPT, [3, 4])
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(images, from_pipeline(pipe, PROMPT, [3, 4]), atol=1e-4, rtol=0)
    assert (images - plain).abs().mean() > 1e-3


def test_a_lora_of_a_transformer_adds_its_product_to_each_projection(tmp_path: Path) -> None:
    """diffusers has no loader for PixArt: its own pipeline gets the sum of both matrices."""
    path, backend, pipe = written("pixart", tmp_path), tiny.backend("pixart"), tiny.pipeline("pixart")
    state = random_state("pixart")
    for key in [key for key in state if ".lora_A." in key]:
        layer = pipe.transformer.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_A.weight"))
        layer.weight.data += state[key.replace("lora_A", "lora_B")] @ state[key]
    with inserted_from(backend, path):
        images = from_backend(backend, PROMPT, [3])
    torch.testing.assert_close(images, from_pipeline(pipe, PROMPT, [3]), atol=1e-4, rtol=0)
    assert (images - from_backend(backend, PROMPT, [3])).abs().mean() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_as_it_was_when_its_lora_is_out_again_even_after_an_error(tmp_path: Path, family: str) -> None:
    backend = tiny.backend(family)
    before, images = bits(backend), from_backend(backend, PROMPT, [3])
    with inserted_from(backend, written(family, tmp_path)):
        assert not torch.equal(from_backend(backend, PROMPT, [3]), images)
    assert bits(backend) == before
    with pytest.raises(KeyboardInterrupt), inserted(backend, 2):
        raise KeyboardInterrupt
    assert bits(backend) == before
    assert torch.equal(from_backend(backend, PROMPT, [3]), images)
    assert not any(weight.requires_grad for weight in backend.denoiser.parameters())


def test_a_lora_in_half_precision_keeps_matrices_of_float32() -> None:
    backend = diffusion.load(str(tiny.pipeline_folder()), dtype="bfloat16", memory="fast")
    before = from_backend(backend, PROMPT, [3])
    with inserted(backend, 2) as lora:
        lora.begin(torch.Generator().manual_seed(1))
        assert {matrix.dtype for matrix in lora.matrices} == {torch.float32}
        assert torch.equal(from_backend(backend, PROMPT, [3]), before)
    assert {weight.dtype for weight in backend.denoiser.parameters()} == {torch.bfloat16}


def test_a_fresh_lora_changes_nothing_and_depends_on_its_generator_alone() -> None:
    backend, states, random = tiny.backend(), [], random_states()
    plain = from_backend(backend, PROMPT, [3])
    for seed in (1, 1, 2):
        with inserted(backend, 4) as lora:
            lora.begin(torch.Generator().manual_seed(seed))
            assert torch.equal(from_backend(backend, PROMPT, [3]), plain)
            states.append(torch.cat([matrix.flatten() for matrix in lora.state().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert random_states() == random


def test_gradients_go_through_a_lora_in_use_and_not_into_it(tmp_path: Path) -> None:
    backend = tiny.backend()
    hidden = backend.encode([PROMPT]).hidden.requires_grad_()
    with inserted_from(backend, written("epsilon", tmp_path)):
        output = backend.denoise(backend.latents([1]), torch.tensor([400]), Conditioning(hidden), 1.0)
        output.square().sum().backward()
        assert hidden.grad.abs().max() > 0
        assert all(weight.grad is None for weight in backend.denoiser.parameters())


def test_the_file_of_a_lora_says_what_made_it_as_long_as_it_is_whole(tmp_path: Path) -> None:
    path = written("epsilon", tmp_path)
    assert read_metadata(path)["identity"] == {"seed": 1}
    assert {written("epsilon", tmp_path / str(number)).read_bytes() for number in range(8)} == {path.read_bytes()}
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert read_metadata(path) == {}
    path.write_bytes(content[:100])
    assert read_metadata(path) == {}
    with pytest.raises(InputError, match=rf"{FILE} cannot be read: .*Delete it"), inserted_from(tiny.backend(), path):
        pass
    assert read_metadata(tmp_path / "none") == {}


def test_a_lora_of_another_model_is_refused_and_leaves_the_model_alone(tmp_path: Path) -> None:
    backend = tiny.backend()
    before, path = bits(backend), written("xl", tmp_path)
    with pytest.raises(InputError, match="made for another text-to-image model"), inserted_from(backend, path):
        pass
    assert bits(backend) == before
