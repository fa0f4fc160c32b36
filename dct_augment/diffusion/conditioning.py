"""What a prompt becomes: the tensors that a denoiser listens to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: `hidden` (B, L, d), and what else the family's denoiser takes, (B, ...) each.

    `extra` is `pooled` (B, p) for SDXL, `mask` (B, L) for T5 models, and empty for Stable Diffusion 1.x and 2.x.
    """

    hidden: torch.Tensor
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, rows: Any) -> "Conditioning":
        """Some of the rows, by slice or index."""
        return Conditioning(self.hidden[rows], {name: tensor[rows] for name, tensor in self.extra.items()})

    def expand(self, count: int) -> "Conditioning":
        """One row seen `count` times, without a copy."""
        tensors = {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.extra.items()}
        return Conditioning(self.hidden.expand(count, -1, -1), tensors)

    @staticmethod
    def cat(parts: Iterable["Conditioning"]) -> "Conditioning":
        """All rows of all parts, in order."""
        parts = list(parts)
        extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
        return Conditioning(torch.cat([part.hidden for part in parts]), extra)
