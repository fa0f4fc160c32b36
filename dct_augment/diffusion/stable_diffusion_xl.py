"""SDXL, SDXL-Turbo, and SDXL with an LCM U-Net: two CLIP text encoders, a pooled embedding, micro-conditioning."""

from collections.abc import Sequence
from typing import Any

import torch

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.guidance import lcm_embedding
from dct_augment.diffusion.text import TextEncoder


class StableDiffusionXL(Backend):
    """See `Backend`. A class token is one vector per text encoder, side by side: D = 768 + 1280."""

    title = "SDXL"
    keys = ("clip_l", "clip_g")

    def __init__(
        self, encoders: Sequence[TextEncoder], unet: Any, vae: Any, scheduler: Any, device: str, *, zero_empty: bool
    ) -> None:
        super().__init__(encoders, unet, vae, scheduler, device)
        self._zero_empty = zero_empty

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "StableDiffusionXL":
        """The back-end of a `StableDiffusionXLPipeline`."""
        encoders = [
            TextEncoder(tokenizer, model, offload=device if offload else None)
            for tokenizer, model in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
        ]
        if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
            pipe.vae.float()  # this autoencoder overflows in half precision
        zero = bool(pipe.config.force_zeros_for_empty_prompt)
        return cls(encoders, pipe.unet, pipe.vae, pipe.scheduler, device, zero_empty=zero)

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts with both encoders; `hidden` (B, L, 768 + 1280) of their last layers but one, `pooled`."""
        parts = self._parts(prompts, vectors)
        outputs = [
            encoder.run(prompts, part, output_hidden_states=True)[0]
            for encoder, part in zip(self.encoders, parts, strict=True)
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return Conditioning(hidden, {"pooled": outputs[1].text_embeds})

    def unconditional(self, negative: str = "") -> Conditioning:
        """The encoded negative prompt; zeros for none, where the model was trained so."""
        encoded = super().unconditional(negative)
        if negative or not self._zero_empty:
            return encoded
        extra = {name: torch.zeros_like(tensor) for name, tensor in encoded.extra.items()}
        return Conditioning(torch.zeros_like(encoded.hidden), extra)

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The U-Net's output (B, C, h, w), told that the image is whole, uncropped and of the model's own size."""
        size = self.image_size
        times = torch.tensor([size, size, 0, 0, size, size], device=latents.device, dtype=conditioning.hidden.dtype)
        added = {"text_embeds": conditioning.extra["pooled"], "time_ids": times.expand(len(latents), -1)}
        guidance = lcm_embedding(self.denoiser, scale, len(latents))
        inputs = {"timestep_cond": guidance, "added_cond_kwargs": added}
        return self.denoiser(latents, timesteps, conditioning.hidden, **inputs).sample
