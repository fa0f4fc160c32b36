"""What guidance a model can have, by the configuration of its denoiser."""

from collections.abc import Mapping
from typing import Any

import torch

from dct_augment import files
from dct_augment.diffusion.names import folder_here
from dct_augment.errors import ModelError


def is_embedded(denoiser: Mapping[str, Any]) -> bool:
    """Tell whether a denoiser takes the guidance scale as an input (LCM, FLUX), so that a step is one evaluation.

    So it is for a FLUX that was distilled without guidance, too.
    """
    return denoiser.get("time_cond_proj_dim") is not None or _is_flux(denoiser)


def _is_flux(denoiser: Mapping[str, Any]) -> bool:
    """Tell FLUX by its configuration. SANA's names `guidance_embeds`, too, and has guidance by two branches."""
    return "guidance_embeds" in denoiser and "joint_attention_dim" in denoiser


def lcm_embedding(denoiser: Any, scale: float, count: int) -> torch.Tensor | None:
    """Return the guidance scale as an LCM takes it (arXiv 2310.04378): an embedding of 1000 (scale - 1), (count, d).

    None for another denoiser.
    """
    from diffusers.models.embeddings import get_timestep_embedding

    width = denoiser.config.time_cond_proj_dim
    if width is None:
        return None
    weights = torch.full((count,), 1000 * (scale - 1), device=denoiser.device)
    return get_timestep_embedding(weights, width, downscale_freq_shift=1).to(denoiser.dtype)


def check(denoiser: Mapping[str, Any], scale: float, negative: str) -> None:
    """Check that a model can be guided so.

    Args:
        denoiser: the configuration of its denoiser.
        scale: of guidance.
        negative: the prompt that guidance leads away from.

    Raises:
        ModelError: it has no branch for a negative prompt, or takes no guidance at all.
    """
    if negative and is_embedded(denoiser):
        raise ModelError(
            f"prompts.negative {negative!r} does not suit this model: it evaluates a step once, and has no second "
            "branch that a negative prompt could be in. Leave it empty"
        )
    if _is_flux(denoiser) and not denoiser["guidance_embeds"] and scale != 1:
        raise ModelError(
            f"guidance_scale {scale:g} does not suit this model: it was distilled without guidance, as FLUX.1-schnell "
            "was, and can only have 1. Set sampling.guidance_scale to 1, and leave generation.guidance_scale out"
        )


def denoiser_here(path: str, revision: str | None) -> dict[str, Any]:
    """Read the configuration of a model's denoiser; empty if it is not on this machine."""
    folder = folder_here(path, revision)
    if folder is None:
        return {}
    part = "transformer" if (folder / "transformer").is_dir() else "unet"
    return files.read_json(folder / part / "config.json")
