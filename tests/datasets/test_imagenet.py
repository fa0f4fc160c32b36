"""ImageNet-1k is read as published."""

from pathlib import Path

from dct_augment import datasets
from tests.datasets.layouts import WORDNET_IDS, assert_refused, imagenet_tree, load, save_image


def test_imagenets_two_cranes_and_two_maillots_are_kept_apart(tmp_path: Path) -> None:
    data = load("imagenet", imagenet_tree(tmp_path))
    assert [info.name for info in data.classes] == ["crane", "crane", "maillot", "maillot"]
    assert [info.slug for info in data.classes] == ["crane", "crane-2", "maillot", "maillot-2"]
    assert tuple(info.original_name for info in data.classes) == WORDNET_IDS
    assert all(info.homonym for info in data.classes)
    assert [info.slug for info in datasets.select(data, ["n03126707"])] == ["crane-2"]
    assert len(data.examples("test")) == 4


def test_folders_that_are_no_wordnet_ids_are_refused_as_imagenet(tmp_path: Path) -> None:
    save_image(imagenet_tree(tmp_path) / "train" / "cats" / "1.jpg")
    assert_refused("cats are no WordNet ids", "imagenet", tmp_path)


def test_a_flat_val_folder_of_imagenet_is_explained(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / WORDNET_IDS[0] / "1.JPEG")
    save_image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    assert_refused("val' has no class folders; sort its pictures", "imagenet", tmp_path)


def test_every_class_of_imagenet_has_words() -> None:
    from timm.data import ImageNetInfo

    names = datasets.imagenet.words()
    assert all(names[wnid] for wnid in ImageNetInfo("imagenet-1k").label_names())
    assert names["n01440764"] == "tench"
