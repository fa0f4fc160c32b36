"""Images that start from photos, against diffusers' own image-to-image pipelines, and with every scheduler."""

from typing import Any

import diffusers
import pytest
import torch

from dct_augment.diffusion import Sampler, Trajectory
from dct_augment.diffusion.noise_levels import suitable_schedulers
from dct_augment.diffusion.skipping import skip_steps
from tests import tiny

STEPS, SCALE, STRENGTHS = 5, 4.0, (0.2, 0.6)
SEEDS = (3, 4)
PIPELINES: dict[str, Any] = {
    "epsilon": diffusers.StableDiffusionImg2ImgPipeline,
    "v_prediction": diffusers.StableDiffusionImg2ImgPipeline,
    "turbo": diffusers.StableDiffusionImg2ImgPipeline,
    "xl": diffusers.StableDiffusionXLImg2ImgPipeline,
    "xl_turbo": diffusers.StableDiffusionXLImg2ImgPipeline,
    "sd3": diffusers.StableDiffusion3Img2ImgPipeline,
    "sd35": diffusers.StableDiffusion3Img2ImgPipeline,
    "flux": diffusers.FluxImg2ImgPipeline,
    "z_image": diffusers.ZImageImg2ImgPipeline,
}
FIRST_ORDER = ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler")
PARITY = [
    (family, scheduler)
    for family in PIPELINES
    for scheduler in ((None, None) if family in tiny.FLOWS else (None, *FIRST_ORDER[:2]))
]
PARITY += [("epsilon", scheduler) for scheduler in (*FIRST_ORDER[2:], "HeunDiscreteScheduler")]


