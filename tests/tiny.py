"""Tiny real models with random weights, saved in the layouts of the Hub and loaded through the package's own doors.

Every builder is cached: a model is made once in a test session, whichever file asks first.
"""

import atexit
import json
import string
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from dct_augment import classifiers, diffusion
from dct_augment.diffusion.tokenization import instruction_of
from dct_augment.records import ClassInfo

WIDTH, LENGTH = 16, 24  # of a token embedding; of a padded prompt
LATENT, IMAGE = (4, 8, 8), 16
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CORPUS = ["a photo of a crane", "a red bird on the sand", "a drawing of a green kiwi by the water, blurry", "cardinal"]
CLASSES = (
    ClassInfo(0, "crane", "crane", homonym=True),
    ClassInfo(1, "kiwi", "kiwi", homonym=True),
    ClassInfo(2, "red bird", "red-bird"),
)

_root = TemporaryDirectory(prefix="dct-tiny-")
atexit.register(_root.cleanup)
ROOT = Path(_root.name)

TWO_UPDATES = (
    "tokens.max_updates=2",
    "tokens.validate_every=2",
    "tokens.validation_images=2",
    "tokens.restarts=0",
    "tokens.certificate_images=2",
    "tokens.certificate_looks=1",
    "tokens.plain_first=false",
)
"""Settings of a class token that takes a second to train."""


def tokenizer(pad: str = EOS, length: int = LENGTH) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer in which every word of the corpus is one piece."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = CLIPTokenizer(vocab={BOS: 0, EOS: 1}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + 200,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=[BOS, EOS],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), BOS, EOS]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, pad_token=pad)


FLOWS = ("sd3", "sd35", "flux", "sana", "z_image")
"""Stable Diffusion 3 without its T5; 3.5 and FLUX.1-dev, whose noise levels shift with resolution; SANA; Z-Image."""
ONE_BRANCH = ("lcm", "xl_lcm", "flux", "schnell")
"""Families without negative prompts. SDXL with an LCM U-Net and FLUX.1-schnell, which takes no guidance, either, are
not tested as widely."""
FAMILIES = ("epsilon", "v_prediction", "turbo", "lcm", "xl", "xl_turbo", "pixart", *FLOWS)
"""Stable Diffusion 1.x, 2.x (zero terminal SNR, padded with "!"), SD-Turbo, LCM, SDXL, SDXL-Turbo, PixArt-Sigma."""


def clip(words: CLIPTokenizer, width: int, *, projection: bool = False, legacy: bool = False) -> CLIPTextModel:
    """A CLIP text encoder; `legacy` has the end token of the first releases in its configuration, as SDXL does."""
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return kind(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=2 if legacy else words.eos_token_id,
            pad_token_id=words.pad_token_id,
            initializer_factor=10.0,
        )
    )


def t5(width: int = WIDTH) -> tuple[T5Tokenizer, T5EncoderModel]:
    """A T5 encoder in whose vocabulary every word of the corpus is one piece."""
    words = sorted({word for line in CORPUS for word in line.replace(",", "").split()})
    letters = "abcdefghijklmnopqrstuvwxyz,<>-"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(f"\u2581{word}", -3.0) for word in words] + [(letter, -6.0) for letter in letters]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", initializer_factor=2.0, **sizes)
    return tokenizer, T5EncoderModel(config)


def gemma() -> tuple[GemmaTokenizer, Gemma2Model]:
    """A Gemma 2 in whose vocabulary every word of the corpus and of SANA's instruction is one piece after a space."""
    text = "\n".join([*CORPUS, instruction_of("SanaPipeline")])
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", *sorted(set(text + string.ascii_lowercase + "<>-") - {" "})]
    merges = []
    for word in sorted(set(text.replace(",", "").split())):
        for end in range(len(word)):
            pair = (f"\u2581{word[:end]}", word[end])
            if pair not in merges:
                merges.append(pair)
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, mask_token=None)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}
    return tokenizer, Gemma2Model(Gemma2Config(vocab_size=len(tokenizer), initializer_range=0.3, **sizes, **heads))


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A chat template in Qwen's manner."""


def qwen() -> tuple[Qwen2TokenizerFast, Qwen3Model]:
    """A Qwen3 in whose vocabulary every word of the corpus is one piece after a space."""
    alphabet, special = sorted(pre_tokenizers.ByteLevel.alphabet()), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Qwen2TokenizerFast(vocab={}, merges=[]).backend_tokenizer
    size = 2 * len(alphabet) + 200
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    backend.train_from_iterator([*(f" {line}" for line in CORPUS), "user\nassistant\n"], trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    pieces = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges), *special])
    tokenizer = Qwen2TokenizerFast(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens=special[1:],
        chat_template=CHAT,
    )
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 8}
    return tokenizer, Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), initializer_range=0.3, **sizes, **heads))


