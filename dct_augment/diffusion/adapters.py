"""Adapters: LoRA weights that others trained, put into a text-to-image model by diffusers' own loader."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file

from dct_augment.diffusion.lora import FILE
from dct_augment.diffusion.names import local_folder
from dct_augment.errors import ModelError
from dct_augment.wording import hub_is_offline, in_one_line, listed

_SUFFIX, _NAME = ".safetensors", "adapter"
_OTHER_SHAPE = re.compile(r"size mismatch for (\S+): copying a param with shape .*?(\[.*?\]).*?(\[.*?\])")


def local_path(path: str) -> Path | None:
    """Resolve an adapter to the file or folder that it is; None if `path` is an id on the Hub."""
    file = Path(path).expanduser()
    return file if file.exists() or file.suffix == _SUFFIX else local_folder(path)


def fuse(pipe: Any, adapters: Sequence[Mapping[str, Any]]) -> None:
    """Add adapters to the weights of a pipeline, each by its `weight`; it has no layers more than before.

    So another LoRA can be put in afterwards, and nothing is slower.

    Args:
        pipe: a pipeline of diffusers, fresh.
        adapters: `path`, `weight`, and if wanted `revision` and `weight_name` of each.

    Raises:
        ModelError: one cannot be found or read, is not finite, or is of another model.
    """
    if adapters:
        refuse_without_loader(type(pipe).__name__)
    for adapter in adapters:
        _fuse(pipe, adapter)


def refuse_without_loader(kind: str) -> None:
    """Refuse adapters for a class of diffusers' pipelines, by its name, that cannot load them.

    Raises:
        ModelError: it cannot.
    """
    import diffusers

    if not hasattr(getattr(diffusers, kind), "load_lora_weights"):
        raise ModelError(
            f"model.adapters do not suit this model: diffusers has no loader of LoRAs for a {kind}. "
            "Leave them out, or choose a model of another family"
        )


def examine(path: str, revision: str | None = None, weight_name: str | None = None) -> Path | None:
    """Find the file of an adapter on this machine, and check what it holds; None if it is still on the Hub.

    Raises:
        ModelError: it does not exist, cannot be read, or is not finite.
    """
    is_here = local_path(path) is not None
    file = _find(path, revision, weight_name) if is_here else _from_cache(path, revision, weight_name)
    if file is not None:
        _check(path, file)
    return file


def _fuse(pipe: Any, adapter: Mapping[str, Any]) -> None:
    path, weight = adapter["path"], adapter.get("weight", 1.0)
    file = _find(path, adapter.get("revision"), adapter.get("weight_name"))
    _check(path, file)
    options = {"unet_config": pipe.unet.config} if hasattr(pipe, "unet") else {}
    try:
        # peft draws from the generator of the process, and warns of what is checked here.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = pipe.lora_state_dict(str(file), use_safetensors=True, **options)
            pipe.load_lora_weights(str(file), adapter_name=_NAME, use_safetensors=True)
            _check_all_loaded(path, state[0] if isinstance(state, tuple) else state, pipe)
            pipe.set_adapters([_NAME], [weight])
            pipe.fuse_lora(components=_loadable(pipe), adapter_names=[_NAME])
            pipe.unload_lora_weights()
    except ModelError:
        raise
    except Exception as error:  # diffusers and peft raise what they meet: of keys, shapes, and more
        raise ModelError(_explain(path, error)) from error


def _loadable(pipe: Any) -> list[str]:
    """List the parts of a pipeline that a LoRA can be in."""
    return [name for name in pipe._lora_loadable_modules if getattr(pipe, name, None) is not None]


def _find(path: str, revision: str | None, weight_name: str | None) -> Path:
    """Find the file of an adapter; from the Hub it is downloaded once.

    Raises:
        ModelError: there is none.
    """
    place = local_path(path)
    if place is None:
        return _from_hub(path, revision, weight_name)
    if place.is_dir():
        names = [file.relative_to(place).as_posix() for file in sorted(place.rglob(f"*{_SUFFIX}"))]
        return place / _choose(path, names, weight_name)
    if not place.is_file():
        raise ModelError(f"the adapter {path!r} does not exist; give a {_SUFFIX} file, a folder with one, or a Hub id")
    if place.suffix != _SUFFIX:
        raise ModelError(f"the adapter {path!r} is no {_SUFFIX} file; only these are read, for pickles can run code")
    return place


def _choose(path: str, names: Iterable[str], weight_name: str | None) -> str:
    """Choose the file of an adapter by its name, or the one that is there.

    Raises:
        ModelError: it is not there, or there are several.
    """
    there = [name for name in names if PurePosixPath(name).suffix == _SUFFIX]
    if weight_name is not None and weight_name in there:
        return weight_name
    if weight_name is None and FILE in there:
        return FILE
    if weight_name is None and len(there) == 1:
        return there[0]
    if not there:
        raise ModelError(f"the adapter {path!r} holds no {_SUFFIX} file; only these are read, for pickles can run code")
    wanted = "several files" if weight_name is None else f"no {weight_name!r}"
    raise ModelError(f"the adapter {path!r} holds {wanted}; set weight_name to one of: {listed(there, 5)}")


def _from_hub(path: str, revision: str | None, weight_name: str | None) -> Path:
    """Download the file of an adapter, or find it in the Hub's cache, if the Hub cannot be asked.

    Raises:
        ModelError: it can be had from neither.
    """
    from huggingface_hub import hf_hub_download, list_repo_files

    why = "HF_HUB_OFFLINE is set: unset it for the first run"
    if not hub_is_offline():
        try:
            names = list_repo_files(path, revision=revision)
            return Path(hf_hub_download(path, _choose(path, names, weight_name), revision=revision))
        except ModelError:
            raise
        except Exception as error:  # whatever the network, or the library that asks for it, raises
            why = f"the Hub does not give it ({in_one_line(error)}): check id, revision and network"
    file = _from_cache(path, revision, weight_name)
    if file is None:
        raise ModelError(
            f"the adapter {path!r} is not in the Hub's cache, and {why}. Or give a {_SUFFIX} file, or a folder with one"
        )
    return file


def _from_cache(path: str, revision: str | None, weight_name: str | None) -> Path | None:
    """Find the file of an adapter in the Hub's cache; None if nothing of it is there.

    Raises:
        ModelError: it has no such file, or several.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(path, revision=revision, local_files_only=True))
    except Exception:  # not there, no id, and more
        return None
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob(f"*{_SUFFIX}"))]
    return folder / _choose(path, names, weight_name)


