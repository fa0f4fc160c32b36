"""Finds before any work what the text-to-image model cannot do: by its files, if they are here; it is not loaded."""

from itertools import product

from dct_augment import files
from dct_augment.config import Config
from dct_augment.config.base import CONFUSED_CLASS
from dct_augment.diffusion import FAMILIES, adapters, guidance, names, noise_levels

_ANY_SCHEDULER_HAS = 50
"""Steps: that of a latent consistency model has as many, all others more."""


def check_sampling(config: Config) -> None:
    """Check that the model can be guided as is set, and sampled with that scheduler.

    Raises:
        ModelError: it has no branch for a negative prompt, takes no guidance at all, or the scheduler does not suit it,
            or has fewer steps.
    """
    denoiser = guidance.denoiser_here(config.model.path, config.model.revision)
    negatives = config.prompts.negatives
    if config.prompts.leads_away_from_tokens:
        negatives = (*negatives, CONFUSED_CLASS)
    for scale, negative in product((config.sampling.guidance_scale, config.generation.guidance_scale), negatives):
        if scale is not None:
            guidance.check(denoiser, scale, negative)
    name, steps = config.sampling.scheduler, config.sampling.num_inference_steps
    if name is None and steps <= _ANY_SCHEDULER_HAS:  # spares loading diffusers
        return
    own = noise_levels.scheduler_here(config.model.path, config.model.revision)
    if own is not None:
        scheduler = noise_levels.fresh_scheduler(own, name)
        if not noise_levels.is_flow(scheduler):  # one of a flow has as many as are wanted
            noise_levels.set_steps(scheduler, steps)


def check_adapters(config: Config) -> None:
    """Check that adapters can be had, and that diffusers has a loader of them for this kind of model.

    Whether their layers are those of the model is known once it is loaded.

    Raises:
        ModelError: one does not exist, cannot be read or is not finite; or the model takes none.
    """
    if not config.model.adapters:
        return
    folder = names.folder_here(config.model.path, config.model.revision)
    kind = "" if folder is None else files.read_json(folder / "model_index.json").get("_class_name")
    if kind in FAMILIES:
        adapters.refuse_without_loader(kind)
    for adapter in config.model.adapters:
        adapters.examine(adapter.path, adapter.revision, adapter.weight_name)