ONE_LEVEL = "one_level"
"""A model like that of `v_prediction` with a third of the layers, for training: what takes time there are calls."""


def unet(cross: int, levels: int = 2, **options: Any) -> UNet2DConditionModel:
    """A U-Net of two levels, or of one without a middle block."""
    if levels == 1:
        options |= {"mid_block_type": None}
    return UNet2DConditionModel(
        sample_size=LATENT[1] if levels == 2 else IMAGE,
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        layers_per_block=1,
        block_out_channels=(8, 16)[:levels],
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[:levels],
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[:levels],
        cross_attention_dim=cross,
        attention_head_dim=2,
        norm_num_groups=4,
        **options,
    )


def autoencoder(levels: int = 2, **options: Any) -> AutoencoderKL:
    """An autoencoder that doubles the size; with one level it keeps it, and has no attention."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8, 16)[:levels],
        mid_block_add_attention=levels == 2,
        layers_per_block=1,
        latent_channels=LATENT[0],
        norm_num_groups=4,
        sample_size=IMAGE,
        scaling_factor=0.5,
        **options,
    )


def scheduler(family: str) -> Any:
    """The scheduler that the family's models come with."""
    # As on the Hub: converted from a configuration that says `clip_sample: false`, which stays in theirs.
    shared = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    origin = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading", **shared)
    if family == "epsilon":
        return origin
    if family in ("v_prediction", ONE_LEVEL):
        changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "set_alpha_to_one": True}
        return DDIMScheduler.from_config(origin.config, timestep_spacing="trailing", **changes)
    options: Any
    kind, options = {
        "turbo": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
        "xl": (EulerDiscreteScheduler, {}),
        "xl_turbo": (EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}),
        "xl_lcm": (LCMScheduler, {"original_inference_steps": 50}),
        "lcm": (LCMScheduler, {"original_inference_steps": 50}),
        "pixart": (DPMSolverMultistepScheduler, {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}),
    }[family]
    return kind.from_config(origin.config, **options)


