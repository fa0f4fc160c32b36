"""Pocket as it ships: its weights are those of the published figures; its backbone knows no class of the data sets."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from dct_augment import pocket
from dct_augment.pocket import birds, handwriting
from pocket_build import species


def test_no_species_of_the_backbone_is_like_one_of_the_birds() -> None:
    drawn = species.species()
    assert [one.family for one in drawn] == ["gull"] * 10 + ["woodpecker"] * 10
    for one in drawn:
        assert min(species.difference(one, bird) for bird in birds.BIRDS) >= 3
    assert not set(species.labels()) & {*handwriting.NAMES, *(bird.name for bird in birds.BIRDS)}


def test_a_species_too_much_like_a_bird_or_another_one_is_refused() -> None:
    gull = next(bird for bird in birds.BIRDS if bird.name == "herring gull")
    like_it = dataclasses.replace(gull, name="new gull", beak="pink", tail="pink")
    with pytest.raises(AssertionError, match=r"new gull.*too much like.*herring gull"):
        species.assert_disjoint([like_it])
    first = species.species()[0]
    with pytest.raises(AssertionError, match="too much like"):
        species.assert_disjoint([first, dataclasses.replace(first, name="twin")])


def test_the_pictures_that_train_and_measure_the_backbone_are_others() -> None:
    images, labels = species.pictures("train", 2)
    assert (images.shape, labels.tolist()[:4]) == ((84, 64, 64, 3), [0, 0, 1, 1])
    assert np.array_equal(images, species.pictures("train", 2)[0])
    assert len({image.tobytes() for image in (*images, *species.pictures("test", 2)[0])}) == 168
    assert not set(species.SPLITS.values()) & set(birds.SPLITS.values())


def test_the_shipped_backbone_names_its_own_classes() -> None:
    settings = json.loads((pocket.path(pocket.BACKBONE) / "config.json").read_text(encoding="utf-8"))
    assert tuple(settings["label_names"]) == species.labels()


def test_the_weights_are_those_of_the_published_figures() -> None:
    """A new model leaves all others as they are, to the byte: `benchmarks/RESULTS.md` is measured with these."""
    weights, digest = pocket.path().parent, hashlib.sha256()
    measured = {"backbone", "text-to-image", "tiny-decoder"} | {
        f"{subject}-{role}" for subject in ("birds", "digits", "winter") for role in ("guide", "judge")
    }
    for name in sorted(measured):
        for path in sorted((weights / name).rglob("*.safetensors")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    assert digest.hexdigest() == "a8107e410840c252e70e9a787dbe12af55b2b66098e8674cd1591de9a825f50e"
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) < 40e6
