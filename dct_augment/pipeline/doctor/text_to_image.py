"""Examines the text-to-image model and its adapters: their folders, or their files in the Hub's cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dct_augment import files, pocket
from dct_augment.config import Config
from dct_augment.diffusion import adapters as diffusion_adapters
from dct_augment.diffusion.names import cached_file, local_folder
from dct_augment.errors import ModelError
from dct_augment.pipeline.doctor.finding import Finding, absent
from dct_augment.pipeline.model_check import check_sampling
from dct_augment.wording import counted

_UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder", "scheduler")


def text_to_image(config: Config) -> Finding:
    """Examine the folder of the text-to-image model, or what of it is in the cache."""
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
        return absent(what, path, "model_index.json", is_local)
    if damaged := _damaged_file(index):
        fix = f"delete {index.parent / damaged}, and download the model again; or correct model.path"
        return Finding(what, "missing", f"{path}: {damaged} is damaged", fix)
    parts = _read_json(index) or {}
    missing = [part for part in _needed_parts(parts) if not _has_weights(index.parent / part, config.model.variant)]
    if missing:
        return absent(what, path, ", ".join(missing), is_local)
    size = f"{_folder_bytes(index.parent) / 1e9:.1f} GB"
    return Finding(what, "ok", f"{path}: {parts['_class_name']}, {size} in {index.parent}")


def sampling(config: Config) -> Finding:
    """Examine whether the model can be guided as is set, and sampled with that scheduler."""
    settings = config.sampling
    try:
        check_sampling(config)
    except ModelError as error:
        return Finding("sampling", "missing", str(error), "correct this setting")
    scheduler = settings.scheduler or "the model's scheduler"
    detail = f"{counted(settings.num_inference_steps, 'step')} of {scheduler}, guidance {settings.guidance_scale:g}"
    return Finding("sampling", "ok", detail)


def adapters(config: Config) -> list[Finding]:
    """Examine the adapters of the text-to-image model, as far as their files are on this machine."""
    findings = []
    for adapter in config.model.adapters:
        what = f"adapter {adapter.title}"
        try:
            file = diffusion_adapters.examine(adapter.path, adapter.revision, adapter.weight_name)
        except ModelError as error:
            findings.append(Finding(what, "missing", str(error), "correct or leave out this entry of model.adapters"))
            continue
        if file is None:
            findings.append(absent(what, adapter.path, adapter.weight_name or "its file", is_local=False))
        else:
            findings.append(Finding(what, "ok", f"{file}, weight {adapter.weight:g}"))
    return findings


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
        return files.load_json(path)
    except (OSError, ValueError):
        return None


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


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
