"""Examines the machine: packages, GPU, memory, disk, the Prefect server."""

import importlib.metadata
import os
import subprocess
import sys
import urllib.error
import urllib.request

from packaging.requirements import Requirement

from dct_augment.config import Config
from dct_augment.diffusion.memory import free_bytes
from dct_augment.pipeline.cost import machine_of
from dct_augment.pipeline.disk_space import bytes_of_images, free_bytes_at, side_of
from dct_augment.pipeline.doctor.finding import Finding
from dct_augment.pipeline.memory_needs import LESS_MEMORY, model_needs
from dct_augment.wording import counted, reason_of, size


def packages() -> Finding:
    """Examine whether all packages are here in the needed versions."""
    problems = []
    for line in importlib.metadata.requires("dct-augment") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} is {version}, needed {requirement.specifier}")
    if problems:
        return Finding("packages", "missing", "; ".join(problems), "install with the project's constraints.txt")
    python = ".".join(map(str, sys.version_info[:3]))
    return Finding("packages", "ok", f"Python {python}; all in the needed versions")


def machine(config: Config) -> Finding:
    """Examine GPU, memory and cores."""
    memory = f"{free_bytes('cpu') / 1e9:.0f} GB of memory free, {os.cpu_count()} cores"
    if gpus := _gpus():
        return Finding("machine", "ok", f"{gpus}; {memory}")
    if config.device.startswith("cuda"):
        return Finding("machine", "missing", f"no GPU; {memory}", "use --device cpu, or a machine with a CUDA GPU")
    if config.model.path != "pocket":
        fix = "a large model on a CPU takes minutes an image; use a CUDA GPU, or --config pocket to try things out"
        return Finding("machine", "warning", f"no GPU; {memory}", fix)
    return Finding("machine", "ok", f"no GPU, none needed; {memory}")


def _gpus() -> str:
    """Name the GPUs and their free memory; empty if there are none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(line.strip() for line in answer.splitlines() if line.strip())


def disk(config: Config, images: int | None) -> Finding:
    """Examine whether the images of a run fit on the disk."""
    free = free_bytes_at(config.root)
    if images is None:
        return Finding("disk", "ok", f"{size(free)} free; the need is known once the data set is there")
    needed = bytes_of_images(config, images)
    detail = f"about {size(needed)} for {counted(images, 'image')} of {side_of(config)} pixels; {size(free)} free"
    if free < needed:
        return Finding("disk", "missing", detail, "choose another --output, fewer --per-class, or image_format=jpg")
    return Finding("disk", "ok", detail)


def server(address: str) -> Finding:
    """Ask the Prefect server whether it answers."""
    what = "Prefect server"
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=5):
            return Finding(what, "ok", address)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(
            what, "warning", f"{address} does not answer: {reason_of(error)}", "start it, or unset PREFECT_API_URL"
        )


def memory(config: Config) -> Finding:
    """Examine whether the text-to-image model, with guide and judge, fits the memory of the device."""
    what, here = "memory", machine_of(config)
    device, free = ("cpu", free_bytes("cpu")) if here.gpu_bytes is None else ("cuda", here.gpu_bytes)
    needs = model_needs(config, device, free)
    if needs is None:
        return Finding(what, "ok", "known once the text-to-image model is there")
    there = "of memory" if device == "cpu" else "of the GPU's memory"
    detail = (
        f"about {needs.tokens / 1e9:.1f} GB for class tokens and {needs.images / 1e9:.1f} GB for images, in each "
        f"process; {free / 1e9:.0f} GB {there} free"
    )
    if max(needs.tokens, needs.images) > free:
        return Finding(what, "missing", detail, LESS_MEMORY)
    return Finding(what, "ok", detail)
