"""Class tokens in the formats of other tools: diffusers, A1111, ComfyUI, and one file for many.

A token of a model with one text encoder is one tensor (n, d); of SDXL, `clip_l` (n, 768) and `clip_g` (n, 1280).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dct_augment import files
from dct_augment.diffusion import split_by_encoder
from dct_augment.errors import InputError

FORMATS = ("diffusers", "a1111", "comfyui", "bundle")
PAIR = ("clip_l", "clip_g")


@dataclass(frozen=True)
class Token:
    """A token as a file holds it: its word, a tensor (n, d) per text encoder, and what is known of it."""

    word: str
    parts: Mapping[str, torch.Tensor] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def vector(self) -> torch.Tensor:
        """All parts side by side, (n, D) float32."""
        return torch.cat([self.parts[key] for key in sorted(self.parts, key=_order)], 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each part, in the order of the text encoders."""
        return tuple(self.parts[key].shape[1] for key in sorted(self.parts, key=_order))


def _order(key: str) -> int:
    return PAIR.index(key) if key in PAIR else 0


def split(vector: torch.Tensor, encoder_widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Split a vector (n, D) into the part of each text encoder, by its key."""
    parts = split_by_encoder(vector.detach().float().cpu(), encoder_widths.values())
    return {key: part.clone().contiguous() for key, part in zip(encoder_widths, parts, strict=True)}


def read(path: Path) -> list[Token]:
    """The tokens of a file in any of the formats; its name is the word where the file does not say one.

    Raises:
        InputError: no such file, not an embedding, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"token file {str(path)!r} does not exist")
    tensors, metadata = _stored(path) if path.suffix == ".safetensors" else (_unpickled(path), {})
    facts = json.loads(metadata.get("dct_augment", "{}"))
    known: Mapping[str, Any] = facts if "token" not in facts else {facts["token"]: facts}
    grouped: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.ndim not in (1, 2):
            raise InputError(f"token file {str(path)!r}: {key!r} is no embedding of shape (d,) or (n, d)")
        word, _, part = key.rpartition("/") if key.endswith(PAIR) and "/" in key else (key, "", "")
        if key in PAIR or key in ("emb_params", "*"):
            word, part = str(next(iter(known), None) or metadata.get("name") or path.stem), key if key in PAIR else ""
        grouped.setdefault(word, {})[part] = torch.atleast_2d(tensor.float())
    if not grouped:
        raise InputError(f"token file {str(path)!r} holds no embedding")
    for word, parts in grouped.items():
        if set(parts) not in ({""}, set(PAIR)) or len({len(part) for part in parts.values()}) != 1:
            raise InputError(
                f"token file {str(path)!r}: {word!r} must be one tensor, or clip_l and clip_g of one length"
            )
    return [Token(word, parts, known.get(word, {})) for word, parts in grouped.items()]


def write(tokens: Sequence[Token], folder: Path, kind: str, name: str = "tokens") -> list[Path]:
    """Write tokens into a folder in one of `FORMATS`; return the files.

    diffusers: a file each, `{word: tensor}` for `pipe.load_textual_inversion`, or `clip_l` and `clip_g`. a1111 and
    comfyui: a file each, whose name is the trigger word. bundle: one file, `{word: tensor}` or `word/clip_l`, ...

    Raises:
        InputError: unknown format.
    """
    if kind not in FORMATS:
        raise InputError(f"format {kind!r} is unknown; choose one of: {', '.join(FORMATS)}")
    if kind == "bundle":
        tensors = {f"{one.word}/{key}" if key else one.word: part for one in tokens for key, part in one.parts.items()}
        path = folder / f"{name}.safetensors"
        save(tensors, path, {one.word: dict(one.facts) for one in tokens})
        return [path]
    written = []
    for one in tokens:
        trigger = re.sub(r"[^A-Za-z0-9._-]+", "-", one.word).strip("-") or "token"
        path = folder / f"{trigger}.safetensors"
        if kind == "diffusers":
            tensors = {key or one.word: flat(part) for key, part in one.parts.items()}
        else:
            tensors = {key or "emb_params": part for key, part in one.parts.items()}
        save(tensors, path, dict(one.facts) | {"token": one.word})
        written.append(path)
    return written


def flat(part: torch.Tensor) -> torch.Tensor:
    """(d,) for a single vector, as diffusers stores it, else (n, d)."""
    return part[0] if len(part) == 1 else part


def save(tensors: Mapping[str, torch.Tensor], path: Path, facts: Mapping[str, Any]) -> None:
    """Write a safetensors file with facts in its header, whole or not at all."""
    metadata = {"dct_augment": json.dumps(facts)}  # one entry: safetensors writes several in any order
    with files.atomic(path) as partial:
        save_file({key: one.clone().contiguous() for key, one in tensors.items()}, partial, metadata=metadata)


def _stored(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, "pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}, dict(stored.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"token file {str(path)!r} is not a safetensors file: {error}") from error


def _unpickled(path: Path) -> dict[str, Any]:
    """An old .pt or .bin file, read without running anything that it may hold."""
    try:
        data = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the restricted unpickler fails in many ways on what is no pickle of tensors
        raise InputError(
            f"token file {str(path)!r} is not a plain file of tensors, and is not opened: a pickle can run code. Ask "
            "for it as .safetensors"
        ) from error
    data = data.get("string_to_param", data) if isinstance(data, dict) else {}
    return dict(data)
