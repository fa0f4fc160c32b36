"""Stable Diffusion 1.x and everything of its shape: one CLIP text encoder, U-Net, AutoencoderKL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from dct_augment import pocket
from dct_augment.errors import ModelError
from dct_augment.prompts import TOKEN_PATTERN

SCHEDULERS = ("DDIMScheduler", "DPMSolverMultistepScheduler")


class StableDiffusion:
    """A frozen text-to-image model that takes class tokens at the output of its embedding table.

    Shapes: B images, L padded prompt length, d embedding width, n vectors per class token, latents
    (B, C, h, w), images (B, 3, H, W) in [-1, 1].
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: Any,
        device: str = "cpu",
    ) -> None:
        self.tokenizer, self._scheduler, self.device = tokenizer, scheduler, device
        self.text_encoder = text_encoder.to(device).eval().requires_grad_(False)
        self.unet = unet.to(device).eval().requires_grad_(False)
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.dtype: torch.dtype = unet.dtype
        self._embedding = text_encoder.get_input_embeddings()
        self.width: int = self._embedding.weight.shape[1]
        self.length: int = tokenizer.model_max_length
        size = unet.config.sample_size
        self.latent_shape = (unet.config.in_channels, size, size)
        self.image_size: int = size * 2 ** (len(vae.config.block_out_channels) - 1)

    @classmethod
    def load(
        cls, path: str, *, revision: str | None, variant: str | None, dtype: str, device: str
    ) -> "StableDiffusion":
        """Load through diffusers: `pocket`, a local folder or a Hub id; safetensors only.

        Raises:
            ModelError: nothing loadable is at `path`.
        """
        source = str(pocket.path()) if path == "pocket" else path
        looks_local = source.startswith((".", "/", "~")) or source.count("/") != 1
        if looks_local and not (Path(source).expanduser() / "model_index.json").is_file():
            raise ModelError(
                f"model.path {path!r}: no model_index.json there. Give 'pocket', a folder saved by diffusers, "
                "or a Hub id such as 'stable-diffusion-v1-5/stable-diffusion-v1-5'"
            )
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                str(Path(source).expanduser()) if looks_local else source,
                revision=revision,
                variant=variant,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                safety_checker=None,
                requires_safety_checker=False,
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"model.path {path!r} cannot be loaded: {reason}. Check the id or folder, the network "
                "(HF_HUB_OFFLINE), and that it is a Stable Diffusion 1.x model"
            ) from error
        return cls(pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.vae, pipe.scheduler, device)

    def words(self) -> torch.Tensor:
        """The embeddings of all whole words of three letters or more, (V, d) float32."""
        vocabulary = self.tokenizer.get_vocab()
        whole = [
            row
            for piece, row in vocabulary.items()
            if piece.endswith("</w>") and len(piece) > 6 and piece[:-4].isascii() and piece[:-4].isalpha()
        ]
        # Sorted: get_vocab gives another order at every call.
        return self._embedding.weight[torch.tensor(sorted(whole))].float()

    def word_norms(self) -> tuple[float, float]:
        """Mean and largest norm of the embeddings of whole words: the range in which tokens mean something."""
        norms = self.words().norm(dim=1)
        return norms.mean().item(), norms.max().item()

    def word(self, word: str) -> torch.Tensor:
        """The embedding of a word that is one piece of the vocabulary, (d,) float32.

        Raises:
            ModelError: the tokenizer splits the word.
        """
        pieces = self.tokenizer(word, add_special_tokens=False).input_ids
        if len(pieces) != 1:
            raise ModelError(
                f"tokens.init_word {word!r} is {len(pieces)} pieces in this model's vocabulary; "
                "choose a word that is one piece, e.g. 'a'"
            )
        return self._embedding.weight[pieces[0]].detach().float().clone()

    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> torch.Tensor:
        """Encode prompts padded as the pipeline pads them, (B, L, d).

        With `vectors` (B, n, d), each prompt holds one `<dct-...>` token, whose n embeddings are put
        in at the output of the embedding table: the vocabulary is never touched, and gradients reach
        `vectors` alone. Equal to the pipeline after `load_textual_inversion`.

        Raises:
            ModelError: vectors that do not fit, a prompt without exactly one token, or one cut off by the
                prompt length.
        """
        if vectors is None:
            for prompt in prompts:
                if word := TOKEN_PATTERN.search(prompt):
                    raise ModelError(f"prompt {prompt!r} holds the class token {word[0]}, but no embedding is given")
            ids = self._pad([self._ids(prompt) for prompt in prompts])
            return self.text_encoder(ids)[0]
        if vectors.shape[::2] != (len(prompts), self.width):
            raise ModelError(
                f"class tokens of shape {tuple(vectors.shape)} do not fit {len(prompts)} prompts of this model; "
                f"they must be ({len(prompts)}, n, {self.width}). Were they trained on another model?"
            )
        count = vectors.shape[1]
        rows, starts = [], []
        for prompt in prompts:
            parts = TOKEN_PATTERN.split(prompt)
            if len(parts) != 2:
                raise ModelError(f"prompt {prompt!r} must hold exactly one class token <dct-...>")
            before, after = (self._ids(part) for part in parts)
            if 1 + len(before) + count > self.length - 1:
                raise ModelError(f"prompt {prompt!r} leaves no room for the class token within {self.length} pieces")
            rows.append([*before, *[0] * count, *after])
            starts.append(1 + len(before))
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(count, device=self.device)
        with self._inject(vectors.to(self.device), positions):
            return self.text_encoder(self._pad(rows))[0]

    def latents(self, seeds: Sequence[int]) -> torch.Tensor:
        """Initial noise, one generator per seed, so an image does not depend on its batch; (B, C, h, w)."""
        noise = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(self.device, self.dtype)

    def scheduler(self, steps: int, name: str | None = None) -> Any:
        """A fresh scheduler with its timesteps set: the model's own, or another diffusers class by name.

        Raises:
            ModelError: unknown scheduler class.
        """
        if name is not None and name not in SCHEDULERS:
            raise ModelError(f"sampling.scheduler {name!r} is not supported; choose one of: {', '.join(SCHEDULERS)}")
        kind = getattr(diffusers, name) if name else type(self._scheduler)
        scheduler = kind.from_config(self._scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: torch.Tensor,
        unconditional: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """The guided model output (epsilon or v) for latents (B, C, h, w) at timesteps (B,).

        Classifier-free guidance, u + scale (c - u). The unconditional branch never carries a
        gradient: it does not depend on the class token.
        """
        empty = unconditional.expand(len(latents), -1, -1)
        if scale == 1.0:
            return self.unet(latents, timesteps, conditioning).sample
        if not torch.is_grad_enabled():
            both = self.unet(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), torch.cat([empty, conditioning])).sample
            base, named = both.chunk(2)
        else:
            with torch.no_grad():
                base = self.unet(latents, timesteps, empty).sample
            named = self.unet(latents, timesteps, conditioning).sample
        return base + scale * (named - base)

    def clean(self, output: torch.Tensor, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The clean latents that a model output implies at timesteps (B,); DDIM, equation 12."""
        alpha = self._scheduler.alphas_cumprod.to(latents.device, torch.float32)[timesteps].view(-1, 1, 1, 1)
        if self._scheduler.config.prediction_type == "v_prediction":
            return alpha.sqrt() * latents - (1 - alpha).sqrt() * output
        return (latents - (1 - alpha).sqrt() * output) / alpha.sqrt()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), about [-1, 1], float32, differentiable."""
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text.strip(), add_special_tokens=False).input_ids)

    def _pad(self, rows: list[list[int]]) -> torch.Tensor:
        start, end, pad = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        whole = [[start, *row[: self.length - 2], end] for row in rows]
        return torch.tensor([row + [pad] * (self.length - len(row)) for row in whole], device=self.device)

    @contextmanager
    def _inject(self, vectors: torch.Tensor, positions: torch.Tensor) -> Iterator[None]:
        def put_in(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            index = positions[..., None].expand(-1, -1, output.shape[-1])
            return output.scatter(1, index, vectors.to(output.dtype))

        handle = self._embedding.register_forward_hook(put_in)
        try:
            yield
        finally:
            handle.remove()
