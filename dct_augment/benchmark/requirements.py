"""What a benchmark needs of the real images, checked before any work."""

from collections import Counter
from collections.abc import Callable

from dct_augment.benchmark.arms import ARMS, Arm
from dct_augment.benchmark.draws import Draws, draw_title
from dct_augment.config import BenchmarkConfig
from dct_augment.datasets import few_shot
from dct_augment.datasets.splits import labels
from dct_augment.records import Dataset
from dct_augment.wording import counted, counted_of, listed


def missing_images(dataset: Dataset, settings: BenchmarkConfig) -> list[str]:
    """Say what a benchmark on these images would lack: two classes, a test, or training images of a class.

    Args:
        dataset: the images that can be read and are not left out.
        settings: whose protocol is known.
    """
    problems = []
    if len(dataset.classes) < 2:
        names = ", ".join(repr(info.original_name or info.name) for info in dataset.classes) or "none"
        problems.append(
            f"a classifier tells classes apart, so it needs two or more, and of {dataset.name!r} it has {names}. Add a "
            "class, or choose others, too (dataset.classes). Tokens and images can be made of one: dct-augment "
            "generate, with the same options"
        )
    if settings.protocol == "holdout" and not len(dataset.examples("test")):
        problems.append(f"{dataset.name!r} has no test image that can be read; add some, or set dataset.test above 0")
    if settings.protocol == "cross_validation":
        problems += _classes_of_one_image(dataset)
    with_images = set(labels(dataset.examples("train")))
    empty = [info.original_name or info.name for info in dataset.classes if info.index not in with_images]
    if empty:
        classes_have = counted_of(len(empty), len(dataset.classes), "class", "has")
        problems.append(
            f"{classes_have} no training image left: {listed(list(map(repr, empty)), 10)}. Add images that can be "
            "read, or choose other classes with dataset.classes"
        )
    return problems


def _classes_of_one_image(dataset: Dataset) -> list[str]:
    counts = Counter(labels(dataset.examples("train")))
    single = [info.original_name or info.name for info in dataset.classes if counts[info.index] == 1]
    if not single:
        return []
    classes_have = counted_of(len(single), len(dataset.classes), "class", "has")
    return [
        f"{classes_have} one image: {listed(list(map(repr, single)), 10)}. One image cannot both train a classifier "
        "and test it; add another one, or leave the class out with dataset.classes. Tokens and images can be made "
        "without a test: dct-augment generate, with the same options"
    ]


def empty_fold(draws: Draws) -> str:
    """Say which fold of cross-validation has no photo to test; empty if each has one."""
    if draws.shared_test:
        return ""
    settings = draws.settings
    for number in settings.draws:
        split = draws.split(settings.shot_count, number)
        if not split.test:
            photos = counted(len(split.train), "photo")
            return (
                f"{draw_title(settings, number)} has no photo to test: there are {photos} that can be read, and copies "
                f"of one are in one fold. Set benchmark.folds={_most_folds(draws)}, or add photos (`dct-augment data` "
                "with the same options names those that cannot be read)"
            )
    return ""


def _most_folds(draws: Draws) -> int:
    """How many folds have a photo of every class: as many as the smallest class has different ones, two at least."""
    first_of = {key: min(group) for group in draws.copies for key in group}
    different: dict[int, set[str]] = {info.index: set() for info in draws.dataset.classes}
    for example in draws.dataset.examples("train"):
        different[example.label].add(first_of.get(example.key, example.key))
    return max(2, min(map(len, different.values())))


def missing_synthetic_images(settings: BenchmarkConfig, per_class: int, *, few_shot_guide: bool = False) -> str:
    """Say which setting asks for more images of a class than the run generates; empty if none does.

    Args:
        settings: with a number of shots that is known.
        per_class: `generation.per_class`.
        few_shot_guide: whether the guide is made of the photos: then the classifier that is kept may learn from the
            run's images in an arm whose trials have images of their own.
    """
    of_run = [arm for arm in settings.arms if ARMS[arm].images is not None and not ARMS[arm].own_images]
    kept = [arm for arm in settings.arms if few_shot_guide and ARMS[arm].can_be_repeated]
    asked = _asked_for(settings) if of_run else {"benchmark.per_class": settings.per_class} if kept else {}
    if kept and settings.selection != "first":
        asked["benchmark.candidates"] = settings.candidate_count
    for setting, count in asked.items():
        if count > per_class:
            return (
                f"{setting} asks for {counted(count, 'synthetic image')} of a class, but generation.per_class is "
                f"{per_class} ({', '.join(of_run or kept)}). Set generation.per_class={count}, or lower {setting}"
            )
    return ""


