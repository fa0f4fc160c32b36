"""Adapters: LoRA weights in a file, whose images are those of diffusers with the same file."""

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from dct_augment import diffusion
from dct_augment.diffusion.lora import FILE, inserted_from
from dct_augment.errors import ModelError
from tests import tiny
from tests.diffusion.test_families import from_backend, from_pipeline
from tests.diffusion.test_lora import bits, random_state, written

PROMPT = "a photo of a red bird"
SEVERAL = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # diffusers' own pipeline
FAMILIES = ("epsilon", "lcm", "xl", "sd3", "flux", "sana", "z_image")


def loaded(family: str, *adapters: dict[str, Any]) -> diffusion.Backend:
    folder = str(tiny.pipeline_folder(family))
    return diffusion.load(folder, memory="fast", image_size=tiny.IMAGE, adapters=adapters)


def negated(path: Path) -> Path:
    """The file of a LoRA, with another sign and factor."""
    other = path.with_name("other.safetensors")
    save_file({key: -0.5 * value if "lora_A" in key else value for key, value in load_file(path).items()}, other)
    return other


@SEVERAL
@pytest.mark.parametrize("family", FAMILIES)
def test_images_with_two_adapters_equal_those_of_the_pipeline_that_has_loaded_them(tmp_path: Path, family: str) -> None:
    first = written(family, tmp_path)
    second, pipe = negated(first), tiny.pipeline(family)
    backend = loaded(family, {"path": str(first), "weight": 0.7}, {"path": str(second), "weight": 0.4})
    pipe.load_lora_weights(first, adapter_name="first")
    pipe.load_lora_weights(second, adapter_name="second")
    pipe.set_adapters(["first", "second"], [0.7, 0.4])
    images = from_backend(backend, PROMPT, [3])
    torch.testing.assert_close(images, from_pipeline(pipe, PROMPT, [3]), atol=1e-4, rtol=0)
    assert (images - from_backend(tiny.backend(family), PROMPT, [3])).abs().mean() > 1e-3


@pytest.mark.parametrize("family", ["epsilon", "xl"])
def test_an_adapter_of_denoiser_and_text_encoder_is_loaded_whole(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)  # peft draws the weights
    pipe = tiny.pipeline(family)
    for part, names in (("unet", ["to_q", "to_v"]), ("text_encoder", ["q_proj", "v_proj"])):
        settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=names, init_lora_weights=False)
        getattr(pipe, part).add_adapter(settings)
    states = {
        # Of the size of trained ones: as peft draws them, the model magnifies what is rounded otherwise.
        part: {key: 0.2 * value for key, value in peft.get_peft_model_state_dict(getattr(pipe, part)).items()}
        for part in ("unet", "text_encoder")
    }
    metadata = {
        f"{part}_lora_adapter_metadata": getattr(pipe, part).peft_config["default"].to_dict() for part in states
    }
    layers = {f"{part}_lora_layers": state for part, state in states.items()}
    type(pipe).save_lora_weights(tmp_path, **layers, **metadata)
    backend, fresh = loaded(family, {"path": str(tmp_path)}), tiny.pipeline(family)
    fresh.load_lora_weights(tmp_path)
    images = from_backend(backend, PROMPT, [3])
    torch.testing.assert_close(images, from_pipeline(fresh, PROMPT, [3]), atol=1e-4, rtol=0)
    own = tiny.backend(family)
    assert (images - from_backend(own, PROMPT, [3])).abs().mean() > 1e-3
    for model, before in ((backend.denoiser, own.denoiser), (backend.encoders[0].model, own.encoders[0].model)):
        weights = dict(before.named_parameters())
        assert any(not torch.equal(weight, weights[name]) for name, weight in model.named_parameters())


