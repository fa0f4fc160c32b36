"""Gradient methods against a loop written out with each family's own diffusers modules, and their cost by counting."""

from contextlib import contextmanager

import diffusers
import pytest
import torch

from dct_augment.config import TokensConfig
from dct_augment.diffusion import Trajectory
from dct_augment.tokens.gradients import ClassBatch, Guidance, method
from tests import tiny

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


def trajectory(backend, vector, *, seeds=SEEDS, prompts=PROMPTS, scheduler=None) -> Trajectory:
    encoding = backend.encode(prompts, vector.expand(len(prompts), -1, -1))
    return Trajectory.begin(backend, seeds, encoding, steps=STEPS, scheduler=scheduler)


SETTINGS = {
    "last_k": {"name": "last_k", "steps": 2},
    "lv": {"name": "lv", "copies": 3},
    "direct_align": {"name": "direct_align", "predicted_noise_share": 0.6},
}


def reach(name, backend, draws, guidance):
    """What a method makes of the draws, with settings at which no two methods are the same."""
    settings = TokensConfig(method=SETTINGS.get(name, name))
    return method(settings.method)(backend, draws, guidance)


def our_gradient(family, name, scale, place, scheduler=None):
    backend, vector = tiny.backend(family, "float64"), start_vector(family, torch.float64).requires_grad_()
    guidance = Guidance(backend.unconditional(), scale)
    draw = ClassBatch(trajectory(backend, vector, scheduler=scheduler), place)
    loss = guide(backend.decode(reach(name, backend, [draw], guidance).latents))
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
        u = run(x, t, *both[1])
        return u + scale * (run(x, t, *both[0]) - u)

    return guided


def plain_gradient(family, name, scale, stop, scheduler=None):
    """The same by hand: new words in the pipeline's own tables, one loop, autograd.grad."""
    pipe = tiny.pipeline(family, torch.float64)
    vector = start_vector(family, torch.float64).requires_grad_()
    predict = plain_denoiser(pipe, learnable(pipe, vector), scale)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(STEPS)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]

    def noise():
        return torch.cat([torch.randn(1, *tiny.LATENT, generator=one) for one in generators]).double()

    def level(t):
        a = pipe.scheduler.alphas_cumprod[t.long()].double()
        return a**0.5, (1 - a) ** 0.5

    def clean(inputs, output, t):
        alpha, sigma = level(t)
        epsilon = pipe.scheduler.config.prediction_type == "epsilon"
        return (inputs - sigma * output) / alpha if epsilon else alpha * inputs - sigma * output

    x = noise() * pipe.scheduler.init_noise_sigma
    extra = pipe.prepare_extra_step_kwargs(generators, 0.0)
    steps = list(pipe.scheduler.timesteps)
    first = {"last_step": len(steps) - 1, "last_k": len(steps) - 2, "full": 0, "look_ahead": stop}.get(name, len(steps))
    for number, t in enumerate(steps[: stop + 1] if name == "look_ahead" else steps):
        with torch.set_grad_enabled(number >= first):
            inputs = pipe.scheduler.scale_model_input(x, t)
            output = predict(inputs, t)
            last = name == "look_ahead" and number == stop
            x = clean(inputs, output, t) if last else pipe.scheduler.step(output, t, x, **extra).prev_sample
    if name == "direct_align":
        (alpha, sigma), t, added = level(steps[stop]), steps[stop], noise()
        epsilon = clean_noise(alpha * x + sigma * added, predict(alpha * x + sigma * added, t), alpha, sigma, pipe)
        x = (alpha * x + sigma * added - sigma * (0.6 * epsilon + 0.4 * added)) / alpha
    if name == "lv":
        (alpha, sigma), t, finished, copies = level(steps[-1]), steps[-1], x, []
        drawn = [[torch.randn(1, *tiny.LATENT, generator=one).double() for _ in range(3)] for one in generators]
        for copy in range(3):
            noisy = alpha * finished + sigma * torch.cat([mine[copy] for mine in drawn])
            copies.append(clean(noisy, predict(noisy, t), t))
        x = torch.stack(copies, 1).flatten(0, 1)
    loss = guide(pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.float())
    return loss.detach(), torch.autograd.grad(loss, vector)[0]


def clean_noise(noisy, output, alpha, sigma, pipe):
    """The noise that a model output says there is."""
    return output if pipe.scheduler.config.prediction_type == "epsilon" else alpha * output + sigma * noisy


CASES = [
    *((family, "last_step", 4.0, 0.0, STEPS - 1, scheduler) for family in tiny.FAMILIES
      for scheduler in (None, "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")),
    *((family, "look_ahead", 4.0, 0.5, 2, "DDIMScheduler") for family in tiny.FAMILIES),
    *((family, "look_ahead", 4.0, 0.0, 0, None) for family in ("epsilon", "v_prediction", "turbo", "xl", "pixart")),
    *((family, "last_step", 1.0, 0.0, STEPS - 1, None) for family in ("epsilon", "turbo", "xl_turbo")),
    ("epsilon", "look_ahead", 1.0, 0.999, STEPS - 1, None),
    ("epsilon", "look_ahead", 4.0, 0.5, 2, "DPMSolverMultistepScheduler"),
    *((family, name, 4.0, 0.5, 2, "DDIMScheduler") for family in ("epsilon", "v_prediction", "xl", "pixart")
      for name in ("last_k", "full", "lv", "direct_align")),
    *(("epsilon", name, 1.0, 0.3, 1, "EulerDiscreteScheduler") for name in ("last_k", "full", "direct_align")),
    *(("v_prediction", name, 4.0, 0.3, 1, "DPMSolverMultistepScheduler") for name in ("last_k", "full")),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "scale", "place", "stop", "scheduler"), CASES)
