"""Prints the plan of a command: `--dry-run`, with a `--price` or without."""

import math
from typing import TYPE_CHECKING

from rich.table import Table

from dct_augment.cli.common import console, print_table, say
from dct_augment.files import check_writable
from dct_augment.records import StageName
from dct_augment.wording import counted, size

if TYPE_CHECKING:
    from dct_augment.config import Config


def print_plan(settings: "Config", goal: StageName, *, price: float | None) -> None:
    """Print what is left to do for a stage, its time, memory and room on the disk, and with a price what it costs."""
    import warnings

    warnings.filterwarnings("ignore")
    from dct_augment.diffusion.memory import free_bytes
    from dct_augment.pipeline.cost import estimate, folds_hint
    from dct_augment.pipeline.disk_space import bytes_of_images, free_bytes_at, images_to_make, refuse_full_disk
    from dct_augment.pipeline.memory_needs import LESS_MEMORY
    from dct_augment.pipeline.protocol import check_test
    from dct_augment.pipeline.run import Run
    from dct_augment.pipeline.stages import TrialStage

    if settings.url is None:
        check_writable(settings.root)
    run = Run(settings)
    table = Table(title=f"{settings.name} -> {settings.root}", title_justify="left")
    of_price = () if price is None else (f"at {price:g} an hour",)
    for column in ("part", "to do", "denoiser evaluations", "memory, about", "seconds, about", *of_price):
        table.add_column(column, justify="left" if column == "part" else "right")
    remark = ""
    with console.status("measuring one step"), run.without_writing():
        run.check_settings()
        parts = run.needed_stages(goal)
        if StageName.BENCHMARK in parts:
            remark = check_test(run.real_images(), run.dataset, run.config)
            TrialStage(run).check()
        refuse_full_disk(run, parts, goal)
        plan = estimate(run, parts, goal)
    for line in plan.lines:
        table.add_row(
            line.part, line.todo, f"{line.evaluations:,}", _gigabytes(line.memory), *_cost(line.seconds, price)
        )
    table.add_section()
    evaluations = sum(line.evaluations for line in plan.lines)
    table.add_row("total", "", f"{evaluations:,}", "", *_cost(plan.seconds, price))
    print_table(table)
    free_memory = free_bytes(run.device)
    say(f"memory: {free_memory / 1e9:,.1f} GB are free {_place_of(run.device)}")
    if large := [line.part for line in plan.lines if (line.memory or 0) > free_memory]:
        say(f"too little memory for {', '.join(large)}: {LESS_MEMORY}")
    if images := images_to_make(run, parts, goal):
        needed, free = size(bytes_of_images(run.config, images)), size(free_bytes_at(run.config.root))
        say(f"disk: about {needed} for {counted(images, 'image')}; {free} are free")
    if plan.left_out:
        say(f"not in the seconds: {'; '.join(plan.left_out)}")
    if StageName.ARMS in parts and (hint := folds_hint(run.config, len(run.classes))):
        say(hint)
    if remark:
        say(remark)


def _gigabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e9:.1f} GB"


def _place_of(device: str) -> str:
    return "on this machine" if device == "cpu" else "on the GPU"


def _cost(seconds: float, price: float | None) -> list[str]:
    """Write seconds, rounded up: no work takes none; and with a price of an hour what they cost."""
    if math.isnan(seconds):
        return ["-"] * (1 if price is None else 2)
    whole = f"{math.ceil(seconds):,}"
    return [whole] if price is None else [whole, f"{seconds / 3600 * price:,.2f}"]
