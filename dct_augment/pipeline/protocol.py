"""Chooses how a benchmark tests, by what the data set has: a test split, or cross-validation."""

from collections import Counter
from typing import Literal

from dct_augment import datasets
from dct_augment.config import Config, DatasetConfig, DatasetOnDisk
from dct_augment.datasets.splits import ImageDataset, complete, labels
from dct_augment.errors import DatasetError, InputError
from dct_augment.records import ClassInfo, Dataset
from dct_augment.wording import counted, counted_of, listed

FEWEST_TEST_IMAGES = 10
"""A test that is held out has at least so many images of each class; with fewer, `auto` takes cross-validation."""


def load_dataset(config: Config) -> tuple[Dataset, Config]:
    """Load the data set of a configuration as the protocol of its benchmark takes it.

    Returns:
        The data set, and the configuration with a protocol that is known, and with numbers where it says `all`.
        For cross-validation nothing is held out of the training images.

    Raises:
        DatasetError: the data cannot be used.
        InputError: a setting of the benchmark is not possible with the protocol.
    """
    dataset = datasets.load(_nothing_held_out(config.dataset))
    benchmark = config.benchmark
    protocol = benchmark.protocol if benchmark.protocol != "auto" else _choose(dataset, config)
    if protocol == "cross_validation":
        config = config.model_copy(update={"dataset": _nothing_held_out(config.dataset)})
        changes = _cross_validation(dataset, config)
    else:
        dataset = _hold_out(dataset, config)
        changes = {"protocol": protocol, "shots": _shots(benchmark.shots, dataset, config)}
    config = config.model_copy(update={"benchmark": benchmark.model_copy(update=changes)})
    shots = {"shots": _shots(config.textual_inversion.shots, dataset, config)}
    inversion = config.textual_inversion.model_copy(update=shots)
    return dataset, config.model_copy(update={"textual_inversion": inversion})


def check_test(images: Dataset, dataset: Dataset, config: Config) -> str:
    """Check that a test has images of each class, and say where it has few; empty where it has enough.

    A test of the user's own may lack a class; one that is held out of the photos must not.

    Args:
        images: those of the chosen classes that are used.
        dataset: what `load_dataset` returned.
        config: its protocol is known.

    Raises:
        DatasetError: a test that is held out has no image of a class.
    """
    settings = config.dataset
    if config.benchmark.protocol != "holdout" or not isinstance(settings, DatasetOnDisk):
        return ""
    counts = Counter(labels(images.examples("test")))
    in_test = {info.original_name or info.name: counts[info.index] for info in images.classes}
    total = sum(in_test.values())
    few = {name: count for name, count in in_test.items() if count < FEWEST_TEST_IMAGES}
    if not few or not total:  # without any, there is another message
        return ""
    fix = (
        "Give photos to test on in a folder of their own (photos/test/<class>/), add photos, or set "
        "benchmark.protocol=cross_validation, which tests every photo once"
    )
    described = listed([f"{name!r} {count}" for name, count in few.items()], 10)
    if _is_held_out(dataset) and min(in_test.values()) < 1:
        raise DatasetError(
            f"benchmark.protocol=holdout holds {total:,} of {_total(images):,} photos out for the test, of a class: "
            f"{described}. A class without a photo in the test cannot be judged. {fix}"
        )
    fewest = min(few, key=few.__getitem__)
    count = few[fewest]
    known = f"an accuracy on it is known to within ±{_margin(count):.0f} points only" if count else "it is not tested"
    all_known = f"that on all {total:,} to within ±{_margin(total):.0f}"
    classes = f" ({counted_of(len(few), len(in_test), 'class', 'has')} fewer than {FEWEST_TEST_IMAGES}: {described})"
    return (
        f"warning: the test has {counted(count, 'image')} of class {fewest!r}: {known}, {all_known}"
        f"{classes if len(few) > 1 else ''}. {fix}"
    )


def _margin(images: int) -> float:
    """Half of the 95 % interval of an accuracy in points, where it is widest: 1.96 sqrt(p (1 - p) / n), p = 1/2."""
    return 98 / images**0.5


def _is_held_out(dataset: Dataset) -> bool:
    """Tell whether the test was taken out of the training images."""
    return isinstance(dataset, ImageDataset) and "test" in dataset.held_out


def _total(images: Dataset) -> int:
    return sum(len(images.examples(split)) for split in ("train", "val", "test"))


def _shots(shots: int | Literal["all"], dataset: Dataset, config: Config) -> int:
    """Replace `all` by the number of training images of the class that has most."""
    return max(_counts(dataset, config, ("train",)).values(), default=1) if shots == "all" else shots


def _nothing_held_out(settings: DatasetConfig) -> DatasetConfig:
    return settings.model_copy(update={"val": 0.0, "test": 0.0}) if isinstance(settings, DatasetOnDisk) else settings


def _hold_out(dataset: Dataset, config: Config) -> Dataset:
    """Hold out of the training images the splits that the layout lacks."""
    if not isinstance(dataset, ImageDataset) or not isinstance(config.dataset, DatasetOnDisk):
        return dataset
    in_layout = {split: examples for split, examples in dataset.splits.items() if split not in dataset.held_out}
    return complete(dataset.name, dataset.classes, in_layout, config.dataset, dataset.notes)


def _choose(dataset: Dataset, config: Config) -> str:
    """Take the test split that a data set has; without one, hold out a test if it is large enough."""
    if len(dataset.examples("test")) or not isinstance(config.dataset, DatasetOnDisk):
        return "holdout"
    counts = _counts(dataset, config, ("train",))
    enough = min(counts.values(), default=0) * config.dataset.test >= FEWEST_TEST_IMAGES
    return "holdout" if enough else "cross_validation"


def _cross_validation(dataset: Dataset, config: Config) -> dict[str, object]:
    """Give the settings of the benchmark as cross-validation on these images has them."""
    benchmark = config.benchmark
    if benchmark.imbalance != 1:
        raise InputError(
            f"benchmark.imbalance {benchmark.imbalance:g} needs benchmark.protocol=holdout; cross-validation takes the "
            "numbers of photos as they are"
        )
    counts = _counts(dataset, config, ("train",)).values()
    most = max(counts, default=2)
    folds = max(2, min(benchmark.folds, *counts))
    changes: dict[str, object] = {"protocol": "cross_validation", "folds": folds}
    changes["shots"] = max(most - most // folds, 1)  # of the class that has most, in the largest fold
    if benchmark.shots_curve:
        changes["shots_curve"] = ()  # all photos but those of the fold are trained on
    return changes


def _chosen(dataset: Dataset, config: Config) -> tuple[ClassInfo, ...]:
    return datasets.select(dataset, config.dataset.classes)


def _counts(dataset: Dataset, config: Config, splits: tuple[str, ...]) -> dict[int, int]:
    """Count the images of each chosen class, by index, read or unreadable."""
    counted: Counter[int] = Counter()
    for split in splits:
        counted.update(labels(dataset.examples(split)))
    return {info.index: counted[info.index] for info in _chosen(dataset, config)}
