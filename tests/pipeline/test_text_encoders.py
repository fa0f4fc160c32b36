"""Whether a zero-shot classifier has the text encoder of the text-to-image model: by weights, or else by known ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dct_augment.config import ModelConfig, ZeroShotClassifierConfig
from dct_augment.pipeline import text_encoders
from tests import tiny
from tests.classifiers import zero_shot_models

LARGE, HUGE, BIG = (
    "openai/clip-vit-large-patch14",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
)


def is_shared(generator: Path | str, classifier: Path | str) -> bool:
    return text_encoders.is_shared(ModelConfig(path=str(generator)), ZeroShotClassifierConfig(model=str(classifier)))


def clip_around(text_encoder: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A CLIP model with the token embeddings of a text encoder."""
    text = text_encoder.config
    image = zero_shot_models.model("clip", tiny.tokenizer()).config.vision_config
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text.to_dict(), vision_config=image.to_dict()))
    embeddings = text_encoder.get_input_embeddings().state_dict()
    model.text_model.get_input_embeddings().load_state_dict(embeddings)
    model.to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("generator", "shared"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", {LARGE}),
        ("CompVis/stable-diffusion-v1-4", {LARGE}),
        ("stabilityai/stable-diffusion-2-1", {HUGE}),
        ("stabilityai/sd-turbo", {HUGE}),
        ("stabilityai/stable-diffusion-xl-base-1.0", {LARGE, BIG}),
        ("stabilityai/sdxl-turbo", {LARGE, BIG}),
        ("stabilityai/stable-diffusion-3.5-medium", {LARGE, BIG}),
        ("PixArt-alpha/PixArt-Sigma-XL-2-512-MS", set()),
        ("pocket", set()),
    ],
)
def test_published_models_are_known_by_their_ids(generator: str, shared: set[str], no_hub: Path) -> None:
    for classifier in (LARGE, HUGE, BIG, "openai/clip-vit-base-patch32", "google/siglip-base-patch16-224"):
        assert is_shared(generator, classifier) == (classifier in shared)


@pytest.mark.parametrize("family", ["epsilon", "xl", "sd35"])
def test_models_on_this_machine_are_compared_by_their_token_embeddings(family: str, tmp_path: Path) -> None:
    generator, pipe = tiny.pipeline_folder(family), tiny.pipeline(family)
    encoders = [pipe.text_encoder, *([pipe.text_encoder_2] if family != "epsilon" else [])]
    for number, encoder in enumerate(encoders):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert is_shared(generator, clip_around(encoder, tmp_path / f"{number}-{dtype}", dtype))
        with torch.no_grad():
            encoder.get_input_embeddings().weight.mul_(1.05)
        assert not is_shared(generator, clip_around(encoder, tmp_path / f"{number}-other"))
    for kind in zero_shot_models.KINDS:
        assert not is_shared(generator, zero_shot_models.folder(kind))
    assert not is_shared(tiny.pipeline_folder("pixart"), zero_shot_models.folder("clip"))


def test_weights_on_this_machine_count_more_than_an_id(no_hub: Path, tmp_path: Path) -> None:
    """A fine-tuned text encoder under the id of a published model is not the published one."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = no_hub / "models--openai--clip-vit-large-patch14"
    generator = tmp_path / "stable-diffusion-v1"
    tiny.pipeline("epsilon").save_pretrained(generator)
    assert is_shared(generator, LARGE)  # known by name alone: CLIP is not here
    zero_shot_models.save("clip", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert not is_shared(generator, LARGE)
    (generator / "text_encoder" / "model.safetensors").write_bytes(b"damaged" * 9)
    assert is_shared(generator, LARGE)
    (generator / "model_index.json").write_text(json.dumps(["damaged"]))
    assert is_shared(generator, LARGE)


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
