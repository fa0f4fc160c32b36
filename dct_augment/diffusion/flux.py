"""FLUX.1: rectified flow, a transformer of text and image, a CLIP encoder that sums a prompt up and a T5 that reads it.

`dev` takes the guidance scale as an input; `schnell` was distilled to a few steps without guidance.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.text import TextEncoder
from dct_augment.diffusion.tokenization import LENGTHS


class Flux(Backend):
    """See `Backend`. A class token is one vector per text encoder, side by side: D = 768 + 4096.

    A step is one evaluation of the denoiser, without a branch for a negative prompt. Latents are (B, C, h, w) as
    everywhere; the transformer takes patches of 2 x 2 of them.
    """

    title = "FLUX.1"
    keys = ("clip_l", "t5xxl")
    denoiser_name = "transformer"
    has_even_levels = True

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "Flux":
        """The back-end of a `FluxPipeline`."""
        at, length = device if offload else None, LENGTHS["FluxPipeline"]["tokenizer_2"]
        encoders = [
            TextEncoder(pipe.tokenizer, pipe.text_encoder, offload=at),
            TextEncoder(pipe.tokenizer_2, pipe.text_encoder_2, length=length, offload=at, masked=False),
        ]
        return cls(encoders, pipe.transformer, pipe.vae, pipe.scheduler, device)

    def _latent_size(self, config: Any) -> tuple[int, int]:
        """See `Backend`: the configuration names the channels of a patch, and no size; images have 1024 pixels."""
        return config.in_channels // self.patch_size**2, 128

    @property
    def patch_size(self) -> int:
        """See `Backend`: the configuration does not name it."""
        return 2

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts; `hidden` (B, 512, 4096) by T5, `pooled` (B, 768) by CLIP."""
        clip, t5 = self.encoders
        of_clip, of_t5 = self._parts(prompts, vectors)
        pooled = clip.run(prompts, of_clip)[0].pooler_output
        return Conditioning(t5.run(prompts, of_t5)[0].last_hidden_state, {"pooled": pooled})

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The transformer's output (B, C, h, w), noise - clean latents."""
        patches = functional.pixel_unshuffle(latents, self.patch_size)  # (B, 4 C, h / 2, w / 2)
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full((len(latents),), scale, device=latents.device)
        output = self.denoiser(
            patches.flatten(2).transpose(1, 2),
            conditioning.hidden,
            conditioning.extra["pooled"],
            timesteps.to(latents.dtype) / 1000,
            _places(patches),
            torch.zeros(conditioning.hidden.shape[1], 3, device=latents.device, dtype=latents.dtype),
            guidance,
        ).sample
        return functional.pixel_shuffle(output.transpose(1, 2).reshape(patches.shape), self.patch_size)


def _places(patches: torch.Tensor) -> torch.Tensor:
    """The row and column of each patch of (B, C, h, w) behind a zero, (h w, 3); those of all words are zeros."""
    height, width = patches.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3)
    return places.to(patches.device, patches.dtype)
