"""What every text-to-image family shares; a family adds how it encodes prompts and calls its denoiser."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from dct_augment.diffusion import guidance, noise_levels
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.memory import BatchSizes, Purpose, ShrinkingBatches
from dct_augment.diffusion.text import TextEncoder, WordNorms, split_by_encoder
from dct_augment.errors import ModelError

_ANY = 2**20
"""As many images as there are."""


class Backend(ABC):
    """A frozen latent diffusion model that takes class tokens at the output of its embedding tables.

    Shapes: B images, n vectors per class token, D the sum of the text encoders' embedding widths, latents
    (B, C, h, w), images (B, 3, H, W) in [-1, 1].
    """

    title: ClassVar[str] = ""
    has_safety_checker: ClassVar[bool] = False
    """What users call the models of the family."""

    keys: tuple[str, ...] = ("",)
    """How token files call the part of each text encoder; one empty key where there is one encoder."""

    has_even_levels: ClassVar[bool] = False
    """Whether the family's pipeline spaces a flow's noise levels evenly before any shift."""

    denoiser_name: ClassVar[str] = "unet"
    """How the pipeline of diffusers calls the denoiser."""

    def __init__(
        self, encoders: Sequence[TextEncoder], denoiser: Any, vae: Any, scheduler: Any, device: str = "cpu"
    ) -> None:
        self.encoders, self.denoiser, self.vae, self.device = tuple(encoders), denoiser, vae, device
        self._scheduler = scheduler
        self.memory: str = "fast"
        self.tiny: Any = None  # an AutoencoderTiny of the same latents
        self.dtype: torch.dtype = denoiser.dtype
        self.latent_dtype: torch.dtype = self._latent_dtype(self.dtype)
        widths = [encoder.width for encoder in self.encoders]
        self.encoder_widths: dict[str, int] = dict(zip(self.keys, widths, strict=True))
        self.width = sum(widths)
        channels, size = self._latent_size(denoiser.config)
        self._set_latent_shape(channels, size)
        for model in (denoiser, vae, *(encoder.model for encoder in self.encoders)):
            model.eval().requires_grad_(False)

    def _latent_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """In which precision latents are stepped, by that of the denoiser."""
        return dtype

    def _latent_size(self, config: Any) -> tuple[int, int]:
        """Channels and side of the latents of the model's own image size, by the denoiser's configuration."""
        return config.in_channels, config.sample_size

    def _set_latent_shape(self, channels: int, size: int) -> None:
        self.latent_shape = (channels, size, size)
        self.image_size: int = size * self._vae_scale
        self.batch_sizes = BatchSizes(self.image_size)

    @property
    def _vae_scale(self) -> int:
        """How many pixels a side of one latent has."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def resize(self, image_size: int) -> None:
        """Make images of this side in pixels from now on, not of the model's own.

        Raises:
            ModelError: the model has no latents of that size.
        """
        step = self._vae_scale * self.patch_size
        if image_size < step or image_size % step:
            near = max(round(image_size / step), 1) * step
            raise ModelError(
                f"model.image_size {image_size} does not suit this model: its images have a multiple of {step} pixels "
                f"a side, such as {near}; its own size is {self.image_size}"
            )
        self._set_latent_shape(self.latent_shape[0], image_size // self._vae_scale)

    @property
    def largest_image(self) -> int | None:
        """The longest side of an image in pixels that the denoiser has places for; None if there is no such limit."""
        return None

    def refuse_too_large(self) -> None:
        """Raise ModelError if the images have more pixels a side than the denoiser has places for."""
        if self.largest_image is not None and self.image_size > self.largest_image:
            raise ModelError(
                f"model.image_size {self.image_size} does not suit this model: its images have at most "
                f"{self.largest_image} pixels a side; set model.image_size to that or less"
            )

    @property
    def patch_size(self) -> int:
        """How many latents a side of one patch of the denoiser has."""
        return int(self.denoiser.config.get("patch_size") or 1)

    @classmethod
    @abstractmethod
    def build(cls, pipe: Any, device: str, offload: bool) -> "Backend":
        """The back-end of a loaded diffusers pipeline; with `offload` text encoders stay on the CPU between uses."""

    @abstractmethod
    def encode(self, prompts: Sequence[str], vectors: torch.Tensor | None = None) -> Conditioning:
        """Encode prompts padded as the family's pipeline pads them; B rows.

        With `vectors` (B, n, D), each prompt holds one `<dct-...>` token; gradients reach `vectors` alone.

        Raises:
            ModelError: vectors that do not fit, a prompt without exactly one token, or one that is too long.
        """

    @abstractmethod
    def denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, scale: float
    ) -> torch.Tensor:
        """The model output (B, C, h, w), whatever it predicts, without classifier-free guidance.

        `scale` is for models that take the guidance scale as an input.
        """

    @property
    def guidance_embedded(self) -> bool:
        """Whether the denoiser takes the guidance scale as an input (LCM, FLUX), so that one pass is enough."""
        return guidance.is_embedded(self.denoiser.config)

    def unconditional(self, negative: str = "") -> Conditioning:
        """What guidance leads away from: the encoded negative prompt, one row."""
        return self.encode([negative])

    def generators(self, seeds: Sequence[int]) -> list[torch.Generator]:
        """One generator per image, as `pipe(generator=[...])` takes them: an image does not depend on its batch."""
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def latents(self, seeds: Sequence[int]) -> torch.Tensor:
        """Initial noise, (B, C, h, w), standard normal."""
        return self.noise(self.generators(seeds))

    def noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """The first draw of each generator, (B, C, h, w); the same numbers in every precision."""
        noise = [torch.randn(self.latent_shape, generator=generator) for generator in generators]
        return torch.stack(noise).to(self.device, self.latent_dtype)

    def scheduler(self, steps: int, name: str | None = None) -> Any:
        """A fresh scheduler with its timesteps set: the model's own, or another diffusers class by name.

        Raises:
            ModelError: unknown scheduler class, or one that does not suit the model or has fewer steps.
        """
        scheduler = noise_levels.fresh_scheduler(self._scheduler, name)
        options = noise_levels.even_levels(scheduler, steps) if self.has_even_levels else {}
        options |= noise_levels.shift_of_resolution(scheduler, (self.latent_shape[1] // self.patch_size) ** 2)
        noise_levels.set_steps(scheduler, steps, device=self.device, **options)
        return scheduler

    def decode(self, latents: torch.Tensor, *, for_gradient: bool = False) -> torch.Tensor:
        """Decode latents (B, C, h, w) to images (B, 3, H, W), about [-1, 1], float32, differentiable.

        Without gradient, large images are decoded a few at a time: the autoencoder needs more memory for an image than
        the denoiser. With `for_gradient`, by the tiny decoder where there is one: much smaller, and nearly the same
        picture.
        """
        if torch.is_grad_enabled():
            return self.decode_at_once(latents, for_gradient)

        def decode(rows: Sequence[int]) -> torch.Tensor:
            return self.decode_at_once(latents[list(rows)], for_gradient)

        return torch.cat([images for _, images in self.decoding().run(range(len(latents)), decode)])

    def decoding(self, *, gradient: bool = False) -> ShrinkingBatches:
        """Return the batches in which latents are decoded, with gradient or without."""
        purpose: Purpose = "decode_gradient" if gradient else "decode"
        return ShrinkingBatches(_ANY, "image", sizes=self.batch_sizes, purpose=purpose)

    def decode_at_once(self, latents: torch.Tensor, for_gradient: bool = False) -> torch.Tensor:
        """Decode all latents in one batch; see `decode`."""
        if for_gradient and self.tiny is not None:
            scaled = latents / self.tiny.config.scaling_factor
            return self.tiny.decode(scaled.to(self.tiny.dtype)).sample.float()
        shift, mean, std = self._scaling(latents)
        latents = latents / self.vae.config.scaling_factor * std + mean + shift
        return self.vae.decode(latents.to(self.vae.dtype)).sample.float()

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images (B, 3, H, W) in [-1, 1]: mean and standard deviation (B, C, h, w) of their latents.

        The inverse of `decode`: latents as the denoiser takes them have this normal distribution.
        """
        center, deviation = self._encoded(images.to(self.device, self.vae.dtype))
        shift, mean, std = self._scaling(center)
        scale = self.vae.config.scaling_factor / std
        center = (center - shift - mean) * scale
        return center.to(self.latent_dtype), (deviation * scale).to(self.latent_dtype)

    def _encoded(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (B, C, h, w) of what the autoencoder makes of images (B, 3, H, W)."""
        distribution = self.vae.encode(images).latent_dist
        return distribution.mean, distribution.std

    def noised(
        self, latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the model learned from: inputs (B, C, h, w), their timesteps (B,), the outputs that it should give.

        Clean latents (B, C, h, w) get noise at steps (B,) of the training schedule; step 0 has the least.
        """
        # In bfloat16, early steps would have no noise.
        exact = torch.promote_types(latents.dtype, torch.float32)
        clean, noise = latents.to(exact), noise.to(exact)
        *levels, timesteps = noise_levels.of_training(self._scheduler, steps)
        signal, level = (weights.to(clean).view(-1, 1, 1, 1) for weights in levels)
        kind = noise_levels.prediction_type(self._scheduler)
        of_noise, of_signal = noise_levels.output_weights(kind, signal, level)
        inputs, target = signal * clean + level * noise, of_noise * noise - of_signal * clean
        return inputs.to(latents.dtype), timesteps, target

    @property
    def training_steps(self) -> int:
        """How many timesteps the training schedule has."""
        return int(self._scheduler.config.num_train_timesteps)

    def _scaling(self, like: torch.Tensor) -> list[torch.Tensor]:
        """Shift, mean and deviation by which the autoencoder's own latents differ from the denoiser's; (1, C, 1, 1)."""
        config = self.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            mean, std = [0.0], [1.0]
        values = ([getattr(config, "shift_factor", None) or 0.0], mean, std)
        return [torch.tensor(value, device=like.device, dtype=like.dtype).view(1, -1, 1, 1) for value in values]

    @property
    def models(self) -> list[Any]:
        """All models: denoiser, autoencoder, text encoders, and the tiny decoder if there is one."""
        parts = [self.denoiser, self.vae, *(encoder.model for encoder in self.encoders), self.tiny]
        return [part for part in parts if part is not None]

    def use_tiny(self, tiny: Any) -> None:
        """Take gradients through an AutoencoderTiny from now on.

        Raises:
            ModelError: it decodes other latents, or to another size.
        """
        channels, scale = tiny.config.latent_channels, 2 ** (len(tiny.config.decoder_block_out_channels) - 1)
        own_channels, own_scale = self.vae.config.latent_channels, self._vae_scale
        if (channels, scale) != (own_channels, own_scale):
            raise ModelError(
                f"model.tiny_decoder decodes latents of {channels} channels to {scale} times their size; this model's "
                f"have {own_channels} channels and are decoded to {own_scale} times. Give one made for it, or "
                "leave it out"
            )
        self.tiny = tiny.eval().requires_grad_(False)

    def words(self) -> torch.Tensor:
        """The embeddings of all whole words of three letters or more that every encoder has, (V, D) float32."""
        vocabularies = [encoder.vocabulary() for encoder in self.encoders]
        shared = [word for word in vocabularies[0] if all(word in rows for rows in vocabularies)]
        embeddings = []
        for encoder, rows in zip(self.encoders, vocabularies, strict=True):
            embeddings.append(encoder.embeddings([rows[word] for word in shared]))
        return torch.cat(embeddings, 1)

    def word_norms(self) -> tuple[WordNorms, ...]:
        """Measure the words in each encoder's part: the range in which tokens mean something."""
        measured = []
        for part in split_by_encoder(self.words(), self.encoder_widths.values()):
            norms = part.norm(dim=1)
            measured.append(WordNorms(part.shape[1], norms.mean().item(), norms.max().item()))
        return tuple(measured)

    def word(self, word: str) -> torch.Tensor:
        """The embedding of a word, (D,) float32: the mean of its pieces where a tokenizer splits it.

        Raises:
            ModelError: the vocabulary lacks a part of the word.
        """
        return torch.cat([encoder.word(word) for encoder in self.encoders])

    def _parts(self, prompts: Sequence[str], vectors: torch.Tensor | None) -> list[torch.Tensor | None]:
        """The part of the vectors that each encoder takes."""
        if vectors is None:
            return [None] * len(self.encoders)
        if vectors.ndim != 3 or vectors.shape[::2] != (len(prompts), self.width):
            raise ModelError(
                f"class tokens of shape {tuple(vectors.shape)} do not fit {len(prompts)} prompts of this model; "
                f"they must be ({len(prompts)}, n, {self.width}). Were they trained on another model?"
            )
        return [*split_by_encoder(vectors, self.encoder_widths.values())]
