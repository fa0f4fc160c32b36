"""Text-to-image back-ends: the one door through which stages reach a diffusion model."""

from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.conditioning import Conditioning
from dct_augment.diffusion.loading import FAMILIES, load
from dct_augment.diffusion.memory import ShrinkingBatches
from dct_augment.diffusion.sampling import Trajectory, advance, clean_step, follow, renoise, sample

__all__ = [
    "FAMILIES",
    "Backend",
    "Conditioning",
    "ShrinkingBatches",
    "Trajectory",
    "advance",
    "clean_step",
    "follow",
    "load",
    "renoise",
    "sample",
]