def test_a_file_as_kohya_writes_it_is_loaded_with_its_alphas(tmp_path: Path) -> None:
    state, converted = random_state("epsilon"), {}
    for key, matrix in state.items():
        layer, side = key.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        name = f"lora_unet_{layer.replace('.', '_')}"
        converted[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = matrix
        converted[f"{name}.alpha"] = torch.tensor(6.0)  # twice the rank
    save_file(converted, tmp_path / "kohya.safetensors")
    path = written("epsilon", tmp_path)
    doubled = loaded("epsilon", {"path": str(path), "weight": 2.0})
    backend = loaded("epsilon", {"path": str(tmp_path / "kohya.safetensors")})
    torch.testing.assert_close(*(from_backend(model, PROMPT, [3]) for model in (backend, doubled)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_model_with_an_adapter_has_the_layers_of_one_without(tmp_path: Path, dtype: str) -> None:
    adapters = [{"path": str(written("epsilon", tmp_path)), "weight": 0.5}]
    folder = str(tiny.pipeline_folder())
    backend, plain = (diffusion.load(folder, dtype=dtype, memory="fast", adapters=given) for given in (adapters, []))
    names = [[(name, type(module)) for name, module in model.denoiser.named_modules()] for model in (backend, plain)]
    assert names[0] == names[1]
    kinds = {weight.dtype for model in backend.models for weight in model.parameters()}
    assert kinds == {getattr(torch, dtype)}
    assert not any(weight.requires_grad for model in backend.models for weight in model.parameters())


@SEVERAL
def test_a_lora_of_ours_is_put_in_beside_an_adapter(tmp_path: Path) -> None:
    path = written("epsilon", tmp_path)
    other, pipe = negated(path), tiny.pipeline()
    backend = loaded("epsilon", {"path": str(other), "weight": 0.8})
    before, images = bits(backend), from_backend(backend, PROMPT, [3])
    with inserted_from(backend, path):
        both = from_backend(backend, PROMPT, [3])
    assert bits(backend) == before
    pipe.load_lora_weights(path, adapter_name="ours")
    pipe.load_lora_weights(other, adapter_name="other")
    pipe.set_adapters(["ours", "other"], [1.0, 0.8])
    torch.testing.assert_close(both, from_pipeline(pipe, PROMPT, [3]), atol=1e-4, rtol=0)
    assert (both - images).abs().mean() > 1e-3


def test_loading_an_adapter_draws_no_random_numbers(tmp_path: Path) -> None:
    path = written("epsilon", tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    loaded("epsilon", {"path": str(path)})
    assert torch.equal(torch.rand(1), expected)


class TestBadInput:
    """Each is one message that names the adapter, and what to do."""

    def test_a_lora_of_a_model_with_other_widths(self, tmp_path: Path) -> None:
        path = written("xl", tmp_path)
        message = r"another text-to-image model: of its matrices, \d+ have another shape, such as .*attn2.* with \["
        with pytest.raises(ModelError, match=message):
            loaded("epsilon", {"path": str(path)})

    def test_a_lora_of_a_model_with_other_layers(self, tmp_path: Path) -> None:
        path = tmp_path / FILE
        state = random_state("epsilon")
        for side, shape in (("lora_A", (3, 16)), ("lora_B", (16, 3))):
            state[f"unet.down_blocks.7.attentions.0.to_q.{side}.weight"] = torch.ones(shape)
        save_file(state, path)
        with pytest.raises(ModelError, match=r"another text-to-image model: 2 of its \d+ matrices.*down_blocks\.7"):
            loaded("epsilon", {"path": str(path)})
        with pytest.raises(ModelError, match=rf"adapter '{tmp_path}.* of another text-to-image model|cannot be put"):
            loaded("sd3", {"path": str(path)})

    def test_a_file_that_is_missing_or_no_safetensors(self, tmp_path: Path) -> None:
        pickled = tmp_path / "lora.bin"
        torch.save(random_state("epsilon"), pickled)
        for path, message in (
            (tmp_path / "none.safetensors", "does not exist; give a .safetensors file"),
            (pickled, "is no .safetensors file; only these are read"),
            (tmp_path, "holds no .safetensors file"),
        ):
            with pytest.raises(ModelError, match=message):
                loaded("epsilon", {"path": str(path)})
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(b"no tensors")
        with pytest.raises(ModelError, match=r"broken\.safetensors' cannot be read: .*Get the file again"):
            loaded("epsilon", {"path": str(broken)})

    def test_a_folder_with_several_files(self, tmp_path: Path) -> None:
        path = written("epsilon", tmp_path / "made")
        for name in ("a", "b"):
            shutil.copy(path, tmp_path / f"{name}.safetensors")
        path.unlink()
        with pytest.raises(ModelError, match=r"several files; set weight_name to one of: a\.safetensors, b\."):
            loaded("epsilon", {"path": str(tmp_path)})
        with pytest.raises(ModelError, match=r"no 'c\.safetensors'; set weight_name to one of: a\.safetensors, b"):
            loaded("epsilon", {"path": str(tmp_path), "weight_name": "c.safetensors"})
        loaded("epsilon", {"path": str(tmp_path), "weight_name": "b.safetensors"})

    def test_values_that_are_not_finite(self, tmp_path: Path) -> None:
        state = random_state("epsilon")
        next(iter(state.values()))[0, 0] = torch.nan
        save_file(state, tmp_path / FILE)
        with pytest.raises(ModelError, match=r"is broken: unet\..*lora_A.weight is not finite"):
            loaded("epsilon", {"path": str(tmp_path)})

    def test_a_family_without_a_loader(self, tmp_path: Path) -> None:
        path = written("pixart", tmp_path)
        with pytest.raises(ModelError, match=r"diffusers has no loader of LoRAs for a PixArtSigmaPipeline"):
            loaded("pixart", {"path": str(path)})

    def test_a_hub_id_offline(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ModelError, match=r"'nobody/no-such-lora' is not in the Hub's cache, and HF_HUB_OFFLINE is"):
            loaded("epsilon", {"path": "nobody/no-such-lora"})


def test_an_adapter_of_the_hub_is_taken_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--tiny--bird-lora"
    path = written("epsilon", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backends = loaded("epsilon", {"path": "tiny/bird-lora", "revision": "v1"}), loaded("epsilon", {"path": str(path)})
    assert torch.equal(*(from_backend(backend, PROMPT, [3]) for backend in backends))
