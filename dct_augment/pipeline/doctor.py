"""Examines before a run what it needs: what is there, what is missing, and where to get it. Downloads nothing."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from dct_augment import datasets, pocket
from dct_augment.classifiers import shapes
from dct_augment.classifiers.names import ResolvedName, refuse_backbone, refuse_trained, resolve, resolve_zero_shot
from dct_augment.config import (
    ClassifierConfig,
    Config,
    FewShotClassifierConfig,
    HuggingFaceDataset,
    ZeroShotClassifierConfig,
)
from dct_augment.devices import resolve_device
from dct_augment.diffusion.memory import free_bytes
from dct_augment.diffusion.names import cached_file, local_folder
from dct_augment.diffusion.tokenization import tokenizers_here
from dct_augment.errors import DatasetError, InputError, ModelError
from dct_augment.pipeline import text_encoders
from dct_augment.pipeline.cost import Work, count, folds_hint, machine_of, metric_work
from dct_augment.pipeline.first_config import models
from dct_augment.pipeline.prompt_check import check_class_names, check_lengths
from dct_augment.pipeline.protocol import check_test, load_dataset
from dct_augment.pipeline.speed import measure_trials
from dct_augment.records import ClassInfo, Dataset
from dct_augment.wording import counted, hub_is_offline, reason_of

State = Literal["ok", "warning", "missing"]

_UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder", "scheduler")
_BY_TORCHVISION = "torchvision downloads it (`download=True`)"
_PUBLISHED: dict[str, tuple[str, int | None]] = {
    "cub": ("1.1 GB from Caltech Vision; for non-commercial research", 200),
    "inat": ("from the iNaturalist competition: 42 GB (train_mini), 224 GB (train); for non-commercial use", None),
    "imagenet": ("about 150 GB after registration at image-net; for non-commercial research", 1000),
    "aircraft": (f"{_BY_TORCHVISION}, 2.8 GB; for non-commercial research", 100),
    "flowers102": (f"{_BY_TORCHVISION}, 350 MB", 102),
    "pets": (f"{_BY_TORCHVISION}, 800 MB; CC BY-SA 4.0", 37),
    "cars": ("1.9 GB, from a mirror of the published files; for non-commercial research", 196),
    "food101": (f"{_BY_TORCHVISION}, 5 GB; pictures of Foodspotting, for research", 101),
    "dtd": (f"{_BY_TORCHVISION}, 600 MB; for research", 47),
    "eurosat": (f"{_BY_TORCHVISION}, 94 MB; MIT", 10),
    "caltech101": (f"{_BY_TORCHVISION}, 137 MB; CC BY 4.0", 101),
    "cifar10": (f"{_BY_TORCHVISION}, 170 MB", 10),
    "cifar100": (f"{_BY_TORCHVISION}, 170 MB", 100),
}
"""Size and terms of public data sets, and their classes."""

_ACCEPT = "read and accept the licence on the model's page if it asks for that (huggingface-cli login)"
_BYTES_PER_PIXEL = {"png": 1.7, "webp": 0.25, "jpg": 0.35}  # of photographs, roughly


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was examined, its state, and the fix if it is not ok."""

    what: str
    state: State
    detail: str
    fix: str = ""


def examine(config: Config) -> Iterator[Finding]:
    """Examine everything that a run with this configuration needs."""
    yield _packages()
    yield _machine(config)
    dataset_finding, dataset, class_count, with_protocol = _dataset(config)
    classes = () if dataset is None else dataset.classes
    yield _text_to_image(config)
    for role, members in (("guide", config.guide), ("judge", config.judge or ())):
        for member in members:
            if isinstance(member, ZeroShotClassifierConfig):
                yield from _zero_shot(role, member, config)
            else:
                yield _guide(role, member, classes)
    if config.downstream.pretrained:
        for name in config.downstream.models:
            yield _low_resource_classifier(name)
    if config.metrics.features not in (None, "auto", "judge", "guide"):
        yield _features(str(config.metrics.features), config.metrics.inception_weights)
    yield dataset_finding
    yield _prompts(config, classes)
    yield from _zero_shot_prompts(config, classes)
    work = None
    if class_count is not None:
        machine = machine_of(config)
        device = resolve_device("auto" if machine.gpu_bytes is not None else "cpu")
        trials = {} if dataset is None else measure_trials(with_protocol, dataset, class_count, device)
        work = count(with_protocol, class_count, machine, trials)
    yield _disk(config, None if work is None else work.images)
    yield _work(with_protocol, work, class_count)
    yield _metrics(with_protocol, class_count, dataset)
    if address := os.environ.get("PREFECT_API_URL"):
        yield _server(address)


