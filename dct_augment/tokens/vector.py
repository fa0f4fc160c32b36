"""The parameter that training changes: one vector, in a part for each text encoder."""

from collections.abc import Sequence

import torch

from dct_augment.diffusion import WordNorms, split_by_encoder


class TokenVector:
    """A class token (n, D), kept as one leaf tensor (n, d) per text encoder, whose words measure its steps."""

    def __init__(self, start: torch.Tensor, word_norms: Sequence[WordNorms]) -> None:
        self._widths = [words.width for words in word_norms]
        self.parts = [part.clone().requires_grad_(True) for part in split_by_encoder(start, self._widths)]

    @property
    def value(self) -> torch.Tensor:
        """The token as it is now, (n, D), differentiable."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, 1)

    @property
    def gradient(self) -> torch.Tensor | None:
        """The gradient (n, D) that `backward` left; None if there is none."""
        gradients = [part.grad for part in self.parts if part.grad is not None]
        return torch.cat(gradients, 1) if gradients else None

    def largest_norm(self) -> float:
        """The norm of the longest of its n vectors."""
        return self.value.detach().norm(dim=1).max().item()

    @torch.no_grad()
    def set(self, value: torch.Tensor) -> None:
        """Take another value (n, D), in place."""
        for part, saved in zip(self.parts, split_by_encoder(value, self._widths), strict=True):
            part.copy_(saved)