def loud(model: Any, scale: float = 0.1) -> Any:
    """The model with noise on its weights: fresh output layers are zero, and fresh ones hardly listen to the text."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=scale)
    return model


def build_flux(family: str, length: int) -> DiffusionPipeline:
    """FLUX.1-dev or -schnell with random weights."""
    is_dev, words = family == "flux", tokenizer(EOS, length)
    t5_words, t5_model = t5()
    transformer = FluxTransformer2DModel(
        in_channels=4 * LATENT[0],
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=is_dev,
        axes_dims_rope=(2, 2, 4),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=is_dev)
    clip_model = clip(words, WIDTH, legacy=True)
    return FluxPipeline(
        scheduler, autoencoder(shift_factor=0.1), clip_model, words, t5_model, t5_words, loud(transformer, 0.2)
    )


def build_sana() -> DiffusionPipeline:
    """SANA with an autoencoder that doubles the size; its own has a side of 32 pixels for each latent."""
    words, text = gemma()
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    transformer = SanaTransformer2DModel(
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=LATENT[1],
        timestep_scale=0.5,
        **sizes,
    )
    sides: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        sides |= {
            f"{side}_block_types": ("ResBlock", "EfficientViTBlock"),
            f"{side}_block_out_channels": (8, 16),
            f"{side}_layers_per_block": (1, 1),
            f"{side}_qkv_multiscales": ((), (5,)),
        }
    vae = AutoencoderDC(latent_channels=LATENT[0], attention_head_dim=8, scaling_factor=0.5, **sides)
    flow: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return SanaPipeline(words, text, vae, loud(transformer), DPMSolverMultistepScheduler(**flow))


def build_z_image() -> DiffusionPipeline:
    """Z-Image with random weights."""
    words, text = qwen()
    transformer = ZImageTransformer2DModel(
        in_channels=LATENT[0],
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        t_scale=2.0,  # of 1000, a rounded last digit of the timestep would be seen
        axes_dims=[2, 2, 4],
        axes_lens=[640, 32, 32],
    )
    return ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(shift_factor=0.1), text, words, loud(transformer)
    )


def build_flow(family: str, length: int) -> DiffusionPipeline:
    """A pipeline of rectified flow with random weights."""
    if family == "z_image":
        return build_z_image()
    if family in ("flux", "schnell"):
        return build_flux(family, length)
    if family == "sana":
        return build_sana()
    words, wide = tokenizer(EOS, length), WIDTH + 8
    sizes: dict[str, Any] = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    shift: dict[str, Any] = {"use_dynamic_shifting": True} if family == "sd35" else {"shift": 3.0}
    clips = clip(words, WIDTH, projection=True, legacy=True), clip(words, wide, projection=True, legacy=True)
    t5_words, t5_model = t5(48) if family == "sd35" else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=LATENT[1],
        patch_size=2,
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=WIDTH + wide,
        pos_embed_max_size=16,
        qk_norm="rms_norm" if family == "sd35" else None,
        dual_attention_layers=(0,) if family == "sd35" else (),
        **sizes,
    )
    return StableDiffusion3Pipeline(
        loud(transformer),
        FlowMatchEulerDiscreteScheduler(**shift),
        autoencoder(shift_factor=0.1),
        clips[0],
        words,
        clips[1],
        tokenizer("!", length),
        t5_model,
        t5_words,
    )


def build(family: str, length: int = LENGTH) -> DiffusionPipeline:
    """A pipeline of the family's own class with random weights."""
    torch.manual_seed(7)
    if family in (*FLOWS, "schnell"):
        return build_flow(family, length)
    if family == "pixart":
        words, text = t5()
        transformer = loud(
            PixArtTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=8,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                cross_attention_dim=16,
                sample_size=LATENT[1],
                patch_size=2,
                caption_channels=WIDTH,
            )
        )
        return PixArtSigmaPipeline(words, text, autoencoder(), transformer, scheduler(family))
    levels = 1 if family == ONE_LEVEL else 2
    words = tokenizer("!" if family in ("v_prediction", ONE_LEVEL) else EOS, length)
    if family.startswith("xl"):
        wide = WIDTH + 8
        added: dict[str, Any] = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        if family == "xl_lcm":
            added["time_cond_proj_dim"] = 8
        model = unet(WIDTH + wide, **added, projection_class_embeddings_input_dim=6 * 8 + wide)
        pipe: DiffusionPipeline = StableDiffusionXLPipeline(
            autoencoder(),
            clip(words, WIDTH),
            clip(words, wide, projection=True, legacy=True),
            words,
            tokenizer("!", length),
            model,
            scheduler(family),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    else:
        text = clip(words, WIDTH)
        model = unet(WIDTH, levels, **({"time_cond_proj_dim": 8} if family == "lcm" else {}))
        kind = LatentConsistencyModelPipeline if family == "lcm" else StableDiffusionPipeline
        pipe = kind(
            autoencoder(levels), text, words, model, scheduler(family), None, None, requires_safety_checker=False
        )
    with torch.no_grad():  # fresh weights hardly listen to the text: make the words matter
        for name, weight in model.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
                weight.mul_(3.0 if family.startswith("xl") else 6.0)
    return pipe


@cache
def pipeline_folder(family: str = "epsilon") -> Path:
    """A model of a family in the Hub's folder layout."""
    folder = ROOT / family
    build(family).save_pretrained(folder, safe_serialization=True)
    return folder


def image_size(family: str) -> int | None:
    """The `model.image_size` of the tiny model of a family; its configuration does not say it."""
    return IMAGE if family in ("flux", "schnell", "z_image") else None


@cache
def backend(family: str = "epsilon", dtype: str = "float32") -> diffusion.Backend:
    """The tiny model as the package loads it. Shared: leave it as it was."""
    return diffusion.load(str(pipeline_folder(family)), dtype=dtype, memory="fast", image_size=image_size(family))


def pipeline(family: str = "epsilon", dtype: torch.dtype = torch.float32) -> Any:
    """The tiny model as diffusers loads it, fresh."""
    missing = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3" else {}
    pipe = DiffusionPipeline.from_pretrained(pipeline_folder(family), dtype=dtype, **missing)
    pipe.set_progress_bar_config(disable=True)
    if family == "sana":
        pipe.check_inputs = lambda *_: None  # it takes sides to be multiples of 32, whatever the autoencoder
    return pipe


@cache
def classifier_folder(name: str, labels: Sequence[str] | None, size: int = 32) -> Path:
    """A random timm classifier in timm's Hub layout."""
    torch.manual_seed(size)
    model = timm.create_model(name, num_classes=len(labels or (1, 2)))
    with torch.no_grad():
        model.get_classifier().weight.normal_(std=0.5)
    facts = {
        "architecture": name,
        "num_classes": model.num_classes,
        "pretrained_cfg": {
            "input_size": (3, size, size),
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.25, 0.3),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
    }
    if labels is not None:
        facts["label_names"] = list(labels)
    folder = ROOT / f"{name}-{size}-{zlib.crc32(repr(labels).encode())}"
    timm.models.save_for_hf(model, str(folder), safe_serialization=True, model_config=facts)
    return folder


@cache
def classifier(name: str, size: int = 32) -> classifiers.Classifier:
    """A random timm classifier of the tiny classes, labels in another order and spelling than the classes."""
    labels = ("Red_Bird", "stone", "kiwi", "Crane")
    return classifiers.load(f"local-dir:{classifier_folder(name, labels, size)}")


def changed(settings: Any, **changes: Any) -> Any:
    """Settings with some changed, checked as a configuration is."""
    return type(settings).model_validate(settings.model_dump() | changes)
