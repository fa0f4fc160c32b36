"""What a killed training goes on from."""

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dct_augment import files
from dct_augment.config import fingerprint

_DIGEST = hashlib.sha256().digest_size
"""Bytes of the hash at the end of the file."""


class Checkpoint:
    """The state of one training in a file of its own, so that a killed run goes on with the very same bits.

    The file ends with a hash of what is before it: with a damaged state, training would go on to other tokens.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path, self._fingerprint = path, fingerprint(identity)

    def write(self, state: Mapping[str, Any]) -> None:
        """Remember a state: tensors and plain values."""
        stored = io.BytesIO()  # torch itself does not say which file it could not write, nor why
        torch.save({"fingerprint": self._fingerprint, **state}, stored)
        data = stored.getvalue()
        files.write_bytes(self._path, data + hashlib.sha256(data).digest())

    def last(self) -> dict[str, Any] | None:
        """Read the state to go on from; None if there is none for these settings, or it is damaged."""
        try:
            stored = self._path.read_bytes()
        except OSError:
            return None
        data, digest = stored[:-_DIGEST], stored[-_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            return None
        state = dict(torch.load(io.BytesIO(data), weights_only=True))
        return state if state["fingerprint"] == self._fingerprint else None

    def clear(self) -> None:
        """Forget; training is over."""
        self._path.unlink(missing_ok=True)


class TrainingCheckpoint(Checkpoint):
    """The state of one group's training: `write` takes what `Trainer.train` gives."""

    def __init__(self, folder: Path, group: int, identity: Mapping[str, Any]) -> None:
        super().__init__(folder / f".training-{group:03d}.pt", identity)

    def read(self, missing: Sequence[str], finished: Collection[str]) -> dict[str, Any] | None:
        """The state to go on from; None if there is none for these settings and `missing` classes.

        Classes that the state still trains and that are `finished` already were so just before the
        process died; they are trained to their end again, to the same bits.
        """
        state = self.last()
        if state is None:
            return None
        classes = set(state["classes"])
        return state if set(missing) <= classes and classes <= {*missing, *finished} else None
