"""Tells whether a zero-shot classifier reads class names with the text encoder of the text-to-image model."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dct_augment import files
from dct_augment.classifiers.names import resolve_zero_shot
from dct_augment.config import ModelConfig, ZeroShotClassifierConfig
from dct_augment.diffusion.names import cached_file, folder_here

_CLIP_L, _CLIP_H = "openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_CLIP_BIG_G = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
_PUBLISHED = (
    (re.compile(r"stable-diffusion-xl|sdxl|stable-diffusion-3"), (_CLIP_L, _CLIP_BIG_G)),
    (re.compile(r"stable-diffusion-v?2|sd-turbo"), (_CLIP_H,)),
    (re.compile(r"stable-diffusion-v-?1|flux\.1"), (_CLIP_L,)),
)
"""Ids of published text-to-image models, and the CLIP models whose text encoders they took."""

_EMBEDDING = "embeddings.token_embedding.weight"
_ROWS = 4096
_SAME = 0.01
"""Relative distance up to which embeddings count as the same: half precision rounds, and fine-tuning moves a little."""


@dataclass(frozen=True)
class _Embedding:
    """The token embeddings of a text encoder: shape of all, and the first rows."""

    shape: tuple[int, ...]
    rows: torch.Tensor


def is_shared(model: ModelConfig, member: ZeroShotClassifierConfig) -> bool:
    """Tell whether both have one text encoder: by its weights where they are on this machine, or else by known ids."""
    generator, classifier = folder_here(model.path, model.revision), _folder(member)
    if generator is not None and classifier is not None:
        encoders, own = _encoders(generator), _embedding(classifier)
        if encoders and own is not None:
            return any(_is_same(own, encoder) for encoder in encoders)
    published = resolve_zero_shot(member.model).location
    for pattern, classifiers in _PUBLISHED:
        if pattern.search(model.path.lower()):
            return published in classifiers
    return False


def _folder(member: ZeroShotClassifierConfig) -> Path | None:
    """Find the folder of a zero-shot model on this machine, without network."""
    resolved = resolve_zero_shot(member.model)
    if resolved.is_local:
        return Path(resolved.location)
    config = cached_file(resolved.repository, "config.json", member.revision)
    return config.parent if config is not None else None


def _encoders(folder: Path) -> list[_Embedding]:
    """Read the token embeddings of all CLIP text encoders of a text-to-image model; none if one is not there."""
    index = files.read_json(folder / "model_index.json")
    encoders = []
    for part in ("text_encoder", "text_encoder_2"):
        library, kind = index.get(part) or (None, None)
        if library is None or not str(kind).startswith("CLIP"):
            continue
        embedding = _embedding(folder / part)
        if embedding is None:
            return []
        encoders.append(embedding)
    return encoders


def _embedding(folder: Path) -> _Embedding | None:
    """Read the token embeddings of CLIP's text encoder, alone or with its image encoder; None if there are none."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    if key.endswith(_EMBEDDING):
                        tensor = file.get_slice(key)
                        return _Embedding(tuple(tensor.get_shape()), tensor[:_ROWS].float())
        except (OSError, SafetensorError):
            continue  # loading the model says what is wrong with it
    return None


def _is_same(one: _Embedding, other: _Embedding) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one.rows - other.rows).norm() <= _SAME * one.rows.norm())
