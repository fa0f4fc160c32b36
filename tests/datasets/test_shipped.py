import dataclasses
import hashlib
from collections import Counter

import numpy as np
import pytest

from dct_augment import config, datasets
from dct_augment.errors import DatasetError
from dct_augment.pocket import birds, camera, captions, handwriting, winter
from dct_augment.records import Dataset, Example

NAMES = ("pocket", "digits", "winter")


@pytest.fixture(params=NAMES)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    """Each data set that ships."""
    return datasets.load(request.param)


def content(example: Example) -> str:
    return hashlib.sha256(example.open().convert("RGB").tobytes()).hexdigest()


def per_class(examples: tuple[Example, ...] | list[Example]) -> Counter[int]:
    return Counter(example.label for example in examples)


def test_an_unknown_data_set_names_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"'cub' is unknown; by name there are: digits, pocket, winter"):
        datasets.load("cub")


def test_classes_are_numbered_in_order_and_named_once(dataset: Dataset) -> None:
    assert [info.index for info in dataset.classes] == list(range(len(dataset.classes)))
    assert len({info.name for info in dataset.classes}) == len(dataset.classes)
    assert len({info.slug for info in dataset.classes}) == len(dataset.classes)


def test_birds_are_twelve_species_in_three_families_and_four_homonyms() -> None:
    classes = datasets.load("pocket").classes
    assert [info.name for info in classes if info.homonym] == ["crane", "kiwi", "cardinal", "bat"]
    families = Counter(bird.family for bird in birds.BIRDS if not bird.homonym)
    assert sorted(families.values()) == [4, 4, 4]


@pytest.mark.parametrize("name", ["pocket", "winter"])
@pytest.mark.parametrize(("split", "count"), [("train", 20), ("val", 10), ("test", 40)])
def test_pocket_birds_are_balanced(name: str, split: str, count: int) -> None:
    assert set(per_class(list(datasets.load(name).examples(split))).values()) == {count}


def test_birds_in_winter_are_all_species_of_summer_under_other_names_and_new_ones() -> None:
    species = {bird.name for bird in birds.BIRDS if not bird.homonym}
    assert set(winter.SUMMER_NAMES.values()) == species
    assert len(winter.BIRDS) == 16
    assert not {bird.name for bird in winter.BIRDS} & {word for bird in birds.BIRDS for word in bird.name.split()}
    assert not set(winter.SPLITS.values()) & set(birds.SPLITS.values())
    looks = [dataclasses.replace(bird.species, name="", adjectives=()) for bird in winter.BIRDS]
    assert len(set(looks)) == 16


def test_a_camera_in_snow_changes_a_picture_and_not_its_size() -> None:
    drawn, taken = (np.asarray(show(5, "test", 3), dtype=float) for show in (winter.drawing, winter.photograph))
    assert taken.shape == drawn.shape == (64, 64, 3)
    lighter = taken.mean((0, 1)) - drawn.mean((0, 1))
    assert lighter[2] > lighter[0]  # the light is blue
    assert np.abs(taken - drawn).mean() > 10


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("val", 6)])
def test_digits_to_learn_from_are_balanced(split: str, count: int) -> None:
    assert set(per_class(list(datasets.load("digits").examples(split))).values()) == {count}


def test_every_digit_is_in_the_test_split() -> None:
    counts = per_class(list(datasets.load("digits").examples("test")))
    assert len(counts) == 10
    assert (sum(counts.values()), min(counts.values()) >= 15) == (297, True)


def test_keys_are_unique_over_all_splits(dataset: Dataset) -> None:
    keys = [example.key for split in ("train", "val", "test") for example in dataset.examples(split)]
    assert len(set(keys)) == len(keys)


def test_no_picture_is_in_two_splits(dataset: Dataset) -> None:
    contents = {
        split: {content(example) for example in dataset.examples(split)[::stride]}
        for split, stride in (("train", 4), ("val", 2), ("test", 7))
    }
    assert not contents["train"] & contents["val"]
    assert not contents["train"] & contents["test"]
    assert not contents["val"] & contents["test"]


