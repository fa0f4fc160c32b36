"""What training code consumes: synthetic images by index, and a fair mixture with real ones.

Both are map-style data sets for `torch.utils.data.DataLoader`, or for any loop that indexes.
"""

import io
import json
import tarfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dct_augment import tars
from dct_augment.errors import DatasetError, ShardError
from dct_augment.generation.shards import SPLITS
from dct_augment.records import Example
from dct_augment.tars import Span
from dct_augment.wording import command_of, reason_of

Transform = Callable[[Image.Image], Any]
_IMAGES = ("png", "webp", "jpg")


class SyntheticImages:
    """The images of a shard folder: `(image, label)` by index, read from the tars on demand.

    `per_class` keeps only the first images of each class, by number, and `only` those of them with these keys;
    `labels` gives the label of each class by that in the shards, and leaves out the images of all others;
    `transform` is applied to the picture. From a folder of version 0.1.0, which held plain-prompt images too, only the
    class-token images are read.

    Raises:
        DatasetError: the folder holds no `_info.json`, or a damaged one, or one of other data.
        ShardError: a tar cannot be read.

    Examples:
        >>> import dct_augment
        >>> synthetic = dct_augment.SyntheticImages("runs/pocket/shards", per_class=2)
        >>> image, label = synthetic[0]
        >>> image.size
        (64, 64)
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        per_class: int | None = None,
        only: Collection[str] | None = None,
        labels: Mapping[int, int] | None = None,
        transform: Transform | None = None,
    ) -> None:
        self._transform = transform
        folder = Path(folder)
        stored = [image for name in _tar_names(folder) for image in _index(folder / name)]
        if labels is not None:
            stored = [replace(image, label=labels[image.label]) for image in stored if image.label in labels]
        stored.sort(key=lambda image: (image.label, image.key))
        self._images: list[_StoredImage] = []
        counts: dict[int, int] = {}
        for image in stored:
            counts[image.label] = counts.get(image.label, 0) + 1
            if (per_class is None or counts[image.label] <= per_class) and (only is None or image.key in only):
                self._images.append(image)
        self.keys = tuple(image.key for image in self._images)
        self.labels = tuple(image.label for image in self._images)

    def __len__(self) -> int:
        return len(self._images)

    def guide_confidences(self) -> tuple[float, ...]:
        """Read the probability that the guide gave to the class of each image, from the rows in the tars.

        Raises:
            DatasetError: an image has none.
        """
        confidences = []
        for tar, images in groupby(self._images, key=lambda image: image.tar):
            with tar.open("rb") as stream:
                confidences += [image.guide_confidence(stream) for image in images]
        return tuple(confidences)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        stored = self._images[index]
        with stored.tar.open("rb") as stream:
            image = Image.open(io.BytesIO(stored.span.read(stream))).convert("RGB")
        return (self._transform(image) if self._transform else image), stored.label


class RealImages:
    """Examples of a data set as a map-style data set: `(image, label)` by index.

    Examples:
        >>> import dct_augment
        >>> split = dct_augment.few_shot(dct_augment.load_dataset("pocket"), shots=5, seed=0)
        >>> len(dct_augment.RealImages(split.train))
        80
    """

    def __init__(self, examples: Sequence[Example], transform: Transform | None = None) -> None:
        self._examples, self._transform = examples, transform
        self.labels = tuple(example.label for example in examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = self._examples[index].open()
        return (self._transform(picture) if self._transform else picture), self.labels[index]


@dataclass(frozen=True)
class SoftLabels:
    """Labels as probabilities (K,) of all classes, where a synthetic image is not surely of its class.

    Args:
        outputs: K, the outputs of the classifier.
        confidences: the probability that each synthetic image is of its class, in the order of the images.
    """

    outputs: int
    confidences: Sequence[float]

    def label(self, label: int, confidence: float, classes: Collection[int]) -> np.ndarray:
        """Give the class its probability and spread the rest evenly over the other classes; (K,) float32, sum 1."""
        others = [other for other in classes if other != label]
        probabilities = np.zeros(self.outputs, np.float32)
        probabilities[others] = (1 - confidence) / max(len(others), 1)
        probabilities[label] = confidence if others else 1
        return probabilities


class Mixture:
    """`length` draws from real images, each replaced by a synthetic one of its class with `probability`.

    Replacement sampling keeps the number of gradient steps and the class balance of real-only
    training, so arms differ in their images alone (DA-Fusion). Item k depends on (seed, k) only.
    Classes without synthetic images stay real.

    Args:
        real: the real images, with `labels`.
        synthetic: the synthetic images, with `labels`; none for real images alone.
        probability: share of the items in which a synthetic image replaces the real one.
        length: number of items: gradient steps times batch size.
        seed: decides every item.
        classes: only these labels are replaced; all if not given.
        real_last: number of items at the end that are real images all of them.
        soft_labels: turns labels into probabilities over the classes of the real images; labels stay numbers if not
            given.

    Examples:
        >>> import dct_augment
        >>> split = dct_augment.few_shot(dct_augment.load_dataset("pocket"), shots=5, seed=0)
        >>> real = dct_augment.RealImages(split.train)
        >>> synthetic = dct_augment.SyntheticImages("runs/pocket/shards")
        >>> len(dct_augment.Mixture(real, synthetic, probability=0.7, length=100 * 32))
        3200
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
        real_last: int = 0,
        soft_labels: SoftLabels | None = None,
    ) -> None:
        self._real, self._synthetic, self._length = real, synthetic, length
        self._mixed = length - real_last
        self.probability, self._seed = probability, seed
        self._soft_labels, self._classes = soft_labels, sorted(set(real.labels))
        labels = np.array(synthetic.labels if synthetic is not None else [], dtype=int)
        self._members = {
            int(label): np.flatnonzero(labels == label)
            for label in np.unique(labels)
            if classes is None or int(label) in classes
        }

    def __len__(self) -> int:
        return self._length

    @property
    def in_memory(self) -> bool:
        """Whether all pictures are kept in memory, as far as their data sets know."""
        return all(getattr(images, "all_fit", True) for images in (self._real, self._synthetic))

    @property
    def synthetic_count(self) -> int:
        """How many different synthetic images there are to draw from."""
        return sum(map(len, self._members.values()))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, index])
        chosen = int(rng.integers(len(self._real)))
        label = self._real.labels[chosen]
        if index < self._mixed and label in self._members and rng.random() < self.probability:
            place = int(rng.choice(self._members[label]))
            image, _ = self._synthetic[place]  # type: ignore[index]
            return image, self._label(label, place)
        image, _ = self._real[chosen]
        return image, self._label(label)

    def _label(self, label: int, synthetic: int | None = None) -> Any:
        """Give the label of a real image, or of the synthetic one at this place, as it is or as probabilities."""
        soft = self._soft_labels
        if soft is None:
            return label
        return soft.label(label, 1.0 if synthetic is None else soft.confidences[synthetic], self._classes)


