"""Lets a scheduler begin in the middle of its steps, where an image that is not pure noise begins."""

from typing import Any

import torch


def skip_steps(scheduler: Any, steps: int) -> int:
    """Let a fresh scheduler begin after its first `steps`; return the index of its timesteps where it does.

    Second-order schedulers have two timesteps a step. Multistep ones begin with their first order, as from pure noise:
    PNDM and LMS count steps from the first of their timesteps, so theirs are cut.
    """
    kind = type(scheduler).__name__
    if kind == "PNDMScheduler":
        _cut_pndm(scheduler, steps)
        return 0
    if kind == "LMSDiscreteScheduler":
        scheduler.timesteps, scheduler.sigmas = scheduler.timesteps[steps:], scheduler.sigmas[steps:]
        return 0
    index = int(steps * scheduler.order)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(index)
    return index


def _cut_pndm(scheduler: Any, steps: int) -> None:
    """Leave the last timesteps, the second of them twice: the first step is one of Heun (arXiv 2202.09778, PLMS)."""
    left = torch.as_tensor(scheduler._timesteps[::-1][steps:].copy())
    scheduler.timesteps = torch.cat([left[:2], left[1:]]).to(scheduler.timesteps.device)
    scheduler.register_to_config(skip_prk_steps=True)