def _packages() -> Finding:
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


def _machine(config: Config) -> Finding:
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


def _text_to_image(config: Config) -> Finding:
    what, path = "text-to-image model", config.model.path
    if path == "pocket":
        return Finding(what, "ok", f"pocket, shipped, {_folder_bytes(pocket.path()) / 1e6:.0f} MB")
    folder = local_folder(path)
    if folder is None:
        index = cached_file(path, "model_index.json", config.model.revision)
    elif folder.is_dir():
        index = folder / "model_index.json"
    else:
        return Finding(what, "missing", f"{path}: no such folder", "give a folder saved by diffusers, or a Hub id")
    is_local = folder is not None
    if index is None or not index.is_file():
        return _absent(what, path, "model_index.json", is_local)
    if damaged := _damaged_file(index):
        fix = f"delete {index.parent / damaged}, and download the model again; or correct model.path"
        return Finding(what, "missing", f"{path}: {damaged} is damaged", fix)
    parts = _read_json(index) or {}
    missing = [part for part in _needed_parts(parts) if not _has_weights(index.parent / part, config.model.variant)]
    if missing:
        return _absent(what, path, ", ".join(missing), is_local)
    size = f"{_folder_bytes(index.parent) / 1e9:.1f} GB"
    return Finding(what, "ok", f"{path}: {parts['_class_name']}, {size} in {index.parent}")


def _damaged_file(index: Path) -> str:
    """Find a JSON file of a pipeline that is none, or an index that names no pipeline; empty if all are sound."""
    parts = _read_json(index)
    if parts is None or "_class_name" not in parts:
        return index.name
    names = (f"{part}/config.json" for part in _needed_parts(parts))
    present = (name for name in names if (index.parent / name).is_file())
    return next((name for name in present if _read_json(index.parent / name) is None), "")


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _needed_parts(model_index: Mapping[str, Any]) -> list[str]:
    """List the components of a pipeline that have files of their own which a run reads."""
    return [
        part
        for part, classes in model_index.items()
        if isinstance(classes, list) and classes[0] and part not in _UNUSED_PARTS
    ]


def _has_weights(folder: Path, variant: str | None) -> bool:
    """Whether a component's folder holds weights of the variant, or is a tokenizer."""
    if not folder.is_dir():
        return False
    if "tokenizer" in folder.name:
        return any(folder.iterdir())
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    return any(file.name.endswith(ending) for file in folder.iterdir())


def _guide(role: str, member: ClassifierConfig | FewShotClassifierConfig, classes: Sequence[ClassInfo]) -> Finding:
    """Examine a guide or judge: files, labels, input; of one that is made of photos, its backbone."""
    if isinstance(member, FewShotClassifierConfig):
        backbone = ClassifierConfig(name=member.backbone, library="timm", revision=member.revision)
        finding = _classifier(role, backbone)
        return replace(finding, detail=f"{member.name}: {finding.detail}")
    try:
        refuse_backbone(resolve(member.name, member.library))
    except ModelError as error:
        return Finding(role, "missing", str(error), "correct the name")
    finding = _classifier(role, member)
    return finding if finding.state != "ok" else _with_shape(finding, member, classes)


def _with_shape(finding: Finding, member: ClassifierConfig, classes: Sequence[ClassInfo]) -> Finding:
    """Add labels and size of the input of a classifier, if its files tell them; check that each class has a label."""
    try:
        shape = shapes.shape_of(member, resolve(member.name, member.library))
        shape.check(classes, member.match)
    except ModelError as error:
        fix = "give labels: FILE or match: FILE, or another classifier"
        return replace(finding, state="missing", detail=f"{member.name}: {error}", fix=fix)
    more = f"; {shape.in_words}" if shape.in_words else ""
    return replace(finding, detail=finding.detail + more)


