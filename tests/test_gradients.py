"""Gradient methods against a loop written out with the raw diffusers modules, and their cost by counting."""

from contextlib import contextmanager

import pytest
import tiny
import torch

from dct_augment.diffusion import Trajectory
from dct_augment.gradients import METHODS, Guidance, last_step, look_ahead

TOKEN = "<dct-tiny-crane>"
PROMPTS = [f"a photo of a {TOKEN} crane", f"a drawing of a {TOKEN} crane"]
SEEDS = [3, 4]
STEPS = 5


def start_vector() -> torch.Tensor:
    return tiny.backend().word("a").repeat(2, 1) + 0.1 * torch.randn(
        2, tiny.WIDTH, generator=torch.Generator().manual_seed(1)
    )


def guide(images: torch.Tensor) -> torch.Tensor:
    """Some loss that weighs every pixel differently."""
    weights = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(2))
    return (images * weights).sum((1, 2, 3)).tanh().sum() + images.square().mean()


def walk(backend, vector, *, seeds=SEEDS, prompts=PROMPTS, scheduler=None) -> Trajectory:
    encoding = backend.encode(prompts, vector.expand(len(prompts), -1, -1))
    return Trajectory(backend.scheduler(STEPS, scheduler), backend.latents(seeds), encoding)


def our_gradient(prediction, method, scale, places, scheduler=None):
    backend, vector = tiny.backend(prediction), start_vector().requires_grad_()
    guidance = Guidance(backend.encode([""]), scale)
    latents, _ = METHODS[method](backend, [walk(backend, vector, scheduler=scheduler)], guidance, places)
    loss = guide(backend.decode(latents))
    loss.backward()
    return loss.detach(), vector.grad


def plain_gradient(prediction, method, scale, stop, scheduler=None):
    """The same by hand: ids from the pipeline's tokenizer with the vectors in the table, one loop, autograd.grad."""
    pipe = tiny.pipeline(prediction)
    vector = start_vector().requires_grad_()
    names = [TOKEN, f"{TOKEN}_1"]
    pipe.tokenizer.add_tokens(names)
    ids = pipe.tokenizer(
        [prompt.replace(TOKEN, " ".join(names)) for prompt in PROMPTS] + [""],
        padding="max_length",
        max_length=tiny.LENGTH,
        return_tensors="pt",
    ).input_ids
    table = pipe.text_encoder.get_input_embeddings()
    whole = torch.cat([table.weight.detach(), vector])
    table.forward = lambda input_ids: whole[input_ids]
    encoded = pipe.text_encoder(ids).last_hidden_state
    named, empty = encoded[: len(PROMPTS)], encoded[len(PROMPTS) :].detach().expand(len(PROMPTS), -1, -1)
    if scheduler:
        import diffusers

        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(STEPS)
    x = torch.cat([torch.randn(1, *tiny.LATENT, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    for number, t in enumerate(pipe.scheduler.timesteps[: stop + 1]):
        last = number == stop
        with torch.set_grad_enabled(last):
            c = pipe.unet(x, t, named).sample
            u = pipe.unet(x, t, empty).sample.detach()
            output = u + scale * (c - u)
            if last and method == "look_ahead":
                a = pipe.scheduler.alphas_cumprod[t]
                x = (
                    (x - (1 - a) ** 0.5 * output) / a**0.5
                    if prediction == "epsilon"
                    else a**0.5 * x - (1 - a) ** 0.5 * output
                )
            else:
                x = pipe.scheduler.step(output, t, x).prev_sample
    loss = guide(pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample)
    return loss.detach(), torch.autograd.grad(loss, vector)[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("method", "scale", "place", "stop", "scheduler"),
    [
        ("last_step", 4.0, 0.0, STEPS - 1, None),
        ("last_step", 1.0, 0.0, STEPS - 1, None),
        ("last_step", 4.0, 0.0, STEPS - 1, "DPMSolverMultistepScheduler"),
        ("look_ahead", 4.0, 0.0, 0, None),
        ("look_ahead", 4.0, 0.5, 2, None),
        ("look_ahead", 1.0, 0.999, STEPS - 1, None),
        ("look_ahead", 4.0, 0.5, 2, "DPMSolverMultistepScheduler"),
    ],
)
def test_gradient_equals_plain_autograd(prediction, method, scale, place, stop, scheduler):
    ours, gradient = our_gradient(prediction, method, scale, [place], scheduler)
    loss, expected = plain_gradient(prediction, method, scale, stop, scheduler)
    torch.testing.assert_close(ours, loss, rtol=1e-4, atol=1e-5)
    assert expected.norm() > 1e-6
    assert (gradient - expected).norm() / expected.norm() < RELATIVE


RELATIVE = 1e-4  # float32; batching the two branches apart or together alone costs 1e-5


def test_the_end_of_the_range_is_the_last_step():
    """A place of 1.0 (the upper end a config may name) must not run past the schedule."""
    _, at_end = our_gradient("epsilon", "look_ahead", 4.0, [1.0])
    _, before = our_gradient("epsilon", "look_ahead", 4.0, [0.95])
    assert torch.equal(at_end, before)


@pytest.mark.parametrize("method", ["last_step", "look_ahead"])
def test_trajectories_in_one_batch_do_not_mix(method):
    """Two classes at different places in one batch: each gets the gradient it has alone."""
    backend = tiny.backend("v_prediction")
    guidance = Guidance(backend.encode([""]), 4.0)
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
        assert (together[member][0] - alone).norm() / alone.norm() < RELATIVE


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
    guidance = Guidance(backend.encode([""]), scale)
    walks = [walk(backend, vector), walk(backend, vector, seeds=[1], prompts=PROMPTS[:1])]
    with counted(backend.unet) as work:
        _, costs = method(backend, walks, guidance, places)
    assert sum(costs) == work[0]
    stops = [STEPS - 1] * 2 if method is last_step else [int(place * STEPS) for place in places]
    branches = 1 if scale == 1.0 else 2
    assert costs == [(stop * branches + 2 + branches) * count for stop, count in zip(stops, (2, 1), strict=True)]
