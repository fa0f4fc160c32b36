"""A text encoder that takes class tokens at the output of its embedding table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dct_augment.diffusion.recomputing import recomputed
from dct_augment.diffusion.tokenization import PromptTokenizer
from dct_augment.errors import ModelError
from dct_augment.prompts import TOKEN_PATTERN


@dataclass(frozen=True)
class WordNorms:
    """The words of one text encoder: embedding width, mean and largest norm."""

    width: int
    mean_norm: float
    largest_norm: float


def split_by_encoder(vectors: torch.Tensor, widths: Iterable[int]) -> list[torch.Tensor]:
    """Split class tokens (..., D) into the part (..., d) of each text encoder; D is the sum of their widths."""
    return list(vectors.split(list(widths), -1))


_LEGACY_EOS = 2  # in a CLIP configuration: the pooled state is that of the highest id (transformers' modeling_clip.py)


class TextEncoder:
    """A frozen text encoder and its tokenizer.

    Shapes: B prompts, L padded prompt length, d embedding width, n vectors per class token.

    Args:
        tokenizer: of transformers.
        model: of transformers.
        length: L, if it is not what the tokenizer says.
        instruction: what stands before each prompt; L grows by it.
        offload: the device on which the model works, if it stays on the CPU between uses.
        masked: whether padding is hidden from the model; if not given, from T5 and not from CLIP.
        prompts: what reads prompts, if it is not made of `tokenizer`, `length` and `instruction`.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: Any,
        *,
        length: int | None = None,
        instruction: str = "",
        offload: str | None = None,
        masked: bool | None = None,
        prompts: PromptTokenizer | None = None,
    ) -> None:
        self.tokenizer, self.model = tokenizer, model
        self.prompts = prompts or PromptTokenizer(tokenizer, length, instruction)
        self._is_masked = not self.prompts.begin if masked is None else masked
        self.length = self.prompts.length
        self._table = model.get_input_embeddings()
        self.width: int = self._table.weight.shape[1]
        self._offload = offload

    def vocabulary(self) -> dict[str, int]:
        """The row of every whole word of three letters or more, in the order of the table."""
        rows = {}
        for piece, row in self.tokenizer.get_vocab().items():
            word = piece.removesuffix("</w>") if piece.endswith("</w>") else piece.removeprefix("▁").removeprefix("Ġ")
            if word != piece and len(word) > 2 and word.isascii() and word.isalpha():
                rows[word] = row
        # Sorted: get_vocab gives another order at every call.
        return dict(sorted(rows.items(), key=lambda pair: pair[1]))

    def embeddings(self, rows: Sequence[int]) -> torch.Tensor:
        """Rows of the embedding table, (V, d) float32, as the encoder sees them."""
        ids = torch.tensor(rows, device=self._table.weight.device)
        return self._table.weight[ids].detach().float()

    def word(self, word: str) -> torch.Tensor:
        """The embedding of a word, (d,) float32: the mean of its pieces where the tokenizer splits it.

        Raises:
            ModelError: the vocabulary lacks a part of the word.
        """
        pieces, unknown = self.prompts.ids(f" {word}"), self.tokenizer.unk_token_id
        if not pieces or (unknown in pieces and unknown not in self.prompts.end):  # CLIP has every byte, and no other
            raise ModelError(
                f"tokens.init_word {word!r} is not in this model's vocabulary; choose another word, e.g. 'a', for all "
                "or for one class"
            )
        return self.embeddings(pieces).mean(0)

    def run(self, prompts: Sequence[str], vectors: torch.Tensor | None = None, **options: Any) -> tuple[Any, Any]:
        """The model's output for prompts padded as the pipeline pads them, and the mask (B, L) of what is not padding.

        With `vectors` (B, n, d), each prompt holds one `<dct-...>` token, whose n embeddings are put in at the
        output of the embedding table: the vocabulary is never touched, and gradients reach `vectors` alone.
        Equal to the pipeline after `load_textual_inversion`.

        Raises:
            ModelError: a prompt without exactly one token, or one that is too long.
        """
        if vectors is not None and vectors.requires_grad and torch.is_grad_enabled() and self._offload is not None:
            return recomputed(self._ready, lambda given: self._output(prompts, given, options), vectors)
        with self._ready():
            return self._output(prompts, vectors, options)

    def _output(
        self, prompts: Sequence[str], vectors: torch.Tensor | None, options: Mapping[str, Any]
    ) -> tuple[Any, torch.Tensor]:
        """Do what `run` says, where the model is now."""
        device = self._table.weight.device
        if vectors is None:
            for prompt in prompts:
                if word := TOKEN_PATTERN.search(prompt):
                    raise ModelError(f"prompt {prompt!r} holds the class token {word[0]}, but no embedding is given")
                self._refuse_cut(prompt, 0)
            ids, mask = self._pad([self.prompts.parts(prompt)[0] for prompt in prompts], device)
            return self.model(ids, **self._masked(mask), **options), mask
        rows, starts = self._rows(prompts, vectors.shape[1])
        ids, mask = self._pad(rows, device)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(vectors.shape[1], device=device)
        with self._inject(vectors.to(device), positions):
            return self.model(ids, **self._masked(mask), **options), mask

    def _rows(self, prompts: Sequence[str], count: int) -> tuple[list[list[int]], list[int]]:
        """Piece ids of each prompt with `count` stand-ins for its class token, and where these begin once padded."""
        rows, starts = [], []
        for prompt in prompts:
            parts = self.prompts.parts(prompt)
            if len(parts) != 2:
                raise ModelError(f"prompt {prompt!r} must hold exactly one class token <dct-...>")
            self._refuse_cut(prompt, count)
            before, after = parts
            rows.append([*before, *self._stand_ins(count), *after])
            starts.append(len(self.prompts.begin) + len(before))
        return rows, starts

    def _refuse_cut(self, prompt: str, vectors: int) -> None:
        """Raise ModelError for a prompt that does not fit."""
        if lost := self.prompts.lost(prompt, vectors):
            raise ModelError(f"this model reads {self.length} pieces of a prompt; of {prompt!r} it would lose {lost!r}")

    def _stand_ins(self, count: int) -> list[int]:
        """Ids that stand where the vectors go; only a CLIP of the first releases looks at them.

        Its pooled state is that of the highest id, which is the last vector's once diffusers has added the
        token to the vocabulary; so it is here, or a token would give other images there.
        """
        legacy = getattr(self.model.config, "eos_token_id", None) == _LEGACY_EOS and self.prompts.begin
        return [*[0] * (count - 1), self.prompts.end[0] if legacy else 0]

    def _pad(self, rows: list[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pad = self.tokenizer.pad_token_id
        ids, mask = [], []
        for row in rows:
            pieces = [*self.prompts.begin, *row, *self.prompts.end]
            padding = self.prompts.padded_length - len(pieces)
            ids.append(pieces + [pad] * padding)
            mask.append([1] * len(pieces) + [0] * padding)
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _masked(self, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Most denoisers were trained with a T5 that does not see its padding, and with a CLIP model that does."""
        return {"attention_mask": mask} if self._is_masked else {}

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Have the model on its device; in low memory it goes back to the CPU after use."""
        if self._offload is None:
            yield
            return
        self.model.to(self._offload)
        try:
            yield
        finally:
            self.model.to("cpu")

    @contextmanager
    def _inject(self, vectors: torch.Tensor, positions: torch.Tensor) -> Iterator[None]:
        def put_in(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            index = positions[..., None].expand(-1, -1, output.shape[-1])
            # Gemma's table multiplies its rows; a class token is a row like others.
            rows = vectors.to(output.dtype) * getattr(module, "embed_scale", 1.0)
            return output.scatter(1, index, rows.to(output.dtype))

        # T5 looks its words up in another module that shares the table's weight.
        weight = self._table.weight
        tables = [module for module in self.model.modules() if getattr(module, "weight", None) is weight]
        handles = [table.register_forward_hook(put_in) for table in tables]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