def _classifier(role: str, member: ClassifierConfig) -> Finding:
    name = member.name
    match = member.match.expanduser() if isinstance(member.match, Path) else None
    for path in (member.checkpoint, member.labels, match):
        if path is not None and not path.is_file():
            return Finding(role, "missing", f"{name}: {path} does not exist", "correct the path")
    try:
        resolved = resolve(name, member.library)
    except ModelError as error:
        return Finding(role, "missing", str(error), "correct the name")
    if resolved.kind == "pocket":
        return Finding(role, "ok", f"{name}, shipped")
    if resolved.kind == "function" or member.checkpoint:
        return Finding(role, "ok", f"{name}, your own")
    if resolved.kind == "folder":
        return _classifier_folder(role, name, resolved)
    if resolved.is_here(member.revision):
        return Finding(role, "ok", f"{name}, in the Hub's cache")
    return _absent(role, name, "weights", is_local=False)


def _low_resource_classifier(name: str) -> Finding:
    """Examine a model that is trained from its weights."""
    what = "low-resource classifier"
    try:
        refuse_trained(resolve(name, "timm"), "downstream.model")
    except ModelError as error:
        return Finding(what, "missing", str(error), "correct the name")
    return _classifier(what, ClassifierConfig(name=name))


def _zero_shot(role: str, member: ZeroShotClassifierConfig, config: Config) -> Iterator[Finding]:
    """Examine a classifier of class names: its model, and whether the text-to-image model has its text encoder."""
    name = f"zero_shot {member.model}"
    try:
        resolved = resolve_zero_shot(member.model)
    except ModelError as error:
        yield Finding(role, "missing", str(error), "correct the name")
        return
    if resolved.is_local:
        yield _classifier_folder(role, name, resolved)
    elif resolved.is_here(member.revision):
        yield Finding(role, "ok", f"{name}, in the Hub's cache")
    else:
        yield _absent(role, name, "weights", is_local=False)
    if text_encoders.is_shared(config.model, member):
        verb = "rewards" if role == "guide" else "counts as right"
        detail = (
            f"{name} has the text encoder of the text-to-image model {config.model.path}, so the {role} {verb} what "
            "that model already takes the class name to mean"
        )
        fix = f"use a {role} that learned from photos of the classes, e.g. few_shot, or a zero_shot SigLIP"
        yield Finding(f"{role}'s text encoder", "warning", detail, fix)


def _zero_shot_prompts(config: Config, classes: Sequence[ClassInfo]) -> Iterator[Finding]:
    """Examine whether classifiers of class names can read them all."""
    for role, members in (("guide", config.guide), ("judge", config.judge or ())):
        for member in members:
            if not isinstance(member, ZeroShotClassifierConfig) or not classes:
                continue
            from dct_augment.classifiers import zero_shot

            what = f"{role}'s prompts"
            try:
                is_here = zero_shot.check_here(member, classes)
            except ModelError as error:
                yield Finding(what, "missing", str(error), "correct the words or the templates")
                continue
            detail = "the text encoder reads all of every prompt" if is_here else "known once its model is there"
            yield Finding(what, "ok", detail)


def _classifier_folder(role: str, name: str, resolved: ResolvedName) -> Finding:
    if resolved.is_here():
        return Finding(role, "ok", f"{name}, a folder")
    return _absent(role, name, "config.json or weights", is_local=True)


def _features(name: str, weights: Path | None) -> Finding:
    what = "image features"
    if name != "inception":
        return _classifier(what, ClassifierConfig(name=name, library="timm"))
    if importlib.util.find_spec("torch_fidelity") is None:
        return Finding(what, "missing", "inception needs torch-fidelity", "pip install 'dct-augment[inception]'")
    if weights and not weights.is_file():
        return Finding(what, "missing", f"inception: {weights} does not exist", "correct metrics.inception_weights")
    return Finding(what, "ok", f"inception, {weights or '90 MB, downloaded once'}")


def _absent(what: str, name: str, part: str, is_local: bool) -> Finding:
    if is_local:
        return Finding(what, "missing", f"{name} lacks {part}", "complete the folder, or correct the path or variant")
    detail = f"{name}: {part} not in the Hub's cache"
    if hub_is_offline():
        fix = f"unset HF_HUB_OFFLINE for the first run, or copy the cache here; {_ACCEPT}"
        return Finding(what, "missing", f"{detail}, and HF_HUB_OFFLINE is set", fix)
    return Finding(what, "missing", f"{detail} yet", f"the first run downloads it from the Hub; {_ACCEPT}")


