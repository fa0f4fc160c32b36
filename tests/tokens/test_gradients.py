"""Gradient methods against a loop written out with each family's own diffusers modules, and their cost by counting."""

from typing import Any

import diffusers
import pytest
import torch
from transformers import AddedToken

from dct_augment.config import TokensConfig
from dct_augment.diffusion import Sampler, Trajectory
from dct_augment.diffusion.tokenization import instruction_of
from dct_augment.tokens.gradients import ClassBatch, GradientMethod, LookAhead, gradient_method
from tests import tiny
from tests.tokens.denoisers import counted

TOKEN = "<dct-tiny-crane>"
PROMPTS = [f"a photo of a {TOKEN} crane", f"a drawing of a {TOKEN} crane"]
SEEDS = [3, 4]
STEPS = 5
RELATIVE = 1e-5  # in double precision; in single, batching the two branches apart or together alone costs 1e-5


def start_vector(family: str = "epsilon", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    word = tiny.backend(family).word("a").repeat(2, 1)
    return (word + 0.1 * torch.randn(word.shape, generator=torch.Generator().manual_seed(1))).to(dtype)


def guide(images: torch.Tensor) -> torch.Tensor:
    """A loss that weighs every pixel differently."""
    weights = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(2))
    return (images * weights).sum((1, 2, 3)).tanh().sum() + images.square().mean()


def new_sampler(backend, scale=4.0, scheduler=None) -> Sampler:
    return Sampler(backend, steps=STEPS, guidance_scale=scale, scheduler_name=scheduler)


def trajectory(sampler: Sampler, vector, *, seeds=SEEDS, prompts=PROMPTS) -> Trajectory:
    return sampler.begin(seeds, sampler.backend.encode(prompts, vector.expand(len(prompts), -1, -1)))


SETTINGS: dict[str, dict[str, Any]] = {
    "last_k": {"steps": 2},
    "lv": {"copies": 3},
    "direct_align": {"predicted_noise_share": 0.6},
}


def configured(name, **changes) -> GradientMethod:
    """A method with settings at which no two methods are the same."""
    return gradient_method(TokensConfig(method={"name": name, **SETTINGS.get(name, {}), **changes}).method)


def our_gradient(family, name, scale, position, scheduler=None):
    backend, vector = tiny.backend(family, "float64"), start_vector(family, torch.float64).requires_grad_()
    sampler = new_sampler(backend, scale, scheduler)
    batch = ClassBatch(trajectory(sampler, vector), position)
    loss = guide(backend.decode(configured(name)(sampler, [batch]).latents))
    loss.backward()
    return loss.detach(), vector.grad


def learnable(pipe, vector):
    """Put a vector behind new words of the pipeline's tokenizers, differentiably; the prompts that use them."""
    names = [TOKEN, *(f"{TOKEN}_{number}" for number in range(1, len(vector)))]
    parts = [part for part in ("", "_2", "_3") if getattr(pipe, f"text_encoder{part}", None) is not None]
    models = [(getattr(pipe, f"tokenizer{part}"), getattr(pipe, f"text_encoder{part}")) for part in parts]
    widths = [model.get_input_embeddings().weight.shape[1] for _, model in models]
    for (tokenizer, model), part in zip(models, vector.split(widths, 1), strict=True):
        language = isinstance(pipe, diffusers.SanaPipeline | diffusers.ZImagePipeline)
        new = [AddedToken(name, lstrip=True, normalized=False) for name in names]  # words take the space before them
        tokenizer.add_tokens(new if language else names)
        old = model.get_input_embeddings().weight
        rows = torch.cat([old.detach(), part])
        for table in model.modules():
            if getattr(table, "weight", None) is old:
                scale = getattr(table, "embed_scale", 1.0)
                table.forward = lambda ids, rows=rows, scale=scale: rows[ids] * scale
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
    elif isinstance(pipe, diffusers.FluxPipeline):
        named, pooled, places = pipe.encode_prompt(prompts)
        side = tiny.LATENT[1] // 2
        image_places = pipe._prepare_latent_image_ids(1, side, side, "cpu", named.dtype)

        def embedded(x, t):
            packed = pipe._pack_latents(x, len(x), *tiny.LATENT)
            told = torch.full((len(x),), scale)
            output = pipe.transformer(packed, named, pooled, t.expand(len(x)) / 1000, image_places, places, told).sample
            return pipe._unpack_latents(output, tiny.IMAGE, tiny.IMAGE, pipe.vae_scale_factor)

        return embedded
    elif isinstance(pipe, diffusers.SanaPipeline):
        instruction = instruction_of("SanaPipeline").split("\n")
        named, mask, empty, no_mask = pipe.encode_prompt(prompts, complex_human_instruction=instruction)

        def run(x, t, named, mask):
            times = t.expand(len(x)) * pipe.transformer.config.timestep_scale
            return pipe.transformer(x, named, times, encoder_attention_mask=mask).sample

        both = ((named, mask), (empty, no_mask))
    elif isinstance(pipe, diffusers.ZImagePipeline):
        named, empty = pipe.encode_prompt([*prompts])

        def run(x, t, words):  # type: ignore[misc]
            times = (1000 - t.expand(len(x))) / 1000
            return -torch.stack(pipe.transformer([*x.unsqueeze(2)], times, words).sample).squeeze(2)

        both = ((named,), (empty,))  # type: ignore[assignment]
    elif isinstance(pipe, diffusers.StableDiffusion3Pipeline):
        named, empty, pooled, no_pooled = pipe.encode_prompt(prompts, None, None)

        def run(x, t, named, pooled):
            return pipe.transformer(x, named, pooled, t.expand(len(x))).sample

        both = ((named, pooled), (empty, no_pooled))
    else:
        named, empty = pipe.encode_prompt(prompts, "cpu", 1, True)
        if pipe.unet.config.time_cond_proj_dim:
            weights = torch.full((len(prompts),), scale - 1)
            guidance = pipe.get_guidance_scale_embedding(weights, pipe.unet.config.time_cond_proj_dim, named.dtype)
            return lambda x, t: pipe.unet(x, t, named, timestep_cond=guidance).sample

        def run(x, t, named):  # type: ignore[misc]
            return pipe.unet(x, t, named).sample

        both = ((named,), (empty,))  # type: ignore[assignment]

    def guided(x, t):
        u = run(x, t, *both[1])
        return u + scale * (run(x, t, *both[0]) - u)

    return guided


