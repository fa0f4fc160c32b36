"""Noise levels under any scheduler of diffusers: diffusion and rectified flow in one formulation.

A model's input is a x + b n, of clean latents x and standard normal noise n. Under diffusion the squares of a and b add
up to 1 (DDPM, arXiv 2006.11239, equation 4), under rectified flow a and b themselves do (arXiv 2209.03003, equation 1).
The model's output is c n - d x; a, b, c and d tell everything else.
"""

import inspect
from typing import Any, TypeVar

import numpy as np
import torch

from dct_augment import files
from dct_augment.diffusion.names import folder_here
from dct_augment.errors import ModelError
from dct_augment.wording import in_one_line

Number = TypeVar("Number", float, torch.Tensor)

_FLOW = "flow_prediction"
_FLOW_SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)


def prediction_type(scheduler: Any) -> str:
    """Return what the model predicts: `epsilon`, `v_prediction`, `sample`, or `flow_prediction`.

    Schedulers that are made for flows alone do not say it.
    """
    return str(scheduler.config.get("prediction_type", _FLOW))


def is_flow(scheduler: Any) -> bool:
    """Whether the model is one of rectified flow."""
    return prediction_type(scheduler) == _FLOW


def at_step(scheduler: Any, index: int) -> tuple[float, float]:
    """Return the weights a, b of signal and noise in the model's input at a step of a scheduler with timesteps."""
    if prediction_type(scheduler) == _FLOW:
        noise = float(scheduler.sigmas[index])
        return 1 - noise, noise
    signal = _signal(scheduler, float(scheduler.timesteps[index]))
    return signal**0.5, (1 - signal) ** 0.5


def _signal(scheduler: Any, timestep: float) -> float:
    """Return alpha-bar in (0, 1), the share of signal in the variance of a diffusion model's input."""
    alphas = scheduler.alphas_cumprod.double().cpu().numpy()
    if timestep.is_integer():
        return float(alphas[int(timestep)])
    # Between two training steps: schedulers interpolate the noise level.
    level = np.interp(timestep, np.arange(len(alphas)), ((1 - alphas) / alphas) ** 0.5)
    return float(1 / (1 + level**2))