def test_an_example_opens_as_the_same_picture_every_time(dataset: Dataset) -> None:
    example = dataset.examples("val")[3]
    assert example.open().size == (64, 64)
    assert example.open().mode == "RGB"
    assert content(example) == content(example)


def test_few_shot_draws_the_same_number_of_every_class(dataset: Dataset) -> None:
    split = datasets.few_shot(dataset, 3, seed=1)
    assert per_class(split.train) == {info.index: 3 for info in dataset.classes}
    assert split.test == tuple(dataset.examples("test"))


def test_few_shot_is_deterministic_and_differs_by_seed(dataset: Dataset) -> None:
    assert datasets.few_shot(dataset, 5, 1) == datasets.few_shot(dataset, 5, 1)
    assert datasets.few_shot(dataset, 5, 1).train != datasets.few_shot(dataset, 5, 2).train


def test_the_images_of_fewer_shots_are_a_part_of_those_of_more(dataset: Dataset) -> None:
    small, large = ({e.key for e in datasets.few_shot(dataset, shots, 0).train} for shots in (2, 7))
    assert small < large


def test_few_shot_draws_from_the_training_split_only(dataset: Dataset) -> None:
    pool = {example.key for example in dataset.examples("train")}
    assert {example.key for example in datasets.few_shot(dataset, 20, 0).train} == pool


def test_all_shots_are_the_whole_training_split(dataset: Dataset) -> None:
    split = datasets.few_shot(dataset, "all", 0)
    assert (split.shots, len(split.train), split.fewer) == (20, len(dataset.examples("train")), {})
    assert datasets.few_shot(dataset, 21, 0).fewer == {info.name: 20 for info in dataset.classes}


def test_a_class_keeps_its_draw_when_others_are_left_out(dataset: Dataset) -> None:
    part = datasets.DatasetSubset(dataset.name, dataset.classes[2:4], dataset, {})
    expected = [example for example in datasets.few_shot(dataset, 4, 0).train if example.label in (2, 3)]
    assert list(datasets.few_shot(part, 4, 0).train) == expected
    assert set(per_class(list(part.examples("test")))) == {2, 3}


@pytest.mark.parametrize("names", [["song sparrow", "bat"], ["song-sparrow", "BAT"], [" bat ", "song-sparrow", "bat"]])
def test_select_takes_names_and_slugs_in_the_data_sets_order(names: list[str]) -> None:
    chosen = datasets.select(datasets.load("pocket"), names)
    assert [info.slug for info in chosen] == ["song-sparrow", "bat"]


def test_select_without_names_takes_all_classes(dataset: Dataset) -> None:
    assert datasets.select(dataset, None) == dataset.classes


def test_select_names_every_unknown_class_and_all_there_are() -> None:
    with pytest.raises(DatasetError, match=r"classes 'dodo', 'emu' are not in 'digits'; it has: zero, one"):
        datasets.select(datasets.load("digits"), ["emu", "one", "dodo"])


def test_select_suggests_the_class_that_is_spelled_like_an_unknown_one() -> None:
    with pytest.raises(DatasetError, match=r"classes 'sevn' \(did you mean 'seven'\?\), 'xyz' are not in"):
        datasets.select(datasets.load("digits"), ["xyz", "sevn"])


def test_selecting_no_class_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="no class given"):
        datasets.select(dataset, [])


def test_handwriting_splits_are_disjoint_and_complete() -> None:
    together = np.concatenate(list(handwriting.splits().values()))
    assert sorted(together.tolist()) == list(range(1797))


def test_handwriting_has_no_writing_twice() -> None:
    assert len({writing.tobytes() for writing in handwriting.writings()[0]}) == 1797