def _check(path: str, file: Path) -> None:
    """Check what the file of an adapter holds.

    Raises:
        ModelError: it cannot be read, has values that are not finite, or is of a kind that diffusers does not read.
    """
    try:
        tensors = load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"the adapter {path!r} cannot be read: {in_one_line(error)}. Get the file again") from error
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise ModelError(f"the adapter {path!r} is broken: {name} is not finite. Get the file again")
    if any("dora_scale" in name for name in tensors):
        raise ModelError(f"the adapter {path!r} is a DoRA, of which diffusers reads a part alone. Give a plain LoRA")


def _check_all_loaded(path: str, state: Mapping[str, torch.Tensor], pipe: Any) -> None:
    """Check that each matrix of a LoRA is in the model now: diffusers leaves out what it finds no layer for.

    Raises:
        ModelError: some have no layer.
    """
    parts = [getattr(pipe, name).named_parameters() for name in _loadable(pipe)]
    loaded = [weight for name, weight in chain(*parts) if _NAME in name.split(".") and weight.ndim > 1]
    given = {name: matrix for name, matrix in state.items() if matrix.ndim > 1}
    if len(loaded) < len(given):
        left_out = [name for name, matrix in given.items() if not any(_is_same(matrix, weight) for weight in loaded)]
        raise ModelError(
            f"the adapter {path!r} is of another text-to-image model: {len(given) - len(loaded)} of its {len(given)} "
            f"matrices have no layer here, such as {next(iter(left_out or given))}. Give a LoRA for this model"
        )


def _is_same(matrix: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a matrix of a file is that of a model, in whatever precision."""
    if matrix.shape != weight.shape:
        return False
    return torch.allclose(matrix.cpu().float(), weight.detach().cpu().float(), rtol=0.02, atol=1e-4)


def _explain(path: str, error: Exception) -> str:
    """Say why an adapter does not fit, by an error of diffusers or peft."""
    mismatches = _OTHER_SHAPE.findall(" ".join(str(error).split()))
    if mismatches:
        layer, shape, own = mismatches[0]
        name = layer.replace(f".{_NAME}.", ".")
        return (
            f"the adapter {path!r} is of another text-to-image model: of its matrices, "
            f"{len(mismatches)} have another shape, such as {name} with {shape}, where this model has {own}. Give a "
            "LoRA for this model"
        )
    return (
        f"the adapter {path!r} cannot be put into this model: {in_one_line(error)}. Give a LoRA for this model that "
        "pipe.load_lora_weights of diffusers reads"
    )
