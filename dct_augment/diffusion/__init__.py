"""Text-to-image back-ends: the one door through which stages reach a diffusion model."""

from dct_augment.diffusion.sampling import Trajectory, advance, look_ahead_step, sample, scheduler_step
from dct_augment.diffusion.stable_diffusion import StableDiffusion

__all__ = ["StableDiffusion", "Trajectory", "advance", "load", "look_ahead_step", "sample", "scheduler_step"]


def load(
    path: str, *, revision: str | None = None, variant: str | None = None, dtype: str = "float32", device: str = "cpu"
) -> StableDiffusion:
    """Load a text-to-image model: `pocket`, a local folder, or a Hub id.

    Raises:
        ModelError: the model cannot be found or is not of a supported family.
    """
    return StableDiffusion.load(path, revision=revision, variant=variant, dtype=dtype, device=device)