def most_synthetic_images(settings: BenchmarkConfig) -> int:
    """Say how many images of a class the trials of the run's own images train on, at most."""
    return max(_asked_for(settings).values())


def _asked_for(settings: BenchmarkConfig) -> dict[str, int]:
    """The settings that ask for synthetic images, with the most images of a class that each asks for."""
    return {
        "benchmark.per_class": settings.per_class,
        "benchmark.per_class_curve": max(settings.per_class_curve, default=0),
        "benchmark.ratios": max(settings.ratios, default=0) * settings.shot_count if settings.ratios else 0,
    }


def without_effect(settings: BenchmarkConfig, setting: str, has_effect: Callable[[Arm], bool]) -> str:
    """Say that a setting has no effect on any arm; empty if it has on some."""
    if any(has_effect(ARMS[arm]) for arm in settings.arms):
        return ""
    can = ", ".join(arm.name for arm in ARMS.values() if has_effect(arm))
    return (
        f"{setting} has no effect on {', '.join(settings.arms)}: these arms have no images, or none that a guide which "
        f"knows their photos alone has seen. Leave it out, or add one of these to benchmark.arms: {can}"
    )


def arms_without(settings: BenchmarkConfig, setting: str, has_effect: Callable[[Arm], bool]) -> str:
    """Say on which arms with synthetic images a setting has no effect; empty if there are none."""
    arms = [arm for arm in settings.arms if ARMS[arm].images is not None and not has_effect(ARMS[arm])]
    if not arms:
        return ""
    return f"{setting} has no effect on {', '.join(arms)}: no guide that knows their photos alone has seen their images"


def images_that_know_more(settings: BenchmarkConfig, start: str, *, draws_have_all_photos: bool) -> str:
    """Say which arms would train on images that start from photos which their draw does not have; empty if none would.

    Args:
        settings: whose protocol is known.
        start: `generation.start`.
        draws_have_all_photos: whether each draw at the base setting has all training photos.
    """
    of_run = [arm for arm in settings.arms if ARMS[arm].images is not None and not ARMS[arm].own_images]
    smaller = [shots for shots in settings.shots_curve if shots < settings.shot_count]
    if start == "noise" or not of_run or (draws_have_all_photos and not smaller):
        return ""
    they_start = f"with generation.start: {start}, the images of {', '.join(of_run)} start from all training photos"
    if draws_have_all_photos:
        return (
            f"benchmark.shots_curve has {smaller[0]}: {they_start}, more than such a draw has. Leave "
            "benchmark.shots_curve out, or set generation.start: noise"
        )
    what = "photos that it is tested on" if settings.protocol == "cross_validation" else "photos that it does not have"
    honest = [arm for arm in settings.arms if arm not in of_run]
    per_draw = [arm.name for arm in ARMS.values() if arm.own_images]
    if not set(honest) & set(per_draw):
        honest.append("class_token_few_shot_guide")
    return (
        f"benchmark.arms: {they_start}; for a draw these are also {what}. Take arms whose images are made for each "
        f"draw ({', '.join(per_draw)}): benchmark.arms=[{', '.join(honest)}], or set generation.start: noise"
    )


def classes_with_fewer_images(dataset: Dataset, settings: BenchmarkConfig) -> str:
    """Say which classes have fewer training images than the draws ask for; empty if none has.

    Raises:
        DatasetError: a class has none that can be read.
    """
    if settings.shots == "all" or settings.protocol == "cross_validation":
        return ""
    most_shots = max(settings.shot_count, *settings.shots_curve, 0)
    fewer = few_shot(dataset, most_shots, settings.seed, settings.imbalance).fewer
    if not fewer:
        return ""
    first = listed([f"{name} {count}" for name, count in fewer.items()], 10)
    classes_have = counted(len(fewer), "class", "has")
    return f"{classes_have} fewer than {counted(most_shots, 'training image')}: {first}"
