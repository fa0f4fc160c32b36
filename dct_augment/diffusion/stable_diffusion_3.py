"""Stable Diffusion 3 and 3.5: rectified flow, a transformer of text and image, two CLIP encoders and a T5."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.text import TextEncoder
from dct_augment.diffusion.tokenization import LENGTHS


class StableDiffusion3(Backend):
    """See `Backend`. A class token is one vector per text encoder, side by side: D = 768 + 1280 + 4096.

    A model that was saved without its T5 (`text_encoder_3`), which takes 9 GB, works without: D = 768 + 1280.
    """

    title = "Stable Diffusion 3 and 3.5"
    keys: tuple[str, ...] = ("clip_l", "clip_g", "t5xxl")
    denoiser_name = "transformer"

    def __init__(
        self, encoders: Sequence[TextEncoder], transformer: Any, vae: Any, scheduler: Any, device: str
    ) -> None:
        self.keys = self.keys[: len(encoders)]
        super().__init__(encoders, transformer, vae, scheduler, device)

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "StableDiffusion3":
        """The back-end of a `StableDiffusion3Pipeline`."""
        at = device if offload else None
        encoders = [
            TextEncoder(pipe.tokenizer, pipe.text_encoder, offload=at),
            TextEncoder(pipe.tokenizer_2, pipe.text_encoder_2, offload=at),
        ]
        if pipe.text_encoder_3 is not None:
            length = LENGTHS["StableDiffusion3Pipeline"]["tokenizer_3"]
            encoders.append(TextEncoder(pipe.tokenizer_3, pipe.text_encoder_3, length=length, offload=at, masked=False))
        return cls(encoders, pipe.transformer, pipe.vae, pipe.scheduler, device)

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts with all encoders; `hidden` (B, 77 + 256, 4096), `pooled` (B, 768 + 1280).

        The CLIP encoders' last layers but one stand side by side, padded with zeros to the width of T5, which follows
        (Stable Diffusion 3, arXiv 2403.03206, section 4).
        """
        outputs: list[Any] = [
            encoder.run(prompts, part, output_hidden_states=True)[0]
            for encoder, part in zip(self.encoders, self._parts(prompts, vectors), strict=True)
        ]
        *of_clip, of_t5 = outputs if len(outputs) == 3 else [*outputs, None]
        clip = torch.cat([output.hidden_states[-2] for output in of_clip], -1)
        pooled = torch.cat([output.text_embeds for output in of_clip], -1)
        width = self.denoiser.config.joint_attention_dim
        padded = functional.pad(clip, (0, width - clip.shape[-1]))
        if of_t5 is not None:
            t5 = of_t5.last_hidden_state
        else:
            t5 = clip.new_zeros(len(prompts), LENGTHS["StableDiffusion3Pipeline"]["tokenizer_3"], width)
        return Conditioning(torch.cat([padded, t5], 1), {"pooled": pooled})

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The transformer's output (B, C, h, w), noise - clean latents."""
        return self.denoiser(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=conditioning.hidden,
            pooled_projections=conditioning.extra["pooled"],
        ).sample
