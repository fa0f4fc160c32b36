"""Measures how fast this machine is, for estimates: one step of each kind of work, in a second or two each."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from PIL import Image

from dct_augment import datasets
from dct_augment.classifiers.names import resolve, resolve_zero_shot
from dct_augment.config import (
    AnyClassifierConfig,
    Config,
    DownstreamConfig,
    FewShotClassifierConfig,
    ZeroShotClassifierConfig,
)
from dct_augment.errors import DctAugmentError, ModelError, UnreadableImageError
from dct_augment.processes import one_thread
from dct_augment.records import ClassInfo, Dataset, Example

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from dct_augment.diffusion import Backend

_PAIRS_OF_FITS = 3
_LONG_STEP = 3.0
"""Seconds; what takes longer is measured once."""
_PHOTOS = 8
_MEASURED: dict[tuple[object, ...], tuple[float, float]] = {}
"""What was measured of a classifier in this process: seconds to make it, and of one step."""
_BATCH = 8


@dataclass(frozen=True)
class Pace:
    """Seconds of one denoiser evaluation of an image, of decoding it, and of showing it to the guide."""

    evaluation: float
    decode: float
    recognise: float


def measure_generation(backend: "Backend") -> tuple[float, float]:
    """Measure the seconds of one evaluation of the denoiser, and of one decoding, for each image of a batch."""
    import torch

    def evaluate(images: int) -> None:
        steps = torch.full((images,), 500, device=backend.device)
        backend.denoise(backend.latents(range(images)), steps, empty.expand(images), 1.0)

    empty = backend.encode([""])
    with torch.no_grad():
        evaluation = _seconds_of_an_image(evaluate)
        decode = _seconds_of_an_image(lambda images: backend.decode(backend.latents(range(images))))
    return evaluation, decode


def measure_guide(members: Sequence[AnyClassifierConfig], classes: Sequence[ClassInfo], device: str) -> float | None:
    """Measure the seconds of one image shown to a guide or judge; None if a model of it is not here."""
    import torch

    from dct_augment import classifiers
    from dct_augment.classifiers.few_shot import load_backbone

    if not all(map(is_here, members)):
        return None
    images, seconds = torch.zeros(_BATCH, 3, 64, 64, device=device), 0.0
    for member in members:
        answer: Callable[[torch.Tensor], torch.Tensor]
        if isinstance(member, FewShotClassifierConfig):
            answer = load_backbone(member, device)
        else:
            answer = classifiers.load([member], classes, device=device).logits
        with torch.no_grad():
            seconds += _least_seconds(partial(answer, images))
    return seconds / _BATCH


def measure_features(config: Config, classes: Sequence[ClassInfo], device: str) -> tuple[float, int] | None:
    """Measure the seconds of the features of one image for the metrics, and their length; None if there are none."""
    import torch

    images, seconds, width = torch.zeros(_BATCH, 3, 64, 64, device=device), 0.0, 0
    try:
        extractors = _extractors(config, classes, device)
        with torch.no_grad():
            for extract in extractors:
                width += extract(images).shape[1]
                seconds += _least_seconds(partial(extract, images))
    except ModelError:  # a run says what is wrong with it
        return None
    return (seconds / _BATCH, width) if extractors else None


def _extractors(
    config: Config, classes: Sequence[ClassInfo], device: str
) -> "Sequence[Callable[[torch.Tensor], torch.Tensor]]":
    """Load what makes the features, side by side; nothing if a model of it is not here."""
    from dct_augment import classifiers
    from dct_augment.classifiers import features
    from dct_augment.classifiers.few_shot import load_backbone

    name = config.metrics.features
    if name == "auto":
        name = "judge" if config.judge else "guide"
    if name in ("judge", "guide"):
        members = (config.judge if name == "judge" else config.guide) or ()
        if not all(map(is_here, members)):
            return ()
        return [
            load_backbone(member, device)
            if isinstance(member, FewShotClassifierConfig)
            else classifiers.load([member], classes, device=device).features
            for member in members
        ]
    if name is None or not _is_extractor_here(name, config):
        return ()
    return [features.load(name, device, config.metrics.inception_weights)]


def _is_extractor_here(name: str, config: Config) -> bool:
    """Tell whether nothing is downloaded for it."""
    return config.metrics.inception_weights is not None if name == "inception" else resolve(name, "timm").is_here()


def is_here(member: AnyClassifierConfig) -> bool:
    """Tell whether the weights of a guide or judge are on this machine."""
    if isinstance(member, FewShotClassifierConfig):
        return resolve(member.backbone, "timm").is_here(member.revision)
    if isinstance(member, ZeroShotClassifierConfig):
        return resolve_zero_shot(member.model).is_here(member.revision)
    return member.checkpoint is not None or resolve(member.name, member.library).is_here(member.revision)


def measure_trials(config: Config, dataset: Dataset, classes: int, device: str) -> Mapping[str, float]:
    """Measure the seconds of one trial of the benchmark, by model; models that are not here are left out.

    A few steps are trained, of the model, batch and augmentation of the configuration, on a few photos.

    Args:
        config: its protocol is known.
        dataset: the real images.
        classes: outputs of the classifier.
        device: torch device.
    """
    dataset = datasets.used(dataset, config.dataset)
    photos = list(islice(_readable(dataset.examples("train")), _PHOTOS))
    rounds = config.downstream.validation_rounds
    answered = len(dataset.examples("test")) + rounds * len(dataset.examples("val"))
    seconds: dict[str, float] = {}
    for model in config.downstream.models if photos else ():
        settings = config.downstream.model_copy(update={"model": model, "other_models": ()})
        if settings.pretrained and not resolve(model, "timm").is_here():
            continue
        try:
            seconds[model] = _seconds_of_trial(settings, photos, answered, classes, device)
        except DctAugmentError:  # a run says what is wrong with the model
            continue
    return seconds


def _readable(examples: Sequence[Example]) -> "Iterator[Example]":
    for example in examples:
        try:
            image = example.open()
        except UnreadableImageError:
            continue
        yield Example(example.key, 0, partial(_same, image))


def _same(image: Image.Image) -> Image.Image:
    return image


def _seconds_of_trial(
    settings: DownstreamConfig, photos: Sequence[Example], answered: int, classes: int, device: str
) -> float:
    """Say how long a trial takes that trains on photos, and answers as many as are `answered`."""
    key = (settings.model_dump_json(exclude={"steps"}), photos[0].open().size, classes, device)
    if key not in _MEASURED:
        _MEASURED[key] = _seconds_of_steps(settings, photos, classes, device)
    start, step = _MEASURED[key]
    steps = settings.steps + answered / (3 * settings.batch_size)  # an answer is one pass forward, of three
    return start + steps * step


def _seconds_of_steps(
    settings: DownstreamConfig, photos: Sequence[Example], classes: int, device: str
) -> tuple[float, float]:
    """Measure how long it takes to make a classifier, and one step of its training.

    Where one step takes long, it is not repeated: making the classifier hardly counts then. On a CPU time grows with
    the images of a step, so a few of them tell it. No other process reads pictures: it would take longer to begin.
    """
    from dct_augment.downstream import training
    from dct_augment.downstream.in_memory import PicturesInMemory
    from dct_augment.downstream.mixing import Mixture, RealImages
    from dct_augment.downstream.transforms import Transforms

    transforms = Transforms(settings)
    images = PicturesInMemory(RealImages(photos), transforms.strong, side=transforms.side)
    batch = min(settings.batch_size, _BATCH) if device == "cpu" else settings.batch_size
    share = batch / settings.batch_size

    def seconds_of(steps: int) -> float:
        data = Mixture(images, None, probability=0, length=steps * batch, real_last=0, seed=0)
        few = settings.model_copy(update={"steps": steps, "batch_size": batch, "validation_rounds": 1, "workers": 0})
        began = time.perf_counter()
        training.fit(data, few, classes=classes, seed=0, device=device)
        return time.perf_counter() - began

    with one_thread() if device == "cpu" else nullcontext():
        first = seconds_of(1)  # it reads files, too
        if first > _LONG_STEP:
            return 0.0, first / share
        pairs = [(seconds_of(1), seconds_of(3)) for _ in range(_PAIRS_OF_FITS)]
    # Where other work comes between, one training may seem as long as three: the median, and never nothing.
    step = median((three - one) / 2 for one, three in pairs)
    one, three = min(one for one, _ in pairs), min(three for _, three in pairs)
    if step <= 0:
        step = three / 3
    return max(one - step, 0.0), step / share


def _seconds_of_an_image(work: Callable[[int], object]) -> float:
    """Time some work on a batch of images; where it takes long for one, that one alone: a CPU does them in turn."""
    began = time.perf_counter()
    work(1)
    seconds = time.perf_counter() - began
    return seconds if seconds > _LONG_STEP else _least_seconds(partial(work, _BATCH)) / _BATCH


def _least_seconds(work: Callable[[], object]) -> float:
    """Time some work, the best of three times."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
