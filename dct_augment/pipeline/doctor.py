"""Says before a run what it needs: what is there, what is missing, and where to get it. Downloads nothing."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from dct_augment import datasets, pocket
from dct_augment.config import ClassifierConfig, Config
from dct_augment.errors import DatasetError
from dct_augment.pipeline.cost import token_evaluations

State = Literal["ok", "warning", "missing"]

_WEIGHTS = (".safetensors", ".bin")
_PUBLISHED: dict[str, tuple[str, int | None]] = {
    "cub": ("1.1 GB from Caltech Vision; for non-commercial research", 200),
    "inat": ("from the iNaturalist competition: 42 GB (train_mini), 224 GB (train); for non-commercial use", None),
    "imagenet": ("about 150 GB after registration at image-net; for non-commercial research", 1000),
}
"""Size and terms of public data sets, and their classes."""

_ACCEPT = "read and accept the licence on the model's page if it asks for that (huggingface-cli login)"
_BYTES_PER_PIXEL = {"png": 1.7, "webp": 0.25, "jpg": 0.35}  # of photographs, roughly


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and the fix if it is not well."""

    what: str
    state: State
    detail: str
    fix: str = ""


def examine(config: Config) -> Iterator[Finding]:
    """Look at everything that a run with this configuration needs."""
    yield _packages()
    yield _machine(config)
    yield _text_to_image(config)
    for role, members in (("guide", config.guide), ("judge", config.judge or ())):
        for member in members:
            yield _classifier(role, member)
    if config.benchmark.pretrained:
        yield _classifier("few-shot classifier", ClassifierConfig(name=config.benchmark.model))
    if config.metrics.features not in (None, "auto", "judge", "guide"):
        yield _features(str(config.metrics.features), config.metrics.inception_weights)
    data, count = _data(config)
    yield data
    yield _disk(config, count)
    yield _context(config, count)
    if address := os.environ.get("PREFECT_API_URL"):
        yield _server(address)


def _packages() -> Finding:
    python = ".".join(map(str, sys.version_info[:3]))
    wrong = []
    for line in importlib.metadata.requires("dct-augment") or []:
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate():
            try:
                found = importlib.metadata.version(need.name)
            except importlib.metadata.PackageNotFoundError:
                wrong.append(f"{need.name} is not installed")
                continue
            if not need.specifier.contains(found, prereleases=True):
                wrong.append(f"{need.name} is {found}, needed {need.specifier}")
    if wrong:
        return Finding("packages", "missing", "; ".join(wrong), "install with the project's constraints.txt")
    return Finding("packages", "ok", f"Python {python}; all in the needed versions")


def _machine(config: Config) -> Finding:
    memory = f"{_available() / 1e9:.0f} GB of memory free, {os.cpu_count()} cores"
    query = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        gpus = "; ".join(line.strip() for line in said.splitlines() if line.strip())
    except (OSError, subprocess.SubprocessError):
        gpus = ""
    if gpus:
        return Finding("machine", "ok", f"{gpus}; {memory}")
    if config.device.startswith("cuda"):
        return Finding("machine", "missing", f"no GPU; {memory}", "use --device cpu, or a machine with a CUDA GPU")
    if config.model.path != "pocket":
        fix = "a large model on a CPU takes minutes an image; use a CUDA GPU, or --config pocket to try things out"
        return Finding("machine", "warning", f"no GPU; {memory}", fix)
    return Finding("machine", "ok", f"no GPU, none needed; {memory}")


def _available() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _text_to_image(config: Config) -> Finding:
    name, what = config.model.path, "text-to-image model"
    if name == "pocket":
        return Finding(what, "ok", f"pocket, shipped, {_size(pocket.path()) / 1e6:.0f} MB")
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        return Finding(what, "missing", f"{name}: no such folder", "give a folder saved by diffusers, or a Hub id")
    index = folder / "model_index.json" if folder.is_dir() else _cached(name, "model_index.json", config.model.revision)
    if index is None or not index.is_file():
        return _absent(what, name, "model_index.json", folder.is_dir())
    parts = json.loads(index.read_text(encoding="utf-8"))
    unused = ("safety_checker", "feature_extractor", "image_encoder", "scheduler")
    models = [part for part, value in parts.items() if isinstance(value, list) and value[0] and part not in unused]
    missing = [part for part in models if not _whole(index.parent / part, config.model.variant)]
    if missing:
        return _absent(what, name, ", ".join(missing), folder.is_dir())
    return Finding(what, "ok", f"{name}: {parts['_class_name']}, {_size(index.parent) / 1e9:.1f} GB in {index.parent}")


def _whole(part: Path, variant: str | None) -> bool:
    """Whether a component's folder holds weights of the variant, or is a tokenizer."""
    if "tokenizer" in part.name:
        return part.is_dir() and any(part.iterdir())
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    return part.is_dir() and any(file.name.endswith(ending) for file in part.iterdir())


