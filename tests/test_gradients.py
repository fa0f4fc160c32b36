"""Gradient methods against a loop written out with each family's own diffusers modules, and their cost by counting."""

from contextlib import contextmanager

import diffusers
import pytest
import tiny
import torch

from dct_augment.diffusion import Trajectory
from dct_augment.gradients import METHODS, Guidance, last_step, look_ahead

TOKEN = "<dct-tiny-crane>"
PROMPTS = [f"a photo of a {TOKEN} crane", f"a drawing of a {TOKEN} crane"]
SEEDS = [3, 4]
STEPS = 5
RELATIVE = 1e-5  # in double precision; in single, batching the two branches apart or together alone costs 1e-5


def start_vector(family: str = "epsilon", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    word = tiny.backend(family).word("a").repeat(2, 1)
    return (word + 0.1 * torch.randn(word.shape, generator=torch.Generator().manual_seed(1))).to(dtype)


def guide(images: torch.Tensor) -> torch.Tensor:
    """Some loss that weighs every pixel differently."""
    weights = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(2))
    return (images * weights).sum((1, 2, 3)).tanh().sum() + images.square().mean()


def walk(backend, vector, *, seeds=SEEDS, prompts=PROMPTS, scheduler=None) -> Trajectory:
    encoding = backend.encode(prompts, vector.expand(len(prompts), -1, -1))
    return Trajectory.begin(backend, seeds, encoding, steps=STEPS, scheduler=scheduler)


def our_gradient(family, method, scale, places, scheduler=None):
    backend, vector = tiny.backend(family, "float64"), start_vector(family, torch.float64).requires_grad_()
    guidance = Guidance(backend.unconditional(), scale)
    latents, _ = METHODS[method](backend, [walk(backend, vector, scheduler=scheduler)], guidance, places)
    loss = guide(backend.decode(latents))
    loss.backward()
    return loss.detach(), vector.grad


def learnable(pipe, vector):
    """Put a vector behind new words of the pipeline's tokenizers, differentiably; the prompts that use them."""
    names = [TOKEN, *(f"{TOKEN}_{number}" for number in range(1, len(vector)))]
    models = [(pipe.tokenizer, pipe.text_encoder)]
    if hasattr(pipe, "text_encoder_2"):
        models.append((pipe.tokenizer_2, pipe.text_encoder_2))
    widths = [model.get_input_embeddings().weight.shape[1] for _, model in models]
    for (tokenizer, model), part in zip(models, vector.split(widths, 1), strict=True):
        tokenizer.add_tokens(names)
        old = model.get_input_embeddings().weight
        whole = torch.cat([old.detach(), part])
        for table in model.modules():
            if getattr(table, "weight", None) is old:
                table.forward = lambda ids, whole=whole: whole[ids]
    if hasattr(pipe, "maybe_convert_prompt"):  # puts all vectors of a token in by itself
        return PROMPTS
    return [prompt.replace(TOKEN, " ".join(names)) for prompt in PROMPTS]


def plain_denoiser(pipe, prompts, scale):
    """output(x, t): guided by hand around the family's own encode_prompt and denoiser."""
    if isinstance(pipe, diffusers.StableDiffusionXLPipeline):
        named, empty, pooled, no_pooled = pipe.encode_prompt(prompts)
        side = tiny.IMAGE
        times = torch.tensor([[side, side, 0, 0, side, side]] * len(prompts))

        def run(x, t, named, pooled):
            added = {"text_embeds": pooled, "time_ids": times.to(named.dtype)}
            return pipe.unet(x, t, named, added_cond_kwargs=added).sample

        both = ((named, pooled), (empty, no_pooled))
    elif isinstance(pipe, diffusers.PixArtSigmaPipeline):
        named, mask, empty, no_mask = pipe.encode_prompt(prompts, clean_caption=False)

        def run(x, t, named, mask):
            added = {"resolution": None, "aspect_ratio": None}
            times = t.expand(len(x))
            return pipe.transformer(x, named, times, added, encoder_attention_mask=mask).sample.chunk(2, 1)[0]

        both = ((named, mask), (empty, no_mask))
    else:
        named, empty = pipe.encode_prompt(prompts, "cpu", 1, True)
        if pipe.unet.config.time_cond_proj_dim:
            weights = torch.full((len(prompts),), scale - 1)
            known = pipe.get_guidance_scale_embedding(weights, pipe.unet.config.time_cond_proj_dim, named.dtype)
            return lambda x, t: pipe.unet(x, t, named, timestep_cond=known).sample

        def run(x, t, named):
            return pipe.unet(x, t, named).sample

        both = ((named,), (empty,))

    def guided(x, t):
        u = run(x, t, *both[1]).detach()
        return u + scale * (run(x, t, *both[0]) - u)

    return guided


