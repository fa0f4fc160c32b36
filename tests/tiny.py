"""Tiny real models with random weights, saved in the layouts of the Hub and loaded through the package's own doors.

Every builder is cached: a model is made once in a test session, whichever file asks first.
"""

import atexit
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dct_augment import classifiers, diffusion
from dct_augment.records import ClassInfo

WIDTH, LENGTH = 16, 24  # of a token embedding; of a padded prompt
LATENT, IMAGE = (4, 8, 8), 16
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CORPUS = ["a photo of a crane", "a red bird on the sand", "a drawing of a green kiwi by the water, blurry", "cardinal"]
CLASSES = (
    ClassInfo(0, "crane", "crane", homonym=True),
    ClassInfo(1, "kiwi", "kiwi", homonym=True),
    ClassInfo(2, "red bird", "red-bird"),
)

_root = TemporaryDirectory(prefix="dct-tiny-")
atexit.register(_root.cleanup)
ROOT = Path(_root.name)


def tokenizer(pad: str = EOS) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer in which every word of the corpus is one piece."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = CLIPTokenizer(vocab={BOS: 0, EOS: 1}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + 200,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=[BOS, EOS],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), BOS, EOS]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=pad)


@cache
def pipeline_folder(prediction: str = "epsilon") -> Path:
    """A Stable Diffusion folder; `v_prediction` also has zero terminal SNR and pads with "!", as SD 2.x does."""
    torch.manual_seed(7)
    velocity = prediction == "v_prediction"
    words = tokenizer("!" if velocity else EOS)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            initializer_factor=10.0,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=LATENT[1],
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=LATENT[0],
        norm_num_groups=4,
        sample_size=IMAGE,
        scaling_factor=0.5,
    )
    with torch.no_grad():  # fresh weights hardly listen to the text: make the words matter
        for name, weight in unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
                weight.mul_(6.0)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=velocity,
        steps_offset=1,
        prediction_type=prediction,
        rescale_betas_zero_snr=velocity,
        timestep_spacing="trailing" if velocity else "leading",
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=words,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = ROOT / prediction
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


@cache
def backend(prediction: str = "epsilon") -> diffusion.StableDiffusion:
    """The tiny model as the package loads it. Shared: leave it as it was."""
    return diffusion.load(str(pipeline_folder(prediction)))


def pipeline(prediction: str = "epsilon") -> StableDiffusionPipeline:
    """The tiny model as diffusers loads it, fresh."""
    pipe = StableDiffusionPipeline.from_pretrained(pipeline_folder(prediction), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def classifier_folder(name: str, labels: Sequence[str] | None, size: int = 32) -> Path:
    """A random timm classifier in timm's Hub layout."""
    torch.manual_seed(size)
    model = timm.create_model(name, num_classes=len(labels or (1, 2)))
    with torch.no_grad():
        model.get_classifier().weight.normal_(std=0.5)
    facts = {
        "architecture": name,
        "num_classes": model.num_classes,
        "pretrained_cfg": {
            "input_size": (3, size, size),
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.25, 0.3),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
    }
    if labels is not None:
        facts["label_names"] = list(labels)
    folder = ROOT / f"{name}-{size}-{'labelled' if labels else 'bare'}"
    timm.models.save_for_hf(model, str(folder), safe_serialization=True, model_config=facts)
    return folder


@cache
def classifier(name: str, size: int = 32) -> classifiers.Classifier:
    """A random timm classifier of the tiny classes, labels in another order and spelling than the classes."""
    labels = ("Red_Bird", "stone", "kiwi", "Crane")
    return classifiers.load(f"local-dir:{classifier_folder(name, labels, size)}")