def _classifier(role: str, member: ClassifierConfig) -> Finding:
    name = member.name
    for path in (member.checkpoint, member.labels, member.match if isinstance(member.match, Path) else None):
        if path is not None and not path.is_file():
            return Finding(role, "missing", f"{name}: {path} does not exist", "correct the path")
    if name.startswith("pocket/"):
        known = name.removeprefix("pocket/") in pocket.CLASSIFIERS
        return Finding(role, "ok" if known else "missing", f"{name}, {'shipped' if known else 'unknown'}",
                       "" if known else f"choose one of: {', '.join(pocket.CLASSIFIERS)}")  # fmt: skip
    if member.library == "function" or member.checkpoint:
        return Finding(role, "ok", f"{name}, your own")
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    local = folder.is_dir() or name.startswith(("local-dir:", ".", "/", "~"))
    if local:
        there = (folder / "config.json").is_file() and any(file.suffix in _WEIGHTS for file in folder.iterdir())
        return (
            Finding(role, "ok", f"{name}, a folder") if there else _absent(role, name, "config.json or weights", True)
        )
    hub = name.removeprefix("hf-hub:") if "/" in name else f"timm/{name}"
    files = ("model.safetensors", "pytorch_model.bin")
    if any(_cached(hub, file, member.revision) for file in files):
        return Finding(role, "ok", f"{name}, in the Hub's cache")
    return _absent(role, name, "weights", False)


def _features(name: str, weights: Path | None) -> Finding:
    what = "image features"
    if name != "inception":
        return _classifier(what, ClassifierConfig(name=name))
    if importlib.util.find_spec("torch_fidelity") is None:
        return Finding(what, "missing", "inception needs torch-fidelity", "pip install 'dct-augment[inception]'")
    if weights and not weights.is_file():
        return Finding(what, "missing", f"inception: {weights} does not exist", "correct metrics.inception_weights")
    return Finding(what, "ok", f"inception, {weights or '90 MB, downloaded once'}")


def _absent(what: str, name: str, part: str, local: bool) -> Finding:
    if local:
        return Finding(what, "missing", f"{name} lacks {part}", "complete the folder, or correct the path or variant")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return Finding(what, "missing", f"{name}: {part} not in the Hub's cache, and HF_HUB_OFFLINE is set",
                       f"unset HF_HUB_OFFLINE for the first run, or copy the cache here; {_ACCEPT}")  # fmt: skip
    return Finding(what, "missing", f"{name}: {part} not in the Hub's cache yet",
                   f"the first run downloads it from the Hub; {_ACCEPT}")  # fmt: skip


def _cached(repository: str, file: str, revision: str | None) -> Path | None:
    """A file in the Hub's cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _data(config: Config) -> tuple[Finding, int | None]:
    """The data set, and how many classes a run has, if that is known."""
    chosen = config.dataset.classes
    try:
        data = datasets.load(config.dataset)
        classes = datasets.select(data, chosen)
    except DatasetError as error:
        licence, count = _PUBLISHED.get(config.dataset.name, ("", None))
        return Finding("data set", "missing", str(error), licence), len(chosen) if chosen else count
    sizes = ", ".join(f"{len(data.examples(split)):,} {split}" for split in ("train", "val", "test"))
    return Finding("data set", "ok", f"{data.name}: {len(classes)} classes; {sizes} images"), len(classes)


def _disk(config: Config, classes: int | None) -> Finding:
    place = config.root.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if classes is None:
        return Finding("disk", "ok", f"{free / 1e9:.0f} GB free; the need is known once the data set is there")
    side, images = 64 if config.model.path == "pocket" else 512, 2 * classes * config.generation.per_class
    needed = images * side * side * _BYTES_PER_PIXEL[config.generation.image_format]
    detail = f"about {needed / 1e6:,.0f} MB for {images:,} images, with and without tokens; {free / 1e9:.0f} GB free"
    if free < needed:
        return Finding("disk", "missing", detail, "choose another --output, fewer --per-class, or image_format=jpg")
    return Finding("disk", "ok", detail)


def _context(config: Config, classes: int | None) -> Finding:
    if classes is None:
        return Finding("work", "ok", "known once the data set is there")
    sampling = config.sampling
    per_image = sampling.num_inference_steps * (1 if sampling.guidance_scale == 1 else 2)
    tokens = token_evaluations(config, per_image) * classes
    images = 2 * classes * config.generation.per_class * per_image
    detail = f"about {tokens:,} U-Net evaluations for tokens (one whole attempt each), {images:,} for images"
    pace = f"; {(tokens + images) / 3600 / 20:,.0f} hours at 20 a second" if config.model.path != "pocket" else ""
    return Finding("work", "ok", f"{detail}{pace}", "`--dry-run` measures this machine's pace")


def _server(address: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=5):
            return Finding("Prefect server", "ok", address)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(
            "Prefect server", "warning", f"{address} does not answer: {error}", "start it, or unset PREFECT_API_URL"
        )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
