"""What training code consumes: synthetic images by index, and a fair mixture with real ones.

Both are map-style data sets for `torch.utils.data.DataLoader`, or for any loop that indexes.
"""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dct_augment.errors import DatasetError, InputError
from dct_augment.generation.image_index import read_index
from dct_augment.images import content
from dct_augment.records import Example
from dct_augment.remote import downloads
from dct_augment.remote.urls import listing, url_of
from dct_augment.tars import Span
from dct_augment.wording import listed

Transform = Callable[[Image.Image], Any]


class SyntheticImages:
    """The images of a shard folder: `(image, label)` by index, read from the tars on demand.

    The folder may be a URL, `s3://bucket/run/shards`: then its index is pulled, and each image is read from the store
    when it is asked for.

    `per_class` keeps only the first images of each class, by number, and `only` those of them with these keys;
    `labels` gives the label of each class by that in the shards, and leaves out the images of all others;
    `transform` is applied to the picture. From a folder of version 0.1.0, which held plain-prompt images too, only the
    class-token images are read.

    Raises:
        DatasetError: the folder holds no `_info.json`, or a damaged one, or one of other data.
        ShardError: a tar cannot be read.
        InputError: `only` names an image that the folder does not have.

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
        self._url = url_of(folder)
        self._tars, index = read_index(Path(folder)) if self._url is None else _index_of_url(self._url)
        wanted = None if only is None else pa.array(sorted(only), pa.string())
        if wanted is not None:
            _refuse_unknown(wanted, index, folder)
        if labels is not None:
            index = _relabelled(index, labels)
        index = index.sort_by([("class_index", "ascending"), ("key", "ascending")])
        is_chosen = _place_in_class(index) < (len(index) if per_class is None else per_class)
        if wanted is not None:
            is_chosen &= pc.is_in(index["key"], value_set=wanted).to_numpy()
        self._index = index.filter(pa.array(is_chosen))
        self._tar, self._offset, self._bytes = (self._index[name].to_numpy() for name in ("tar", "offset", "bytes"))
        self.keys = tuple(self._index["key"].to_pylist())
        self.labels = tuple(self._index["class_index"].to_pylist())

    def __len__(self) -> int:
        return len(self.keys)

    def guide_confidences(self) -> tuple[float, ...]:
        """Give the probability that the guide gave to the class of each image.

        Raises:
            DatasetError: an image has none.
        """
        confidences = self._index["guide_confidence"].to_numpy()
        if len(wrong := np.flatnonzero(~((confidences >= 0) & (confidences <= 1)))):
            place = wrong[0]
            value = None if np.isnan(confidences[place]) else confidences[place]
            raise DatasetError(
                f"{self._tars[self._tar[place]]}: the row of image {self.keys[place]!r} has no guide_confidence from 0 "
                f"to 1 for soft labels: {value}. Set downstream.synthetic_labels: hard"
            )
        return tuple(confidences.tolist())

    def contents(self) -> tuple[str, ...]:
        """Give the hash of the pixels of each image (`images.content`); it is opened if its row does not say it."""
        known = self._index["content"].to_pylist()
        return tuple(found or content(self._picture(place)) for place, found in enumerate(known))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label, picture = self.labels[index], self._picture(index)
        return (self._transform(picture) if self._transform else picture), label

    def _picture(self, index: int) -> Image.Image:
        span, tar = Span(int(self._offset[index]), int(self._bytes[index])), self._tars[self._tar[index]]
        if self._url is not None and not tar.exists():
            data = downloads.read_range(f"{self._url}/{tar.name}", span.offset, span.size)
        else:
            with tar.open("rb") as stream:
                data = span.read(stream)
        return Image.open(io.BytesIO(data)).convert("RGB")


def _index_of_url(url: str) -> tuple[tuple[Path, ...], pa.Table]:
    """List the images of a shard folder on a store. Tars are pulled, too, if no rows beside them say where images lie.

    Raises:
        StoreError: the store cannot be read.
    """
    sizes = {path: int(info["size"]) for path, info in listing(url).items() if path.endswith(".tar")}
    index = downloads.folder_of(url, lambda path: "/" not in path and path.endswith((".json", ".parquet")))
    if all((index / path).with_suffix(".parquet").is_file() for path in sizes if "/" not in path):
        return read_index(index, sizes)
    return read_index(downloads.folder_of(url))


def _refuse_unknown(wanted: pa.Array, index: pa.Table, folder: str | Path) -> None:
    """Check that all keys are of images of the folder.

    Raises:
        InputError: some are not.
    """
    unknown = wanted.filter(pc.invert(pc.is_in(wanted, value_set=index["key"].combine_chunks()))).to_pylist()
    if unknown:
        example = f", such as {index['key'][0].as_py()!r}" if len(index) else ""
        names = listed(list(map(repr, unknown)), 5)
        raise InputError(f"only: {folder} has no image {names}; give keys of images that are there{example}")


def _relabelled(index: pa.Table, labels: Mapping[int, int]) -> pa.Table:
    """Give images the labels of their classes, and leave out those of other classes."""
    given = index["class_index"].to_numpy()
    index = index.set_column(
        index.column_names.index("class_index"),
        "class_index",
        pa.array([labels.get(label, -1) for label in given.tolist()], pa.int64()),
    )
    return index.filter(pa.array([label in labels for label in given.tolist()], pa.bool_()))


def _place_in_class(index: pa.Table) -> np.ndarray:
    """Number the images of each class from 0, in an index that is sorted by class."""
    label = index["class_index"].to_numpy()
    return np.arange(len(label)) - np.searchsorted(label, label)


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


def _by_label(labels: Sequence[int]) -> dict[int, np.ndarray]:
    """Give the places of the images of each label."""
    given = np.array(labels, dtype=int)
    return {int(label): np.flatnonzero(given == label) for label in np.unique(given)}


def _mean(shares: Sequence[float]) -> float:
    """Average shares; where all are one, it is that one to the last bit."""
    return shares[0] if len(set(shares)) == 1 else sum(shares) / max(len(shares), 1)


class Mixture:
    """`length` draws from real images, each replaced by a synthetic one of its class with `probability`.

    Replacement sampling keeps the number of gradient steps and the class balance of real-only
    training, so arms differ in their images alone (DA-Fusion). Item k depends on (seed, k) only.
    Classes without synthetic images stay real. `probability` is then the mean over the items.

    Args:
        real: the real images, with `labels`.
        synthetic: the synthetic images, with `labels`; none for real images alone.
        probability: share of the items in which a synthetic image replaces the real one; or one for each label.
        length: number of items: gradient steps times batch size.
        seed: decides every item.
        balanced: whether each class is drawn as often as any other; else as often as it has real images.
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
        probability: float | Mapping[int, float] = 0.5,
        length: int,
        seed: int = 0,
        balanced: bool = False,
        classes: Collection[int] | None = None,
        real_last: int = 0,
        soft_labels: SoftLabels | None = None,
    ) -> None:
        self._real, self._synthetic, self._length = real, synthetic, length
        self._mixed = length - real_last
        self._seed = seed
        self._soft_labels, self._classes = soft_labels, sorted(set(real.labels))
        self._shares = probability if isinstance(probability, Mapping) else dict.fromkeys(self._classes, probability)
        self._by_class = _by_label(real.labels) if balanced else None
        members = _by_label(synthetic.labels) if synthetic is not None else {}
        self._members = {label: places for label, places in members.items() if classes is None or label in classes}
        self.probability = _mean(
            [self._shares.get(label, 0.0) for label in (self._classes if balanced else real.labels)]
        )

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
        chosen = self._choose(rng)
        label = self._real.labels[chosen]
        if index < self._mixed and label in self._members and rng.random() < self._shares.get(label, 0.0):
            place = int(rng.choice(self._members[label]))
            image, _ = self._synthetic[place]  # type: ignore[index]
            return image, self._label(label, place)
        image, _ = self._real[chosen]
        return image, self._label(label)

    def _choose(self, rng: np.random.Generator) -> int:
        """Choose a real image: any, or one of any class."""
        if self._by_class is None:
            return int(rng.integers(len(self._real)))
        return int(rng.choice(self._by_class[int(rng.choice(self._classes))]))

    def _label(self, label: int, synthetic: int | None = None) -> Any:
        """Give the label of a real image, or of the synthetic one at this place, as it is or as probabilities."""
        soft = self._soft_labels
        if soft is None:
            return label
        return soft.label(label, 1.0 if synthetic is None else soft.confidences[synthetic], self._classes)