def test_a_writing_is_redrawn_differently_but_reproducibly() -> None:
    first, second = handwriting.picture(5, 0).tobytes(), handwriting.picture(5, 1).tobytes()
    assert first != second
    assert first == handwriting.picture(5, 0).tobytes()


def test_a_bird_is_a_function_of_species_split_and_number() -> None:
    pictures = {
        (bird.name, split, number): birds.picture(bird, split, number).tobytes()
        for bird in birds.BIRDS[:2]
        for split in birds.SPLITS
        for number in range(2)
    }
    assert len(set(pictures.values())) == len(pictures)
    assert birds.picture(birds.BIRDS[1], "test", 1).tobytes() == pictures[birds.BIRDS[1].name, "test", 1]


def test_the_object_of_a_homonym_is_another_picture() -> None:
    crane = next(bird for bird in birds.BIRDS if bird.name == "crane")
    assert birds.picture(crane, "test", 0).tobytes() != birds.picture("crane", "test", 0).tobytes()


def test_every_class_is_a_subject_of_the_captions_with_chances_that_add_up() -> None:
    subjects = {subject.key: subject for subject in captions.SUBJECTS}
    assert len(subjects) == len(captions.SUBJECTS)
    assert {info.name for name in ("pocket", "digits") for info in datasets.load(name).classes} <= set(subjects)
    assert not {bird.name for bird in winter.BIRDS} & {word for key in subjects for word in key.split()}
    for subject in subjects.values():
        assert sum(chance for _, chance in subject.names) == pytest.approx(1)


def test_descriptions_name_no_class_and_are_unique() -> None:
    descriptions = [captions.describe(subject) for subject in captions.SUBJECTS]
    assert len(set(descriptions)) == len(descriptions)
    names = {info.name for name in NAMES for info in datasets.load(name).classes}
    assert [(text, name) for text in descriptions for name in names if f" {name} " in f" {text} "] == []


def test_captions_are_reproducible_and_sometimes_empty() -> None:
    subject = captions.SUBJECTS[0]
    texts = [captions.caption(subject, "blue", np.random.default_rng(seed)) for seed in range(300)]
    assert texts == [captions.caption(subject, "blue", np.random.default_rng(seed)) for seed in range(300)]
    assert 0.05 < texts.count("") / 300 < 0.16


def test_a_photograph_shows_the_drawing_in_another_light() -> None:
    drawing = birds.picture(birds.BIRDS[1], "test", 0)
    shots = [camera.photograph(drawing, np.random.default_rng(seed)) for seed in (1, 2, 1)]
    assert {shot.size for shot in shots} == {(64, 64)}
    assert shots[0].tobytes() == shots[2].tobytes()
    assert len({picture.tobytes() for picture in (drawing, *shots)}) == 3
    # A camera changes everything a little: the two have more in common than two different birds.
    far = np.asarray(birds.picture(birds.BIRDS[8], "test", 3), float)
    near = np.median(
        [
            np.abs(
                np.asarray(camera.photograph(drawing, np.random.default_rng(seed)), float) - np.asarray(drawing, float)
            ).mean()
            for seed in range(20)
        ]
    )
    assert near < np.abs(far - np.asarray(drawing, float)).mean()


@pytest.mark.parametrize(("name", "own"), [("pocket", "crane"), ("digits", "seven")])
def test_a_class_may_be_called_by_other_words(name: str, own: str) -> None:
    settings = config.load("pocket", [f"dataset.name={name}", f"dataset.words={{{own}: tall bird}}"]).dataset
    plain, called = datasets.load(name), datasets.load(settings)
    (changed,) = [info for info, before in zip(called.classes, plain.classes, strict=True) if info.name != before.name]
    assert (changed.name, changed.original_name, changed.slug) == ("tall bird", own, own)
    with pytest.raises(DatasetError, match="there is no class 'nobody'"):
        datasets.load(settings.model_copy(update={"words": {"nobody": "x"}}))
