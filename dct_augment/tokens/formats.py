"""Class tokens in the formats of other tools: diffusers, A1111, ComfyUI, and one file for many.

A token of a model with one text encoder is one tensor (n, d). Of a model with several it is one for each, by the names
that ComfyUI has for them: `clip_l` (n, 768), `clip_g` (n, 1280), `t5xxl` (n, 4096).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from dct_augment import files
from dct_augment.diffusion import split_by_encoder
from dct_augment.errors import InputError
from dct_augment.wording import in_one_line, reason_of

FORMATS = ("diffusers", "a1111", "comfyui", "bundle")
ENCODERS = ("clip_l", "clip_g", "t5xxl")
"""Keys of the parts of a token for several text encoders, in the order of its vector."""

_RENAMED_KEYS = {"effect": "mean_pixel_change"}
_RENAMED_VERDICTS = {"diverged": "worse"}

_KEY, _HASH = "dct_augment", "sha256"
"""The entry of the header with all that is known of the tokens, and its key for the hash of these and the tensors."""


@dataclass(frozen=True)
class Token:
    """A token as a file holds it: its word, a tensor (n, d) per text encoder, and its metadata."""

    word: str
    parts: Mapping[str, torch.Tensor] = field(repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def vector(self) -> torch.Tensor:
        """All parts side by side, (n, D) float32."""
        return torch.cat([self.parts[key] for key in sorted(self.parts, key=_order)], 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each part, in the order of the text encoders."""
        return tuple(self.parts[key].shape[1] for key in sorted(self.parts, key=_order))


def _order(key: str) -> int:
    return ENCODERS.index(key) if key in ENCODERS else 0