def test_gradient_equals_plain_autograd(family, name, scale, place, stop, scheduler):
    ours, gradient = our_gradient(family, name, scale, place, scheduler)
    loss, expected = plain_gradient(family, name, scale, stop, scheduler)
    torch.testing.assert_close(ours, loss, rtol=1e-4, atol=1e-5)
    assert expected.norm() > 1e-6
    assert (gradient - expected).norm() / expected.norm() < RELATIVE


def test_the_end_of_the_range_is_the_last_step():
    """A place of 1.0 (the upper end a config may name) must not run past the schedule."""
    _, at_end = our_gradient("epsilon", "look_ahead", 4.0, 1.0)
    _, before = our_gradient("epsilon", "look_ahead", 4.0, 0.95)
    assert torch.equal(at_end, before)


METHODS = ("last_step", "last_k", "full", "lv", "look_ahead", "direct_align")


@pytest.mark.parametrize("name", METHODS)
def test_trajectories_in_one_batch_do_not_mix(name):
    """Two classes at different places in one batch: each gets the gradient it has alone."""
    backend = tiny.backend("v_prediction")
    guidance = Guidance(backend.unconditional(), 4.0)
    places, seeds = [0.2, 0.7], [[1, 2], [3, 4]]

    def gradients(members):
        learned = {member: (start_vector() * (1 - 2 * member)).requires_grad_() for member in members}
        draws = [
            ClassBatch(trajectory(backend, learned[member], seeds=seeds[member]), places[member]) for member in members
        ]
        reached = reach(name, backend, draws, guidance)
        images = backend.decode(reached.latents).chunk(len(members))
        sum(guide(mine) for mine in images).backward()
        return {
            member: (vector.grad, cost) for (member, vector), cost in zip(learned.items(), reached.costs, strict=True)
        }

    together = gradients([0, 1])
    for member in (0, 1):
        alone, cost = gradients([member])[member]
        assert together[member][1] == cost
        assert (together[member][0] - alone).norm() / alone.norm() < 1e-4


@contextmanager
def counted(unet):
    """Count real U-Net work in samples: forward passes when they run, two more for each backward pass."""
    work = [0]

    def begin(module, args):  # a checkpointed pass that is run again stops before its end
        work[0] += len(args[0])

    def end(module, args, output):
        if output.sample.requires_grad:
            output.sample.register_hook(lambda gradient: work.__setitem__(0, work[0] + 2 * len(gradient)))

    handles = (unet.register_forward_pre_hook(begin), unet.register_forward_hook(end))
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


COSTS = {  # of one image for N guided steps: forward 1, backward 2
    "last_step": lambda n, s, e: (n - 1) * e + 2 + e,
    "last_k": lambda n, s, e: (n - 2) * e + 2 + e + 3 * e,
    "full": lambda n, s, e: 3 + e + 4 * e * (n - 1),
    "lv": lambda n, s, e: n * e + 3 * (2 + e),
    "look_ahead": lambda n, s, e: s * e + 2 + e,
    "direct_align": lambda n, s, e: n * e + 2 + e,
}


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("places", [[0.0, 0.0], [0.3, 0.8], [0.99, 0.4]])
def test_reported_cost_is_the_real_work(scale, name, places):
    backend, vector = tiny.backend(), start_vector().requires_grad_()
    guidance = Guidance(backend.unconditional(), scale)
    trajectories = [trajectory(backend, vector), trajectory(backend, vector, seeds=[1], prompts=PROMPTS[:1])]
    draws = [ClassBatch(one, place) for one, place in zip(trajectories, places, strict=True)]
    with counted(backend.denoiser) as work:
        reached = reach(name, backend, draws, guidance)
        backend.decode(reached.latents).sum().backward()
    assert sum(reached.costs) == work[0]
    branches = 1 if scale == 1.0 else 2
    stops = [int(place * STEPS) for place in places]
    assert reached.costs == [
        COSTS[name](STEPS, stop, branches) * count for stop, count in zip(stops, (2, 1), strict=True)
    ]


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_finished_image_serves_again_for_one_step(scale):
    backend, vector = tiny.backend(), start_vector().requires_grad_()
    guidance = Guidance(backend.unconditional(), scale)
    first = ClassBatch(trajectory(backend, vector), 0.5)
    reach("direct_align", backend, [first], guidance)
    again = ClassBatch(trajectory(backend, vector, seeds=[8, 9]), 0.5, first.finished)
    with counted(backend.denoiser) as work:
        reached = reach("direct_align", backend, [again], guidance)
        reached.latents.sum().backward()
    assert reached.costs == [work[0]] == [2 * (2 + (1 if scale == 1.0 else 2))]
    assert torch.equal(again.finished, first.finished)


def saved_bytes(run):
    """Bytes that autograd keeps for the backward pass of what `run` returns, weights left out."""
    kept, weights = {}, {one.data_ptr() for one in tiny.backend().denoiser.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(one.nbytes for one in kept.values())


def test_peak_activations_grow_as_each_method_says():
    """In U-Net passes kept: one for last_step and look_ahead, 2 K - 1 for last_k, r for lv, hardly any for full."""
    backend, vector = tiny.backend(), start_vector().requires_grad_()
    guidance = Guidance(backend.unconditional(), 4.0)

    def kept(name):
        draw = ClassBatch(trajectory(backend, vector), 0.5)
        return saved_bytes(lambda: reach(name, backend, [draw], guidance))

    one = kept("last_step")
    assert kept("look_ahead") < 1.1 * one
    assert kept("direct_align") < 1.1 * one
    assert 2.5 < kept("last_k") / one < 3.5
    assert 2.5 < kept("lv") / one < 3.5
    assert kept("full") < one
