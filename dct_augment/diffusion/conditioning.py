"""What a prompt becomes: the tensors that a denoiser listens to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: `hidden` (B, L, d), and what else the family's denoiser takes, (B, ...) each.

    `extra` is `pooled` (B, p) for SDXL, `mask` (B, L) for T5 models, and empty for Stable Diffusion 1.x and 2.x.
    `negative`, B rows, is what guidance leads away from, where that is another prompt than the sampler's.
    """

    hidden: torch.Tensor
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    negative: "Conditioning | None" = None

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, rows: Any) -> "Conditioning":
        """Some of the rows, by slice or index."""
        negative = None if self.negative is None else self.negative[rows]
        return Conditioning(self.hidden[rows], {name: tensor[rows] for name, tensor in self.extra.items()}, negative)

    def expand(self, count: int) -> "Conditioning":
        """One row seen `count` times, without a copy."""
        tensors = {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.extra.items()}
        negative = None if self.negative is None else self.negative.expand(count)
        return Conditioning(self.hidden.expand(count, -1, -1), tensors, negative)

    @staticmethod
    def cat(parts: Iterable["Conditioning"]) -> "Conditioning":
        """All rows of all parts, in order; all parts have a negative prompt of their own, or none has."""
        parts = list(parts)
        extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
        negatives = [part.negative for part in parts if part.negative is not None]
        if negatives and len(negatives) < len(parts):
            raise ValueError("some of the prompts have a negative prompt of their own, and some have not")
        negative = Conditioning.cat(negatives) if negatives else None
        return Conditioning(torch.cat([part.hidden for part in parts]), extra, negative)