def of_training(scheduler: Any, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weights a, b in float64 and the timesteps that the model is told, at steps of training; (B,) each.

    Step 0 has the least noise. Of a flow's levels only those of a constant shift are used, as in the training scripts
    of diffusers: a shift that depends on resolution is one of sampling.
    """
    import diffusers

    if prediction_type(scheduler) != _FLOW:
        alphas = diffusers.DDPMScheduler.from_config(scheduler.config).alphas_cumprod[steps.cpu()].double()
        return alphas**0.5, (1 - alphas) ** 0.5, steps
    count, shift = scheduler.config.num_train_timesteps, constant_shift(scheduler)
    levels = (steps.cpu() + 1).double() / count
    levels = shift * levels / (1 + (shift - 1) * levels)
    return 1 - levels, levels, (levels * count).float().to(steps.device)


def constant_shift(scheduler: Any) -> float:
    """Return the shift of a flow's noise levels towards noise (Stable Diffusion 3, arXiv 2403.03206, equation 23)."""
    if scheduler.config.get("use_dynamic_shifting"):
        return 1.0
    name = "flow_shift" if "flow_shift" in scheduler.config else "shift"
    return float(scheduler.config.get(name) or 1.0)


def output_weights(kind: str, signal: Number, noise: Number) -> tuple[Number | float, Number | float]:
    """Return c, d of the model's output c n - d x, for what it predicts, where its input is a x + b n."""
    weights: dict[str, tuple[Number | float, Number | float]] = {
        "epsilon": (1.0, 0.0),
        "v_prediction": (signal, noise),
        "sample": (0.0, -1.0),
        _FLOW: (1.0, 1.0),
    }
    return weights[kind]


def clean(kind: str, inputs: torch.Tensor, output: torch.Tensor, signal: float, noise: float) -> torch.Tensor:
    """Return the clean latents (B, C, h, w) that a model's input and output imply.

    x = (c input - b output) / (a c + b d). For the noise as output this is equation 12 of DDIM (arXiv 2010.02502).
    """
    if kind == "sample":  # the formula, without rounding
        return output
    of_noise, of_signal = output_weights(kind, signal, noise)
    return (of_noise * inputs - noise * output) / (signal * of_noise + noise * of_signal)


def model_input(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Scale a scheduler's latents (B, C, h, w) to what the model takes; those of flows are it already."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, timestep)


def initial_scale(scheduler: Any) -> Any:
    """Return by what standard normal noise is multiplied to be a scheduler's first latents."""
    return getattr(scheduler, "init_noise_sigma", 1.0)


def put_at(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
    """Put noise on clean latents (B, C, h, w), as the scheduler has them at step `index`."""
    if prediction_type(scheduler) == _FLOW:
        signal, level = at_step(scheduler, index)
        return signal * latents + level * noise
    return scheduler.add_noise(latents, noise, scheduler.timesteps[index : index + 1])


def fresh_scheduler(own: Any, name: str | None) -> Any:
    """Return a fresh copy of a model's scheduler, or another class of diffusers by name, for the same model.

    Raises:
        ModelError: unknown scheduler class, or one that does not suit the model.
    """
    import diffusers

    kind, options = type(own), {}
    if name is not None and name != kind.__name__:
        suitable = suitable_schedulers(own)
        if name not in suitable:
            raise ModelError(
                f"sampling.scheduler {name!r} does not suit this model; choose its own, {kind.__name__}, or one "
                f"of: {', '.join(suitable)}"
            )
        kind, options = getattr(diffusers, name), _flow_options(own)
    try:
        return kind.from_config(own.config, **options)
    except ImportError as error:
        raise ModelError(f"sampling.scheduler {name!r} needs a package: {' '.join(str(error).split())}") from error


def set_steps(scheduler: Any, steps: int, **options: Any) -> None:
    """Set the timesteps of a scheduler.

    Raises:
        ModelError: it has fewer.
    """
    try:
        scheduler.set_timesteps(steps, **options)
    except ValueError as error:
        raise ModelError(
            f"sampling.num_inference_steps {steps} does not suit this model's scheduler, {type(scheduler).__name__}: "
            f"{in_one_line(error)}. Set fewer"
        ) from error


def scheduler_here(path: str, revision: str | None) -> Any | None:
    """Make the scheduler that a text-to-image model comes with, if its file is on this machine; None if it is not."""
    import diffusers

    folder = folder_here(path, revision)
    settings = {} if folder is None else files.read_json(folder / "scheduler" / "scheduler_config.json")
    kind = getattr(diffusers, str(settings.get("_class_name")), None)
    return None if kind is None else kind.from_config(settings)


def suitable_schedulers(own: Any) -> tuple[str, ...]:
    """List the schedulers that a model can be sampled with, by the one that it comes with.

    Of the diffusion schedulers EDM's wants a model that scales its inputs otherwise. Of those that know flows, DEIS
    does not end at the clean latents, and Heun's knows no shift that depends on resolution.
    """
    from diffusers.schedulers import KarrasDiffusionSchedulers

    if prediction_type(own) != _FLOW:
        return tuple(kind.name for kind in KarrasDiffusionSchedulers if kind.name != "EDMEulerScheduler")
    shifts = own.config.get("use_dynamic_shifting")
    return tuple(name for name in _FLOW_SCHEDULERS if not (shifts and name == "FlowMatchHeunDiscreteScheduler"))


def _flow_options(own: Any) -> dict[str, Any]:
    """Return what another scheduler has to be told of a flow, which its own takes for granted."""
    if prediction_type(own) != _FLOW:
        return {}
    shift = constant_shift(own)
    return {"prediction_type": _FLOW, "use_flow_sigmas": True, "flow_shift": shift, "shift": shift}


def even_levels(scheduler: Any, steps: int) -> dict[str, Any]:
    """Return the option of `set_timesteps` for a flow's levels from 1 to 1 / steps, before any shift.

    FLUX and Z-Image have them. Schedulers that are not made for flows alone space levels by themselves, and Heun's
    takes none.
    """
    if scheduler.config.get("use_flow_sigmas") or "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
        return {}
    return {"sigmas": np.linspace(1, 1 / steps, steps)}


def shift_of_resolution(scheduler: Any, image_tokens: int) -> dict[str, float]:
    """Return the option of `set_timesteps` that shifts a flow's levels by the number of an image's tokens, if any.

    A line through the two sizes that the scheduler's configuration names, as in FLUX and Stable Diffusion 3.5.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return {}
    smallest, largest = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (largest - smallest)
    return {"mu": image_tokens * slope + low - slope * smallest}
