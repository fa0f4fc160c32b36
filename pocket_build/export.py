"""Writes trained Pocket models in the layouts that diffusers and timm load: float16 safetensors."""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from timm.models import save_for_hf
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from pocket_build import backbone as backbones
from pocket_build import classifiers, species, text_to_image


def pipeline(
    folder: Path, words: CLIPTokenizer, text: CLIPTextModel, unet: UNet2DConditionModel, vae: AutoencoderKL
) -> None:
    """Save the text-to-image model as a diffusers pipeline folder."""
    shutil.rmtree(folder, ignore_errors=True)
    pipe = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text.half(),
        tokenizer=words,
        unet=unet.half(),
        scheduler=text_to_image.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    model = json.loads(words.backend_tokenizer.to_str())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    # Stored in half precision, meant to run in single: loaders take the dtype from here.
    config = folder / "text_encoder" / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tiny_decoder(folder: Path, model: AutoencoderTiny) -> None:
    """Save the tiny autoencoder in diffusers' layout."""
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(folder, safe_serialization=True)
    model.float()


def classifier(folder: Path, recipe: classifiers.Recipe, model: nn.Module) -> None:
    """Save a classifier in timm's Hub layout, with its label names."""
    shutil.rmtree(folder, ignore_errors=True)
    labels = list(classifiers.LABELS[recipe.subject])
    config: Any = model.pretrained_cfg
    config.update(
        input_size=(3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, tag="pocket", classifier=None, url=""
    )
    settings = {"architecture": recipe.architecture, "num_classes": len(labels), "label_names": labels}
    save_for_hf(model.half(), str(folder), safe_serialization=True, model_config=settings)
    model.float()


def backbone(folder: Path, model: nn.Module) -> None:
    """Save the backbone in timm's Hub layout.

    `classifier` stays in its configuration: by it timm leaves out the last layer where other classes are to be learned.
    """
    shutil.rmtree(folder, ignore_errors=True)
    labels, side = list(species.labels()), backbones.SIZE
    config: Any = model.pretrained_cfg
    config.update(
        input_size=(3, side, side),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        crop_pct=1.0,
        interpolation="bilinear",
        pool_size=None,
        tag="pocket",
        url="",
        num_classes=len(labels),
    )
    settings = {"architecture": backbones.ARCHITECTURE, "num_classes": len(labels), "label_names": labels}
    save_for_hf(model.half(), str(folder), safe_serialization=True, model_config=settings)
    model.float()


def size(folder: Path) -> int:
    """Bytes that ship."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