@dataclass(frozen=True)
class _StoredImage:
    """An image of a shard, and where it lies in the tar."""

    key: str
    label: int
    tar: Path
    span: Span
    row: Span | None

    def guide_confidence(self, stream: BinaryIO) -> float:
        """Read the probability that the guide gave to the class, from the open tar."""
        row = json.loads(self.row.read(stream)) if self.row else {}
        confidence = row.get("guide_confidence")
        if not isinstance(confidence, float | int) or not 0 <= confidence <= 1:
            raise DatasetError(
                f"{self.tar}: the row of image {self.key!r} has no guide_confidence from 0 to 1 for soft labels: "
                f"{confidence!r}. Set downstream.synthetic_labels: hard"
            )
        return float(confidence)


def _tar_names(folder: Path) -> list[str]:
    """The tars of a shard folder, as its `_info.json` names them."""
    path = folder / "_info.json"
    if not path.is_file():
        raise DatasetError(f"{folder} holds no _info.json; make shards with `{_generate(folder)}`")
    try:
        splits = dict(json.loads(path.read_text(encoding="utf-8"))["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged: {error}; `{_generate(folder)}` makes it again") from error
    for split in SPLITS.values():
        if split in splits:
            return list(splits[split]["filenames"])
    raise DatasetError(
        f"{folder} has no split {' or '.join(map(repr, SPLITS.values()))}; it has: {', '.join(splits) or 'none'}"
    )


def _generate(shards: Path) -> str:
    """Write the command that makes the shards of a run."""
    return command_of("generate", shards.parent)


def _index(tar: Path) -> list[_StoredImage]:
    """List the images of a tar.

    Raises:
        ShardError: the tar cannot be read, or an image has no label.
    """
    images = []
    try:
        with tar.open("rb") as stream:
            for sample in tars.index(tar):
                span = sample.image(_IMAGES)
                if span is not None:
                    label = int(sample.members["cls"].read(stream))
                    images.append(_StoredImage(sample.key, label, tar, span, sample.members.get("json")))
        return images
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        again = command_of("verify", tar.parent.parent)
        raise ShardError(f"{tar} cannot be read: {reason_of(error)}; `{again}` tells more") from error
