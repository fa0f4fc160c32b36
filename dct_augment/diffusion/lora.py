"""A LoRA of the denoiser: small matrices beside its frozen attention, put in for some work and taken out after it.

LoRA (arXiv 2106.09685), section 4: a projection W x becomes W x + B A x, with B of zeros at the start. peft has the
layers; they take seconds to import.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from dct_augment import files
from dct_augment.diffusion.backend import Backend
from dct_augment.errors import InputError
from dct_augment.wording import in_one_line

FILE = "pytorch_lora_weights.safetensors"
"""The file that `pipe.load_lora_weights` of diffusers looks for in a folder."""

_ADAPTER = "default"
_PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
_METADATA = "dct_augment"


class Lora:
    """The matrices of a LoRA that is in a denoiser, float32 or finer: A (r, d_in), B (d_out, r) of each projection.

    Their scale is 1, as diffusers takes it where a file says nothing.
    """

    def __init__(self, backend: Backend) -> None:
        self._denoiser, self._prefix = backend.denoiser, backend.denoiser_name
        found = {name: value for name, value in self._denoiser.named_parameters() if f".{_ADAPTER}." in name}
        self._matrices = {self._key(name): found[name] for name in sorted(found)}

    def _key(self, name: str) -> str:
        return f"{self._prefix}.{name.replace(f'.{_ADAPTER}.', '.')}"

    @property
    def matrices(self) -> list[torch.nn.Parameter]:
        """What is trained, in an order that is always the same."""
        return list(self._matrices.values())

    def begin(self, generator: torch.Generator) -> None:
        """Make the matrices those of a start: A as those of a fresh linear layer, B zero."""
        with torch.no_grad():
            for key, matrix in self._matrices.items():
                fresh = torch.zeros(matrix.shape)
                if ".lora_A." in key:
                    torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                matrix.copy_(fresh)

    def state(self) -> dict[str, torch.Tensor]:
        """Copy the matrices, under the names that diffusers gives them in a file."""
        return {key: matrix.detach().cpu().clone() for key, matrix in self._matrices.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take the matrices of a `state`.

        Raises:
            InputError: it is of another model, or of another rank.
        """
        shapes = {key: matrix.shape for key, matrix in self._matrices.items()}
        if {key: value.shape for key, value in state.items()} != shapes:
            raise InputError("the LoRA was made for another text-to-image model, or has another rank. Make it again")
        with torch.no_grad():
            for key, matrix in self._matrices.items():
                matrix.copy_(state[key])


@contextmanager
def inserted(backend: Backend, rank: int) -> Iterator[Lora]:
    """Put a LoRA into the denoiser of a model; afterwards, also after an error, the model is as it was.

    Its matrices are arbitrary until `begin` or `load`.
    """
    from diffusers.utils import recurse_remove_peft_layers
    from peft import LoraConfig, inject_adapter_in_model

    denoiser = backend.denoiser
    if hasattr(denoiser, "peft_config"):
        raise AssertionError("a LoRA is in this model already")
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=_PROJECTIONS)
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws from the generator of the process
            inject_adapter_in_model(settings, denoiser, _ADAPTER)
        lora = Lora(backend)
        for matrix in lora.matrices:  # small steps would vanish in half precision
            matrix.data = matrix.data.to(torch.promote_types(backend.dtype, torch.float32))
        yield lora
    finally:
        recurse_remove_peft_layers(denoiser)
        vars(denoiser).pop("peft_config", None)


@contextmanager
def inserted_from(backend: Backend, path: Path) -> Iterator[None]:
    """Let a model work with the LoRA of a file, frozen; afterwards, also after an error, the model is as it was.

    Raises:
        InputError: the file cannot be read, or is of another model.
    """
    try:
        state = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {in_one_line(error)}. Delete it to make it again") from error
    ranks = {len(value) for key, value in state.items() if ".lora_A." in key}
    if len(ranks) != 1:
        raise InputError(f"{path} holds no LoRA of one rank. Delete it to make it again")
    with inserted(backend, ranks.pop()) as lora:
        lora.load(state)
        for matrix in lora.matrices:
            matrix.requires_grad_(False)
        yield


def write(path: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a `Lora.state` as `pipe.load_lora_weights` reads it, with what made it, and a hash."""
    tensors = {key: value.contiguous() for key, value in state.items()}
    header = {**metadata, "sha256": _hash(tensors, metadata)}
    # One key: safetensors writes several in any order, and the same LoRA is to be the same bytes.
    files.write_bytes(path, serialize(tensors, {_METADATA: json.dumps(header, sort_keys=True)}))


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what made the LoRA of a file; nothing if it is not there, or is not whole."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = dict(json.loads(file.metadata()[_METADATA]))
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return {}
    of_older_version = _hash(tensors, {})
    stated = metadata.pop("sha256", None)
    return metadata if stated in (_hash(tensors, metadata), of_older_version) else {}


def _hash(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of names, kinds, shapes and values of tensors on the CPU, and of metadata, if there are any."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode() if metadata else b"")
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