def plain_gradient(family, method, scale, stop, scheduler=None):
    """The same by hand: new words in the pipeline's own tables, one loop, autograd.grad."""
    pipe = tiny.pipeline(family, torch.float64)
    vector = start_vector(family, torch.float64).requires_grad_()
    predict = plain_denoiser(pipe, learnable(pipe, vector), scale)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(STEPS)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    x = torch.cat([torch.randn(1, *tiny.LATENT, generator=one) for one in generators]).double()
    x = x * pipe.scheduler.init_noise_sigma
    extra = pipe.prepare_extra_step_kwargs(generators, 0.0)
    for number, t in enumerate(pipe.scheduler.timesteps[: stop + 1]):
        last = number == stop
        with torch.set_grad_enabled(last):
            inputs = pipe.scheduler.scale_model_input(x, t)
            output = predict(inputs, t)
            if last and method == "look_ahead":
                a = pipe.scheduler.alphas_cumprod[t.long()].double()
                if pipe.scheduler.config.prediction_type == "epsilon":
                    x = (inputs - (1 - a) ** 0.5 * output) / a**0.5
                else:
                    x = a**0.5 * inputs - (1 - a) ** 0.5 * output
            else:
                x = pipe.scheduler.step(output, t, x, **extra).prev_sample
    loss = guide(pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.float())
    return loss.detach(), torch.autograd.grad(loss, vector)[0]


CASES = [
    *((family, "last_step", 4.0, 0.0, STEPS - 1, scheduler) for family in tiny.FAMILIES
      for scheduler in (None, "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")),
    *((family, "look_ahead", 4.0, 0.5, 2, "DDIMScheduler") for family in tiny.FAMILIES),
    *((family, "look_ahead", 4.0, 0.0, 0, None) for family in ("epsilon", "v_prediction", "turbo", "xl", "pixart")),
    *((family, "last_step", 1.0, 0.0, STEPS - 1, None) for family in ("epsilon", "turbo", "xl_turbo")),
    ("epsilon", "look_ahead", 1.0, 0.999, STEPS - 1, None),
    ("epsilon", "look_ahead", 4.0, 0.5, 2, "DPMSolverMultistepScheduler"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "method", "scale", "place", "stop", "scheduler"), CASES)
def test_gradient_equals_plain_autograd(family, method, scale, place, stop, scheduler):
    ours, gradient = our_gradient(family, method, scale, [place], scheduler)
    loss, expected = plain_gradient(family, method, scale, stop, scheduler)
    torch.testing.assert_close(ours, loss, rtol=1e-4, atol=1e-5)
    assert expected.norm() > 1e-6
    assert (gradient - expected).norm() / expected.norm() < RELATIVE


def test_the_end_of_the_range_is_the_last_step():
    """A place of 1.0 (the upper end a config may name) must not run past the schedule."""
    _, at_end = our_gradient("epsilon", "look_ahead", 4.0, [1.0])
    _, before = our_gradient("epsilon", "look_ahead", 4.0, [0.95])
    assert torch.equal(at_end, before)


@pytest.mark.parametrize("method", ["last_step", "look_ahead"])
def test_trajectories_in_one_batch_do_not_mix(method):
    """Two classes at different places in one batch: each gets the gradient it has alone."""
    backend = tiny.backend("v_prediction")
    guidance = Guidance(backend.unconditional(), 4.0)
    places, seeds = [0.2, 0.7], [[1, 2], [3, 4]]

    def gradients(members):
        learned = {member: (start_vector() * (1 - 2 * member)).requires_grad_() for member in members}
        walks = [walk(backend, learned[member], seeds=seeds[member]) for member in members]
        latents, costs = METHODS[method](backend, walks, guidance, [places[member] for member in members])
        guide(backend.decode(latents)).backward() if len(members) == 1 else sum(
            guide(images) for images in backend.decode(latents).split(2)
        ).backward()
        return {member: (vector.grad, cost) for (member, vector), cost in zip(learned.items(), costs, strict=True)}

    together = gradients([0, 1])
    for member in (0, 1):
        alone, cost = gradients([member])[member]
        assert together[member][1] == cost
        assert (together[member][0] - alone).norm() / alone.norm() < 1e-4


@contextmanager
def counted(unet):
    """Count real U-Net work in samples: one per forward, two more where the output carries a gradient."""
    work = [0]

    def count(module, args, output):
        work[0] += len(output.sample) * (3 if output.sample.requires_grad else 1)

    handle = unet.register_forward_hook(count)
    try:
        yield work
    finally:
        handle.remove()


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("method", [last_step, look_ahead])
@pytest.mark.parametrize("places", [[0.0, 0.0], [0.3, 0.8], [0.99, 0.4]])
def test_reported_cost_is_the_real_work(scale, method, places):
    backend, vector = tiny.backend(), start_vector().requires_grad_()
    guidance = Guidance(backend.unconditional(), scale)
    walks = [walk(backend, vector), walk(backend, vector, seeds=[1], prompts=PROMPTS[:1])]
    with counted(backend.denoiser) as work:
        _, costs = method(backend, walks, guidance, places)
    assert sum(costs) == work[0]
    stops = [STEPS - 1] * 2 if method is last_step else [int(place * STEPS) for place in places]
    branches = 1 if scale == 1.0 else 2
    assert costs == [(stop * branches + 2 + branches) * count for stop, count in zip(stops, (2, 1), strict=True)]
