"""Stable Diffusion 1.x and 2.x, their Turbo and LCM descendants: one CLIP text encoder, U-Net, AutoencoderKL."""

from collections.abc import Sequence
from typing import Any

import torch

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.guidance import lcm_embedding
from dct_augment.diffusion.text import TextEncoder


class StableDiffusion(Backend):
    """See `Backend`. With an LCM U-Net the guidance scale is an input, and a step is one evaluation."""

    title = "Stable Diffusion 1.x and 2.x with Turbo and LCM"
    has_safety_checker = True

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "StableDiffusion":
        """The back-end of a `StableDiffusionPipeline` or `LatentConsistencyModelPipeline`."""
        text = TextEncoder(pipe.tokenizer, pipe.text_encoder, offload=device if offload else None)
        return cls([text], pipe.unet, pipe.vae, pipe.scheduler, device)

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts; `hidden` (B, L, d)."""
        (part,) = self._parts(prompts, vectors)
        output, _ = self.encoders[0].run(prompts, part)
        return Conditioning(output[0])

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The U-Net's output (B, C, h, w), epsilon or v."""
        guidance = lcm_embedding(self.denoiser, scale, len(latents))
        return self.denoiser(latents, timesteps, conditioning.hidden, timestep_cond=guidance).sample
