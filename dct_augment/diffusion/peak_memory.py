"""Counts the memory that work with tensors takes, without doing it: tensors have shapes and no values."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def shapes_only() -> AbstractContextManager[Any]:
    """Let tensors have shapes and no values: models of any size are made and run in seconds, and take no memory.

    Tensors that are there keep their values, and are read as shapes. Work that looks at values raises an error.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


def has_values(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor has values; those made inside `shapes_only` have none."""
    return not isinstance(tensor, FakeTensor)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes of tensors that some work holds at a time beyond those there before, by `shapes_only`.

    What kernels take for themselves while they run is not counted.
    """
    with _LivingBytes() as counted:
        work()
    return counted.peak


class _LivingBytes(TorchDispatchMode):
    """Counts the bytes of tensors made by operations, until nothing holds them any more."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._living = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        # A view, or what an operation writes into, is memory that was there.
        for value, declared in zip(made, operation._schema.returns, strict=False):
            if declared.alias_info is None:
                for tensor in tree_leaves(value):
                    self._count(tensor)
        return result

    def _count(self, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._forget(key, size))
        self._living += size
        self.peak = max(self.peak, self._living)

    def _forget(self, key: int, size: int) -> None:
        del self._known[key]
        self._living -= size
