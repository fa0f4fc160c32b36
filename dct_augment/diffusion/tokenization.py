"""Counts what a text encoder reads of a prompt, by its tokenizer alone: no weights are needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dct_augment import files
from dct_augment.diffusion.names import folder_here
from dct_augment.prompts import TOKEN_PATTERN

LENGTHS: Mapping[str, Mapping[str, int]] = {
    "PixArtSigmaPipeline": {"tokenizer": 300},
    "StableDiffusion3Pipeline": {"tokenizer_3": 256},
    "FluxPipeline": {"tokenizer_2": 512},
}
"""Pieces of a prompt that a pipeline reads by each tokenizer, where that is not what the tokenizer says."""


class PromptTokenizer:
    """A tokenizer, and how many pieces of a prompt its text encoder reads: `length`, with those of begin and end."""

    def __init__(self, tokenizer: Any, length: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.length: int = length or tokenizer.model_max_length
        *self.begin, self.end = tokenizer("").input_ids  # CLIP: start and end; T5: end alone

    @property
    def room(self) -> int:
        """How many pieces the words of a prompt may have."""
        return self.length - len(self.begin) - 1

    def ids(self, text: str) -> list[int]:
        """The pieces of a text, without those of begin and end."""
        return list(self.tokenizer(text.strip(), add_special_tokens=False, verbose=False).input_ids)

    def count(self, prompt: str, vectors: int = 0) -> int:
        """Count the pieces of a prompt, in which a class token is `vectors` pieces."""
        parts = TOKEN_PATTERN.split(prompt)
        return sum(len(self.ids(part)) for part in parts) + vectors * (len(parts) - 1)

    def lost(self, prompt: str, vectors: int = 0) -> str:
        """Return the end of a prompt that the text encoder would cut; empty if it reads all of it."""
        room = self.room
        if self.count(prompt, vectors) <= room:
            return ""
        lost: list[str] = []
        for part in _parts(prompt):
            is_token = TOKEN_PATTERN.fullmatch(part) is not None
            pieces: list[int] = [] if is_token else self.ids(part)
            count = vectors if is_token else len(pieces)
            if is_token and count > room:
                lost.append(part)
            elif count > room:
                lost.append(self.tokenizer.decode(pieces[room:]).strip())
            room = max(room - count, 0)
        return " ".join(lost)


def _parts(prompt: str) -> list[str]:
    """Split a prompt at its class tokens, and keep them."""
    parts: list[str] = []
    end = 0
    for token in TOKEN_PATTERN.finditer(prompt):
        parts += [prompt[end : token.start()], token[0]]
        end = token.end()
    return [*parts, prompt[end:]]


def tokenizers_here(path: str, revision: str | None) -> list[PromptTokenizer]:
    """Load the tokenizers of a text-to-image model if they are on this machine; nothing is downloaded.

    The list is empty if the model is not here, or broken: loading the model says what is wrong with it.
    """
    folder = folder_here(path, revision)
    if folder is None:
        return []
    try:
        return _load(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError):
        return []


def _load(folder: Path) -> list[PromptTokenizer]:
    import transformers

    index = files.load_json(folder / "model_index.json")
    tokenizers = []
    lengths = LENGTHS.get(index["_class_name"], {})
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        library, kind = index.get(part) or ("", "")
        if library == "transformers":
            tokenizer = getattr(transformers, kind).from_pretrained(str(folder / part), local_files_only=True)
            tokenizers.append(PromptTokenizer(tokenizer, lengths.get(part)))
    return tokenizers
