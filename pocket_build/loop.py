"""One training loop for all Pocket models: seeded by step, checkpointed, resumable."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

CHECKPOINT_EVERY = 200


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[torch.Generator], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    work: Path,
    seed: int,
    weight_decay: float = 0.01,
    ema_decay: float = 0.0,
    horizon: int | None = None,
    cooldown: int = 0,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> nn.Module:
    """Minimise `loss(generator)` with AdamW under a one-cycle schedule; return the (EMA) model.

    The cycle spans `horizon` steps (`steps` by default); the last `cooldown` steps lower it to zero linearly.

    The model moves to `device`; random numbers are drawn on the CPU, the same for every device.
    Each step draws from a generator seeded by (seed, step) alone, so a run that resumes from
    `work/<name>.pt` takes the same steps as one that was never stopped.
    """
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=(horizon or steps) + 1, pct_start=0.1, cycle_momentum=False
    )
    ema = {key: value.clone() for key, value in model.state_dict().items()} if ema_decay else None
    path, start = work / f"{name}.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        ema, start = state["ema"], state["step"]
        report(f"{name}: resumed at step {start} of {steps}")
    model.train()
    began, smooth = time.monotonic(), None
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)
        rate = schedule.get_last_lr()[0] * min(1.0, (steps - step) / max(cooldown, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        value = loss(generator)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if ema is not None:
            decay = min(ema_decay, (step + 1) / (step + 10))
            for key, current in model.state_dict().items():
                if current.is_floating_point():
                    ema[key].lerp_(current, 1 - decay)
        smooth = value.item() if smooth is None else 0.95 * smooth + 0.05 * value.item()
        done = step + 1
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            _save(path, model, optimizer, schedule, ema, done)
            left = (time.monotonic() - began) / (done - start) * (steps - done)
            report(f"{name}: step {done}/{steps}, loss {smooth:.5f}, {left / 60:.1f} min left")
    if ema is not None:
        model.load_state_dict(ema)
    return model.eval()


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    ema: dict[str, torch.Tensor] | None,
    step: int,
) -> None:
    partial = path.with_suffix(".partial")
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "ema": ema,
        "step": step,
    }
    torch.save(state, partial)
    os.replace(partial, path)
