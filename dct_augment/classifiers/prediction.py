"""What a classifier says of pictures of any kind and size: read ahead in threads, answered in batches."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from dct_augment.errors import InputError, UnreadableImageError
from dct_augment.reading import ImageReader

UNKNOWN = "unknown"
"""What a picture is called whose class is not probable enough."""

Picture = Image.Image | np.ndarray | str | Path | bytes | UnreadableImageError
"""A picture: opened, as an array, in a file, or the bytes of one; or the error over one that could not be had."""

Prepared = Any
"""What a classifier makes of a picture before the model: a tensor, or a list of what its members make."""

_THREADS = min(4, os.cpu_count() or 1)
_MOST_VALUES = 2**26  # of a batch, in numbers: 256 MiB
_READER = ImageReader()


@dataclass(frozen=True)
class ClassPrediction:
    """What a classifier says of one picture.

    Attributes:
        label: the likeliest class; `unknown` if its probability is below the threshold; None if there is no answer.
        probability: of the likeliest class, calibrated by the classifier's temperature; 0 if there is no answer.
        top: the likeliest classes with their probabilities, the first one first.
        reason: why there is no answer: the picture cannot be read. Empty if there is one.
    """

    label: str | None
    probability: float
    top: tuple[tuple[str, float], ...] = ()
    reason: str = ""


class _Predicting(Protocol):
    """What a classifier must have."""

    labels: tuple[str, ...]
    temperature: float
    threshold: float | None

    def prepare(self, image: Image.Image) -> Prepared: ...

    def logits_of_prepared(self, prepared: Sequence[Prepared]) -> torch.Tensor: ...


def predict_each(
    classifier: _Predicting,
    pictures: Iterable[Picture],
    *,
    top: int = 5,
    batch_size: int = 32,
    threshold: float | None = None,
) -> Iterator[ClassPrediction]:
    """Predict pictures in order; those of two batches at most are in memory.

    Raises:
        InputError: top, batch_size or threshold cannot be, or something is no picture at all.
    """
    if top < 1 or batch_size < 1:
        raise InputError(f"top and batch_size must be 1 or more, not {top} and {batch_size}")
    threshold = classifier.threshold if threshold is None else threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold must lie in 0..1, not {threshold}")
    return _predict_each(classifier, pictures, top, batch_size, threshold)


def listed(images: Iterable[Picture] | Picture) -> Iterable[Picture]:
    """Return pictures as they are, and one picture alone as a list of one."""
    if isinstance(images, Image.Image | str | Path | bytes | UnreadableImageError):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim < 4:
        return [images]
    if isinstance(images, torch.Tensor):
        raise InputError("predict takes pictures; give a tensor (B, 3, H, W) in [-1, 1] to `logits`")
    return images


def _predict_each(
    classifier: _Predicting, pictures: Iterable[Picture], top: int, batch_size: int, threshold: float | None
) -> Iterator[ClassPrediction]:
    def prepare(picture: Picture) -> Prepared | UnreadableImageError:
        try:
            with torch.no_grad():
                return classifier.prepare(_read(picture))
        except UnreadableImageError as error:
            return error

    batch: list[Prepared | UnreadableImageError] = []
    values = 0
    for prepared in _ahead(prepare, pictures):
        batch.append(prepared)
        values += _values(prepared)
        if len(batch) >= batch_size or values >= _MOST_VALUES:
            yield from _answers(classifier, batch, top, threshold)
            batch, values = [], 0
    if batch:
        yield from _answers(classifier, batch, top, threshold)


def _read(picture: Picture) -> Image.Image:
    """Read a picture as 8-bit RGB, upright.

    Raises:
        UnreadableImageError: it cannot be read.
        InputError: it is none.
    """
    if isinstance(picture, UnreadableImageError):
        raise picture
    if isinstance(picture, Image.Image):
        return _READER.convert(picture)
    if isinstance(picture, np.ndarray):
        return _READER.convert_array(picture)
    if isinstance(picture, bytes):
        return _READER.read(picture)
    if isinstance(picture, str | Path):
        return _READER.read(Path(picture).expanduser())
    raise InputError(
        f"a picture is a path, a PIL image, an array (H, W, 3), or the bytes of a file, not a {type(picture).__name__}"
    )


def _ahead(
    function: Callable[[Picture], Prepared | UnreadableImageError], pictures: Iterable[Picture]
) -> Iterator[Prepared | UnreadableImageError]:
    """Call a function with each picture in threads, a few ahead of what is taken; yield the results in order."""
    remaining = iter(pictures)
    waiting: deque[Future[Prepared | UnreadableImageError]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for picture in islice(remaining, _THREADS + 1):
            waiting.append(pool.submit(function, picture))
        while waiting:
            result = waiting.popleft().result()
            for picture in islice(remaining, 1):
                waiting.append(pool.submit(function, picture))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _values(prepared: Prepared | UnreadableImageError) -> int:
    """Count the numbers in a prepared picture."""
    if isinstance(prepared, torch.Tensor):
        return prepared.numel()
    return 0 if isinstance(prepared, UnreadableImageError) else sum(map(_values, prepared))


@torch.no_grad()
def _answers(
    classifier: _Predicting,
    batch: Sequence[Prepared | UnreadableImageError],
    top: int,
    threshold: float | None,
) -> Iterator[ClassPrediction]:
    """Predict a batch of prepared pictures."""
    readable = [prepared for prepared in batch if not isinstance(prepared, UnreadableImageError)]
    rows: Iterator[torch.Tensor] = iter(())
    if readable:
        logits = classifier.logits_of_prepared(readable).double()
        rows = iter((logits / classifier.temperature).softmax(1).cpu())
    for prepared in batch:
        if isinstance(prepared, UnreadableImageError):
            yield ClassPrediction(None, 0.0, reason=str(prepared))
        else:
            yield _answer(next(rows), classifier.labels, top, threshold)


def _answer(probabilities: torch.Tensor, labels: Sequence[str], top: int, threshold: float | None) -> ClassPrediction:
    if not bool(probabilities.isfinite().all()):
        return ClassPrediction(None, 0.0, reason="the classifier's answer is not finite")
    ordered = probabilities.sort(descending=True, stable=True)
    likeliest = [
        (labels[index], value)
        for index, value in zip(ordered.indices[:top].tolist(), ordered.values[:top].tolist(), strict=True)
    ]
    label, probability = likeliest[0]
    is_unknown = threshold is not None and probability < threshold
    return ClassPrediction(UNKNOWN if is_unknown else label, probability, tuple(likeliest))
