"""Z-Image: rectified flow, a transformer of text and image of 6 billion weights, and Qwen3 as text encoder."""

from collections.abc import Sequence
from typing import Any

import torch

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.peak_memory import has_values
from dct_augment.diffusion.text import TextEncoder
from dct_augment.diffusion.tokenization import prompt_tokenizer


class ZImage(Backend):
    """See `Backend`. A prompt is what a user says in the chat template of the language model.

    Guidance is as everywhere, u + scale (c - u). Its pipeline in diffusers has c + s (c - u), which is the same for
    s = scale - 1.

    Latents are stepped in single precision, whatever that of the weights is.
    """

    title = "Z-Image"
    denoiser_name = "transformer"
    has_even_levels = True

    @classmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "ZImage":
        """The back-end of a `ZImagePipeline`."""
        prompts = prompt_tokenizer("ZImagePipeline", "tokenizer", pipe.tokenizer)
        at = device if offload else None
        text = TextEncoder(pipe.tokenizer, pipe.text_encoder, prompts=prompts, offload=at, masked=True)
        return cls([text], pipe.transformer, pipe.vae, pipe.scheduler, device)

    def _latent_size(self, config: Any) -> tuple[int, int]:
        """See `Backend`: the configuration names no size; images have 1024 pixels."""
        return config.in_channels, 128

    def _latent_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.promote_types(dtype, torch.float32)

    @property
    def patch_size(self) -> int:
        """See `Backend`: the smallest that the transformer has, which the pipeline uses."""
        return int(self.denoiser.config.all_patch_size[0])

    @property
    def largest_image(self) -> int:
        """See `Backend`: the transformer has a table of places."""
        places = min(self.denoiser.config.axes_lens[1:])
        return int(places * self.patch_size * self._vae_scale)

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts; `hidden` (B, 512, d) of the last layer but one, `mask` (B, 512) of what is not padding."""
        (part,) = self._parts(prompts, vectors)
        output, mask = self.encoders[0].run(prompts, part, output_hidden_states=True, use_cache=False)
        return Conditioning(output.hidden_states[-2], {"mask": mask})

    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The transformer's output (B, C, h, w) with the other sign: noise - clean latents.

        It takes a list of images of one frame, a list of words, and time from noise to image, from 0 to 1.
        """
        output = self.denoiser(
            list(latents.to(self.dtype).unsqueeze(2)),
            (1000 - timesteps) / 1000,
            _words(conditioning.hidden.to(self.dtype), conditioning.extra["mask"]),
        ).sample
        return -torch.stack(output).squeeze(2).to(self.latent_dtype)


def _words(hidden: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """The states (l, d) of each prompt without its padding; of shapes alone (`shapes_only`), as if there were none."""
    if not has_values(mask):
        return list(hidden)
    return [states[kept.bool()] for states, kept in zip(hidden, mask, strict=True)]
