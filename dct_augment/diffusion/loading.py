"""Finds out of which family a model is, and loads it through diffusers.

diffusers and transformers take seconds to import: only what loads a model imports them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dct_augment import pocket
from dct_augment.diffusion import adapters as loras
from dct_augment.diffusion import memory as budget
from dct_augment.diffusion.backend import Backend
from dct_augment.diffusion.flux import Flux
from dct_augment.diffusion.memory import Memory
from dct_augment.diffusion.names import cached_file, local_folder
from dct_augment.diffusion.pixart import PixArtSigma
from dct_augment.diffusion.sana import Sana
from dct_augment.diffusion.stable_diffusion import StableDiffusion
from dct_augment.diffusion.stable_diffusion_3 import StableDiffusion3
from dct_augment.diffusion.stable_diffusion_xl import StableDiffusionXL
from dct_augment.diffusion.z_image import ZImage
from dct_augment.errors import ModelError
from dct_augment.wording import hub_is_offline, in_one_line, what_loads_from_the_hub

FAMILIES: dict[str, type[Backend]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "LatentConsistencyModelPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "PixArtSigmaPipeline": PixArtSigma,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "SanaPipeline": Sana,
    "ZImagePipeline": ZImage,
}
"""The back-end of each diffusers pipeline class, as `model_index.json` names it."""


def supported() -> str:
    """Name the families of models that work, as README and docs do."""
    return ", ".join(dict.fromkeys(family.title for family in FAMILIES.values()))


_BROKEN = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError)


def load(
    path: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    memory: Memory | None = None,
    tiny_decoder: str | None = None,
    compile: bool = False,
    image_size: int | None = None,
    adapters: Sequence[Mapping[str, Any]] = (),
) -> Backend:
    """Load a text-to-image model: `pocket`, a local folder saved by diffusers, or a Hub id; safetensors only.

    `tiny_decoder` is an AutoencoderTiny for `Backend.decode(for_gradient=True)`: a folder, a Hub id, or `pocket`. With
    `compile` the denoiser is compiled when it first runs.

    Remote code is never run, and safety checkers are left out: they would blacken training images.

    Args:
        path: `pocket`, a folder that diffusers saved, or a Hub id.
        revision: branch, tag or commit on the Hub.
        variant: which files of the weights, e.g. `fp16`.
        dtype: precision of the weights: `float32`, `bfloat16`, or `float16`.
        device: torch device.
        memory: `low`, `balanced`, or `fast`; chosen from what is free if not given.
        tiny_decoder: a small decoder for gradients.
        compile: whether to compile the denoiser.
        image_size: side of its images in pixels; the model's own if not given.
        adapters: LoRA weights to add to those of the model: `path`, `weight`, and if wanted `revision`, `weight_name`.

    Returns:
        The frozen model as a `Backend`: it encodes prompts, with a class token or without, denoises, and decodes.

    Raises:
        ModelError: the model cannot be found, read, or is not of a supported family; or an adapter is not one of it.

    Examples:
        >>> import dct_augment
        >>> model = dct_augment.load_text_to_image("pocket")
        >>> model.image_size
        64
    """
    folder = local_folder(path)
    if folder is not None and not (folder / "model_index.json").is_file():
        raise ModelError(
            f"model.path {path!r}: no model_index.json there. Give 'pocket', a folder saved by diffusers, "
            "or a Hub id such as 'stable-diffusion-v1-5/stable-diffusion-v1-5'"
        )
    if folder is None and hub_is_offline() and cached_file(path, "model_index.json", revision) is None:
        raise ModelError(
            f"model.path {path!r} is not in the Hub's cache, and HF_HUB_OFFLINE is set: unset it for the first run, or "
            "give 'pocket' or a folder saved by diffusers. What a run would cost: dct-augment doctor, with the same "
            "options"
        )
    location = path if folder is None else str(folder)
    from diffusers import DiffusionPipeline

    silence()
    try:
        index = DiffusionPipeline.load_config(location, revision=revision)
        kind = index["_class_name"]
        if kind not in FAMILIES:
            raise ModelError(f"model.path {path!r} is a {kind}; supported are: {', '.join(FAMILIES)}")
        # What was saved as missing, such as the T5 of Stable Diffusion 3, diffusers wants to be told again.
        missing = {name: None for name, named in index.items() if named == [None, None]}
        pipe = _pipeline(kind, location, revision=revision, variant=variant, dtype=getattr(torch, dtype), **missing)
    except _BROKEN as error:
        raise ModelError(_explain(path, error)) from error
    loras.fuse(pipe, adapters)
    backend = from_pipeline(pipe, device=device, memory=memory)
    if image_size is not None:
        backend.resize(image_size)
    backend.refuse_too_large()
    if tiny_decoder is not None:
        tiny = str(pocket.path(pocket.TINY_DECODER)) if tiny_decoder == "pocket" else tiny_decoder
        backend.use_tiny(_tiny(tiny, getattr(torch, dtype)).to(device))
    if compile:
        backend.denoiser.compile()
    return backend


def from_pipeline(pipe: Any, *, device: str = "cpu", memory: Memory | None = None) -> Backend:
    """Build the back-end of a pipeline of diffusers that is loaded already; its models are moved and set up.

    Args:
        pipe: the pipeline.
        device: torch device.
        memory: `low`, `balanced`, or `fast`; chosen from what is free if not given.

    Raises:
        ModelError: the pipeline is not of a supported family.
    """
    kind = type(pipe).__name__
    if kind not in FAMILIES:
        raise ModelError(f"the pipeline is a {kind}; supported are: {', '.join(FAMILIES)}")
    chosen = memory or budget.choose(budget.weight_bytes(pipe.components.values()), budget.free_bytes(device))
    budget.apply(pipe, chosen)
    for name, part in pipe.components.items():
        offloaded = chosen == "low" and name.startswith("text_encoder")
        if isinstance(part, torch.nn.Module):
            part.to("cpu" if offloaded else device)
    backend = FAMILIES[kind].build(pipe, device, chosen == "low" and device != "cpu")
    backend.memory = chosen
    return backend


def silence() -> None:
    """Let libraries say nothing: what a user must know, an error of ours says."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    hub_logging.set_verbosity_error()


def _tiny(location: str, dtype: torch.dtype) -> Any:
    import diffusers

    try:
        return diffusers.AutoencoderTiny.from_pretrained(
            str(Path(location).expanduser()), torch_dtype=dtype, use_safetensors=True
        )
    except _BROKEN as error:
        reason = in_one_line(error)
        raise ModelError(
            f"model.tiny_decoder {location!r} cannot be loaded: {reason}. Give a folder or Hub id of an "
            "AutoencoderTiny in safetensors, or leave it out"
        ) from error


def _pipeline(kind: str, location: str, **options: Any) -> Any:
    import diffusers

    has_checker = FAMILIES[kind].has_safety_checker
    unchecked = {"safety_checker": None, "requires_safety_checker": False} if has_checker else {}
    return getattr(diffusers, kind).from_pretrained(location, use_safetensors=True, **(options | unchecked))


def _explain(path: str, error: BaseException) -> str:
    reason = in_one_line(error)
    if isinstance(error, json.JSONDecodeError):
        reason = f"a JSON file in it is broken ({reason})"
    return (
        f"model.path {path!r} cannot be loaded: {reason}. Check the id or folder, revision and variant, that its "
        f"weights are safetensors, and the network: {what_loads_from_the_hub()}. What a run would cost without it: "
        "dct-augment doctor, with the same options"
    )