def _is_set(variable: str) -> bool:
    """Tell whether a variable of the environment is set, as the Hub's package reads it."""
    return os.environ.get(variable, "").upper() in ("1", "TRUE", "YES", "ON")


def _dataset(config: Config) -> tuple[Finding, Dataset | None, int | None, Config]:
    """Examine the data set.

    Also returns the data set if it is there, the number of the classes of a run if it is known, and the configuration,
    with a known protocol if the data set is there.
    """
    what, names = "data set", config.dataset.classes
    if isinstance(config.dataset, HuggingFaceDataset) and datasets.needs_download(config.dataset):
        fix = "it is downloaded when a run begins; or load it once with datasets.load_dataset"
        detail = f"{config.dataset.path} is not on this machine"
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            if _is_set(variable):
                detail, fix = f"{detail}, and {variable} is set", f"unset {variable} for the first run"
        return Finding(what, "missing", detail, fix), None, None, config
    try:
        dataset, config = load_dataset(config)
        classes = datasets.select(dataset, names)
        remark = check_test(datasets.DatasetSubset(dataset.name, classes, dataset, {}), dataset, config)
    except DatasetError as error:
        terms, count = _PUBLISHED.get(config.dataset.name, ("", None))
        return Finding(what, "missing", str(error), terms), None, len(names) if names else count, config
    sizes = ", ".join(f"{len(dataset.examples(split)):,} {split}" for split in ("train", "val", "test"))
    detail = f"{dataset.name}: {counted(len(classes), 'class')}; {sizes} images"
    finding = Finding(what, "warning" if remark else "ok", detail, remark.removeprefix("warning: "))
    return finding, dataset, len(classes), config


def _prompts(config: Config, classes: Sequence[ClassInfo]) -> Finding:
    """Examine whether the text encoder reads all of every prompt."""
    what = "prompts"
    if not classes:
        return Finding(what, "ok", "known once the data set is there")
    try:
        check_class_names(config, classes)
        tokenizers = tokenizers_here(config.model.path, config.model.revision)
        check_lengths(tokenizers, config, classes)
    except InputError as error:
        return Finding(what, "missing", str(error), "correct the prompts")
    if not tokenizers:
        return Finding(what, "ok", "their lengths are known once the text-to-image model is there")
    return Finding(what, "ok", f"the text encoder reads all of every prompt, up to {tokenizers[0].room} pieces")


def _disk(config: Config, images: int | None) -> Finding:
    folder = config.root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if images is None:
        return Finding("disk", "ok", f"{free / 1e9:.0f} GB free; the need is known once the data set is there")
    side = models.size_of(config.model.path, config.model.revision).side
    needed = images * side * side * _BYTES_PER_PIXEL[config.generation.image_format]
    detail = f"about {needed / 1e6:,.0f} MB for {images:,} images of {side} pixels; {free / 1e9:.0f} GB free"
    if free < needed:
        return Finding("disk", "missing", detail, "choose another --output, fewer --per-class, or image_format=jpg")
    return Finding("disk", "ok", detail)


def _work(config: Config, work: Work | None, classes: int | None) -> Finding:
    if work is None or classes is None:
        return Finding("work", "ok", "known once the data set is there")
    return Finding("work", "ok", work.in_words, folds_hint(config, classes))


def _metrics(config: Config, classes: int | None, dataset: Dataset | None) -> Finding:
    """Say what the metrics of images take."""
    if dataset is None or classes is None:
        return Finding("metrics", "ok", "known once the data set is there")
    detail = metric_work(config, classes, dataset)
    fix = "fewer: --set metrics.real_images=1000, or --set metrics.features=null for none" if detail else ""
    return Finding("metrics", "ok", detail or "none are measured", fix)


def _server(address: str) -> Finding:
    what = "Prefect server"
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=5):
            return Finding(what, "ok", address)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(
            what, "warning", f"{address} does not answer: {reason_of(error)}", "start it, or unset PREFECT_API_URL"
        )


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
