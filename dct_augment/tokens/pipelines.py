"""Gives pipelines of diffusers class tokens, also to text encoders that `load_textual_inversion` does not know."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken

from dct_augment.errors import InputError
from dct_augment.tokens import formats
from dct_augment.tokens.formats import Token


def add_class_tokens(pipe: Any, path: str | Path) -> dict[str, str]:
    """Give a pipeline of diffusers the class tokens of a file, or of all files in a folder.

    The vocabulary of each of its text encoders grows by the token's vectors; nothing else changes.

    Args:
        pipe: a text-to-image pipeline of the model that the tokens were trained on.
        path: a token file, or a folder of them, such as the `tokens/` of a run or an export.

    Returns:
        What stands in a prompt for each token, by its word, such as `<dct-cub-crane>`. A token of several vectors is
        several words where the pipeline does not put them in by itself.

    Raises:
        InputError: no pipeline with a text encoder; no token there, one of another model, or one that the pipeline has
            already. Nothing is added then.

    Examples:
        >>> import dct_augment, diffusers
        >>> from dct_augment import pocket
        >>> pipe = diffusers.StableDiffusionPipeline.from_pretrained(pocket.path())
        >>> words = dct_augment.add_class_tokens(pipe, "runs/pocket/tokens")
        >>> words["<dct-pocket-crane>"]
        '<dct-pocket-crane>'
        >>> image = pipe("a photo of a <dct-pocket-crane> crane", num_inference_steps=2).images[0]
    """
    parts = [part for part in ("", "_2", "_3") if getattr(pipe, f"text_encoder{part}", None) is not None]
    if not parts:
        kind = type(pipe).__name__
        raise InputError(
            f"the pipeline is a {kind}, without a text encoder; give a text-to-image pipeline of diffusers"
        )
    tokens = _read(Path(path))
    encoders = [(getattr(pipe, f"tokenizer{part}"), getattr(pipe, f"text_encoder{part}")) for part in parts]
    widths = tuple(model.get_input_embeddings().weight.shape[1] for _, model in encoders)
    for token in tokens:
        if token.widths != widths:
            raise InputError(
                f"the class token {token.word} of {path} is of another text-to-image model: its vectors have "
                f"{_numbers(token.widths)} values, the words of this pipeline "
                f"{_numbers(widths)}. Give tokens that were trained on this model"
            )
        if any(token.word in tokenizer.get_vocab() for tokenizer, _ in encoders):
            raise InputError(f"this pipeline has the class token {token.word} already; load the pipeline anew")
    return {token.word: _add(pipe, encoders, token) for token in tokens}


def _numbers(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))


def _read(path: Path) -> list[Token]:
    """Read all tokens of a file or folder.

    Raises:
        InputError: there is none, or a file is not one of them.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        inner = path / "tokens"
        hint = f"; those of a run are in {inner}" if any(inner.glob("*.safetensors")) else ""
        raise InputError(f"{path} holds no token file (.safetensors); give a token file, or a folder of them{hint}")
    return [token for file in files for token in formats.read(file)]


def _add(pipe: Any, encoders: list[tuple[Any, Any]], token: Token) -> str:
    """Add one token to all text encoders; return what stands for it in a prompt."""
    names = [token.word, *(f"{token.word}_{number}" for number in range(1, len(token.vector)))]
    converts = hasattr(pipe, "maybe_convert_prompt")
    # Others take the space before them into the token: to Gemma it is a part of a word.
    for (tokenizer, model), vectors in zip(encoders, token.vector.split(list(token.widths), 1), strict=True):
        tokenizer.add_tokens(names if converts else [AddedToken(name, lstrip=True, normalized=False) for name in names])
        rows = tokenizer.convert_tokens_to_ids(names)
        table = model.get_input_embeddings()
        if max(rows) >= len(table.weight):
            table = model.resize_token_embeddings(max(rows) + 1, mean_resizing=False)
        with torch.no_grad():
            table.weight[rows] = vectors.to(table.weight)
    return token.word if converts else " ".join(names)
