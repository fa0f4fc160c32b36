"""Says what was found in the photos, what was chosen for them, and what a run costs."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.first_config.composing import MOST_FOLDS, FirstConfig
from dct_augment.pipeline.first_config.yaml_text import one_line
from dct_augment.wording import counted, listed

_NOTES = 3


def lines(first: FirstConfig) -> list[str]:
    """Say in a few lines what was found and chosen, and what it costs. Loads torch."""
    found = [_found(first), _state(first), _chosen(first), *_missing(first), _tested(first)]
    return [*found, *_work(first), *_notes(first)]


def _notes(first: FirstConfig) -> list[str]:
    """Say what a user should know of photos and words."""
    notes = [f"note: {one_line(note)}" for note in first.photos.overview.notes[:_NOTES]]
    foreign = [info.name for info in first.photos.classes if not info.name.isascii()]
    if foreign:
        names = listed([repr(name) for name in foreign], 3)
        notes.append(f"note: the model reads English; give English words to {names} (dataset.words)")
    return notes


def _found(first: FirstConfig) -> str:
    overview = first.photos.overview
    lost = Counter(picture.class_name for picture in overview.unreadable if picture.split == "train")
    counts = [info.counts["train"] - lost[info.original_name or info.name] for info in overview.classes]
    each = f"{counts[0]} each" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} each"
    found = f"{one_line(str(first.photos.layout.dataset['path']))}: {first.photos.layout.title}; "
    found += f"{counted(len(counts), 'class')}, {counted(sum(counts), 'training photo')}, {each}"
    tests = 0 if first.photos.is_cross_validated else overview.counts["test"]
    return found + (f"; {counted(tests, 'test photo')}" if tests else "")


def _state(first: FirstConfig) -> str:
    overview = first.photos.overview
    copies = sum(len(group.pictures) - 1 for group in overview.groups)
    twice = f"{counted(copies, 'photo', 'is')} a copy of another one" if copies else "no photo is there twice"
    if not overview.unreadable:
        return f"every photo can be read; {twice}"
    reasons = listed([f"{picture.key} ({picture.reason})" for picture in overview.unreadable], 3)
    return f"{counted(len(overview.unreadable), 'photo')} cannot be read, left out: {one_line(reasons)}; {twice}"


def _chosen(first: FirstConfig) -> str:
    model = first.model
    restriction = f"; {model.restriction}" if model.restriction else ""
    return f"model: {model.path}: {model.reason}{restriction}"


def _missing(first: FirstConfig) -> list[str]:
    """Say what cannot be downloaded, in one line; nothing if nothing is missing."""
    if first.is_pocket:
        return []
    is_folder = Path(first.model.path).expanduser().is_dir()
    needed = [] if is_folder else [first.model.path]
    needed += [f"timm/{first.backbone}", f"timm/{first.classifier}"]
    missing = first.machine.missing(needed)
    if not missing:
        return []
    why = "not in the Hub's cache, and HF_HUB_OFFLINE is set; unset it for the first run"
    return [f"missing: {', '.join(missing)}: {why}"]


def _tested(first: FirstConfig) -> str:
    if not first.photos.is_cross_validated:
        whose = "the test split" if first.photos.has_test else "a fifth of the photos, held out"
        return f"test: on {whose}; trained on {counted(first.shots, 'photo')} of a class at most"
    smallest = min(first.photos.different.values())
    names = [info.original_name or info.name for info in first.photos.classes]
    fewest = [name for name, count in zip(names, first.photos.different.values(), strict=True) if count == smallest]
    why = f" ({listed([repr(name) for name in fewest], 3)} {'has' if len(fewest) == 1 else 'have'} no more photos)"
    if not first.folds == smallest < MOST_FOLDS:
        why = ""
    repeats = f", {counted(first.repeats, 'time')} over" if first.repeats > 1 else ""
    return f"test: cross-validation in {first.folds} folds{why}{repeats}"


def _work(first: FirstConfig) -> list[str]:
    """Say what a run costs, what is cheaper, and what is lost by it. Loads torch."""
    from dct_augment.devices import resolve_device
    from dct_augment.pipeline.cost import count
    from dct_augment.pipeline.protocol import check_test, load_dataset
    from dct_augment.pipeline.speed import measure_trials

    config, classes = first.config(), len(first.photos.classes)
    # The file of the words is not there yet, and costs nothing.
    images = config.dataset.model_copy(update={"words": None})
    dataset, _ = load_dataset(config.model_copy(update={"dataset": images}))
    device = resolve_device("cpu" if first.machine.gpu_bytes is None else "auto")
    trials = measure_trials(config, dataset, classes, device)
    work = count(config, classes, first.machine, trials)
    line = f"work: {work.in_words}"
    lines = [line] if first.quick else [line, _cheaper(first, work.seconds, trials)]
    if first.machine.gpu_bytes is None and first.model.family is models.STABLE_DIFFUSION:
        lines.append(_without_gpu(first, trials))
    if remark := check_test(dataset, dataset, config):
        lines.append(remark)
    return lines


def _cheaper(first: FirstConfig, seconds: float, trials: Mapping[str, float]) -> str:
    """Say what `--quick` costs, and what is lost by it."""
    from dct_augment.pipeline.cost import count

    quick = replace(first, quick=True).config()
    share = count(quick, len(first.photos.classes), first.machine, trials).seconds / seconds
    lost = "intervals are wider"
    if first.photos.is_cross_validated:
        lost = "each classifier learns from half of the photos, and intervals are much wider"
    path = shlex.quote(str(first.path.with_stem(f"{first.path.stem}-quick")))
    command = one_line(f"{_without_option(first.command, '--to')} --quick --to {path}")
    return f"cheaper: {command} ({share:.0%} of it; {lost}; tokens may be weaker)"


def _without_option(command: str, option: str) -> str:
    """Write a command without an option and its value."""
    words = shlex.split(command)
    if option in words:
        place = words.index(option)
        del words[place : place + 2]
    return shlex.join(words)


def _without_gpu(first: FirstConfig, trials: Mapping[str, float]) -> str:
    """Say how long a model of few steps takes instead. It has the same denoiser, so the work is the difference."""
    from dct_augment.pipeline.cost import count, duration

    family, fast = models.TURBO, models.FAST
    steps = [f"sampling.num_inference_steps={family.steps}", f"sampling.guidance_scale={family.guidance_scale}"]
    faster = first.config([*steps, f"model.path={fast.path}", "model.revision=null"])
    took = duration(count(faster, len(first.photos.classes), first.machine, trials).seconds)
    ways = [f"--model {fast.path}, {took} here ({fast.restriction})"]
    if not models.unknown_to_pocket([info.name for info in first.photos.classes]):
        ways.append(f"--model {models.POCKET}, minutes, with small images")
    return f"faster: a machine with a GPU; or {'; or '.join(ways)}"
