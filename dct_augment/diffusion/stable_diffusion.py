"""Stable Diffusion 1.x and 2.x, their Turbo and LCM descendants: one CLIP text encoder, U-Net, AutoencoderKL."""

from collections.abc import Sequence
from typing import Any

import torch

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.text import TextEncoder


class StableDiffusion(Backend):
    """See `Backend`. With an LCM U-Net the guidance scale is an input, and a step is one evaluation."""

    title = "Stable Diffusion 1.x and 2.x with Turbo and LCM"

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "StableDiffusion":
        """The back-end of a `StableDiffusionPipeline` or `LatentConsistencyModelPipeline`."""
        text = TextEncoder(pipe.tokenizer, pipe.text_encoder, offload=device if offload else None)
        return cls([text], pipe.unet, pipe.vae, pipe.scheduler, device)

    @property
    def guidance_embedded(self) -> bool:
        """Whether this is a latent consistency model (arXiv 2310.04378)."""
        return self.denoiser.config.time_cond_proj_dim is not None

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts; `hidden` (B, L, d)."""
        (part,) = self._parts(prompts, vectors)
        output, _ = self.encoders[0].run(prompts, part)
        return Conditioning(output[0])

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The U-Net's output (B, C, h, w), epsilon or v."""
        guidance = self._guidance(scale, len(latents)) if self.guidance_embedded else None
        return self.denoiser(latents, timesteps, conditioning.hidden, timestep_cond=guidance).sample

    def _guidance(self, scale: float, count: int) -> torch.Tensor:
        """The guidance scale as LCM takes it: an embedding of 1000 (scale - 1), (B, d)."""
        from diffusers.models.embeddings import get_timestep_embedding

        weights = torch.full((count,), 1000 * (scale - 1), device=self.device)
        width = self.denoiser.config.time_cond_proj_dim
        return get_timestep_embedding(weights, width, downscale_freq_shift=1).to(self.dtype)