def plain_gradient(family, name, scale, stop, scheduler=None):
    """The same by hand: new words in the pipeline's own tables, one loop, autograd.grad."""
    pipe = tiny.pipeline(family, torch.float64)
    vector = start_vector(family, torch.float64).requires_grad_()
    predict = plain_denoiser(pipe, learnable(pipe, vector), scale)
    flow = family in tiny.FLOWS
    if scheduler:
        options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0} if flow else {}
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **options)
    mu = (
        {"mu": 0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)}
        if pipe.scheduler.config.get("use_dynamic_shifting")
        else {}
    )
    even = {"sigmas": torch.linspace(1, 1 / STEPS, STEPS)} if family in ("flux", "z_image") else {}
    pipe.scheduler.set_timesteps(STEPS, **mu, **even)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]

    def noise():
        return torch.cat([torch.randn(1, *tiny.LATENT, generator=generator) for generator in generators]).double()

    def level(t):
        if flow:
            sigma = pipe.scheduler.sigmas[steps.index(t)].item()
            return 1 - sigma, sigma
        a = pipe.scheduler.alphas_cumprod[t.long()].double()
        return a**0.5, (1 - a) ** 0.5

    def clean(inputs, output, t):
        alpha, sigma = level(t)
        if flow:
            return inputs - sigma * output
        epsilon = pipe.scheduler.config.prediction_type == "epsilon"
        return (inputs - sigma * output) / alpha if epsilon else alpha * inputs - sigma * output

    x = noise() * getattr(pipe.scheduler, "init_noise_sigma", 1.0)
    extra = {} if flow else pipe.prepare_extra_step_kwargs(generators, 0.0)
    steps = list(pipe.scheduler.timesteps)
    first = {"last_step": len(steps) - 1, "last_k": len(steps) - 2, "full": 0, "look_ahead": stop}.get(name, len(steps))
    for number, t in enumerate(steps[: stop + 1] if name == "look_ahead" else steps):
        with torch.set_grad_enabled(number >= first):
            inputs = x if flow else pipe.scheduler.scale_model_input(x, t)
            output = predict(inputs, t)
            last = name == "look_ahead" and number == stop
            x = clean(inputs, output, t) if last else pipe.scheduler.step(output, t, x, **extra).prev_sample
    if name == "direct_align":
        (alpha, sigma), t, added = level(steps[stop]), steps[stop], noise()
        epsilon = clean_noise(alpha * x + sigma * added, predict(alpha * x + sigma * added, t), alpha, sigma, pipe)
        x = (alpha * x + sigma * added - sigma * (0.6 * epsilon + 0.4 * added)) / alpha
    if name == "lv":
        (alpha, sigma), t, finished, copies = level(steps[-1]), steps[-1], x, []
        noises = []
        for generator in generators:
            noises.append([torch.randn(1, *tiny.LATENT, generator=generator).double() for _ in range(3)])
        for copy in range(3):
            noisy = alpha * finished + sigma * torch.cat([copies_of_image[copy] for copies_of_image in noises])
            copies.append(clean(noisy, predict(noisy, t), t))
        x = torch.stack(copies, 1).flatten(0, 1)
    shift = pipe.vae.config.get("shift_factor") or 0.0
    loss = guide(pipe.vae.decode(x / pipe.vae.config.scaling_factor + shift).sample.float())
    return loss.detach(), torch.autograd.grad(loss, vector)[0]


