"""Tiny CLIP and SigLIP models with their real tokenizers and processors, saved in the layout of the Hub."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers

from dct_augment.records import ClassInfo
from tests import tiny

KINDS = ("clip", "siglip", "siglip2")
SIDE = 32
"""Height and width of an image that no processor here resizes."""
BIRDS = (
    ClassInfo(0, "crane", "crane", homonym=True),
    ClassInfo(1, "red bird", "red-bird"),
    ClassInfo(2, "kiwi", "kiwi", homonym=True),
)
_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_LENGTH = 64


@cache
def folder(kind: str) -> Path:
    """The folder of a model of a kind. Shared: copy it to change it."""
    where = tiny.ROOT / f"zero-shot-{kind}"
    save(kind, where)
    return where


def save(kind: str, where: Path, seed: int = 5) -> None:
    """Save a model of a kind with random weights, and its processor."""
    torch.manual_seed(seed)
    where.mkdir(parents=True, exist_ok=True)
    tokenizer = {"clip": tiny.tokenizer, "siglip": lambda: _siglip_tokenizer(where), "siglip2": _siglip2_tokenizer}[
        kind
    ]()
    processor(kind, tokenizer).save_pretrained(where)
    model(kind, tokenizer).save_pretrained(where)


def model(kind: str, tokenizer: Any, **vision: Any) -> Any:
    """A model whose answers depend much on image and text."""
    length = tiny.LENGTH if kind == "clip" else _LENGTH
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": length}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    image = {**_TEXT, "patch_size": 8, **({"num_patches": 16} if kind == "siglip2" else {"image_size": SIDE}), **vision}
    if kind == "clip":
        settings = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=12)
        made = transformers.CLIPModel(settings)
    elif kind == "siglip":
        made = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=image))
    else:
        made = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=image))
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.4)
        made.logit_scale.fill_(3.0)
        if kind != "clip":
            made.logit_bias.fill_(-2.5)
    return made.eval()


def processor(kind: str, tokenizer: Any) -> Any:
    """The processor of a kind, for images of 32 x 32 pixels or 16 patches."""
    if kind == "clip":
        images = transformers.CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
        return transformers.CLIPProcessor(images, tokenizer)
    if kind == "siglip":
        return transformers.SiglipProcessor(
            transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer
        )
    return transformers.Siglip2Processor(
        transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16), tokenizer
    )


def _siglip_tokenizer(where: Path) -> Any:
    """SigLIP's sentencepiece tokenizer, trained on the corpus of the tiny models."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.CORPUS * 4),
        model_writer=trained,
        vocab_size=60,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        minloglevel=2,
    )
    (where / "spiece.model").write_bytes(trained.getvalue())
    return transformers.SiglipTokenizer(str(where / "spiece.model"), model_max_length=_LENGTH)


def _siglip2_tokenizer() -> Any:
    """Gemma's kind of tokenizer, with a piece for each letter and each byte."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, "\u2581", *"abcdefghijklmnopqrstuvwxyz,.'", *(f"<0x{byte:02X}>" for byte in range(256))]
    return transformers.Siglip2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=_LENGTH
    )
