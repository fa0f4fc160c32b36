"""Photos of a data set as files: a folder such as a user has it, to try things on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dct_augment import files
from dct_augment.datasets import few_shot
from dct_augment.errors import InputError
from dct_augment.records import Dataset, Example


def write_photos(
    dataset: Dataset,
    folder: Path | str,
    new: Path | str,
    *,
    shots: int = 5,
    test_photos: int = 0,
    new_photos: int = 10,
    seed: int = 0,
    replace: bool = False,
) -> int:
    """Write a few photos of each class, and some others; each folder whole or not at all.

    Args:
        dataset: of which, such as `load_dataset("pocket")`.
        folder: gets `<class>/<number>.png`, from the training images; a class is called by its slug. With test photos,
            `train/<class>/<number>.png` and `test/<class>/<number>.png`.
        new: gets `<number>-<class>.png`, from the test images, one of a class, of classes spread over all.
        shots: photos of a class, or as many as it has.
        test_photos: photos of a class to test on, from the test images, none of them in `new`.
        new_photos: photos in `new`, at most one of a class.
        seed: decides which.
        replace: whether folders that are there go.

    Returns:
        How many photos are in `folder`.

    Raises:
        DatasetError: a class has no image.
        InputError: a folder is there and not empty.

    Examples:
        >>> import dct_augment
        >>> dct_augment.write_photos(dct_augment.load_dataset("pocket"), "photos", "new", shots=2, new_photos=3)
        32
        >>> import os
        >>> sorted(os.listdir("new")), sorted(os.listdir("photos/crane"))
        (['00-song_sparrow.png', '01-laughing_gull.png', '02-downy_woodpecker.png'], ['00.png', '01.png'])
    """
    names = {info.index: info.slug.replace("-", "_") for info in dataset.classes}
    split = few_shot(dataset, shots, seed)
    firsts = _one_of_each(split.test)
    for target in map(Path, (folder, new)):
        if not replace and target.exists() and not _is_empty_folder(target):
            raise InputError(f"{str(target)!r} is there already; give a new folder, or replace=True")
    with files.atomic_folder(Path(new), replace=replace) as partial:
        for number, example in enumerate(_spread(firsts, new_photos)):
            example.open().save(partial / f"{number:02d}-{names[example.label]}.png")
    with files.atomic_folder(Path(folder), replace=replace) as partial:
        count = _write_classes(split.train, names, shots, partial / "train" if test_photos else partial)
        if test_photos:
            others = [example for example in split.test if example not in firsts]
            count += _write_classes(others, names, test_photos, partial / "test")
    return count


def _write_classes(examples: Sequence[Example], names: Mapping[int, str], most: int, folder: Path) -> int:
    """Write the first examples of each class, `most` at most, as `<class>/<number>.png`; return how many."""
    numbers: Counter[int] = Counter()
    for example in examples:
        if numbers[example.label] == most:
            continue
        path = folder / names[example.label] / f"{numbers[example.label]:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        example.open().save(path)
        numbers[example.label] += 1
    return numbers.total()


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _one_of_each(examples: Sequence[Example]) -> list[Example]:
    """Return the first example of each class, in the order of the classes."""
    first = {example.label: example for example in reversed(examples)}
    return [first[label] for label in sorted(first)]


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """Return at most so many of the examples, evenly spaced from the first on."""
    count = min(most, len(examples))
    return [examples[number * len(examples) // count] for number in range(count)]