def clean_noise(noisy, output, alpha, sigma, pipe):
    """The noise that a model output says there is."""
    if pipe.scheduler.config.get("prediction_type", "flow_prediction") == "flow_prediction":  # noise - clean latents
        return noisy + alpha * output
    return output if pipe.scheduler.config.prediction_type == "epsilon" else alpha * output + sigma * noisy


DIFFUSION = [family for family in tiny.FAMILIES if family not in tiny.FLOWS]
METHODS = ("last_step", "last_k", "full", "lv", "look_ahead", "direct_align")
CASES = [
    *((family, name, 4.0, 0.5, 2, None) for family in tiny.FLOWS for name in METHODS),
    *(("sd3", name, 1.0, 0.5, 2, "DPMSolverMultistepScheduler") for name in METHODS[:3]),
    *((family, "last_step", 4.0, 0.0, STEPS - 1, scheduler) for family in DIFFUSION
      for scheduler in (None, "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")),
    *((family, "look_ahead", 4.0, 0.5, 2, "DDIMScheduler") for family in DIFFUSION),
    *((family, "look_ahead", 4.0, 0.0, 0, None) for family in ("epsilon", "v_prediction", "turbo", "xl", "pixart")),
    *((family, "last_step", 1.0, 0.0, STEPS - 1, None) for family in ("epsilon", "turbo", "xl_turbo")),
    ("epsilon", "look_ahead", 1.0, 0.999, STEPS - 1, None),
    ("epsilon", "look_ahead", 4.0, 0.5, 2, "DPMSolverMultistepScheduler"),
    *((family, name, 4.0, 0.5, 2, "DDIMScheduler") for family in ("epsilon", "v_prediction", "xl", "pixart")
      for name in ("last_k", "full", "lv", "direct_align")),
    *(("epsilon", name, 1.0, 0.3, 1, "EulerDiscreteScheduler") for name in ("last_k", "full", "direct_align")),
    *(("v_prediction", name, 4.0, 0.3, 1, "DPMSolverMultistepScheduler") for name in ("last_k", "full")),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "scale", "position", "stop", "scheduler"), CASES)
def test_the_gradient_of_every_method_equals_plain_autograd(family, name, scale, position, stop, scheduler):
    ours, gradient = our_gradient(family, name, scale, position, scheduler)
    loss, expected = plain_gradient(family, name, scale, stop, scheduler)
    torch.testing.assert_close(ours, loss, rtol=1e-4, atol=1e-5)
    assert expected.norm() > 1e-6
    assert (gradient - expected).norm() / expected.norm() < RELATIVE


def test_look_ahead_at_the_end_of_the_range_of_positions_is_at_the_last_step():
    """A position of 1.0 (the upper end a config may name) must not run past the schedule."""
    _, at_end = our_gradient("epsilon", "look_ahead", 4.0, 1.0)
    _, before = our_gradient("epsilon", "look_ahead", 4.0, 0.95)
    assert torch.equal(at_end, before)


@pytest.mark.parametrize("name", METHODS)
def test_classes_in_one_batch_get_the_gradients_they_have_alone(name):
    """Two classes at different positions of the trajectory."""
    sampler = new_sampler(tiny.backend("v_prediction"))
    positions, seeds = [0.2, 0.7], [[1, 2], [3, 4]]

    def gradients(numbers):
        vectors = [(start_vector() * (1 - 2 * number)).requires_grad_() for number in numbers]
        batches = []
        for number, vector in zip(numbers, vectors, strict=True):
            batches.append(ClassBatch(trajectory(sampler, vector, seeds=seeds[number]), positions[number]))
        denoised = configured(name)(sampler, batches)
        images = sampler.backend.decode(denoised.latents).chunk(len(numbers))
        sum(guide(class_images) for class_images in images).backward()
        return [vector.grad for vector in vectors], denoised.evaluations

    together, evaluations = gradients([0, 1])
    for number in (0, 1):
        (alone,), alone_evaluations = gradients([number])
        assert alone_evaluations == [evaluations[number]]
        assert (together[number] - alone).norm() / alone.norm() < 1e-4


