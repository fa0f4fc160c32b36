"""SANA: rectified flow, a linear diffusion transformer, a deep autoencoder, and Gemma as text encoder."""

from collections.abc import Sequence
from typing import Any

import torch

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.text import TextEncoder
from dct_augment.diffusion.tokenization import LENGTHS, instruction_of


class Sana(Backend):
    """See `Backend`. Prompts are read in lower case, after an instruction to a language model; negative ones without.

    Latents are stepped in single precision, whatever that of the weights is.
    """

    title = "SANA"
    denoiser_name = "transformer"

    def __init__(
        self, encoder: TextEncoder, of_negative: TextEncoder, transformer: Any, vae: Any, scheduler: Any, device: str
    ) -> None:
        super().__init__([encoder], transformer, vae, scheduler, device)
        self._of_negative = of_negative

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "Sana":
        """The back-end of a `SanaPipeline`."""
        if pipe.text_encoder.dtype == torch.float16:
            pipe.text_encoder.to(torch.bfloat16)  # Gemma and this autoencoder overflow in half precision
        if pipe.vae.dtype == torch.float16:
            pipe.vae.float()
        name = "SanaPipeline"
        encoder, of_negative = (
            TextEncoder(
                pipe.tokenizer,
                pipe.text_encoder,
                length=LENGTHS[name]["tokenizer"],
                instruction=instruction,
                offload=device if offload else None,
                masked=True,
            )
            for instruction in (instruction_of(name), "")
        )
        return cls(encoder, of_negative, pipe.transformer, pipe.vae, pipe.scheduler, device)

    def _latent_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.promote_types(dtype, torch.float32)

    @property
    def _vae_scale(self) -> int:
        return int(2 ** (len(self.vae.config.encoder_block_out_channels) - 1))

    def _encoded(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Backend`: this autoencoder is without noise."""
        latents = self.vae.encode(images).latent
        return latents, torch.zeros_like(latents)

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts; `hidden` (B, 300, d), and `mask` (B, 300) of what is not padding."""
        (part,) = self._parts(prompts, vectors)
        return self._encode(self.encoders[0], prompts, part)

    def unconditional(self, negative: str = "") -> Conditioning:
        """The encoded negative prompt, without the instruction."""
        return self._encode(self._of_negative, [negative], None)

    def _encode(self, encoder: TextEncoder, prompts: Sequence[str], vectors: torch.Tensor | None) -> Conditioning:
        """Keep the states of the begin and of the last 299 pieces (SANA, arXiv 2410.10629, section 3.2)."""
        lines = [prompt.lower().strip() for prompt in prompts]
        output, mask = encoder.run(lines, vectors, use_cache=False)
        kept = [0, *range(1 - encoder.length, 0)]
        return Conditioning(output[0][:, kept], {"mask": mask[:, kept]})

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The transformer's output (B, C, h, w), noise - clean latents; a learned variance is dropped."""
        output = self.denoiser(
            latents.to(self.dtype),
            encoder_hidden_states=conditioning.hidden.to(self.dtype),
            encoder_attention_mask=conditioning.extra["mask"],
            timestep=timesteps * self.denoiser.config.timestep_scale,
        ).sample
        return output[:, : latents.shape[1]].to(self.latent_dtype)
