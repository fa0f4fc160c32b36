"""What training code consumes: synthetic images by index, and a fair mixture with real ones.

Both are map-style data sets for `torch.utils.data.DataLoader`, or for any loop that indexes.
"""

import io
import json
import tarfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dct_augment.errors import DatasetError, ShardError
from dct_augment.generation.shards import TRAIN
from dct_augment.records import Example

Transform = Callable[[Image.Image], Any]
_IMAGES = (".png", ".webp", ".jpg")


class SyntheticImages:
    """The images of a shard folder: `(image, label)` by index, read from the tars on demand.

    `split` is `train` (class tokens) or `plain` (plain prompts); `per_class` keeps only the first
    images of each class, by number, and `only` those of them with these keys; `transform` is applied to the picture.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = TRAIN,
        *,
        per_class: int | None = None,
        only: Collection[str] | None = None,
        transform: Transform | None = None,
    ) -> None:
        self._transform = transform
        folder = Path(folder)
        info = folder / "_info.json"
        if not info.is_file():
            raise DatasetError(f"{folder} holds no _info.json; make shards with `dct-augment generate`")
        try:
            splits = dict(json.loads(info.read_text(encoding="utf-8"))["splits"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{info} is damaged: {error}; run `dct-augment generate` again") from error
        if split not in splits:
            raise DatasetError(f"{folder} has no split {split!r}; it has: {', '.join(splits) or 'none'}")
        entries = [entry for name in splits[split]["filenames"] for entry in _index(folder / name)]
        entries.sort(key=lambda entry: (entry[1], entry[0]))
        kept: list[tuple[str, int, Path, int, int]] = []
        counts: dict[int, int] = {}
        for entry in entries:
            counts[entry[1]] = counts.get(entry[1], 0) + 1
            if (per_class is None or counts[entry[1]] <= per_class) and (only is None or entry[0] in only):
                kept.append(entry)
        self._entries = kept
        self.keys = tuple(entry[0] for entry in kept)
        self.labels = tuple(entry[1] for entry in kept)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        _, label, tar, offset, size = self._entries[index]
        with tar.open("rb") as stream:
            stream.seek(offset)
            picture = Image.open(io.BytesIO(stream.read(size))).convert("RGB")
        return (self._transform(picture) if self._transform else picture), label


class RealImages:
    """Examples of a data set as a map-style data set: `(image, label)` by index."""

    def __init__(self, examples: Sequence[Example], transform: Transform | None = None) -> None:
        self._examples, self._transform = examples, transform
        self.labels = tuple(example.label for example in examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = self._examples[index].open().convert("RGB")
        return (self._transform(picture) if self._transform else picture), self.labels[index]


class Mixture:
    """`length` draws from real images, each replaced by a synthetic one of its class with `probability`.

    Replacement sampling keeps the number of gradient steps and the class balance of real-only
    training, so arms differ in their images alone (DA-Fusion). Draw k depends on (seed, k) only.
    Classes without synthetic images stay real.
    """

    def __init__(
        self,
        real: Any,
        synthetic: Any | None = None,
        *,
        probability: float = 0.5,
        length: int,
        seed: int = 0,
        classes: Collection[int] | None = None,
    ) -> None:
        self._real, self._synthetic, self._length = real, synthetic, length
        self._probability, self._seed = probability, seed
        labels = np.array(synthetic.labels if synthetic is not None else [], dtype=int)
        self._members = {
            int(label): np.flatnonzero(labels == label)
            for label in np.unique(labels)
            if classes is None or int(label) in classes
        }

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, index])
        chosen = int(rng.integers(len(self._real)))
        label = self._real.labels[chosen]
        if label in self._members and rng.random() < self._probability:
            return self._synthetic[int(rng.choice(self._members[label]))]  # type: ignore[index]
        return self._real[chosen]


def _index(tar: Path) -> list[tuple[str, int, Path, int, int]]:
    """Key, label, tar, offset and size of every image of a tar."""
    labels: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                key, dot, ending = member.name.partition(".")
                if dot + ending in _IMAGES:
                    places[key] = (member.offset_data, member.size)
                elif ending == "cls":
                    labels[key] = int(archive.extractfile(member).read())  # type: ignore[union-attr]
        return [(key, labels[key], tar, *place) for key, place in places.items()]
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise ShardError(f"{tar} cannot be read: {error}; `dct-augment verify` tells more") from error
