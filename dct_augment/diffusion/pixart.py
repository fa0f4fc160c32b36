"""PixArt-Sigma: a diffusion transformer with one T5 text encoder."""

from collections.abc import Sequence
from typing import Any

import torch

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.text import TextEncoder
from dct_augment.diffusion.tokenization import LENGTHS


class PixArtSigma(Backend):
    """See `Backend`. Prompts are read in lower case, as the model was trained."""

    title = "PixArt-Sigma"
    denoiser_name = "transformer"

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "PixArtSigma":
        """The back-end of a `PixArtSigmaPipeline`."""
        length = LENGTHS["PixArtSigmaPipeline"]["tokenizer"]
        text = TextEncoder(pipe.tokenizer, pipe.text_encoder, length=length, offload=device if offload else None)
        return cls([text], pipe.transformer, pipe.vae, pipe.scheduler, device)

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts; `hidden` (B, 300, d), and `mask` (B, 300) of what is not padding."""
        (part,) = self._parts(prompts, vectors)
        output, mask = self.encoders[0].run([prompt.lower().strip() for prompt in prompts], part)
        return Conditioning(output[0], {"mask": mask})

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The transformer's output (B, C, h, w); its learned variance is dropped."""
        output = self.denoiser(
            latents,
            encoder_hidden_states=conditioning.hidden,
            encoder_attention_mask=conditioning.extra["mask"],
            timestep=timesteps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return output[:, : latents.shape[1]]
