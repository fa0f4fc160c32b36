"""Stable Diffusion 1.5 and XL with random weights in their true shapes, made on the device: no download, no file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dct_augment import diffusion
from dct_augment.classifiers import SingleClassifier, timm_models
from dct_augment.diffusion.memory import Memory

LENGTH = 77
"""Pieces of a padded prompt, in every model of Stable Diffusion."""
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = ("a", "photo", "of", "high", "resolution", "realistic", "image", "close-up")


@dataclass(frozen=True)
class Shape:
    """What a model of Stable Diffusion is made of: the settings of its parts, as diffusers and transformers name them.

    Fresh weights hardly listen to the text; `heed` is how much more what cross-attention adds is made to matter.
    `batch` is how many images are generated at once where it is compared with its pipeline.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    texts: tuple[Mapping[str, Any], ...]
    heed: float
    batch: int

    @property
    def is_xl(self) -> bool:
        """Whether it is an SDXL, with two text encoders."""
        return len(self.texts) == 2


_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
_CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_G = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SHAPES = {
    "sd15": Shape(
        unet={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        vae={**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        texts=(_CLIP_L,),
        heed=6.0,
        batch=8,
    ),
    "sdxl": Shape(
        unet={
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae={**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        texts=(_CLIP_L, _CLIP_G),
        heed=3.0,
        batch=2,
    ),
}
"""The published models: 860 million weights in the denoiser of the one, 2,570 million in that of the other."""

_TINY_UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D",),
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
_TINY_VAE = {
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 8,
}
_TINY_CLIP = {
    "vocab_size": 1024,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
}
TINY_SHAPES = {
    "sd15": Shape({**_TINY_UNET, "cross_attention_dim": 16}, _TINY_VAE, (_TINY_CLIP,), heed=6.0, batch=2),
    "sdxl": Shape(
        unet={
            **_TINY_UNET,
            "cross_attention_dim": 32,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        vae={**_TINY_VAE, "force_upcast": True},
        texts=(_TINY_CLIP, _TINY_CLIP),
        heed=3.0,
        batch=1,
    ),
}
"""The same kinds of models at a size that a CPU takes in no time."""


def build(shape: Shape, class_names: Iterable[str], device: str, dtype: torch.dtype) -> DiffusionPipeline:
    """Build a pipeline of diffusers with random weights, which are the same in every dtype.

    Each part is made in float32 on the device, and only then takes its dtype: one part at a time is that large.
    """
    logging.set_verbosity_error()  # it warns of `to(float16)`, whatever the model
    torch.manual_seed(0)
    words = tokenizer([*_WORDS, *class_names])

    def made(kind: Any, *arguments: Any, **settings: Any) -> Any:
        with torch.device(device):
            model = kind(*arguments, **settings)
        return model.to(dtype).eval().requires_grad_(False)

    texts = [
        made(CLIPTextModelWithProjection if number else CLIPTextModel, text_config(settings, words))
        for number, settings in enumerate(shape.texts)
    ]
    unet, vae = made(UNet2DConditionModel, **shape.unet), made(AutoencoderKL, **shape.vae)
    _heed_the_text(unet, shape.heed)
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    if shape.is_xl:
        scheduler = EulerDiscreteScheduler(timestep_spacing="leading", **noise)
        pipe: Any = StableDiffusionXLPipeline(
            vae, texts[0], texts[1], words, words, unet, scheduler, add_watermarker=False
        )
    else:
        scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **noise)
        pipe = StableDiffusionPipeline(vae, texts[0], words, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text_config(settings: Mapping[str, Any], words: CLIPTokenizer) -> CLIPTextConfig:
    """Configure a text encoder as those of Stable Diffusion are, whose end token is that of the first releases."""
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": 2, "pad_token_id": words.pad_token_id}
    return CLIPTextConfig(max_position_embeddings=LENGTH, **settings, **ids)


def tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Make a byte-pair tokenizer whose vocabulary holds these words; all others are spelled in smaller pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in words:
        first, *rest = [*word[:-1], f"{word[-1]}</w>"]
        for piece in rest:
            merges.append((first, piece))
            first += piece
    merges = list(dict.fromkeys(merges))
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *map("".join, merges), _BEGIN, _END]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=_END)


@torch.no_grad()
def _heed_the_text(unet: Any, factor: float) -> None:
    for name, weight in unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
            weight.mul_(factor)


def backend(pipe: Any, device: str, memory: Memory) -> diffusion.Backend:
    """Set a pipeline up for a memory setting by the package's own door, whatever it was set up for before."""
    for model in (pipe.unet, pipe.vae):
        model.disable_gradient_checkpointing()
    pipe.vae.disable_slicing()
    pipe.vae.disable_tiling()
    return diffusion.from_pipeline(pipe, device=device, memory=memory)


def classifier(name: str, outputs: int, device: str) -> SingleClassifier:
    """Make a classifier of timm's with random weights, and its own preprocessing, as the package loads one."""
    with torch.device(device):
        model = timm.create_model(name, num_classes=outputs)
    labels = [f"label {number}" for number in range(outputs)]
    return SingleClassifier(model, timm_models.preprocess(model), labels, match="index", device=device)
