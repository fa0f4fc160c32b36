"""Trains the Pocket text-to-image model: tokenizer, text encoder and U-Net, jointly from scratch."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dct_augment.pocket.captions import SUBJECTS, caption
from dct_augment.pocket.handwriting import NAMES
from pocket_build.loop import fit
from pocket_build.world import World

STEPS, BATCH, LEARNING_RATE, SEED = 3200, 48, 1.5e-3, 31
HORIZON, COOLDOWN = 4500, 600  # of the learning rate
STEPS_2, LEARNING_RATE_2, HANDWRITTEN = 1200, 8e-4, 0.7  # second phase
WIDTH, LENGTH = 128, 32  # of a token embedding; of a padded prompt
MERGES = 400
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer whose merges are learned from the captions."""
    rng = np.random.default_rng(SEED)
    places = ("blue", "green", "sand", "pink", "grey", "cream", "black", "red")
    corpus = [caption(subject, str(rng.choice(places)), rng) for subject in SUBJECTS for _ in range(400)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    blank = CLIPTokenizer(vocab={BOS: 0, EOS: 1}, merges=[])
    backend = blank.backend_tokenizer
    backend.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=2 * len(alphabet) + MERGES,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            special_tokens=[BOS, EOS],
            show_progress=False,
        ),
    )
    import json

    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), BOS, EOS]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder."""
    torch.manual_seed(SEED)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def unet() -> UNet2DConditionModel:
    """The untrained U-Net: two levels, cross-attention on both."""
    torch.manual_seed(SEED + 1)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """Velocity prediction with zero terminal SNR, so flat backgrounds keep their brightness (arXiv 2305.08891)."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def train(
    world: World, latents: torch.Tensor, words: CLIPTokenizer, work: Path, *, scale: float = 1.0, device: str = "cpu"
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Train on scaled `latents` (N, 8, 8, 8) with captions drawn afresh at every step.

    Handwriting is harder than drawn birds and a quarter of the pictures, so a second, shorter phase
    goes on with `HANDWRITTEN` of each batch from it.
    """
    model = nn.ModuleDict({"text": text_encoder(words), "unet": unet()})
    noise_schedule = scheduler()
    handwritten = torch.from_numpy(np.flatnonzero(np.isin([s.key for s in SUBJECTS], NAMES)[world.subjects]))

    def loss(generator: torch.Generator, extra: int) -> torch.Tensor:
        indices = torch.randint(len(latents), (BATCH - extra,), generator=generator)
        chosen = torch.randint(len(handwritten), (extra,), generator=generator)
        indices = torch.cat([indices, handwritten[chosen]])
        clean = latents[indices]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        noisy = noise_schedule.add_noise(clean, noise, timesteps).to(device)
        target = noise_schedule.get_velocity(clean, noise, timesteps).to(device)
        prompts = ids(words, world.captions(indices, generator)).to(device)
        conditioning = model["text"](prompts).last_hidden_state
        return functional.mse_loss(model["unet"](noisy, timesteps.to(device), conditioning).sample, target)

    fit(
        "text_to_image",
        model,
        partial(loss, extra=0),
        steps=max(2, round(STEPS * scale)),
        learning_rate=LEARNING_RATE,
        work=work,
        seed=SEED,
        ema_decay=0.999,
        horizon=round(HORIZON * scale),
        cooldown=round(COOLDOWN * scale),
        device=device,
    )
    fit(
        "text_to_image_handwriting",
        model,
        partial(loss, extra=round(HANDWRITTEN * BATCH)),
        steps=max(2, round(STEPS_2 * scale)),
        learning_rate=LEARNING_RATE_2,
        work=work,
        seed=SEED + 2,
        ema_decay=0.998,
        device=device,
    )
    return model["text"], model["unet"]


def ids(words: CLIPTokenizer, prompts: Iterable[str]) -> torch.Tensor:
    """Padded token ids, (B, LENGTH), exactly as the pipeline makes them."""
    encoded = words(list(prompts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return encoded.input_ids