def clean_latents(family: str) -> torch.Tensor:
    """The latents of two pictures."""
    backend = tiny.backend(family)
    pictures = torch.rand(2, 3, tiny.IMAGE, tiny.IMAGE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return backend.encode_images(pictures)[0]


def from_photos(
    family: str, clean: torch.Tensor, strength: float, scheduler: str | None = None, steps: int = STEPS
) -> torch.Tensor:
    """Images in [-1, 1] that start from clean latents."""
    backend = tiny.backend(family)
    sampler = Sampler(backend, steps=steps, guidance_scale=SCALE, scheduler_name=scheduler)
    trajectory = sampler.begin_at(clean, SEEDS, backend.encode(["a red bird"]).expand(2), strength)
    sampler.advance([trajectory])
    return sampler.images(trajectory)


@pytest.mark.parametrize(
    ("family", "scheduler", "strength"),
    [(*case, STRENGTHS[number % 2]) for number, case in enumerate(PARITY)],
)
def test_images_equal_those_of_the_image_to_image_pipeline(family: str, scheduler: str | None, strength: float) -> None:
    whole = tiny.pipeline(family)
    if scheduler is not None:
        whole.scheduler = getattr(diffusers, scheduler).from_config(whole.scheduler.config)
    pipe = PIPELINES[family].from_pipe(whole)
    pipe.set_progress_bar_config(disable=True)
    clean = clean_latents(family)
    options: dict[str, Any] = {}
    if family.startswith("xl"):
        options = {"original_size": (16, 16), "target_size": (16, 16)}
    if family in ("flux", "z_image"):
        options = {"height": tiny.IMAGE, "width": tiny.IMAGE}
    expected = pipe(
        ["a red bird"] * 2,
        image=clean,
        strength=strength,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=STEPS,
        guidance_scale=SCALE - 1 if family == "z_image" else SCALE,
        output_type="pt",
        **options,
    ).images
    images = from_photos(family, clean, strength, scheduler)
    torch.testing.assert_close(images, expected.float() * 2 - 1, atol=1e-4, rtol=0)
    assert images.std() > 0.05


def right_output(trajectory: Trajectory, clean: torch.Tensor) -> torch.Tensor:
    """What a model would say that knows the photo: the noise that was put on it, or the velocity.

    Where the scheduler adds noise of its own, it is the noise that is on the latents now.
    """
    inputs, (alpha, sigma) = trajectory.inputs, trajectory.levels
    noise = tiny.backend().latents(SEEDS)
    if trajectory.scheduler.config.get("prediction_type", "flow_prediction") == "flow_prediction":
        return noise - clean
    if type(trajectory.scheduler).__name__ in ADD_NOISE:
        noise = (inputs - alpha * clean) / sigma
    if trajectory.scheduler.config.prediction_type == "epsilon":
        return noise
    return alpha * noise - sigma * clean


ADD_NOISE = ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LCMScheduler")
OLD_NUMPY = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # some schedulers of diffusers
SUITABLE = [
    name for name in suitable_schedulers(tiny.scheduler("epsilon")) if name != "DPMSolverSDEScheduler"
]  # it needs torchsde


DIFFUSION = [family for family in tiny.FAMILIES if family not in tiny.FLOWS]
RIGHT: list[tuple[str, str | None]] = [("epsilon", scheduler) for scheduler in SUITABLE]
RIGHT += [(family, None) for family in tiny.FAMILIES]
# PNDM extrapolates model outputs, which is exact for noise alone: a velocity changes from step to step.
RIGHT += [(family, "PNDMScheduler") for family in DIFFUSION if family not in ("epsilon", "v_prediction")]
RIGHT += [("sd3", scheduler) for scheduler in suitable_schedulers(tiny.backend("sd3").scheduler(1))]


@OLD_NUMPY
@pytest.mark.parametrize("skipped", [1, 3, 9])
@pytest.mark.parametrize(("family", "scheduler"), RIGHT)
def test_a_right_model_leads_from_every_step_back_to_the_photo(
    family: str, skipped: int, scheduler: str | None
) -> None:
    """A scheduler that takes up its steps at the wrong place, or with less of them than it thinks, ends elsewhere."""
    backend, clean, steps = tiny.backend(family), clean_latents(family), 10
    sampler = Sampler(backend, steps=steps, guidance_scale=1.0, scheduler_name=scheduler)
    trajectory = sampler.begin_at(clean, SEEDS, backend.encode(["a crane"]).expand(2), (steps - skipped) / steps)
    while trajectory.index < trajectory.length:
        trajectory.latents = trajectory.step(right_output(trajectory, clean))
        trajectory.index += 1
    assert (trajectory.latents - clean).abs().mean() < 0.05


@OLD_NUMPY
@pytest.mark.parametrize("scheduler", SUITABLE)
def test_a_lower_strength_begins_with_less_noise(scheduler: str) -> None:
    backend, clean = tiny.backend(), clean_latents("epsilon")
    sampler = Sampler(backend, steps=10, guidance_scale=1.0, scheduler_name=scheduler)
    conditioning = backend.encode(["a crane"]).expand(2)
    levels = [sampler.begin_at(clean, SEEDS, conditioning, strength).levels[1] for strength in (0.1, 0.4, 0.9)]
    assert levels == sorted(set(levels))


def test_pndm_with_one_step_left_takes_one() -> None:
    scheduler = tiny.backend().scheduler(10, "PNDMScheduler")
    assert skip_steps(scheduler, 9) == 0
    assert len(scheduler.timesteps) == 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_lower_strength_keeps_more_of_the_photo(family: str) -> None:
    clean = clean_latents(family)
    photo = tiny.backend(family).decode(clean).clamp(-1, 1)
    # The last of five steps of SANA still has 43 % noise.
    steps, low = (20, 0.05) if family == "sana" else (STEPS, 0.2)
    images = (from_photos(family, clean, strength, steps=steps) for strength in (low, 0.8))
    near, far = ((image - photo).square().mean() for image in images)
    assert 0 < near < far


def test_half_precision_begins_with_the_noise_of_single_precision() -> None:
    clean = clean_latents("epsilon")
    begun = []
    for dtype in ("float32", "bfloat16"):
        backend = tiny.backend(dtype=dtype)
        sampler = Sampler(backend, steps=50, guidance_scale=1.0)
        begun.append(sampler.begin_at(clean, SEEDS, backend.encode(["a crane"]).expand(2), 0.02).latents)
    assert begun[1].dtype == torch.bfloat16
    torch.testing.assert_close(begun[1].float(), begun[0], atol=0.03, rtol=0)
