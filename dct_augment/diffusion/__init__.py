"""Text-to-image back-ends: the one door through which stages reach a diffusion model."""

from dct_augment.diffusion import lora
from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.loading import FAMILIES, from_pipeline, load, supported
from dct_augment.diffusion.memory import ShrinkingBatches
from dct_augment.diffusion.sampling import Sampler, Trajectory, evaluations_per_step
from dct_augment.diffusion.text import WordNorms, split_by_encoder
from dct_augment.diffusion.tokenization import PromptTokenizer, tokenizers_here

__all__ = [
    "FAMILIES",
    "Backend",
    "Conditioning",
    "PromptTokenizer",
    "Sampler",
    "ShrinkingBatches",
    "Trajectory",
    "WordNorms",
    "evaluations_per_step",
    "from_pipeline",
    "load",
    "lora",
    "split_by_encoder",
    "supported",
    "tokenizers_here",
]
