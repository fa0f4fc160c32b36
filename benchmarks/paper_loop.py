"""The training loop of the paper's own code, written out plainly: one class, one image at a time.

Discriminative Class Tokens (arXiv 2303.17155), code of idansc/discriminative_class_tokens: AdamW on the embedding; an
"epoch" is the same five noises, each denoised under guidance, with the gradient of the last step through both the
conditional and the empty branch; the gradient is accumulated over the five; at most 50 epochs; it ends when more than
70 % of the five are recognised, or after 15 epochs without a lower loss.

Two of its faults are mended, so that it is compared at its best: the gradient is clipped after the backward pass, not
before it, and prompts are padded as in generation.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional

from dct_augment import prompts
from dct_augment.classifiers import Classifier
from dct_augment.config import Config, seed_from
from dct_augment.diffusion import Backend, Conditioning, Sampler, Trajectory
from dct_augment.diffusion.sampling import guided
from dct_augment.records import ClassInfo

LEARNING_RATE, WEIGHT_DECAY, IMAGES, EPOCHS, PATIENCE, ENOUGH = 1.25e-3, 1e-2, 5, 50, 15, 0.7


def train(
    backend: Backend,
    guide: Classifier,
    info: ClassInfo,
    settings: Config,
    *,
    learning_rate: float,
    steps: int,
    scale: float,
    stops: bool = True,
    epochs: int = EPOCHS,
    images: int = IMAGES,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the denoiser evaluations so far and the vector (1, D), before and after every update.

    Without `stops` all `epochs` are run. `images` are the noises of an epoch.
    """
    vector = backend.word("a")[None].clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([vector], lr=learning_rate, weight_decay=WEIGHT_DECAY)
    (target,) = guide.targets([info])
    seeds = [seed_from("paper", info.slug, number) for number in range(images)]
    scheduler = settings.sampling.scheduler
    sampler = Sampler(backend, steps=steps, guidance_scale=scale, scheduler_name=scheduler)
    spent, lowest, stale = 0, float("inf"), 0
    yield spent, vector.detach().clone()
    for _ in range(epochs):
        total, right = 0.0, 0
        for number, seed in enumerate(seeds):
            template, _ = prompts.choose(settings.prompts.templates, ("",), number)
            line = prompts.build(template, info.name, token="<dct-paper>", context="")
            trajectory = sampler.begin([seed], backend.encode([line], vector[None]))
            spent += denoise(sampler, trajectory)
            logits = guide.logits(backend.decode(trajectory.latents))
            loss = functional.cross_entropy(logits, torch.tensor([target], device=logits.device))
            (loss / images).backward()
            total, right = total + loss.item(), right + int(logits.argmax(1).item() == target)
        torch.nn.utils.clip_grad_norm_([vector], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield spent, vector.detach().clone()
        lowest, stale = (total, 0) if total < lowest else (lowest, stale + 1)
        if stops and (right / images > ENOUGH or stale >= PATIENCE):
            return


def denoise(sampler: Sampler, trajectory: Trajectory) -> int:
    """Denoise to the end; the last step keeps its gradient, in both branches. Returns the denoiser evaluations."""
    branches = Conditioning.cat([sampler.unconditional, trajectory.conditioning])
    scale = sampler.guidance_scale
    for index in range(trajectory.length):
        last = index == trajectory.length - 1
        trajectory.index = index
        with torch.set_grad_enabled(last):
            inputs = trajectory.inputs.repeat(2, 1, 1, 1)
            outputs = sampler.backend.denoise(inputs, trajectory.timestep.expand(2), branches, scale)
            unconditional, conditional = outputs.chunk(2)
            trajectory.latents = trajectory.step(guided(conditional, unconditional, scale))
    return 2 * (trajectory.length - 1) + 6
