"""Pictures as a model is tested on them, prepared once in files that all processes of a benchmark map into memory."""

import os
import shutil
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from dct_augment import files, processes
from dct_augment.config import fingerprint
from dct_augment.datasets import reading_pool
from dct_augment.downstream.transforms import ModelInput, Pixels, Transforms
from dct_augment.errors import DatasetError, InputError
from dct_augment.images import content
from dct_augment.records import Example
from dct_augment.wording import counted, size

_CHUNK = 16
"""Pictures that are in memory at a time while a file is written, for each process that reads them."""
_MOST_READERS = 8
"""Processes that read them."""


class PreparedImages:
    """Labelled pictures of a file of pixels; what is read of it is no memory of this process.

    Args:
        path: a `.npy` file of pixels (N, H, W, 3), uint8.
        rows: the places of the pictures in the file.
        labels: of each of them.
        taken: what the model takes.
    """

    def __init__(self, path: Path, rows: Sequence[int], labels: Sequence[int], taken: ModelInput) -> None:
        self._pixels = np.load(path, mmap_mode="r")
        self._rows = np.asarray(rows)
        self.labels, self.taken = tuple(labels), taken

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, places: slice, device: str = "cpu") -> torch.Tensor:
        """Read some pictures as the model takes them: (B, 3, H, W), float32, on a device."""
        pixels = torch.from_numpy(self._pixels[self._rows[places]]).permute(0, 3, 1, 2)
        if not device.startswith("cuda"):  # in the order of the file, convolutions are slow but on such a GPU
            pixels = pixels.contiguous()
        return self.taken.normalise(pixels.to(device))


@dataclass(frozen=True)
class _Prepare:
    """Opens pictures and makes pixels of them; gives the content of each picture, too."""

    pixels: Pixels

    def __call__(self, examples: Sequence[Example]) -> list[tuple[str, np.ndarray]]:
        return [(content(picture), self.pixels(picture)) for picture in (example.open() for example in examples)]


class PixelFiles:
    """Files of prepared pictures in one folder, each named by what is in the pictures and how a model takes them.

    So a file of other pictures or of another preparation is never used. Several processes may ask for one: the first
    makes it.

    Args:
        folder: a temporary one if None, which goes with this object.
        content_of: gives the hash of a picture (`images.content`).
    """

    def __init__(self, folder: Path | None, content_of: Callable[[Example], str]) -> None:
        self._given, self._content_of = folder, content_of

    def images(
        self, examples: Sequence[Example], transforms: Transforms, among: Sequence[Example] | None = None
    ) -> PreparedImages:
        """Give pictures as a model takes them; what is not there is made.

        Args:
            examples: the pictures, with their labels.
            transforms: of the model.
            among: all pictures that are to be in their file; these alone if None.

        Raises:
            InputError: the disk is too small, or a picture is not what it was.
        """
        pictures = examples if among is None else among
        rows = {example.key: row for row, example in enumerate(pictures)}
        return PreparedImages(
            self.make(pictures, transforms),
            [rows[example.key] for example in examples],
            [example.label for example in examples],
            transforms.taken,
        )

    def make(self, pictures: Sequence[Example], transforms: Transforms) -> Path:
        """Write the file of some pictures if it is not there; return it.

        Raises:
            InputError: the disk is too small, or a picture is not what it was.
        """
        contents = [self._content_of(picture) for picture in pictures]
        path = self._folder / f"{fingerprint(transforms.pixels.made_by, contents)[:16]}.npy"
        if path.is_file():
            return path
        with files.lock(self._folder, wait=True):
            if not path.is_file():
                refuse_full_disk(self._folder, [(len(pictures), transforms.taken)])
                with files.atomic(path) as partial_file:
                    _write(partial_file, pictures, contents, transforms)
        return path

    def keep_only(self, paths: Collection[Path]) -> None:
        """Remove all other files."""
        for path in self._folder.glob("*.npy"):
            if path not in paths:
                path.unlink(missing_ok=True)

    @cached_property
    def _folder(self) -> Path:
        if self._given is not None:
            return self._given
        folder = mkdtemp(prefix="dct-augment-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def refuse_full_disk(folder: Path, sets: Sequence[tuple[int, ModelInput]], present: int = 0) -> None:
    """Check that a folder, which may have to be made, has room for numbers of pictures.

    Args:
        folder: where their pixels are to lie.
        sets: how many pictures are to be prepared for what input.
        present: bytes of them that are there already.

    Raises:
        InputError: it has no room.
    """
    needed = sum(count * 3 * taken.size[0] * taken.size[1] for count, taken in sets) - present
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed <= free:
        return
    number = counted(sum(count for count, _ in sets), "prepared picture")
    sizes = " and ".join(dict.fromkeys(" x ".join(map(str, taken.size)) for _, taken in sets))
    raise InputError(
        f"{number} of {sizes} pixels for validation and test need {size(needed)} in {str(folder)!r}, and "
        f"{size(free)} are free there. Free some, set output to a folder on a larger disk, or lower "
        "downstream.image_size"
    )


def _write(path: Path, pictures: Sequence[Example], contents: Sequence[str], transforms: Transforms) -> None:
    """Write pixels one after the other: through a memory map, a full disk would end the process."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(pictures), *transforms.taken.size, 3)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        prepared = _prepared(pictures, transforms.pixels)
        for example, expected, (found, pixels) in zip(pictures, contents, prepared, strict=True):
            if found != expected:
                raise DatasetError(f"image {example.key!r} has changed since the run began; start the command again")
            stream.write(np.ascontiguousarray(pixels).data)


def _prepared(pictures: Sequence[Example], pixels: Pixels) -> Iterator[tuple[str, np.ndarray]]:
    count = len(pictures)
    chunks = ([pictures[row] for row in range(first, min(first + _CHUNK, count))] for first in range(0, count, _CHUNK))
    side_by_side = min(os.cpu_count() or 1, _MOST_READERS)
    for chunk in reading_pool.map_chunks(_Prepare(pixels), chunks, count, side_by_side, processes.context()):
        yield from chunk