def split(vector: torch.Tensor, encoder_widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Split a vector (n, D) into the part of each text encoder, by its key."""
    parts = split_by_encoder(vector.detach().float().cpu(), encoder_widths.values())
    return {key: part.clone().contiguous() for key, part in zip(encoder_widths, parts, strict=True)}


def read(path: Path) -> list[Token]:
    """Read the tokens of a file in any of the formats; its name is the word where the file does not say one.

    Raises:
        InputError: no such file, not an embedding, a pickle that holds more than tensors, values that are not finite,
            or not what was written.
    """
    if path.is_dir():
        raise InputError(f"token file {str(path)!r} is a folder; give a file in it")
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"token file {str(path)!r} is a link that leads to no file; correct the link, or give the file"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"token file {str(path)!r} is no file, but a pipe or a device; give a file")
    if not path.is_file():
        raise InputError(f"token file {str(path)!r} does not exist; correct the path")
    tensors, header = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pickle(path), {})
    metadata_by_word = _metadata_by_word(path, header)
    default_word = str(next(iter(metadata_by_word), None) or header.get("name") or path.stem)
    parts_by_word: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.ndim not in (1, 2):
            raise InputError(f"token file {str(path)!r}: {key!r} is no embedding of shape (d,) or (n, d)")
        if not tensor.numel():
            raise InputError(f"token file {str(path)!r}: {key!r} is empty, of shape {tuple(tensor.shape)}")
        if not bool(tensor.isfinite().all()):
            raise InputError(
                f"token file {str(path)!r}: {key!r} holds values that are not finite, with which no image can be "
                "made. Get the file again, or delete it to train the token again"
            )
        word, part = _word_and_part(key, default_word)
        parts_by_word.setdefault(word, {})[part] = torch.atleast_2d(tensor.float())
    if not parts_by_word:
        raise InputError(f"token file {str(path)!r} holds no embedding")
    for word, parts in parts_by_word.items():
        lengths = {len(part) for part in parts.values()}
        if (set(parts) != {""} and (len(parts) < 2 or "clip_l" not in parts or "" in parts)) or len(lengths) != 1:
            raise InputError(
                f"token file {str(path)!r}: {word!r} must be one tensor, or clip_l and other text encoders' "
                f"({', '.join(ENCODERS[1:])}), all of one length"
            )
    if strange := sorted(metadata_by_word.keys() - parts_by_word.keys()):
        raise InputError(
            f"token file {str(path)!r}: its header tells of {in_one_line(strange[0], 60)!r}, but it holds none. "
            "Get the file again, or delete it to train the token again"
        )
    return [Token(word, parts, metadata_by_word.get(word, {})) for word, parts in parts_by_word.items()]


def _word_and_part(key: str, default_word: str) -> tuple[str, str]:
    """Return the word and the text encoder of a tensor, by its key in a file."""
    if key in ENCODERS:
        return default_word, key
    if key in ("emb_params", "*"):  # A1111 and ComfyUI; their old .pt
        return default_word, ""
    word, _, part = key.rpartition("/")
    if word and part in ENCODERS:  # in a bundle
        return word, part
    return key, ""  # diffusers; a bundle


def _metadata_by_word(path: Path, header: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """Return what the header of a file says of each token: of one, or of each word of a bundle.

    Raises:
        InputError: it is not of the form that is written.
    """
    try:
        stored = dict(json.loads(header.get(_KEY, "{}")))
        stored.pop(_HASH, None)
        by_word = {stored["token"]: stored} if "token" in stored else stored
        return {str(word): current_metadata(metadata) for word, metadata in by_word.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"token file {str(path)!r}: what its header says of the token cannot be read. Get the file again, or "
            "delete it to train the token again"
        ) from error


def current_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Translate metadata that a version before 0.2 wrote: `effect`, and the verdict `diverged`."""
    current = {_RENAMED_KEYS.get(key, key): value for key, value in metadata.items()}
    if isinstance(current.get("verdict"), str):
        current["verdict"] = _RENAMED_VERDICTS.get(current["verdict"], current["verdict"])
    return current


def base_model(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read of which text-to-image model a token is an embedding; nothing if its file does not say."""
    try:
        return dict(json.loads(metadata.get("base_model", "{}")))
    except (ValueError, TypeError, RecursionError):
        return {}


def current_table(index: pd.DataFrame) -> pd.DataFrame:
    """Translate an index of tokens that a version before 0.2 wrote, as `current_metadata` does."""
    table = index.rename(columns=_RENAMED_KEYS)
    if "verdict" in table:
        table["verdict"] = table["verdict"].replace(_RENAMED_VERDICTS)
    return table


def write(tokens: Sequence[Token], folder: Path, kind: str, name: str = "tokens") -> list[Path]:
    """Write tokens into a folder in one of `FORMATS`; return the files.

    diffusers: a file each, `{word: tensor}` for `pipe.load_textual_inversion`, or one by each of `ENCODERS`. a1111 and
    comfyui: a file each, whose name is the trigger word. bundle: one file, `{word: tensor}` or `word/clip_l`, ...

    Raises:
        InputError: unknown format.
    """
    if kind not in FORMATS:
        raise InputError(f"format {kind!r} is unknown; choose one of: {', '.join(FORMATS)}")
    if kind == "bundle":
        path = folder / f"{name}.safetensors"
        tensors = {}
        for token in tokens:
            for key, part in token.parts.items():
                tensors[f"{token.word}/{key}" if key else token.word] = part
        save(tensors, path, {token.word: dict(token.metadata) for token in tokens})
        return [path]
    written = []
    for token in tokens:
        trigger = re.sub(r"[^A-Za-z0-9._-]+", "-", token.word).strip("-") or "token"
        path = folder / f"{trigger}.safetensors"
        if kind == "diffusers":
            tensors = {key or token.word: flat(part) for key, part in token.parts.items()}
        else:
            tensors = {key or "emb_params": part for key, part in token.parts.items()}
        save(tensors, path, dict(token.metadata) | {"token": token.word})
        written.append(path)
    return written


def flat(part: torch.Tensor) -> torch.Tensor:
    """(d,) for a single vector, as diffusers stores it, else (n, d)."""
    return part[0] if len(part) == 1 else part


def save(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file with metadata in its header, and a hash of all; whole or not at all."""
    stored = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    header = json.dumps({**metadata, _HASH: _content_hash(stored, metadata)})
    files.write_bytes(path, serialize(stored, {_KEY: header}))  # one entry: safetensors writes several in any order


def _content_hash(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of what a file holds, but for the hash itself."""
    digest = hashlib.sha256(serialize(dict(tensors)))
    digest.update(json.dumps(json.loads(json.dumps(metadata)), sort_keys=True).encode())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read tensors and header.

    Raises:
        InputError: it is no such file, or not what was written. What other tools wrote has no hash.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        why = reason_of(error) if path.stat().st_size else "it is empty"
        raise InputError(f"token file {str(path)!r} is not a safetensors file: {why}. Get the file again") from error
    if not _is_intact(tensors, header):
        raise InputError(
            f"token file {str(path)!r} is damaged: its content is not what was written. Get the file again, or delete "
            "it to train the token again"
        )
    return tensors, header


def _is_intact(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> bool:
    """Tell whether a file holds what its hash says; one without a hash is taken as it is."""
    try:
        metadata = dict(json.loads(header.get(_KEY, "{}")))
        stated = metadata.pop(_HASH, None)
        if stated is None:
            return files.misnamed_hash(metadata, _HASH, lambda others: _content_hash(tensors, others)) is None
        return not isinstance(stated, str) or stated == _content_hash(tensors, metadata)
    except (ValueError, TypeError, RecursionError):
        return True  # no header of ours, of which another message tells


def _read_pickle(path: Path) -> dict[str, Any]:
    """Read an old .pt or .bin file, read without running anything that it may hold."""
    try:
        data = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the restricted unpickler fails in many ways on what is no pickle of tensors
        raise InputError(
            f"token file {str(path)!r} is not a plain file of tensors, and is not opened: a pickle can run code. Ask "
            "for it as .safetensors"
        ) from error
    data = data.get("string_to_param", data) if isinstance(data, dict) else {}
    return dict(data)