FAMILIES_AND_SCALES = [("epsilon", 1.0), ("epsilon", 4.0), ("lcm", 1.0), ("lcm", 4.0)]


@pytest.mark.parametrize(("family", "scale"), FAMILIES_AND_SCALES)
@pytest.mark.parametrize("name", METHODS)
def test_the_stated_cost_of_a_method_is_the_counted_work(family, name, scale):
    """Of classes with another number of images each; without guidance and for an LCM a step is one evaluation."""
    sampler, vector = new_sampler(tiny.backend(family), scale), start_vector(family).requires_grad_()
    trajectories = [trajectory(sampler, vector), trajectory(sampler, vector, seeds=[1], prompts=PROMPTS[:1])]
    batches = [ClassBatch(each, 0.4) for each in trajectories]
    method = LookAhead(mean_position=0.4) if name == "look_ahead" else configured(name)
    if name == "direct_align":
        method = configured(name, updates_per_image=1)
    with counted(sampler.backend) as counted_evaluations:
        denoised = method(sampler, batches)
        sampler.backend.decode(denoised.latents).sum().backward()
    assert sampler.evaluations_per_step == (2 if (family, scale) == ("epsilon", 4.0) else 1)
    stated = method.evaluations_per_image(STEPS, sampler.evaluations_per_step)
    assert denoised.evaluations == [2 * stated, stated]
    assert sum(denoised.evaluations) == counted_evaluations[0]


@pytest.mark.parametrize("name", ["look_ahead", "direct_align"])
def test_the_cost_depends_on_the_position_for_look_ahead_and_not_for_direct_align(name):
    sampler, vector = new_sampler(tiny.backend()), start_vector().requires_grad_()
    batches = [ClassBatch(trajectory(sampler, vector), position) for position in (0.0, 0.3, 0.99)]
    with counted(sampler.backend) as counted_evaluations:
        denoised = configured(name)(sampler, batches)
        sampler.backend.decode(denoised.latents).sum().backward()
    steps = [0, 1, 4] if name == "look_ahead" else [STEPS] * 3
    assert denoised.evaluations == [2 * (2 * count + 4) for count in steps]
    assert sum(denoised.evaluations) == counted_evaluations[0]


def test_the_stated_cost_of_look_ahead_is_for_the_middle_of_its_ranges():
    method = configured("look_ahead", positions=((0.0, 0.4), (0.4, 0.8)))
    assert method.evaluations_per_image(10, 2) == pytest.approx(2 * 10 * 0.4 + 4)


def test_last_k_of_a_shorter_trajectory_costs_its_steps():
    assert configured("last_k").evaluations_per_image(1, 2) == 4


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_direct_align_on_finished_latents_costs_one_step(scale):
    sampler, vector = new_sampler(tiny.backend(), scale), start_vector().requires_grad_()
    first = ClassBatch(trajectory(sampler, vector), 0.5)
    method = configured("direct_align", updates_per_image=2)
    evaluations = method(sampler, [first]).evaluations
    again = ClassBatch(trajectory(sampler, vector, seeds=[8, 9]), 0.5, first.finished)
    with counted(sampler.backend) as counted_evaluations:
        denoised = method(sampler, [again])
        denoised.latents.sum().backward()
    assert denoised.evaluations == [counted_evaluations[0]] == [2 * (2 + sampler.evaluations_per_step)]
    assert first.finished is not None
    assert again.finished is not None
    assert torch.equal(again.finished, first.finished)
    images_and_updates = 2 * 2
    mean = (evaluations[0] + denoised.evaluations[0]) / images_and_updates
    assert method.evaluations_per_image(STEPS, sampler.evaluations_per_step) == mean


def saved_bytes(run):
    """Bytes that autograd keeps for the backward pass of what `run` returns, weights left out."""
    tensors, weights = {}, {weight.data_ptr() for weight in tiny.backend().denoiser.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            tensors[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.nbytes for tensor in tensors.values())


def test_the_activations_that_autograd_keeps_grow_as_each_method_says():
    """In U-Net passes kept: one for last_step and look_ahead, 2 K - 1 for last_k, r for lv, hardly any for full."""
    sampler, vector = new_sampler(tiny.backend()), start_vector().requires_grad_()

    def peak(name):
        batch = ClassBatch(trajectory(sampler, vector), 0.5)
        return saved_bytes(lambda: configured(name)(sampler, [batch]))

    one_pass = peak("last_step")
    assert peak("look_ahead") < 1.1 * one_pass
    assert peak("direct_align") < 1.1 * one_pass
    assert 2.5 < peak("last_k") / one_pass < 3.5
    assert 2.5 < peak("lv") / one_pass < 3.5
    assert peak("full") < one_pass
